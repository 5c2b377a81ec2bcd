"""The ledger: what stands in it, what it refuses, and that its page is sound HTML inside Markdown."""

import pytest
import stand_in
from bs4 import BeautifulSoup

from book_tools import chapters, ledger
from book_tools.chapters import BookError


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return stand_in.make(tmp_path_factory.mktemp("book"))


def table(root):
    """The parsed page."""
    return BeautifulSoup(ledger.page(root), "html.parser")


def test_a_row_says_it_all(book):
    (row,) = table(book).select("tbody tr")
    cells = [" ".join(cell.get_text(" ").split()) for cell in row.find_all(["th", "td"])]
    assert cells == [
        "a fair coin shows heads half of the time ✓ holds · theorem · preset ci",
        "0.5", "0.508 ± 0.0128 3 seeds", "0.45 … 0.55", "0.9: a loaded coin", "Law of large numbers",
    ]  # fmt: skip
    assert [link["href"] for link in row.find_all("a")] == [
        "coin_toss.html#claim-coin-toss-half",
        "coin_toss.html#thm-large-numbers",
    ]


def test_table_can_be_read_by_everybody(book):
    page = table(book)
    region = page.select_one("div.dlt-ledger")
    assert region["tabindex"] == "0" and region["role"] == "region" and region["aria-label"]
    assert [th.get_text() for th in page.select('thead th[scope="col"]')] == list(ledger.COLUMNS)
    assert len(page.select('tbody th[scope="row"]')) == 1


def test_html_has_no_empty_line(book):
    """An empty line would end the block of HTML and turn the rest into Markdown."""
    inside = ledger.page(book).split("<div ")[1].split("</div>")[0]
    assert "\n\n" not in inside


def test_failed_claim_is_counted_and_shown(book, tmp_path):
    failed = stand_in.copy(book, tmp_path)
    stand_in.edit_notebook(failed, lambda code: code[3].outputs[0].metadata.dlt_claim.update(holds=False))
    assert "**0 of 1 claims hold**: 0 of 1 theorem." in ledger.page(failed) and "✗ fails" in ledger.page(
        failed
    )


def test_same_id_twice(book, tmp_path):
    twice = stand_in.copy(book, tmp_path)
    stand_in.edit_notebook(twice, lambda code: code[3].outputs.append(code[3].outputs[0]))
    with pytest.raises(BookError, match="occur more than once in the book: coin-toss/half"):
        ledger.page(twice)


def test_same_id_in_two_chapters(book, tmp_path):
    twice = stand_in.copy(book, tmp_path)
    for suffix in ("md", "ipynb"):
        path = stand_in.source(twice).with_suffix(f".{suffix}")
        path.with_stem("dice").write_bytes(path.read_bytes())
    with pytest.raises(BookError, match="coin-toss/half"):
        ledger.records(twice)


def test_markup_in_a_statement_is_escaped(book, tmp_path):
    odd = stand_in.copy(book, tmp_path)
    change = {
        "statement": "a < b & c",
        "source": "<i>x</i>",
        "control": {"measured": None, "description": "<b>"},
    }
    stand_in.edit_notebook(odd, lambda code: code[3].outputs[0].metadata.dlt_claim.update(change))
    page = ledger.page(odd)
    assert "a &lt; b &amp; c" in page and "&lt;i&gt;x" in page and "–: &lt;b&gt;" in page


def test_book_without_claims(tmp_path):
    (tmp_path / "chapters").mkdir()
    assert "**0 of 0 claims hold**." in ledger.page(tmp_path)


def test_writing_twice_changes_nothing(book, tmp_path):
    again = stand_in.copy(book, tmp_path)
    assert not ledger.write(again)
    (again / "chapters" / "ledger.md").unlink()
    assert ledger.write(again) and not ledger.write(again)


def test_fill_needs_both_markers_and_keeps_the_rest(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a <!-- x --> old <!-- /x --> b <!-- x -->", "utf-8")
    assert chapters.fill(path, "x", r"new \1")
    assert path.read_text("utf-8") == "a <!-- x -->\nnew \\1\n<!-- /x --> b <!-- x -->"
    assert not chapters.fill(path, "y", "new") and not chapters.fill(tmp_path / "none.md", "x", "new")


@pytest.mark.parametrize("source, shown", [("cohen2021gradient, figure 2", "Cohen et al. (2021), figure 2"),
                                           ("bernoulli1713ars", "Bernoulli (1713)"),
                                           ("gauss1823theoria", "Gauß and Müller (1823)")])  # fmt: skip
def test_source_is_named_as_in_the_text(book, tmp_path, source, shown):
    other = stand_in.copy(book, tmp_path)
    stand_in.edit_notebook(other, lambda code: code[3].outputs[0].metadata.dlt_claim.update(source=source))
    assert table(other).select("tbody td")[-1].get_text() == shown


def test_title_of_a_theorem_is_plain(book, tmp_path):
    other = stand_in.copy(book, tmp_path)
    stand_in.edit(stand_in.source(other), "Law of large", "{cite:t}`bernoulli1713ars` on $n$ *large*")
    assert table(other).select("tbody td a")[-1].get_text() == "Bernoulli (1713) on n large numbers"
