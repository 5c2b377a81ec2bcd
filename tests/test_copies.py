"""The Colab copies of this book agree with its built site: same numbers, same code, nothing left raw."""

import nbformat
import pytest
from bs4 import BeautifulSoup

from book_tools import book, chapters, lowering

NUMBERS = "div.proof .caption-number, div.exercise .caption-number, figcaption .caption-number"


@pytest.fixture(params=chapters.names())
def name(request):
    """The chapters, if the site is built."""
    if not (book.SITE / "chapters" / f"{request.param}.html").exists():
        pytest.skip("the site is not built: run make book")
    return request.param


@pytest.fixture
def made(name):
    """The copy that lies in ``_build/colab``."""
    return nbformat.read(chapters.ROOT / "_build" / "colab" / f"{name}.ipynb", as_version=4)


def plain(notebook):
    """All Markdown of a notebook without code and mathematics."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return lowering.VERBATIM.sub("", text)


def test_nothing_is_left_raw(made):
    assert lowering.RAW.search(plain(made)) is None


def test_code_is_the_chapters(name, made):
    both = (made, chapters.executed()[name])
    copied, executed = ([cell.source for cell in nb.cells if cell.cell_type == "code"] for nb in both)
    assert copied[1:] == executed and "dlt_helpers" in copied[0]


def test_every_number_of_the_page_is_in_the_copy(name, made):
    page = BeautifulSoup((book.SITE / "chapters" / f"{name}.html").read_text("utf-8"), "html.parser")
    numbers = [number.get_text().strip() for number in page.select(NUMBERS)]
    assert numbers and [number for number in numbers if f"**{number}" not in plain(made)] == []
