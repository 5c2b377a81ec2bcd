"""Write the chapters' copies for Colab into ``_build/colab``: ``python -m book_tools.colab``.

A copy has the chapter's code cells word for word, its text in plain Markdown with the numbers of the built
site, and in front one cell that installs the package at the very commit.
"""

import argparse
import copy
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

from book_tools import chapters, inline, lowering, run_times
from book_tools.bibliography import Bibliography
from book_tools.chapters import BookError
from book_tools.numbers import Numbers
from book_tools.sphinx_extension import PLACEHOLDER, repository_url
from dlt_helpers import claims

FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
SETUP = """#@title Set-up: run this first (installs the book's package; does nothing where it is installed)
import importlib, importlib.util, subprocess, sys

if importlib.util.find_spec("dlt_helpers") is None:
    package = "git+{repository}@{commit}"
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", package])
    importlib.invalidate_caches()"""
HOMELESS = """#@title Set-up: run this first (does nothing where the book's package is installed)
import importlib.util

if importlib.util.find_spec("dlt_helpers") is None:
    raise RuntimeError(
        "dlt_helpers is not installed, and this copy does not know where to get it: it was made before the "
        "address of the repository was set in _config.yml. Get it and run: pip install --no-deps <folder>"
    )"""


def settings(root=chapters.ROOT):
    """Return ``_config.yml`` as a dict, empty if there is none."""
    path = Path(root) / "_config.yml"
    return (yaml.safe_load(path.read_text("utf-8")) or {}) if path.exists() else {}


def home(root=chapters.ROOT):
    """Return the address of the book's repository, "" while it is the placeholder."""
    url = repository_url(settings(root).get("repository", {}).get("url", PLACEHOLDER), os.environ)
    return "" if url == PLACEHOLDER else url.rstrip("/").removesuffix(".git")


def commit(root=chapters.ROOT):
    """Return the commit the book is built from: that of the GitHub workflow, or of the checkout.

    Raises:
        BookError: if the book is not in a git repository with a commit.
    """
    if os.environ.get("GITHUB_SHA"):
        return os.environ["GITHUB_SHA"]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if git.returncode:
        raise BookError(
            "the Colab copies install the package at a commit, and this folder is no git checkout with one"
        )
    return git.stdout.strip()


def pages(root=chapters.ROOT, site=None):
    """Return ``{name: inline.Page}`` for all chapters with an executed notebook."""
    url, config = home(root), settings(root)
    slug = url.removeprefix("https://github.com/")
    owner, _, repository = slug.partition("/")
    github = url.startswith("https://github.com/")
    numbers = Numbers.of(site or Path(root) / "_build" / "html")
    tex = config.get("sphinx", {}).get("config", {}).get("mathjax3_config", {}).get("tex", {})
    words = {**config.get("parse", {}).get("myst_substitutions", {}), **run_times.substitutions(root)}
    return {
        name: inline.Page(
            name, chapters.folder(root), numbers, Bibliography.of(root), tex.get("macros", {}), words,
            site=f"https://{owner}.github.io/{repository}" if github else "",
            raw=f"https://raw.githubusercontent.com/{slug}/{commit(root)}/chapters" if github else "",
        )
        for name in chapters.names(root) if chapters.notebook(name, root).exists()
    }  # fmt: skip


def setup_cell(root=chapters.ROOT):
    """Return the source of the cell in front: it installs the package, or says why it cannot."""
    return SETUP.format(repository=home(root), commit=commit(root)) if home(root) else HOMELESS


def lowered(notebook, page, setup):
    """Return the copy of an executed notebook for Colab.

    Args:
        notebook: the chapter's notebook; it is not changed.
        page: its :class:`inline.Page`.
        setup: the source of the cell in front.
    """
    cells = [new_code_cell(setup, id="set-up", metadata={"cellView": "form"})]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells += [_code(cell), *_caption(cell, page)]
            continue
        line = chapters.line_of(cell.source, page.folder / f"{page.name}.md")
        if text := lowering.lower(cell.source, page, line):
            cells.append(new_markdown_cell(text, id=cell.id))
    cells += _references(notebook, page)
    metadata = {"accelerator": "GPU", "colab": {"toc_visible": True, "provenance": []}, **notebook.metadata}
    made = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.validate(made)
    return made


def write(root=chapters.ROOT, site=None):
    """Write all copies into ``_build/colab``; return their paths."""
    setup, paths = setup_cell(root), []
    for name, page in pages(root, site).items():
        notebook = nbformat.read(chapters.notebook(name, root), as_version=4)
        paths.append(Path(root) / "_build" / "colab" / f"{name}.ipynb")
        chapters.write(paths[-1], nbformat.writes(lowered(notebook, page, setup)) + "\n")
    return paths


def main(arguments=None, root=chapters.ROOT):
    """Write the copies; return the exit code."""
    argparse.ArgumentParser(prog="make colab", description=__doc__.splitlines()[0]).parse_args(arguments)
    try:
        paths = write(root)
    except BookError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    if home(root):
        print(f"{len(paths)} Colab copies in _build/colab install {home(root)} at {commit(root)[:12]}")
    else:
        print(f"{len(paths)} Colab copies in _build/colab; they cannot install the package before "
              "_config.yml knows the repository's address (repository.url)")  # fmt: skip
    return 0


def _code(cell):
    made = copy.deepcopy(cell)
    folded = FOLDED & set(cell.metadata.get("tags", []))
    made.metadata = nbformat.from_dict(
        {"cellView": "form", "jupyter": {"source_hidden": True}} if folded else {}
    )
    return made


def _caption(cell, page):
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if not figure.get("caption"):
        return []
    return [
        new_markdown_cell(
            lowering.caption(figure.get("name"), figure["caption"], page), id=f"{cell.id}-caption"
        )
    ]


def _references(notebook, page):
    sources = [
        word for record in claims.read(notebook) for word in record["source"].replace(",", " ").split()
    ]
    listed = page.bibliography.references([*page.cited, *sources])
    text = "\n".join(["## References", "", *(f"- {entry}" for entry in listed)])
    return [new_markdown_cell(text, id="references")] if listed else []


if __name__ == "__main__":
    sys.exit(main())
