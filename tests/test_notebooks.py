"""Every chapter keeps the contract; every rule of the contract catches the fault it is for."""

import json
import os
import subprocess
import sys

import pytest
import stand_in
from nbformat.v4 import new_output

from book_tools import chapters, execute, ledger, run_times
from book_tools.contract import RULES, Chapter
from book_tools.evidence import figures_are_described

NAMES = chapters.names()
ALL_RULES = {rule.__name__: rule for rule in RULES}


# the chapters of the book


@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.parametrize("name", NAMES)
def test_chapter_keeps(name, rule):
    assert ALL_RULES[rule](Chapter(name, chapters.ROOT)) == []


def test_there_are_chapters():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_chapter_is_in_the_table_of_contents(name):
    assert f"chapters/{name}\n" in (chapters.ROOT / "_toc.yml").read_text("utf-8") + "\n"


def test_notebooks_without_a_source():
    assert {path.stem for path in chapters.folder().glob("*.ipynb")} == set(NAMES)


def test_generated_text_is_up_to_date(tmp_path):
    before = _generated(chapters.ROOT)
    copy = _sources_only(tmp_path)
    ledger.write(copy)
    run_times.write(copy)
    assert _generated(copy) == before, "run make notebooks, or python -m book_tools.ledger"


# a book that keeps every rule, and the faults that break one each


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return stand_in.make(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("rule", ALL_RULES)
def test_the_stand_in_keeps(book, rule):
    assert ALL_RULES[rule](Chapter(stand_in.NAME, book)) == []


def in_source(pattern, replacement):
    """A fault in the Markdown source."""
    return lambda root: stand_in.edit(stand_in.source(root), pattern, replacement)


def in_notebook(change):
    """A fault in the executed notebook; ``change`` gets its code cells."""
    return lambda root: stand_in.edit_notebook(root, change)


def change_cell(number, **changes):
    """A fault in a code cell of the executed notebook."""
    return in_notebook(lambda code: code[number].update(**changes))


def in_claim(**changes):
    """A fault in the record of the claim."""
    return in_notebook(lambda code: code[3].outputs[0].metadata.dlt_claim.update(changes))


def _set_value(code):
    output = code[3].outputs[0]
    output["data"]["text/plain"] = output["data"]["text/plain"].replace("measured 0.", "measured 0.4")


A_COIN = {"measured": 0.5, "description": "a coin"}
FAULTS = {
    "a word of the source changed": ("pair_agrees", in_source("Half of the time", "Most of the time")),
    "a line of code changed": ("pair_agrees", in_source("tosses = 2000", "tosses = 200")),
    "a cell's tag dropped": ("pair_agrees", in_source(r"tags: \[hide-input\]\n", "")),
    "a cell added to the source": ("pair_agrees", in_source("## Exercises", "+++\n\n## Exercises")),
    "a cell added to the notebook": ("pair_agrees", change_cell(0, source="1")),
    "outputs stripped": ("executed_in_order", change_cell(1, execution_count=None, outputs=[])),
    "executed out of order": ("executed_in_order", change_cell(1, execution_count=7)),
    "a warning on stderr": (
        "executed_in_order",
        change_cell(1, outputs=[new_output("stream", name="stderr", text="Warning")]),
    ),
    "a trailing semicolon": (
        "no_trailing_semicolon", in_notebook(lambda code: code[1].update(source=code[1].source + ";  \n")),
    ),
    "a backtick fence": (
        "colon_fences_only", in_source(r":::\{prf:proof\}\n(.*?)\n:::", r"```{prf:proof}\n\1\n```"),
    ),
    "glue": ("no_glue", change_cell(0, source="from myst_nb import glue")),
    "a long cell": ("cells_are_short", change_cell(0, source="x = 1\n" * 21)),
    "two code cells in a row": ("prose_between_code", in_source("Then the run.\n", "")),
    "a section missing": ("sections_in_order", in_source("## The claim\n", "")),
    "sections exchanged": (
        "sections_in_order",
        in_source("## The claim(.*?)## Setting", r"## Setting and notation\1## The claim\n\nSetting"),
    ),
    "an empty section": ("sections_in_order", in_source("A mean outside the band.", "")),
    "no prerequisites": ("front_matter", in_source(r"\*\*Prerequisites.*?\n", "")),
    "a run time typed by hand": ("front_matter", in_source(r"\{\{ time_coin_toss \}\}", "two minutes")),
    "an exercise without solution": ("exercises_have_solutions", in_source(r":::\{solution\}.*?:::\n", "")),
    "an open solution": ("exercises_have_solutions", in_source(":class: dropdown\n", "")),
    "a citation of nothing": ("citations_exist", in_source("gauss1823theoria", "gauss1824")),
    "a path in the source": ("no_machine_paths", in_source("Chebyshev", "/home/me/notes says: Chebyshev")),
    "a path in an output": (
        "no_machine_paths",
        change_cell(1, outputs=[new_output("stream", name="stdout", text="in /tmp/x")]),
    ),
    "another source since the run": ("run_time_in_budget", in_source("Counting", "Arithmetic")),
    "too slow": (
        "run_time_in_budget", lambda root: stand_in.edit(run_times.path(root), 'seconds": ', 'seconds": 12'),
    ),
    "no alt text": ("figures_are_described", in_notebook(lambda code: code[2].metadata.mystnb.pop("image"))),
    "an alt text that tells nothing": (
        "figures_are_described", in_notebook(lambda code: code[2].metadata.mystnb.image.update(alt="A plot")),
    ),
    "a path as alt text": (
        "figures_are_described",
        in_notebook(lambda code: code[2].metadata.mystnb.image.update(alt=f"../_build/{'0123' * 10}.png")),
    ),
    "no caption": (
        "figures_are_described", in_notebook(lambda code: code[2].metadata.mystnb.figure.pop("caption")),
    ),
    "a figure vanished": ("figures_are_described", change_cell(2, outputs=[])),
    "two figures in a cell": (
        "figures_are_described", in_notebook(lambda code: code[2].outputs.append(code[2].outputs[0])),
    ),
    "a picture without alt text": ("pictures_are_described", in_source("Half of the time", "![](pic.png)")),
    "a figure directive without caption": (
        "pictures_are_described",
        in_source(r"Half of the time\.", f":::{{figure}} pic.png\n:alt: {'long ' * 10}\n:::"),
    ),
    "an image tag without a word": (
        "pictures_are_described", in_source("Half of the time", '<img src="pic.png" alt="pic">'),
    ),
    "a claim that fails": ("claims_hold", in_claim(holds=False)),
    "a value outside the band": ("claims_hold", in_claim(measured=0.6)),
    "nothing measured": ("claims_hold", in_claim(measured=None)),
    "a claim of another chapter": ("claims_hold", in_claim(id="dice/half")),
    "a claim measured elsewhere": ("claims_hold", in_claim(preset="gpu")),
    "no claim": ("claims_hold", change_cell(3, outputs=[])),
    "a band without ends": ("claims_could_fail", in_claim(low=None, high=None)),
    "two seeds": ("claims_could_fail", in_claim(seeds=2)),
    "no control": ("claims_could_fail", in_claim(control=None)),
    "a control inside the band": ("claims_could_fail", in_claim(control=A_COIN)),
    "a control not measured": ("claims_could_fail", in_claim(control=A_COIN | {"measured": None})),
    "a source that is not there": ("claims_have_sources", in_claim(source="folklore")),
    "a measured value edited in the record": ("claims_show_their_record", in_claim(measured=0.501)),
    "a measured value edited in the text": ("claims_show_their_record", in_notebook(_set_value)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_rule_catches(book, tmp_path, fault):
    rule, plant = FAULTS[fault]
    broken = stand_in.copy(book, tmp_path)
    plant(broken)
    assert ALL_RULES[rule](Chapter(stand_in.NAME, broken)) != []


def test_every_rule_has_a_fault_that_it_catches():
    assert {rule for rule, _ in FAULTS.values()} == set(ALL_RULES)


def test_theorem_may_do_without_control_if_it_says_why(book, tmp_path):
    excused = stand_in.copy(book, tmp_path)
    in_claim(control=None)(excused)
    in_notebook(lambda code: code[3].update(source=code[3].source + "\n# no control: an identity"))(excused)
    assert ALL_RULES["claims_could_fail"](Chapter(stand_in.NAME, excused)) == []


def test_fault_names_its_cell(book, tmp_path):
    broken = stand_in.copy(book, tmp_path)
    FAULTS["no caption"][1](broken)
    assert figures_are_described(Chapter(stand_in.NAME, broken)) == [
        "code cell 3 draws a figure without mystnb.figure.caption"
    ]


# re-execution by nbval, as make test does it


def nbval(root):
    """Re-execute and compare the chapter of a book; return the finished process."""
    settings = chapters.ROOT / "tests" / "nbval_sanitise.cfg"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-sanitize-with",
               str(settings), "-q", "-c", os.devnull, "--rootdir", str(root), "-p", "no:cacheprovider",
               "chapters"]  # fmt: skip
    return subprocess.run(
        command, cwd=root, env=execute.environment(root), capture_output=True, text=True, check=False
    )


def test_reexecution_does_not_mind_another_measured_value(book, tmp_path):
    other = stand_in.copy(book, tmp_path)
    in_notebook(_set_value)(other)
    run = nbval(other)
    assert run.returncode == 0 and "4 passed" in run.stdout, run.stdout


@pytest.mark.parametrize("figure, claim", [
    (lambda cell: _replace(cell, "200x100", "200x101"), lambda cell: _replace(cell, "✓", "✗")),
    (lambda cell: cell.update(outputs=[]), lambda cell: cell.update(outputs=[])),
], ids=["other", "missing"])  # fmt: skip
def test_reexecution_finds(book, tmp_path, figure, claim):
    broken = stand_in.copy(book, tmp_path)
    in_notebook(lambda code: (figure(code[2]), claim(code[3])))(broken)
    run = nbval(broken)
    assert run.returncode == 1 and "2 failed, 2 passed" in run.stdout, run.stdout


def _replace(cell, old, new):
    data = cell.outputs[0].data
    assert old in data["text/plain"], data["text/plain"]
    data["text/plain"] = data["text/plain"].replace(old, new)


def _generated(root):
    paths = [
        root / "README.md",
        *(chapters.folder(root) / f"{page}.md" for page in ("ledger", "index", "running")),
    ]
    return {path.name: path.read_text("utf-8") for path in paths if path.exists()}


def _sources_only(to):
    """Copy what the generated texts are made from."""
    for path in [
        "README.md",
        "_toc.yml",
        "references.bib",
        *(f"chapters/{p.name}" for p in chapters.folder().iterdir()),
    ]:
        if (chapters.ROOT / path).is_file():
            (to / path).parent.mkdir(exist_ok=True)
            (to / path).write_bytes((chapters.ROOT / path).read_bytes())
    times = run_times.path(to)
    times.parent.mkdir()
    times.write_text(json.dumps(run_times.read()), "utf-8")
    return to
