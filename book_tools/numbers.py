"""The numbers of equations, theorems, figures, exercises and sections, read from the built site."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from bs4 import BeautifulSoup
from docutils.nodes import make_id

from book_tools.chapters import BookError

HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]


@dataclass(frozen=True)
class Target:
    """Something a page refers to: ``number`` as shown ("Theorem 1.1", "(1.1)"), ``title`` without it."""

    page: str
    anchor: str
    number: str
    title: str

    @property
    def bare(self):
        """The number alone.

        >>> Target("demo", "fig-x", "Fig. 1.2", "A figure").bare
        '1.2'
        """
        return self.number.rpartition(" ")[2].strip("()")


@dataclass(frozen=True)
class Numbers:
    """All targets of the site by anchor and page, the pages' titles, and each page's headings in order."""

    targets: dict = field(default_factory=dict)
    titles: dict = field(default_factory=dict)
    headings: dict = field(default_factory=dict)

    @classmethod
    def of(cls, site):
        """Return the numbers of the site built at ``site`` (``_build/html``).

        Raises:
            BookError: if there is no site.
        """
        numbers, pages = cls(), sorted(Path(site).glob("chapters/*.html"))
        if not pages:
            raise BookError(
                "the site is not built, so there are no numbers to take from it; run make book first"
            )
        for path in pages:
            numbers._read(path.stem, BeautifulSoup(path.read_text("utf-8"), "html.parser").find("article"))
        return numbers

    def find(self, label, page=""):
        """Return the target of a label, that of ``page`` if several have it, None if none has."""
        for anchor in (label, make_id(label), f"equation-{make_id(label)}"):
            if found := self.targets.get(anchor):
                return found.get(page) or next(iter(found.values()))
        return None

    def _read(self, page, article):
        for link in article.select("a.headerlink"):
            link.decompose()
        for tag in article.select("section[id]"):
            self._section(page, tag)
        for tag in article.select('[id^="equation-"]'):
            if number := tag.select_one(".eqno"):
                self._add(page, tag["id"], _text(number), "")
        for tag in article.select("div.proof[id], div.exercise[id], div.solution[id], figure[id], table[id]"):
            caption = tag.select_one(".admonition-title, figcaption, caption")
            if caption is not None:
                number = caption.select_one(".caption-number")
                number = _text(number) if number else ""
                self._add(page, tag["id"], number, _text(caption)[len(number) :].strip())

    def _section(self, page, tag):
        heading = tag.find(HEADINGS, recursive=False)
        if heading is None:
            return
        found = heading.select_one(".section-number")
        number = _text(found) if found else ""
        title = _text(heading)[len(number) :].strip()
        if heading.name == "h1":
            self.titles[page] = title
        self.headings.setdefault(page, []).append((title, number))
        for anchor in [tag["id"], *(span["id"] for span in tag.find_all("span", id=True, recursive=False))]:
            self._add(page, anchor, f"Section {number.rstrip('.')}" if number else "", title)

    def _add(self, page, anchor, number, title):
        self.targets.setdefault(anchor, {}).setdefault(page, Target(page, anchor, number, title))


def _text(tag):
    return re.sub(r"\s+", " ", tag.get_text()).strip()
