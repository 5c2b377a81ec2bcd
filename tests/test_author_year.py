"""Labels of the bibliography."""

import pytest
from pybtex.database import Entry, Person

from book_tools.author_year import AuthorYearLabels, label


def entry(*authors, year="2021"):
    return Entry("misc", {"year": year}, {"author": [Person(name) for name in authors]})


@pytest.mark.parametrize(
    "authors, expected",
    [
        (["Moreau, Jean"], "Moreau, 2021"),
        (["Beck, Amir", "Teboulle, Marc"], "Beck and Teboulle, 2021"),
        (["von Neumann, John"], "von Neumann, 2021"),
        (["A, A", "B, B", "C, C"], "A et al., 2021"),
    ],
)
def test_label(authors, expected):
    assert label(entry(*authors)) == expected


def test_same_authors_and_year_get_letters():
    works = [entry("A, A"), entry("B, B"), entry("A, A")]
    assert list(AuthorYearLabels().format_labels(works)) == ["A, 2021a", "B, 2021", "A, 2021b"]
