"""Derive and execute the notebooks: ``python -m book_tools.execute [name…]``, which is ``make notebooks``."""

import argparse
import os
import re
import sys
import tempfile
import time

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book_tools import chapters, ledger, run_times
from book_tools.chapters import BookError

TIMEOUT = 600  # seconds that one cell may take
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ThisPython(KernelSpecManager):
    """Kernel specifications that always mean the Python running now, whatever the user has installed."""

    def get_kernel_spec(self, kernel_name):
        """Return the specification of an ipykernel of this very Python, which reports errors only."""
        return KernelSpec(resource_dir="", **get_kernel_dict(extra_arguments=["--log-level=40"]))


class ThisKernel(AsyncKernelManager):
    """A kernel of the Python running now."""

    def _kernel_spec_manager_default(self):
        return ThisPython(parent=self)


def environment(root=chapters.ROOT, ipython=None):
    """Return the environment variables under which chapters run; ``DLT_PRESET`` is kept.

    Args:
        root: the checkout; it comes first on the Python path.
        ipython: an empty folder for IPython's settings, so that the user's own change no output.
    """
    path = os.pathsep.join(filter(None, (str(root), str(chapters.ROOT), os.environ.get("PYTHONPATH"))))
    fixed = {
        "DLT_STRICT": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    variables = {**os.environ, **fixed, "DLT_PRESET": preset(), "PYTHONPATH": path}
    return variables | ({"IPYTHONDIR": str(ipython)} if ipython else {})


def preset():
    """Return the preset to execute under: ``DLT_PRESET``, or ``ci``."""
    return os.environ.get("DLT_PRESET") or "ci"


def execute(derived, *, cwd, root=chapters.ROOT, timeout=TIMEOUT, progress=lambda cell, cell_index: None):
    """Execute a notebook in place in a fresh kernel and return it, without traces of time or machine.

    Raises:
        nbclient.exceptions.CellExecutionError, CellTimeoutError, DeadKernelError: if a cell fails.
    """
    client = NotebookClient(
        derived, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True,
        kernel_manager_class=ThisKernel, resources={"metadata": {"path": str(cwd)}},
        on_cell_execute=progress,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as ipython:
        client.execute(env=environment(root, ipython))
    derived.metadata = nbformat.from_dict(
        {"kernelspec": chapters.KERNEL, "language_info": {"name": "python"}}
    )
    return derived


def target(name, root=chapters.ROOT):
    """Return where the executed notebook goes: beside its source for ``ci``, else under ``_build``."""
    beside = preset() == "ci"
    return (
        chapters.notebook(name, root)
        if beside
        else root / "_build" / "notebooks" / preset() / f"{name}.ipynb"
    )


def chapter(name, root=chapters.ROOT, *, timeout=TIMEOUT, progress=lambda index, cells: None):
    """Derive, execute and store one chapter, note its run time; return (seconds, whether it changed).

    Raises:
        BookError: if a cell fails; the message says which and why, and the stored notebook is as it was.
    """
    derived = chapters.derive(chapters.source(name, root))
    code = [i for i, cell in enumerate(derived.cells) if cell.cell_type == "code"]
    reached = []

    def on_cell(cell, cell_index):
        reached.append(cell_index)
        progress(code.index(cell_index) + 1, len(code))

    start = time.perf_counter()
    try:
        execute(derived, cwd=chapters.folder(root), root=root, timeout=timeout, progress=on_cell)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        index = reached[-1] if reached else 0
        raise BookError(
            _failure(name, derived.cells[index], code.index(index) + 1, len(code), error, root)
        ) from error
    seconds = time.perf_counter() - start
    changed = chapters.write(target(name, root), nbformat.writes(derived) + "\n")
    run_times.record(name, preset(), seconds, len(code), root)
    return seconds, changed


def main(arguments=None, root=chapters.ROOT):
    """Execute the chapters named on the command line, all if none; return the exit code."""
    known = chapters.names(root)
    parser = argparse.ArgumentParser(prog="make notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"chapters to execute (default: all of {', '.join(known)})")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds that one cell may take")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(
            f"No chapter with code is called {', '.join(unknown)}. There are: {', '.join(known)}.",
            file=sys.stderr,
        )
        return 2
    failed = [name for name in options.names or known if not _attempt(name, options.timeout, root)]
    try:
        run_times.write(root)
        ledger.write(root)
    except BookError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _attempt(name, timeout, root):
    try:
        seconds, changed = chapter(
            name, root, timeout=timeout, progress=lambda i, n: _show(f"{name}: cell {i} of {n}")
        )
    except BookError as error:
        _show("")
        print(f"✗ {error}", file=sys.stderr)
        return False
    _show("")
    news = "changed" if changed else "unchanged"
    print(
        f"✓ {target(name, root).relative_to(root)} {news}, {run_times.duration(seconds)} (preset {preset()})"
    )
    return True


def _show(text):
    """Show a person who waits where we are; leave nothing behind."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _failure(name, cell, number, cells, error, root):
    if isinstance(error, CellExecutionError):
        what = f"{error.ename}: {ANSI.sub('', error.evalue)}"
    elif isinstance(error, CellTimeoutError):
        what = "the cell ran longer than allowed (--timeout)"
    else:
        what = "the kernel died (out of memory?)"
    line = chapters.line_of(cell.source, chapters.source(name, root))
    where = f"{name}: code cell {number} of {cells} failed (chapters/{name}.md, line {line})"
    return f"{where}; the old notebook stays.\n  {what}"


if __name__ == "__main__":
    sys.exit(main())
