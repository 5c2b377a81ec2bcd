"""The last line of `make test` counts what passed and names what failed."""

import json

import pytest

from book_tools import book, chapters, check

PASSED = '<testcase classname="{0}" name="a"/>'
FAILED = '<testcase classname="{0}" name="b"><failure message="no"/></testcase>'
SKIPPED = '<testcase classname="{0}" name="c"><skipped message="{1}"/></testcase>'


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build directory, and a book with two executed chapters of two claims each."""
    monkeypatch.setattr(book, "BUILD", tmp_path)
    monkeypatch.setattr(chapters, "folder", lambda: tmp_path)
    output = {"metadata": {"dlt_claim": {"holds": True}}}
    for name in ("one", "two"):
        cells = {"cells": [{"outputs": [output, output]}]}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(cells))
    return tmp_path


def report(build, part, *cases):
    suite = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
    (build / f"test-{part}.xml").write_text(suite)


def test_counts_what_passed(build):
    passed = PASSED.format("x")
    report(build, "code", passed, passed, FAILED.format("x"), SKIPPED.format("x", "why"))
    report(build, "site", PASSED.format("y"))
    report(build, "notebooks", *(PASSED.format(f"chapters.{name}.ipynb") for name in ("one", "two", "two")))
    assert check.counts() == "3 tests, 2 notebooks and 4 claims passed"


def test_notebook_with_a_failing_cell_does_not_count_nor_do_its_claims(build):
    one, two = "chapters.one.ipynb", "chapters.two.ipynb"
    report(build, "notebooks", PASSED.format(one), PASSED.format(two), FAILED.format(two))
    assert check.counts() == "0 tests, 1 notebook and 2 claims passed"


def test_part_that_did_not_end_counts_nothing(build):
    assert check.counts() == "0 tests, 0 notebooks and 0 claims passed"


def test_missing_browser_is_said(build):
    report(build, "site", SKIPPED.format("x", "no Chromium is installed"), PASSED.format("x"))
    assert "no Chromium" in check.browser_words()
    report(build, "site", PASSED.format("x"))
    assert "ran" in check.browser_words()


@pytest.mark.parametrize("works, code", [(True, 0), (False, 1)])
def test_every_part_runs_and_the_last_line_names_failures(build, monkeypatch, capsys, works, code):
    ran = []
    first = lambda environment: ran.append(1) or works  # noqa: E731
    monkeypatch.setattr(check, "PARTS", {"first": first, "second": lambda environment: not ran.append(2)})
    report(build, "first", "stale")
    assert check.main() == code
    assert not (build / "test-first.xml").exists()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert ran == [1, 2]
    assert last.startswith("FAILED: first.") if not works else "claims passed in" in last


def test_parts_run_strictly(build, monkeypatch):
    seen = {}
    monkeypatch.setattr(check, "PARTS", {"only": lambda environment: seen.update(environment) or True})
    check.main()
    assert (seen["DLT_STRICT"], seen["DLT_PRESET"], seen["OMP_NUM_THREADS"]) == ("1", "ci", "1")
