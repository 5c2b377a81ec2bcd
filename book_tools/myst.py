"""Read MyST Markdown as blocks: directives with options, equations, labels, code fences, and text between."""

import re
from dataclasses import dataclass, field

import yaml

from book_tools.chapters import BookError

DIRECTIVE = re.compile(
    r"^(?P<indent> *)(?P<fence>:{3,}|`{3,}|~{3,})\{(?P<name>[\w:.-]+)\}[ \t]*(?P<argument>.*?)\s*$"
)
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})")
LABEL = re.compile(r"^\((?P<name>[^()]+)\)=\s*$")
MATH_END = re.compile(r"\$\$\s*(?:\((?P<label>[^)]+)\))?\s*$")
AMSMATH = re.compile(
    r"^ *\\begin\{(?P<name>(?:equation|align|alignat|gather|multline|eqnarray|flalign)\*?)\}"
)
DROPPED = re.compile(r"^(%.*|\+\+\+.*|\{[.#][^{}]*\})$")
OPTION = re.compile(r"^:(?P<key>[\w-]+):[ \t]*(?P<value>.*?)\s*$")
ROLE = re.compile(r"\{(?P<name>[a-zA-Z][\w:.-]*)\}(?P<ticks>`+)(?P<content>.+?)(?P=ticks)(?!`)", re.DOTALL)
TARGETED = re.compile(r"^(?P<text>.*?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A piece of a page; ``kind`` is text, directive, code, math, amsmath, label or dropped."""

    kind: str
    text: str
    line: int
    name: str = ""
    argument: str = ""
    options: dict = field(default_factory=dict)
    indent: str = ""

    @property
    def label(self):
        """The label other pages refer to it by, "" if it has none."""
        return self.options.get("label") or self.options.get("name") or ""


def blocks(text, first=1):
    """Return the blocks of ``text`` in order; ``first`` is the number of its first line.

    Raises:
        BookError: for a directive, code fence or equation that is never closed.

    >>> [(block.kind, block.name, block.text) for block in blocks("Hi.\\n:::{note}\\nIn.\\n:::")]
    [('text', '', 'Hi.'), ('directive', 'note', 'In.')]
    """
    lines, found, plain, i = text.split("\n"), [], [], 0
    while i < len(lines):
        block, used = _block(lines, i, first)
        if block is None:
            plain.append(lines[i])
        else:
            if plain:
                found.append(Block("text", "\n".join(plain), first + i - len(plain)))
                plain = []
            found.append(block)
        i += used
    return found + ([Block("text", "\n".join(plain), first + i - len(plain))] if plain else [])


def directives(text, first=1):
    """Return all directives of ``text``, also those inside others, in order."""
    found = []
    for block in blocks(text, first):
        if block.kind == "directive":
            found += [block, *directives(block.text, block.line + 1)]
    return found


def roles(text):
    """Return ``(role, display text or None, target)`` of every role in ``text``.

    >>> roles("see {eq}`a:b` and {ref}`there <sec-x>`")
    [('eq', None, 'a:b'), ('ref', 'there', 'sec-x')]
    """
    return [(match["name"], *split_target(match["content"])) for match in ROLE.finditer(text)]


def split_target(content):
    """Return ``(text, target)`` of a role's content; the text is None where only a target is given."""
    match = TARGETED.match(content)
    return (match["text"].strip(), match["target"].strip()) if match else (None, content.strip())


def labels(text):
    """Return every label that the page defines: before headings, on directives, on equations."""
    found = []
    for block in blocks(text):
        if block.kind in ("label", "math") and block.name:
            found.append(block.name)
        elif block.kind == "directive":
            found += [block.label] * bool(block.label) + labels(block.text)
    return found


def _block(lines, i, first):
    """Return the block that begins at line ``i``, None for plain text, and how many lines it takes."""
    line = lines[i]
    if match := DIRECTIVE.match(line):
        return _directive(lines, i, first, match)
    if match := FENCE.match(line):
        end = _closing(lines, i, match["fence"], first, "code fence")
        return Block("code", "\n".join(lines[i : end + 1]), first + i), end + 1 - i
    if match := LABEL.match(line):
        return Block("label", line, first + i, match["name"]), 1
    if line.strip().startswith("$$"):
        return _math(lines, i, first)
    if match := AMSMATH.match(line):
        return _amsmath(lines, i, first, match["name"])
    if DROPPED.match(line.strip()):
        return Block("dropped", line, first + i), 1
    return None, 1


def _directive(lines, i, first, match):
    end = _closing(lines, i, match["fence"], first, f"directive {match['name']}")
    indent = len(match["indent"])
    body = [line[indent:] if line[:indent].isspace() else line for line in lines[i + 1 : end]]
    options, used = _options(body, first + i)
    text = "\n" * used + "\n".join(body[used:])
    block = Block(
        "directive",
        text if text.strip() else "",
        first + i,
        match["name"],
        match["argument"],
        options,
        match["indent"],
    )
    return block, end + 1 - i


def _closing(lines, i, fence, first, what):
    for end in range(i + 1, len(lines)):
        stripped = lines[end].strip()
        if len(stripped) >= len(fence) and set(stripped) == {fence[0]}:
            return end
    raise BookError(f"line {first + i}: the {what} that opens here is never closed")


def _options(body, line):
    """Return the options at the head of a directive's body and the number of lines they take."""
    if body and body[0].strip() == "---":
        end = next((k for k in range(1, len(body)) if body[k].strip() == "---"), None)
        if end is None:
            raise BookError(f"line {line}: the options of this directive open with --- and never close")
        return {
            key: str(value) for key, value in (yaml.safe_load("\n".join(body[1:end])) or {}).items()
        }, end + 1
    options = {}
    for used, text in enumerate(body):
        match = OPTION.match(text)
        if match is None:
            return options, used
        options[match["key"]] = match["value"]
    return options, len(body)


def _math(lines, i, first):
    for end in range(i, len(lines)):
        text = "\n".join(line.strip() for line in lines[i : end + 1])[2:]
        match = MATH_END.search(text)
        if match:
            indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
            return Block(
                "math", text[: match.start()].strip(), first + i, match["label"] or "", indent=indent
            ), end + 1 - i
        if end > i and not lines[end].strip():
            break
    raise BookError(
        f"line {first + i}: the equation that opens here is not closed by $$ before the next empty line"
    )


def _amsmath(lines, i, first, name):
    for end in range(i, len(lines)):
        if f"\\end{{{name}}}" in lines[end]:
            return Block(
                "amsmath", "\n".join(line.strip() for line in lines[i : end + 1]), first + i, name
            ), end + 1 - i
    raise BookError(f"line {first + i}: \\begin{{{name}}} is never closed")
