"""The style of the bibliography: works under "Beck and Teboulle, 2009", by the name of their first author."""

from collections import Counter, defaultdict
from itertools import count

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle


class AuthorYearLabels(BaseLabelStyle):
    """Labels as they read in the text, with letters after the year where two would be the same."""

    def format_labels(self, sorted_entries):
        """Return one label for each entry."""
        labels = [label(entry) for entry in sorted_entries]
        repeated, letters = Counter(labels), defaultdict(lambda: count())
        for plain in labels:
            yield plain + (chr(ord("a") + next(letters[plain])) if repeated[plain] > 1 else "")


class AuthorYearStyle(Style):
    """Pybtex's plain style under these labels."""

    default_label_style = AuthorYearLabels


def label(entry):
    """Return "Author, year" of a bibliography entry, with one, two or "et al." authors."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in people] or [entry.key]
    short = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{short}, {entry.fields.get('year', 'n.d.')}"


def register():
    """Make the style known to pybtex as ``author_year``."""
    register_plugin("pybtex.style.formatting", "author_year", AuthorYearStyle)
