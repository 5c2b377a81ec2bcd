"""Execution: a second run changes no byte; a failed cell and a wrong name are told, and change nothing."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
import stand_in

from book_tools import chapters, execute, run_times

PAGE = "# A page\n\nText.\n\n```{{code-cell}} ipython3\n{}\n```\n"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return stand_in.make(tmp_path_factory.mktemp("book"))


def bytes_of(root):
    """All files of a book and what is in them."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def page(root, *lines, name="page"):
    """Write a page with one code cell to an empty book; return the book."""
    root.joinpath("chapters").mkdir(exist_ok=True)
    root.joinpath("chapters", f"{name}.md").write_text(PAGE.format("\n".join(lines)), "utf-8")
    return root


def outputs(root, name="page"):
    """The text outputs of a page's code cells."""
    notebook = nbformat.read(root / "chapters" / f"{name}.ipynb", as_version=4)
    return "".join(
        o.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs
    )


def test_second_run_changes_no_byte(book, tmp_path):
    again = stand_in.copy(book, tmp_path)
    before = bytes_of(again)
    assert execute.main([], again) == 0
    assert bytes_of(again) == before


def test_notebook_bears_no_trace_of_time_or_machine(book):
    notebook = json.loads((book / "chapters" / f"{stand_in.NAME}.ipynb").read_text("utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert all(set(cell["metadata"]) <= {"tags", "mystnb"} for cell in notebook["cells"])
    assert [c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code"] == [1, 2, 3, 4]


def test_cell_ids_follow_from_the_text_alone(tmp_path):
    path = page(tmp_path, "1") / "chapters" / "page.md"
    before = [cell.id for cell in chapters.derive(path).cells]
    path.write_text(path.read_text("utf-8") + "\nMore.\n\n```{code-cell} ipython3\n1\n```\n", "utf-8")
    after = [cell.id for cell in chapters.derive(path).cells]
    assert after[:2] == before and len(set(after)) == 4  # a cell that occurs twice gets an id of its own


def test_jupytext_itself_agrees_and_leads_back_to_the_source(book, tmp_path):
    other = stand_in.copy(book, tmp_path)
    source, settings = stand_in.source(other), chapters.folder() / "jupytext.toml"
    (other / "chapters" / "jupytext.toml").write_bytes(settings.read_bytes())
    derived = chapters.derive(source)
    for arguments in (["--to", "ipynb", source], ["--to", "md:myst", source.with_suffix(".ipynb")]):
        command = [sys.executable, "-m", "jupytext", "--quiet", *arguments]
        subprocess.run(command, cwd=source.parent, check=True, capture_output=True)
    cells = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    assert [(c.source, c.metadata) for c in cells] == [(c.source, c.metadata) for c in derived.cells]
    assert chapters.derive(source) == derived


def test_everything_generated_is_written(book):
    assert "| [The coin](coin_toss.md) | 4 | " in (book / "chapters" / "running.md").read_text("utf-8")
    for page_, link in (("README.md", "chapters/ledger.md"), ("chapters/index.md", "ledger.md")):
        assert f"**1 of 1 claims hold**: 1 of 1 theorem. Every one is in [the ledger]({link})." in (
            book / page_
        ).read_text("utf-8")
    assert "coin_toss.html#claim-coin-toss-half" in (book / "chapters" / "ledger.md").read_text("utf-8")


def test_pages_without_code_are_left_alone(book):
    assert [path.name for path in (book / "chapters").glob("*.ipynb")] == [f"{stand_in.NAME}.ipynb"]


def test_failed_cell_is_named_and_the_old_notebook_stays(book, tmp_path, capsys):
    broken = stand_in.copy(book, tmp_path)
    stand_in.edit(stand_in.source(broken), r"between=\(0.45, 0.55\)", "between=(0.7, 0.75)")
    before = bytes_of(broken)
    assert execute.main([], broken) == 1
    told = capsys.readouterr().err
    assert "coin_toss: code cell 4 of 4 failed (chapters/coin_toss.md, line 80)" in told
    assert (
        "ClaimFailed: coin-toss/half: measured 0.508" in told
        and "Traceback" not in told
        and told.count("\n") < 6
    )
    assert bytes_of(broken) == before


def test_one_failure_does_not_keep_the_others_from_running(tmp_path, capsys):
    page(page(tmp_path, "1 / 0", name="bad"), "print(6 * 7)", name="good")
    assert execute.main([], tmp_path) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert outputs(tmp_path, "good") == "42\n" and not (tmp_path / "chapters" / "bad.ipynb").exists()


def test_only_the_named_chapter_runs(tmp_path):
    page(page(tmp_path, "1", name="one"), "2", name="two")
    assert execute.main(["two"], tmp_path) == 0
    assert [path.stem for path in (tmp_path / "chapters").glob("*.ipynb")] == ["two"]


def test_unknown_name_lists_the_known(book, capsys):
    assert execute.main(["dice"], book) == 2
    assert capsys.readouterr().err == "No chapter with code is called dice. There are: coin_toss.\n"


def test_cell_that_takes_too_long(tmp_path, capsys):
    assert execute.main(["--timeout", "1"], page(tmp_path, "import time", "time.sleep(60)")) == 1
    assert "ran longer than allowed" in capsys.readouterr().err


def test_kernel_that_dies(tmp_path, capsys):
    assert execute.main([], page(tmp_path, "import os", "os._exit(1)")) == 1
    assert "the kernel died" in capsys.readouterr().err


def test_environment_of_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv("DLT_PRESET", raising=False)
    keys = "import os, sys", "print([os.environ[k] for k in ('DLT_STRICT', 'DLT_PRESET', 'OMP_NUM_THREADS')])"
    page(
        tmp_path,
        *keys,
        "print(sys.executable, os.path.basename(os.getcwd()), os.path.isdir(os.environ['IPYTHONDIR']))",
    )
    assert execute.main([], tmp_path) == 0
    assert outputs(tmp_path) == f"['1', 'ci', '1']\n{sys.executable} chapters True\n"


def test_other_preset_leaves_the_committed_notebook_alone(book, tmp_path, monkeypatch):
    other = stand_in.copy(book, tmp_path)
    before = bytes_of(other)
    monkeypatch.setenv("DLT_PRESET", "gpu")
    assert execute.main([], other) == 0
    after = bytes_of(other)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {
        "_build/notebooks/gpu/coin_toss.ipynb",
        "chapters/results/run_times.json",
        "chapters/running.md",
    }
    assert set(run_times.read(other)[stand_in.NAME]) == {"ci", "gpu"}


def test_run_time_is_noted_once_per_source(tmp_path):
    page(tmp_path, "1")
    assert run_times.told("page", "ci", tmp_path) == "not measured"
    assert run_times.record("page", "ci", 94.21, 1, tmp_path) and not run_times.record(
        "page", "ci", 80.0, 1, tmp_path
    )
    assert run_times.told("page", "ci", tmp_path) == "1 min 34 s"
    page(tmp_path, "2")
    assert run_times.record("page", "ci", 80.0, 1, tmp_path)
    assert run_times.substitutions(tmp_path) == {
        "time_page": "1 min 20 s on two CPU cores (preset `ci`); preset `gpu`: not measured"
    }


def test_order_is_that_of_the_table_of_contents(tmp_path):
    for name in ("alpha", "beta", "gamma"):
        page(tmp_path, "1", name=name)
    (tmp_path / "_toc.yml").write_text("- file: chapters/gamma\n- file: chapters/beta\n", "utf-8")
    assert chapters.names(tmp_path) == ["gamma", "beta", "alpha"]


def test_write_is_atomic_and_tells_whether_it_changed(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    assert chapters.write(path, "ä") and not chapters.write(path, "ä") and chapters.write(path, "b")
    assert os.listdir(path.parent) == ["file.txt"]


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "book_tools.execute", "nothere"]
    run = subprocess.run(command, cwd=chapters.ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "There are: " in run.stderr
