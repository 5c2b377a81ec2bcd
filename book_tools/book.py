"""Build the site and the Colab copies from the committed notebooks: ``make book``."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from book_tools import chapters

BUILD = chapters.ROOT / "_build"
SITE = BUILD / "html"


def build_site():
    """Build ``_build/html`` afresh; return the problems that Sphinx reports, none if the book is sound."""
    missing = [name for name in chapters.names() if not chapters.notebook(name).exists()]
    if missing:
        return [f"chapters/{name}.ipynb is missing: make notebooks NAME={name} makes it" for name in missing]
    for stale in (SITE, BUILD / ".doctrees"):
        shutil.rmtree(stale, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    program = Path(sys.executable).with_name("jupyter-book")
    run = _run(program, "build", ".", "--all", "-W", "-n", "--keep-going")
    log = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout + run.stderr)
    (BUILD / "book.log").write_text(log, "utf-8")
    if run.returncode == 0:
        return []
    problems = [line.strip() for line in log.splitlines() if re.search("WARNING|ERROR|CRITICAL", line)]
    return problems or log.strip().splitlines()[-3:]


def build_colab():
    """Write the Colab copies into the site, and hand them out as its downloads; return the problems."""
    run = _run(sys.executable, "-m", "book_tools.colab")
    if run.returncode:
        return (run.stdout + run.stderr).strip().splitlines()[-3:]
    shutil.copytree(BUILD / "colab", SITE / "colab", dirs_exist_ok=True)
    for copy in (SITE / "colab").glob("*.ipynb"):
        shutil.copy2(copy, SITE / "_sources" / "chapters" / copy.name)
    return []


def build():
    """Build everything that ``_build/html`` holds; return the problems, none if all is well."""
    return build_site() or build_colab()


def _run(*command):
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=chapters.ROOT, capture_output=True, text=True, env=environment)


def main():
    """Build, and end with the line that says where the site is; return the exit code."""
    start = time.time()
    print("Building the site from the committed notebooks …", flush=True)
    problems = build()
    if problems:
        print("\n".join(problems), file=sys.stderr)
        print(f"The book was not built: see above, and the log in {BUILD / 'book.log'}", file=sys.stderr)
        return 1
    print(f"Built in {time.time() - start:.0f} s. Open the site at {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
