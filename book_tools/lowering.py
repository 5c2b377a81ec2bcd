"""MyST pages made plain: directives, labels and equations turned into Markdown that any notebook shows."""

import re

from book_tools import inline, myst, tex
from book_tools.chapters import BookError

NOTES = {"seealso": "See also", "margin": "Aside", "sidebar": "Aside"} | {
    name: name.capitalize()
    for name in ("note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error")
}
LOWERED = {}
HEADING = re.compile(r"^(#{1,6}) +(.+?)[ \t]*$", re.MULTILINE)
DEFINITION = re.compile(r"^(?![-*>#|:\s])(?P<term>[^\n]+)\n:[ \t]+(?P<text>.+)$", re.MULTILINE)
RAW = re.compile(
    r":{3,}\s*\{|`{3,}\s*\{|\{[a-zA-Z][\w:.-]*\}`|^\([\w:. -]+\)=\s*$|\{\{\s*\w+\s*\}\}|\$\$ *\([\w:.-]+\)$",
    re.MULTILINE,
)
VERBATIM = re.compile(
    r"^(`{3,}|~{3,}).*?^\1\s*$|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)|\$\$?[^$]+\$\$?", re.MULTILINE | re.DOTALL
)


def lower(text, page, line=1):
    """Return a Markdown cell in plain Markdown.

    Args:
        text: MyST source.
        page: the :class:`inline.Page` it belongs to.
        line: the number of its first line, for messages.

    Raises:
        BookError: for anything that cannot be made plain; the message names chapter and line.
    """
    plain = _blocks(text, page, line, flat=False)
    left = RAW.search(VERBATIM.sub("", plain))
    if left:
        raise BookError(f"chapters/{page.name}.md, cell at line {line}: {left[0]!r} was left as it is")
    return plain


def caption(name, text, page):
    """Return the caption of a figure that a cell drew, with its number."""
    target = page.numbers.find(name, page.name) if name else None
    number = f"**{target.number}.** " if target and target.number else ""
    return number + inline.lower(text.strip(), page)


def _blocks(text, page, line, flat):
    parts = []
    try:
        blocks = myst.blocks(text, line)
    except BookError as error:
        raise BookError(f"chapters/{page.name}.md, {error}") from error
    for block in blocks:
        try:
            part = _block(block, page, flat)
        except BookError as error:
            if str(error).startswith("chapters/"):
                raise
            raise BookError(f"chapters/{page.name}.md, line {block.line}: {error}") from error
        if part.strip():
            parts.append(_indented(re.sub(r"\A\s*\n|\s+\Z", "", part), block.indent))
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(parts))


def _block(block, page, flat):
    if block.kind == "text":
        return _text(block.text, page)
    if block.kind == "code":
        return block.text
    if block.kind in ("math", "amsmath"):
        number = inline.equation(block.name, page) if block.kind == "math" and block.name else ""
        return tex.display(tex.expand(block.text, page.macros), number, flat)
    if block.kind == "directive":
        return _directive(block, page, flat)
    return ""


def _text(text, page):
    text = HEADING.sub(lambda match: f"{match[1]} {_heading(match[2], page)}", text)
    return inline.lower(DEFINITION.sub(r"- **\g<term>**: \g<text>", text), page)


def _heading(title, page):
    """Return a heading with the number that it has on the site."""

    def letters(words):
        return re.sub(r"\W|\\[()]", "", words)

    shown = letters(inline.lower(title, page))
    for found, number in page.numbers.headings.get(page.name, []):
        if number and letters(found) == shown:
            return f"{number} {title}"
    return title


def _directive(block, page, flat):
    name = block.name if not block.name.startswith("prf:") or block.name == "prf:proof" else "prf:*"
    if name not in LOWERED:
        raise BookError(f"the directive {{{name}}} cannot be made plain; teach it to book_tools/lowering.py")
    return LOWERED[name](block, page, flat)


def lowers(*names):
    """Register a function ``(block, page, flat) -> Markdown`` for directives of these names."""

    def register(function):
        LOWERED.update(dict.fromkeys(names, function))
        return function

    return register


def _title(block, page):
    return inline.lower(block.argument, page)


def _body(block, page, flat):
    return _blocks(block.text, page, block.line + 1, flat)


@lowers("exercise-end", "solution-end", "bibliography", "contents", "tableofcontents")
def _nothing(block, page, flat):
    return ""


@lowers("div", "container", "grid", "grid-item", "tab-set", "raw")
def _transparent(block, page, flat):
    if block.name == "raw" and block.argument != "html":
        raise BookError(f"raw {block.argument} cannot be made plain")
    return _body(block, page, flat)


@lowers("card", "grid-item-card", "tab-item", "topic")
def _headed(block, page, flat):
    return f"**{_title(block, page)}**\n\n{_body(block, page, flat)}"


@lowers("prf:*", "exercise")
def _statement(block, page, flat):
    return _quoted(_named(block, page), _body(block, page, True))


@lowers("exercise-start")
def _exercise_start(block, page, flat):
    return _named(block, page)


@lowers("prf:proof")
def _proof(block, page, flat):
    title, body = _title(block, page) or "Proof", _body(block, page, flat)
    body += "" if re.search(r"\\square|\\blacksquare|\\qed|∎|□", body) else " ∎"
    if _is_folded(block):
        return _folded(title, body)
    return f"*{title}.*" + ("\n\n" if re.match(r"\$\$|[-*>|] |\d+\. ", body) else " ") + body


@lowers("solution")
def _solution(block, page, flat):
    return _folded(f"Solution to {inline.reference(block.argument, page)}", _body(block, page, flat))


@lowers("solution-start")
def _solution_start(block, page, flat):
    return f"**Solution to {inline.reference(block.argument, page)}.**"


@lowers("dropdown")
def _dropdown(block, page, flat):
    return _folded(_title(block, page), _body(block, page, flat))


@lowers("admonition", "epigraph", "pull-quote", *NOTES)
def _note(block, page, flat):
    title = _title(block, page)
    if block.name in NOTES:
        title = ": ".join(filter(None, (NOTES[block.name], title)))
    if _is_folded(block):
        return _folded(title, _body(block, page, flat))
    return _quoted(f"**{title}**" if title else "", _body(block, page, True))


@lowers("figure", "image")
def _figure(block, page, flat):
    image, body = inline.picture(block.argument, block.options.get("alt", ""), page), _body(block, page, flat)
    return f"{image}\n\n{caption(block.label, body, page)}" if body or block.label else image


@lowers("math")
def _math(block, page, flat):
    number = inline.equation(block.label, page) if block.label else ""
    return tex.display(tex.expand(block.argument + block.text, page.macros), number, flat)


@lowers("code", "code-block")
def _code(block, page, flat):
    return f"```{block.argument}\n{block.text.strip(chr(10))}\n```"


@lowers("table", "list-table")
def _table(block, page, flat):
    rows = _rows(block, page) if block.name == "list-table" else _body(block, page, flat)
    return f"{caption(block.label, block.argument, page)}\n\n{rows}".lstrip()


@lowers("glossary")
def _glossary(block, page, flat):
    return re.sub(r"^(\S.*)\n[ \t]+(.+)$", r"- **\1**: \2", _body(block, page, flat), flags=re.MULTILINE)


def _named(block, page):
    """Return "**Theorem 1.1 (Title).**" with the number that the site shows."""
    kind, title = block.name.removeprefix("prf:").removesuffix("-start").capitalize(), _title(block, page)
    number = kind
    if "nonumber" not in block.options:
        target = page.numbers.find(block.label, page.name) if block.label else None
        if target is None or not target.number:
            raise BookError(
                f"this {kind.lower()} needs a :label:, so that its number can be taken from the site"
            )
        number = target.number
    return f"**{number}{f' ({title})' if title else ''}.**"


def _rows(block, page):
    rows = []
    for row in re.split(r"^\* ", block.text.strip(), flags=re.MULTILINE)[1:]:
        cells = re.split(r"^\s*- ?", row, flags=re.MULTILINE)[1:]
        rows.append([" ".join(inline.lower(cell, page).split()).replace("|", r"\|") for cell in cells])
    if not rows or len({len(row) for row in rows}) != 1:
        raise BookError("the rows of this list-table have different numbers of cells")
    head = rows.pop(0) if int(block.options.get("header-rows", 0)) else [""] * len(rows[0])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _is_folded(block):
    return "dropdown" in block.options.get("class", "")


def _folded(title, body):
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def _quoted(head, body):
    return "\n".join(f"> {line}".rstrip() for line in f"{head}\n\n{body}".strip().split("\n"))


def _indented(text, indent):
    return "\n".join(indent + line if line else line for line in text.split("\n")) if indent else text
