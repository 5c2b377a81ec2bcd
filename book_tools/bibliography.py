"""The bibliography: the keys of ``references.bib`` turned into author-year citations and full references."""

import re
from dataclasses import dataclass
from pathlib import Path

from pybtex.database import BibliographyData, parse_string
from pybtex.plugin import find_plugin
from pybtex.richtext import Text

from book_tools import chapters


@dataclass(frozen=True)
class Bibliography:
    """The entries of a bibliography; made by :meth:`of`."""

    data: BibliographyData

    @classmethod
    def of(cls, root=chapters.ROOT):
        """Return the bibliography of the book at ``root``, empty if it has none."""
        path = Path(root) / "references.bib"
        return cls(parse_string(path.read_text("utf-8") if path.exists() else "", "bibtex"))

    def __contains__(self, key):
        return key in self.data.entries

    def authors(self, key, every=False):
        """Return the authors as a citation names them: "A", "A and B", "A et al." or, if ``every``, all."""
        entry = self.data.entries[key]
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [_surname(person) for person in people] or [entry.fields.get("title", key)]
        if len(names) == 1:
            return names[0]
        if len(names) == 2 or every:
            return ", ".join(names[:-1]) + " and " + names[-1]
        return f"{names[0]} et al."

    def year(self, key):
        """Return the year, "n.d." if the entry has none."""
        return self.data.entries[key].fields.get("year", "n.d.")

    def named(self, text):
        """Return ``text`` with every bibliography key in it replaced by "Author (year)".

        >>> entry = parse_string("@book{gauss1801, author={Gauss, C. F.}, year=1801}", "bibtex")
        >>> Bibliography(entry).named("gauss1801, §3")
        'Gauss (1801), §3'
        """
        return re.sub(r"[\w:+-]+", lambda match: self._named(match[0]), text)

    def references(self, keys):
        """Return the references of ``keys`` in Markdown, ordered by author and year."""
        style, backend = (
            find_plugin("pybtex.style.formatting", "unsrt")(),
            find_plugin("pybtex.backends", "markdown")(),
        )
        known = sorted(
            {key for key in keys if key in self},
            key=lambda key: (self.authors(key).lower(), self.year(key), key),
        )
        rendered = (entry.text.render(backend) for entry in style.format_bibliography(self.data, known))
        return [re.sub(r"\\([.!()-])", r"\1", text).replace("\n", " ") for text in rendered]

    def _named(self, word):
        return f"{self.authors(word)} ({self.year(word)})" if word in self else word


def _surname(person):
    parts = [*person.prelast_names, *person.last_names]
    return str(Text.from_latex(" ".join(parts)))
