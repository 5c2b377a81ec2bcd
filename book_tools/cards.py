"""The claim cards of a built page: their sources, which are labels in the notebook, as words and links."""

import html
import re

from bs4 import BeautifulSoup

SOURCE = re.compile(r"(<li>source: )([^<]+)(</li>)")
WORD = re.compile(r"[\w:.-]*\w")


def name_sources(body, bibliography):
    """Return the HTML of a page in which every card names its source as the text around it does.

    A key of the bibliography becomes author and year, the label of a theorem, an equation or a figure of the
    same page a link with its number; what is neither stays as it is.
    """
    if not SOURCE.search(body):
        return body
    page = BeautifulSoup(body, "html.parser")
    return SOURCE.sub(lambda found: found[1] + _named(found[2], page, bibliography) + found[3], body)


def _named(source, page, bibliography):
    return WORD.sub(lambda word: _link(word[0], page) or html.escape(bibliography.named(word[0])), source)


def _link(label, page):
    place = page.find(id=label) or page.find(id=f"equation-{label}")
    number = place and place.select_one(".caption-number, .eqno")
    return number and f'<a href="#{place["id"]}">{number.find(string=True).strip()}</a>'
