"""What README, CONTRIBUTING and the back matter say about the code is true of the code."""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import dlt_helpers
from book_tools.chapters import ROOT

ROOMS = {room.name for room in pkgutil.iter_modules(dlt_helpers.__path__)}
PAGES = ["README.md", "CONTRIBUTING.md", "chapters/notation.md", "chapters/running.md", "chapters/index.md"]
CODE = re.compile(r"`([^`\n]+)`|^ {4}(.+)$", re.MULTILINE)


def text(page):
    return (ROOT / page).read_text("utf-8")


def code(page):
    """Return what stands in backticks or is indented as code."""
    return " \n ".join(inline or block for inline, block in CODE.findall(text(page)))


def map_rows():
    rows = [line.split("|")[1:-1] for line in text("README.md").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


@pytest.mark.parametrize("page", PAGES)
def test_named_functions_exist(page):
    named = re.findall(rf"\b({'|'.join(ROOMS)})\.(\w+)", code(page))
    missing = [f"{room}.{name}" for room, name in named if not _exists(room, name)]
    assert missing == []


def _exists(room, name):
    module = importlib.import_module(f"dlt_helpers.{room}")
    return hasattr(module, name)


@pytest.mark.parametrize("page", PAGES)
def test_named_targets_exist(page):
    targets = re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)", code(page))) <= set(targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text(page))
    assert [link for link in links if ":" not in link and not (ROOT / link).exists()] == []


def test_every_row_of_the_map_names_function_and_test():
    rows = map_rows()
    assert rows
    for idea, _, functions, tests, _ in rows:
        assert re.search(rf"`({'|'.join(ROOMS)})\.\w+", functions), idea
        assert all((ROOT / "tests" / f"{name}.py").exists() for name in re.findall(r"test_\w+", tests)), idea


def test_every_room_with_mathematics_is_in_the_map():
    named = set(re.findall(r"`(\w+)\.", "".join(functions for _, _, functions, _, _ in map_rows())))
    assert {"functional", "train", "hessian", "flows", "complementarity", "claims"} & ROOMS <= named


def test_rooms_are_listed_by_layer_on_the_running_page():
    section = text("chapters/running.md").split("## The rooms of the package")[1]
    assert set(re.findall(r"`(\w+)`", section)) == ROOMS


def test_citation_names_the_version_of_the_package():
    assert f"version: {dlt_helpers.__version__}\n" in text("CITATION.cff")


def test_installed_package_is_complete(tmp_path):
    package = tmp_path / "dlt_helpers"
    shutil.copytree(ROOT / "dlt_helpers", package, ignore=shutil.ignore_patterns("__pycache__"))
    here = {path.relative_to(tmp_path).as_posix() for path in package.rglob("*") if path.is_file()}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "made", "."]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(next((tmp_path / "made").glob("*.whl"))) as wheel:
        assert here - set(wheel.namelist()) == set()
