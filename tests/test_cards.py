"""Sources on claim cards."""

from pybtex.database import parse_string

from book_tools.bibliography import Bibliography
from book_tools.cards import name_sources

WORKS = Bibliography(parse_string("@book{gauss1801, author={Gauss, C. F.}, year=1801}", "bibtex"))
PAGE = """
<div class="proof theorem admonition" id="thm-a"><p><span class="caption-number">Theorem 1.2 </span>Title</p></div>
<div class="math" id="equation-eq-b"><span class="eqno">(1.3)<a class="headerlink" href="#equation-eq-b">#</a></span>
<ul><li>source: {}</li></ul>
"""


def source(text):
    return name_sources(PAGE.format(text), WORKS).split("<li>source: ")[1].split("</li>")[0]


def test_reference_is_named_by_author_and_year():
    assert source("gauss1801, §3") == "Gauss (1801), §3"


def test_theorem_and_equation_are_linked_by_number():
    assert source("thm-a") == '<a href="#thm-a">Theorem 1.2</a>'
    assert source("eq-b") == '<a href="#equation-eq-b">(1.3)</a>'


def test_what_is_neither_stays():
    assert source("our own runs &amp; more") == "our own runs &amp; more"


def test_page_without_cards_is_left_alone():
    assert name_sources("<p>source: thm-a</p>", WORKS) == "<p>source: thm-a</p>"
