"""Setting up: every way in which it can go wrong ends in one sentence with the remedy."""

import ast
import io
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from book_tools import environment
from book_tools.chapters import ROOT
from book_tools.environment import Problem


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A checkout without an environment."""
    for name in ("requirements.txt", "constraints-py311.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book_tools").mkdir()
    shutil.copy(ROOT / "book_tools" / "environment.py", tmp_path / "book_tools")
    monkeypatch.setattr(environment, "ROOT", str(tmp_path))
    monkeypatch.setattr(environment, "VENV", str(tmp_path / ".venv"))
    return tmp_path


@pytest.fixture
def finished(elsewhere):
    """A checkout whose environment is complete, as far as its files say."""
    python = elsewhere / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (elsewhere / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    (elsewhere / ".venv" / "stamp").write_text(environment.stamp((3, 11)))
    return elsewhere


def sentence(function, *arguments, **named):
    with pytest.raises(Problem) as problem:
        function(*arguments, **named)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_source_can_be_read_by_python_3_6():
    source = (ROOT / "book_tools" / "environment.py").read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    assert not any(isinstance(node, ast.AnnAssign) for node in ast.walk(tree))


def test_old_python():
    said = sentence(environment.check_python, (3, 8, 18), "python3")
    assert "3.11 or newer" in said and "python3 is 3.8.18" in said and "PYTHON=" in said
    environment.check_python((3, 11, 0))
    environment.check_python((4, 0))


def test_missing_git():
    assert "apt install git" in sentence(environment.check_tools, which=lambda name: None)


def test_missing_venv_module():
    def find_module(name):
        if name == "ensurepip":
            raise ImportError(name)

    said = sentence(environment.check_tools, which=lambda name: "/usr/bin/git", find_module=find_module)
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in said


def test_full_disk_before_installing():
    assert "1.5 GB free" in sentence(environment.check_space, 1.5e9)
    environment.check_space(4.1e9)


@pytest.mark.parametrize(
    "line, remedy",
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk filled up"),
        ("WARNING: Retrying (Retry(total=0)): failure in name resolution", "connect to the network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no torch==2.13.0 for Python"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied", "may not write"),
        ("ERROR: Something else", "pip failed (ERROR: Something else)"),
    ],
)
def test_failed_installation(line, remedy):
    said = environment.explain(["Collecting torch", line])
    assert remedy in said and "\n" not in said


def test_network_failure_is_not_taken_for_a_missing_package():
    log = ["WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'",
           "ERROR: No matching distribution found for torch==2.13.0"]  # fmt: skip
    assert "connect to the network" in environment.explain(log)


def test_pins_on_3_11_only():
    assert "-c" in environment.requirement_files((3, 11))
    assert "-c" not in environment.requirement_files((3, 12))


def test_environment_is_reused_while_nothing_changed(finished):
    assert environment.is_current(asked=False)


@pytest.mark.parametrize("name", ["requirements.txt", "constraints-py311.txt"])
def test_changed_requirements_are_noticed(finished, name):
    with open(finished / name, "a") as file:
        file.write("another\n")
    assert not environment.is_current(asked=False)


def test_interrupted_installation_is_noticed(finished):
    (finished / ".venv" / "stamp").unlink()
    assert not environment.is_current(asked=False)


def test_vanished_python_is_noticed(finished):
    python = finished / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(finished / "nowhere")
    assert not environment.is_current(asked=False)


def test_python_asked_for_by_name_must_be_the_one(finished, monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 12, 1))
    assert environment.is_current(asked=False)
    assert not environment.is_current(asked=True)


def test_full_disk_is_a_sentence_and_not_a_traceback(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert environment.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_error_while_writing_is_a_sentence(elsewhere, monkeypatch, capsys):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(environment, "create", full)
    assert environment.main([]) == 1
    assert "disk filled up" in capsys.readouterr().err


def test_progress_says_what_takes_long_and_nothing_else():
    out = io.StringIO()
    progress = environment.Progress(out)
    for line in [
        "Collecting numpy", "  Downloading numpy-2.4.6-cp311-cp311-linux_x86_64.whl (16.9 MB)",
        "Collecting torch", "  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (190.2 MB)",
        "Installing collected packages: numpy, torch",
    ]:  # fmt: skip
        progress.read(line)
    assert [line.split(None, 2)[2] for line in out.getvalue().splitlines()] == [
        "downloading torch-2.13.0 (190.2 MB)", "installing 2 packages",
    ]  # fmt: skip


def make(folder, *arguments):
    bare = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(["make", *arguments], cwd=folder, env=bare, capture_output=True, text=True)


def test_make_without_python_names_the_remedy(elsewhere):
    run = make(elsewhere, "book", "PYTHON=python-of-nowhere")
    assert run.returncode
    assert "There is no 'python-of-nowhere'" in run.stderr and "make book PYTHON=" in run.stderr


def test_make_help_lists_every_target_and_only_those(elsewhere):
    listed = {line.split()[1] for line in make(elsewhere, "help").stdout.splitlines()}
    source = (ROOT / "Makefile").read_text("utf-8")
    phony = next(line for line in source.splitlines() if line.startswith(".PHONY")).split()[1:]
    assert listed == set(phony) - {"environment"}
