"""Inline MyST made plain: roles, references, citations, substitutions and links as ordinary Markdown."""

import base64
import mimetypes
import re
from dataclasses import dataclass, field
from pathlib import Path

from book_tools import myst, tex
from book_tools.bibliography import Bibliography
from book_tools.chapters import BookError
from book_tools.numbers import Numbers

TOKEN = re.compile(
    r"""\{(?P<role>[a-zA-Z][\w:.-]*)\}(?P<ticks>`+)(?P<content>.+?)(?P=ticks)(?!`)
    |(?P<code>(?P<fence>`+)(?!`).+?(?<!`)(?P=fence)(?!`))
    |\$\$(?P<display>[^$]+)\$\$
    |(?<!\\)\$(?P<math>(?:\\.|[^$\\\n]|\n(?!\s*\n))+?)\$
    |\{\{\s*(?P<name>\w+)\s*\}\}
    |!\[(?P<alt>[^\[\]]*)\]\((?P<image>[^()\s]+)\)(?:\{[^{}]*\})?
    |\[(?P<text>(?:[^\[\]`]|`[^`]*`)*)\]\((?P<link>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)
    |\[(?P<plain>[^\[\]]+)\]\{[.#][^{}]*\}
    |<project:(?P<project>[^>]+)>
    |\[\^(?P<note>[\w-]+)\](?P<noted>:?)
    |(?P<attribute>\b(?:src|poster|href))="(?P<address>[^"]*)\"""",
    re.VERBOSE | re.DOTALL,
)
SIZE = 400_000  # bytes of a picture that still travel inside the notebook
VERBATIM = {
    "code",
    "command",
    "file",
    "kbd",
    "program",
    "samp",
    "guilabel",
    "menuselection",
    "envvar",
    "option",
}
HTML = {"sub": "sub", "sup": "sup", "subscript": "sub", "superscript": "sup"}


@dataclass
class Page:
    """What lowering a chapter needs to know, and the keys it cited.

    ``site`` is the address of the published site, ``raw`` that of the chapters' folder at the commit, or "".
    """

    name: str
    folder: Path
    numbers: Numbers
    bibliography: Bibliography
    macros: dict = field(default_factory=dict)
    substitutions: dict = field(default_factory=dict)
    site: str = ""
    raw: str = ""
    cited: list = field(default_factory=list)


def lower(text, page):
    """Return ``text`` in plain Markdown; headings and paragraphs stay as they are.

    Raises:
        BookError: for a role that is not known, or a target, citation or substitution that does not exist.
    """
    return TOKEN.sub(lambda match: _token(match, page), text)


def reference(label, page, text=None):
    """Return what ``{ref}`` shows: the given text, else the number or title; linked if on another page."""
    target = _target(label, page)
    words = text or (target.title if target.number.startswith("Section") else target.number) or target.title
    return _linked(words, target.page, target.anchor, page)


def equation(label, page):
    """Return the number of an equation, with its parentheses."""
    return _target(label, page).number


def picture(path, alt, page):
    """Return an image: by address if the repository is known, else inside the notebook, else its words."""
    if re.match(r"https?:|data:", path):
        return f"![{alt}]({path})"
    file = page.folder / path
    if not file.exists():
        raise BookError(f"there is no picture {path}")
    if page.raw:
        return f"![{alt}]({page.raw}/{path})"
    if file.stat().st_size > SIZE:
        return f"*(A picture that is only on the site: {alt})*"
    kind = mimetypes.guess_type(path)[0] or "image/png"
    return f"![{alt}](data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()})"


def _token(match, page):
    found = match.groupdict()
    if found["role"]:
        return _role(found["role"], found["content"], page)
    if found["code"]:
        return found["code"]
    if found["display"] or found["math"]:
        return _math(found["display"] or found["math"], page, "$$" if found["display"] else "$")
    if found["name"]:
        return _substitution(found["name"], page)
    if found["image"]:
        return picture(found["image"], found["alt"], page)
    if found["link"] is not None:
        return _link(found["text"], found["link"], page)
    if found["plain"]:
        return lower(found["plain"], page)
    if found["project"]:
        return _link("", found["project"], page)
    if found["note"]:
        return f"<sup>{found['note']}</sup>" + (" " if found["noted"] else "")
    return f'{found["attribute"]}="{_address(found["address"], page)}"'


def _math(source, page, mark):
    return f"{mark}{' '.join(tex.expand(source, page.macros).split())}{mark}"


def _role(role, content, page):
    text, label = myst.split_target(content)
    if role.startswith("cite"):
        return _citation(role.partition(":")[2], content, page)
    if role in ("eq", "prf:ref"):
        target = _target(label, page)
        return _linked(target.number, target.page, target.anchor, page)
    if role in ("ref", "numref"):
        return _numbered(label, text, page) if role == "numref" else reference(label, page, text)
    if role == "doc":
        return _document(label, text, page)
    if role == "math":
        return _math(content, page, "$")
    if role == "term":
        return text or label
    if role == "abbr":
        return re.sub(r"\s*\((.*)\)$", "", content)
    if role in HTML:
        return f"<{HTML[role]}>{content}</{HTML[role]}>"
    if role in VERBATIM or role.startswith("py:"):
        return f"`{text or label}`"
    raise BookError(
        f"the role {{{role}}} cannot be made plain; teach it to book_tools/inline.py or use another"
    )


def _citation(form, keys, page):
    known = [key.strip() for key in keys.split(",")]
    for key in known:
        if key not in page.bibliography:
            raise BookError(f"references.bib has no {key}")
        if key not in page.cited:
            page.cited.append(key)
    names = [(page.bibliography.authors(key), page.bibliography.year(key)) for key in known]
    if form in ("t", "ct", "ts"):
        return " and ".join(f"{authors} ({year})" for authors, year in names)
    if form in ("author", "authors"):
        return " and ".join(authors for authors, _ in names)
    if form in ("year", "yearpar"):
        return ", ".join(year for _, year in names)
    if form not in ("", "p", "cp", "ps", "alp"):
        raise BookError(f"the role {{cite:{form}}} cannot be made plain; use cite:t or cite:p")
    cited = "; ".join(f"{authors}, {year}" for authors, year in names)
    return cited if form == "alp" else f"({cited})"


def _numbered(label, text, page):
    target = _target(label, page)
    if not target.number:
        raise BookError(f"{label} has no number on the site, so numref cannot refer to it")
    words = text or target.number
    for mark, value in (("%s", target.bare), ("{number}", target.bare), ("{name}", target.title)):
        words = words.replace(mark, value)
    return _linked(words, target.page, target.anchor, page)


def _document(name, text, page):
    name = re.sub(r"^.*/|\.(md|ipynb)$", "", name)
    if name not in page.numbers.titles:
        raise BookError(f"the site has no page {name}")
    return _linked(text or page.numbers.titles[name], name, "", page)


def _link(text, address, page):
    text = lower(text, page)
    if re.match(r"[a-z]+:", address):
        return f"[{text or address}]({address})"
    path, _, anchor = address.partition("#")
    if anchor and not (path and text):
        return reference(anchor, page, text or None)
    if re.search(r"\.(md|ipynb)$", path):
        name = re.sub(r"^.*/|\.(md|ipynb)$", "", path)
        return _linked(text or page.numbers.titles.get(name, name), name, anchor, page)
    return f"[{text}]({page.raw}/{path})" if page.raw else text


def _linked(words, name, anchor, page):
    if name == page.name or not page.site:
        return words
    return f"[{words}]({page.site}/chapters/{name}.html{'#' if anchor else ''}{anchor})"


def _target(label, page):
    target = page.numbers.find(label, page.name)
    if target is None:
        raise BookError(f"the built site has no label {label}")
    return target


def _substitution(name, page):
    if name not in page.substitutions:
        raise BookError(f"there is no substitution {name}")
    return str(page.substitutions[name])


def _address(address, page):
    """Return an address in raw HTML: relative ones are those of the built page."""
    if re.match(r"[a-z]+:|#|//", address) or not page.site:
        return address
    return f"{page.site}/chapters/{address}"
