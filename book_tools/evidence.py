"""What figures and claims must carry: importing this adds its rules to those of the chapter contract."""

import math
import re

from book_tools import myst
from book_tools.chapters import folder
from book_tools.contract import rule
from dlt_helpers import claims

IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
TELLING = 40  # characters that an alt text has at least
PATH = re.compile(r"\.(png|svg|jpe?g|gif|webp)$|^[\w.-]*/[\w./-]*$", re.IGNORECASE)
VALUES = ("measured", "predicted", "spread", "low", "high")


@rule
def figures_are_described(chapter):
    """Every figure a cell draws has an alt text that tells something, a caption, and a name of its own."""
    wrong, names = [], []
    for i, cell in chapter.code:
        drawn = sum(kind in output.get("data", {}) for output in cell.outputs for kind in IMAGES)
        settings = cell.metadata.get("mystnb", {})
        figure, alt = settings.get("figure", {}), settings.get("image", {}).get("alt", "")
        if drawn == 0 and figure:
            wrong.append(f"code cell {i} has a caption but draws no figure")
        if drawn == 0:
            continue
        names.append(figure.get("name"))
        wrong += [f"code cell {i} draws {drawn} figures; one a cell"] * (drawn > 1)
        wrong += [
            f"code cell {i} draws a figure without mystnb.figure.{key}"
            for key in ("caption", "name")
            if not figure.get(key)
        ]
        wrong += [f"code cell {i}: {fault}" for fault in _alt_faults(alt, figure.get("caption", ""))]
    twice = {name for name in names if name and names.count(name) > 1}
    return wrong + [f"the figure name {name} occurs twice" for name in sorted(twice)]


@rule
def pictures_are_described(chapter):
    """Every picture in the text has an alt text that tells something, every figure a caption as well."""
    wrong = []
    for block in chapter.directives:
        if block.name in ("figure", "image"):
            wrong += [
                f"{block.argument}: {fault}"
                for fault in _alt_faults(block.options.get("alt", ""), block.text)
            ]
            wrong += [f"the figure {block.argument} has no caption"] * (
                block.name == "figure" and not block.text.strip()
            )
    for alt, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", chapter.prose):
        wrong += [f"{path}: {fault}" for fault in _alt_faults(alt)]
    for tag in re.findall(r"<img\b[^>]*>", chapter.prose):
        alt = re.search(r'alt="([^"]*)"', tag)
        wrong += [f"{tag[:40]}…: {fault}" for fault in _alt_faults(alt[1] if alt else "")]
    return wrong


@rule
def claims_hold(chapter):
    """There are claims; each holds by its own numbers, measured under ``ci``, bears the chapter's name."""
    records = claims.read(chapter.notebook)
    prefix, wrong = chapter.name.replace("_", "-") + "/", ["there is no claim"] * (not records)
    for record in records:
        holds = record["holds"] and _inside(record["measured"], record)
        wrong += [f"{record['id']} does not hold"] * (not holds)
        wrong += [f"{record['id']} should begin with {prefix}"] * (not record["id"].startswith(prefix))
        wrong += [f"{record['id']} was measured under {record['preset']}, not ci"] * (
            record["preset"] != "ci"
        )
        wrong += [f"{record['id']} is of no known kind"] * (record["kind"] not in claims.KINDS)
    return wrong


@rule
def claims_could_fail(chapter):
    """Every claim has a band that a result could leave, three seeds if any vary, a control outside the band.

    A theorem may do without a control if its cell says why, in a comment ``# no control: …``.
    """
    wrong = []
    for source, record in _claims(chapter):
        low, high = record["low"], record["high"]
        wrong += [f"{record['id']} has a band that nothing could leave"] * (low is None and high is None)
        wrong += [f"{record['id']} has an empty band"] * (None not in (low, high) and not low < high)
        wrong += [f"{record['id']} rests on {record['seeds']} seeds; at least 3"] * (record["seeds"] == 2)
        wrong += [f"{record['id']} rests on no run"] * (record["seeds"] < 1)
        control = record["control"]
        if control is None:
            excused = record["kind"] == "theorem" and "# no control:" in source
            wrong += [f"{record['id']} has no control"] * (not excused)
        elif control["measured"] is None or _inside(control["measured"], record):
            wrong.append(f"the control of {record['id']} does not lie outside the band")
        elif not control["description"].strip():
            wrong.append(f"the control of {record['id']} is not described")
    return wrong


@rule
def claims_have_sources(chapter):
    """Every claim names a key of references.bib or a label of the book."""
    known = {
        label for page in folder(chapter.root).glob("*.md") for label in myst.labels(page.read_text("utf-8"))
    }
    wrong = []
    for record in claims.read(chapter.notebook):
        words = re.findall(r"[\w:.-]*\w", record["source"])
        if not any(word in known or word in chapter.bibliography for word in words):
            wrong.append(f"{record['id']}: {record['source']!r} names neither a reference nor a label")
    return wrong


@rule
def claims_show_their_record(chapter):
    """What a claim shows, as text and as a card, is what its record says (nbval masks it)."""
    wrong = []
    for _, cell in chapter.code:
        for output in cell.outputs:
            if record := output.get("metadata", {}).get("dlt_claim"):
                claim = restored(record)
                shown = output["data"]["text/plain"], output["data"]["text/html"]
                same = shown == (claims.text(claim), claims.card(claim))
                wrong += [f"{record['id']} shows other numbers than its record has"] * (not same)
    return wrong


def restored(record):
    """Return the ``Claim`` that a record was made from; an end of the band that is missing was infinite."""
    values = dict(record) | {key: math.nan if record[key] is None else record[key] for key in VALUES}
    values |= {key: end for key, end in (("low", -math.inf), ("high", math.inf)) if record[key] is None}
    control = record["control"]
    if control is not None:
        values["control"] = (
            math.nan if control["measured"] is None else control["measured"],
            control["description"],
        )
    return claims.Claim(**values)


def _claims(chapter):
    """Return (source of the cell, record) of every claim."""
    return [(cell.source, output.metadata.dlt_claim) for _, cell in chapter.code for output in cell.outputs
            if "dlt_claim" in output.get("metadata", {})]  # fmt: skip


def _inside(value, record):
    low, high = (
        math.inf * sign if end is None else end for end, sign in ((record["low"], -1), (record["high"], 1))
    )
    return value is not None and low <= value <= high


def _alt_faults(alt, caption=""):
    if len(alt.strip()) <= TELLING:
        return [f"the alt text {alt!r} should tell what is seen, in more than {TELLING} characters"]
    return ["the alt text is a path"] * bool(PATH.search(alt.strip())) + [
        "the alt text repeats the caption"
    ] * (alt.strip() == caption.strip())
