"""Check everything and say it in one line at the end: ``make test``."""

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

from book_tools import book, chapters
from dlt_helpers import claims

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DLT_STRICT": "1", "DLT_PRESET": "ci"}
AFTER_BUILD = ["tests/test_site.py", "tests/test_copies.py"]
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=120"]
NBVAL += ["--nbval-sanitize-with=tests/nbval_sanitise.cfg", "--dist=loadfile"]


def main():
    """Run every part, even after one has failed; return the exit code."""
    start, failed = time.time(), []
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(chapters.ROOT)}
    book.BUILD.mkdir(exist_ok=True)
    for name in PARTS:
        _report(name).unlink(missing_ok=True)
    for name, part in PARTS.items():
        print(f"\n── {name}", flush=True)
        if not part(environment):
            failed.append(name)
    minutes = (time.time() - start) / 60
    if failed:
        print(f"\nFAILED: {', '.join(failed)}. {counts()} in {minutes:.1f} min.")
        return 1
    print(f"\n{counts()} in {minutes:.1f} min ({browser_words()})")
    return 0


def lint(environment):
    """Run ruff."""
    return _passes([sys.executable, "-m", "ruff", "check", "."], environment)


def code(environment):
    """Run the unit tests and the examples in docstrings."""
    return _pytest("code", [*(f"--ignore={path}" for path in AFTER_BUILD), "-n2"], environment)


def notebooks(environment):
    """Re-execute every chapter and compare each cell with the committed output."""
    return _pytest("notebooks", [*NBVAL, "-n2", "-oaddopts=", "-Wdefault", "chapters"], environment)


def site(environment):
    """Build the site and the Colab copies, warnings being errors, and look at them with a browser."""
    problems = book.build()
    print("\n".join(problems) or f"built {book.SITE / 'index.html'}", flush=True)
    return not problems and _pytest("site", [*AFTER_BUILD, "-n2"], environment)


PARTS = {"lint": lint, "code": code, "notebooks": notebooks, "site": site}


def _passes(command, environment):
    return subprocess.run(command, cwd=chapters.ROOT, env=environment).returncode == 0


def _pytest(part, arguments, environment):
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={_report(part)}", *arguments]
    return _passes(command, environment)


def _report(part):
    return book.BUILD / f"test-{part}.xml"


def _outcomes(part):
    """Return ``[(file, passed, skip reason or None), …]`` of a part; nothing if it did not come to an end."""
    if not _report(part).exists():
        return []
    cases = ElementTree.parse(_report(part)).getroot().iter("testcase")
    return [(case.get("classname"), _passed(case), _skipped(case)) for case in cases]


def _passed(case):
    return case.find("failure") is None and case.find("error") is None


def _skipped(case):
    skipped = case.find("skipped")
    return None if skipped is None else skipped.get("message", "")


def counts():
    """Return how many tests, notebooks and claims passed, in words."""
    cases = _outcomes("code") + _outcomes("site")
    tests = sum(passed and skipped is None for _, passed, skipped in cases)
    cells = [(file.removeprefix("chapters."), passed) for file, passed, _ in _outcomes("notebooks")]
    whole = {file for file, _ in cells} - {file for file, passed in cells if not passed}
    held = sum(record["holds"] for file in whole for record in _claims(file))
    return f"{_many(tests, 'test')}, {_many(len(whole), 'notebook')} and {_many(held, 'claim')} passed"


def _many(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _claims(file):
    return claims.read(json.loads((chapters.folder() / file).read_text("utf-8")))


def browser_words():
    """Say whether the tests in a browser ran."""
    reasons = [skipped for _, _, skipped in _outcomes("site") if skipped and "Chromium" in skipped]
    return f"{len(reasons)} site tests skipped: no Chromium here" if reasons else "site tests ran in Chromium"


if __name__ == "__main__":
    sys.exit(main())
