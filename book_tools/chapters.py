"""The chapters of the book: which pages have code, and how a notebook is derived from its source."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CODE_CELL = re.compile(r"^(:{3,}|`{3,})\{code-cell\}", re.MULTILINE)
KEPT = ("tags", "mystnb")


class BookError(Exception):
    """Something in the book's sources is wrong; the message says where and what would be right."""


def names(root=ROOT):
    """Return the names of the chapters with code cells, in the order of ``_toc.yml``, others by alphabet."""
    found = sorted(
        path.stem for path in folder(root).glob("*.md") if CODE_CELL.search(path.read_text("utf-8"))
    )
    toc = Path(root) / "_toc.yml"
    order = re.findall(r"chapters/(\w+)", toc.read_text("utf-8")) if toc.exists() else []
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def folder(root=ROOT):
    """Return the folder of the chapters."""
    return Path(root) / "chapters"


def source(name, root=ROOT):
    """Return the path of the chapter's ``.md``, the only source."""
    return folder(root) / f"{name}.md"


def notebook(name, root=ROOT):
    """Return the path of the chapter's executed notebook."""
    return folder(root) / f"{name}.ipynb"


def executed(root=ROOT):
    """Return ``{name: notebook}`` of the chapters that have an executed one, in the order of the book."""
    paths = {name: notebook(name, root) for name in names(root)}
    return {name: nbformat.read(path, as_version=4) for name, path in paths.items() if path.exists()}


def derive(path):
    """Return the notebook of a MyST source: no outputs, cell ids that follow from the cells' text alone."""
    derived = jupytext.read(path, fmt="md:myst")
    seen = {}
    for cell in derived.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if key in cell.metadata})
    derived.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    derived.nbformat, derived.nbformat_minor = 4, 5
    return derived


def title(notebook_or_text):
    """Return the text of the first ``#`` heading of a notebook or of a Markdown text."""
    text = notebook_or_text
    if not isinstance(text, str):
        text = "\n".join(cell.source for cell in text.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+?)\s*$", text, re.MULTILINE)
    if heading is None:
        raise BookError("a chapter needs a '# Title' line")
    return heading[1]


def line_of(snippet, path):
    """Return the number of the line of ``path`` on which ``snippet`` begins, or 1 if it is not there."""
    text = Path(path).read_text("utf-8") if Path(path).exists() else ""
    start = text.find(snippet) if snippet else -1
    return text.count("\n", 0, start) + 1 if start >= 0 else 1


def write(path, text):
    """Write ``text`` to ``path`` at once or not at all; return whether the file changed."""
    path = Path(path)
    if path.exists() and path.read_text("utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return True


def fill(path, marker, text):
    """Put ``text`` between ``<!-- marker -->`` and ``<!-- /marker -->``; return whether the file changed.

    A file that does not exist or has no such markers is left alone.
    """
    path = Path(path)
    if not path.exists():
        return False
    between = re.compile(rf"(<!-- {marker} -->).*?(<!-- /{marker} -->)", re.DOTALL)
    return write(path, between.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", path.read_text("utf-8")))
