"""Measured run times of the chapters, kept in ``chapters/results/run_times.json`` and nowhere else."""

import hashlib
import json

import dlt_helpers
from book_tools import chapters

PRESETS = ("ci", "gpu")
UNMEASURED = "not measured"


def path(root=chapters.ROOT):
    """Return the path of the record ``{chapter: {preset: {seconds, cells, source_hash}}}``."""
    return chapters.folder(root) / "results" / "run_times.json"


def read(root=chapters.ROOT):
    """Return the record, ``{}`` if nothing has been measured."""
    return json.loads(path(root).read_text("utf-8")) if path(root).exists() else {}


def source_hash(name, root=chapters.ROOT):
    """Return 16 hex digits that change with the chapter's source and the package's version."""
    text = chapters.source(name, root).read_text("utf-8") + dlt_helpers.__version__
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record(name, preset, seconds, cells, root=chapters.ROOT):
    """Note a measured time, unless the same source was measured before; return whether the record changed.

    A second run of an unchanged chapter changes nothing, so that executing twice gives the same bytes.
    """
    known, digest = read(root), source_hash(name, root)
    entry = known.setdefault(name, {}).setdefault(preset, {})
    if entry.get("source_hash") == digest:
        return False
    entry.update(seconds=round(seconds, 1), cells=cells, source_hash=digest)
    return chapters.write(path(root), json.dumps(known, indent=2, sort_keys=True) + "\n")


def duration(seconds):
    """Return a time as people say it.

    >>> duration(8.3), duration(94.2), duration(600.0)
    ('8 s', '1 min 34 s', '10 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    return " ".join(f"{value} {unit}" for value, unit in ((minutes, "min"), (rest, "s")) if value) or "0 s"


def told(name, preset, root=chapters.ROOT):
    """Return the chapter's measured time under ``preset`` in words, or "not measured"."""
    entry = read(root).get(name, {}).get(preset)
    return duration(entry["seconds"]) if entry else UNMEASURED


def substitutions(root=chapters.ROOT):
    """Return the MyST substitutions ``time_<chapter>``, one line each, for pages and Colab copies."""
    line = "{} on two CPU cores (preset `ci`); preset `gpu`: {}"
    return {
        f"time_{name}": line.format(*(told(name, preset, root) for preset in PRESETS))
        for name in chapters.names(root)
    }


def table(root=chapters.ROOT):
    """Return the table of all chapters and presets in Markdown."""
    rows = ["| Chapter | Cells with code | `ci` | `gpu` |", "| --- | --- | --- | --- |"]
    known = read(root)
    for name in chapters.names(root):
        title = chapters.title(chapters.source(name, root).read_text("utf-8"))
        cells = max((entry["cells"] for entry in known.get(name, {}).values()), default=UNMEASURED)
        times = " | ".join(told(name, preset, root) for preset in PRESETS)
        rows.append(f"| [{title}]({name}.md) | {cells} | {times} |")
    return "\n".join(rows)


def write(root=chapters.ROOT):
    """Write the table into ``chapters/running.md`` between its markers; return whether the page changed."""
    return chapters.fill(chapters.folder(root) / "running.md", "run times", "\n" + table(root) + "\n")
