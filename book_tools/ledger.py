"""The ledger: every claim of the book in one page, made from the records in the executed notebooks.

``python -m book_tools.ledger`` rewrites ``chapters/ledger.md`` and the counts in README and landing page;
``make notebooks`` does so after every execution.
"""

import functools
import html
import math
import re
import sys
from collections import Counter

from book_tools import chapters, myst
from book_tools.bibliography import Bibliography
from book_tools.chapters import BookError
from dlt_helpers import claims

COLUMNS = ("Claim", "Predicted", "Measured", "Band", "Control", "Source")
GAP = "\u00a0"  # a space that does not break
HEAD = """# The ledger of claims

Every claim of the book stands here with its prediction, its measurement and its band.
A claim holds if its measured mean lies in its band and its negative control does not.
The link leads to the cell that checks it.
"""


def records(root=chapters.ROOT):
    """Return ``{chapter: [record, …]}`` of all executed chapters, in the order of the book and of the page.

    Raises:
        BookError: if two claims of the book have the same id.
    """
    found = {name: claims.read(notebook) for name, notebook in chapters.executed(root).items()}
    ids = Counter(record["id"] for of_chapter in found.values() for record in of_chapter)
    twice = sorted(id for id, times in ids.items() if times > 1)
    if twice:
        raise BookError(
            f"these claim ids occur more than once in the book: {', '.join(twice)}; give each its own"
        )
    return found


def summary(found):
    """Return how many claims hold of how many, by kind, as one sentence in Markdown.

    >>> summary({"demo": [{"holds": True, "kind": "theorem"}, {"holds": False, "kind": "observation"}]})
    '**1 of 2 claims hold**: 1 of 1 theorem, 0 of 1 observation.'
    """
    every = [record for of_chapter in found.values() for record in of_chapter]
    kinds = []
    for kind in claims.KINDS:
        those = [record["holds"] for record in every if record["kind"] == kind]
        if those:
            kinds.append(f"{sum(those)} of {len(those)} {kind}{'' if len(those) == 1 else 's'}")
    total = f"**{sum(record['holds'] for record in every)} of {len(every)} claims hold**"
    return total + (f": {', '.join(kinds)}." if kinds else ".")


def page(root=chapters.ROOT):
    """Return the text of ``chapters/ledger.md``."""
    found = records(root)
    named = functools.partial(_named, bibliography=Bibliography.of(root), statements=statements(root))
    parts = [HEAD, summary(found) + "\n"]
    for name, of_chapter in found.items():
        if of_chapter:
            title = chapters.title(chapters.source(name, root).read_text("utf-8"))
            parts.append(f"## {title}\n\n{table(name, of_chapter, named)}\n")
    return "\n".join(parts)


def statements(root=chapters.ROOT):
    """Return ``{label: HTML link}`` of the book's theorems, definitions and the like, by title."""
    links, bibliography = {}, Bibliography.of(root)
    for name in chapters.names(root):
        for block in myst.directives(chapters.source(name, root).read_text("utf-8")):
            if block.name.startswith("prf:") and block.label:
                title = html.escape(
                    bibliography.named(_plain(block.argument)) or f"the {block.name.removeprefix('prf:')}"
                )
                links[block.label] = f'<a href="{name}.html#{block.label}">{title}</a>'
    return links


def table(name, of_chapter, named=html.escape):
    """Return the claims of one chapter as an HTML table that scrolls inside itself on a narrow screen.

    Args:
        name: the chapter.
        of_chapter: its records.
        named: turns the source of a claim into HTML.
    """
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    label = f'aria-label="Claims of the chapter {name.replace("_", " ")}"'
    return "\n".join(
        [
            f'<div class="pst-scrollable-table-container dlt-ledger" role="region" tabindex="0" {label}>',
            '<table class="table">',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *(_row(name, record, named) for record in of_chapter),
            "</tbody>",
            "</table>",
            "</div>",
        ]
    )


def write(root=chapters.ROOT):
    """Write the page, and the counts in README and landing page; return whether any changed."""
    count = summary(records(root))
    changed = [
        chapters.write(chapters.folder(root) / "ledger.md", page(root)),
        chapters.fill(
            root / "README.md", "claims", f"{count} Every one is in [the ledger](chapters/ledger.md)."
        ),
        chapters.fill(
            chapters.folder(root) / "index.md", "claims", f"{count} Every one is in [the ledger](ledger.md)."
        ),
    ]
    return any(changed)


def number(value):
    """Return a number in three significant digits, "–" for none.

    >>> number(1.00437), number(None), number(1200.0), number(1.7e-7), number(-0.5)
    ('1', '–', '1.2e+03', '1.7e−07', '−0.5')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}".replace("-", "−")


def band(record):
    """Return the band as an interval, open where it has no end.

    >>> band({"low": 0.9, "high": 1.1}), band({"low": None, "high": 0.25})
    ('0.9\\xa0…\\xa01.1', '≤\\xa00.25')
    """
    low, high = record["low"], record["high"]
    if low is None or high is None:
        return f"≥{GAP}{number(low)}" if high is None else f"≤{GAP}{number(high)}"
    return f"{number(low)}{GAP}…{GAP}{number(high)}"


def _row(name, record, named):
    sign = "✓ holds" if record["holds"] else "✗ fails"
    link = f'<a href="{name}.html#{claims.anchor(record["id"])}">{html.escape(record["statement"])}</a>'
    state = (
        f"<strong>{sign}</strong> · {record['kind']} · preset <code>{html.escape(record['preset'])}</code>"
    )
    cells = [
        number(record["predicted"]),
        _measured(record),
        band(record),
        _control(record),
        named(record["source"]),
    ]
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{link}<br><small>{state}</small></th>{data}</tr>'


def _measured(record):
    spread = "" if record["spread"] is None else f"{GAP}±{GAP}{number(record['spread'])}"
    seeds = f"{record['seeds']}{GAP}{'seed' if record['seeds'] == 1 else 'seeds'}"
    return f"{number(record['measured'])}{spread}<br><small>{seeds}</small>"


def _control(record):
    control = record["control"]
    return "–" if control is None else html.escape(f"{number(control['measured'])}: {control['description']}")


def _plain(title):
    """Return a title without roles, code and math signs."""
    return re.sub("[`$*]", "", myst.ROLE.sub(lambda match: match["content"], title))


def _named(source, bibliography, statements):
    """Return a source in HTML: references by author and year, theorems of the book by their linked title."""
    text = html.escape(bibliography.named(source))
    return re.sub(r"[\w:.-]*\w", lambda match: statements.get(match[0], match[0]), text)


def main():
    """Rewrite the ledger; return the exit code."""
    try:
        changed = write()
    except BookError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    news = "written" if changed else "is up to date"
    print(f"chapters/ledger.md {news}: {summary(records()).replace('*', '')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
