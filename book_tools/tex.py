"""TeX that needs no settings: macros of ``_config.yml`` expanded, equations ready for a plain notebook."""

import re

from book_tools.chapters import BookError

CONTROL = re.compile(r"\\([a-zA-Z]+)")
INNER = {
    "align": "aligned",
    "alignat": "alignedat",
    "flalign": "aligned",
    "eqnarray": "aligned",
    "gather": "gathered",
}
DEPTH = 20


def expand(tex, macros, depth=0):
    """Return ``tex`` with macros (``{name: body or [body, arguments]}``) replaced by what they stand for.

    Raises:
        BookError: if a macro lacks an argument or stands for itself.

    >>> expand(r"x \\in \\R^n, \\norm{\\R}", {"R": r"\\mathbb{R}", "norm": [r"\\lVert #1 \\rVert", 1]})
    'x \\\\in \\\\mathbb{R}^n, \\\\lVert \\\\mathbb{R} \\\\rVert'
    """
    if depth > DEPTH:
        raise BookError("a macro in mathjax3_config stands for itself")
    done, position = "", 0
    for match in CONTROL.finditer(tex):
        if match.start() < position or match[1] not in macros:
            continue
        body, count = _definition(macros[match[1]])
        arguments, end = _arguments(tex, match.end(), count, match[1])
        for number, argument in enumerate(arguments, 1):
            body = body.replace(f"#{number}", argument)
        done += tex[position : match.start()]
        done += _joined(done, expand(body, macros, depth + 1), tex[end : end + 1])
        position = end
    return done + tex[position:]


def display(tex, number="", flat=False):
    """Return an equation as ``$$ … $$``, its number as a tag, on one line if ``flat`` (quotations need that).

    >>> display("x = 1", "(1.2)", flat=True)
    '$$x = 1 \\\\tag{1.2}$$'
    """
    tex = re.sub(r"\\label\{[^}]*\}", "", tex).strip()
    tex = re.sub(r"\\(begin|end)\{equation\*?\}", "", tex).strip()
    for name, inner in INNER.items():
        tex = re.sub(rf"\\(begin|end)\{{{name}\*?\}}", rf"\\\1{{{inner}}}", tex)
    if number:
        tex += f" \\tag{{{number.strip('()')}}}"
    return f"$${' '.join(tex.split())}$$" if flat else f"$$\n{tex}\n$$"


def _definition(macro):
    return (macro, 0) if isinstance(macro, str) else (macro[0], int(macro[1]))


def _arguments(tex, position, count, name):
    """Return the ``count`` arguments that follow, and where they end."""
    found = []
    for _ in range(count):
        position += len(tex[position:]) - len(tex[position:].lstrip())
        if position >= len(tex):
            raise BookError(f"\\{name} needs {count} arguments in {tex!r}")
        end = _group(tex, position)
        found.append(tex[position + 1 : end - 1] if tex[position] == "{" else tex[position:end])
        position = end
    return found, position


def _group(tex, start):
    """Return where the group, control word or character that begins at ``start`` ends."""
    if tex[start] == "\\":
        match = CONTROL.match(tex, start)
        return match.end() if match else start + 2
    level = 0
    for end in range(start, len(tex)):
        escaped = end > 0 and tex[end - 1] == "\\"
        level += 0 if escaped else (tex[end] == "{") - (tex[end] == "}")
        if level == 0:
            return end + 1
    raise BookError(f"a brace is not closed in {tex!r}")


def _joined(before, body, after):
    """Return ``body`` so that it neither merges with its neighbours nor loses its place as an exponent."""
    if re.search(r"[\^_]\s*$", before):
        return f"{{{body}}}"
    gap = " " if re.search(r"\\[a-zA-Z]+$", before) and body[:1].isalpha() else ""
    return gap + body + (" " if re.search(r"\\[a-zA-Z]+$", body) and after.isalpha() else "")
