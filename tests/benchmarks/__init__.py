"""Our instruments against their peers: time beside accuracy, on one thread, pairs in one run.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.run            # every key
    OMP_NUM_THREADS=1 python -m tests.benchmarks.run <key> …    # some of them

A module `bench_<what>.py` holds `BENCHMARKS = {key: function}`; each function returns `result(...)`, and
`run` writes it into results.json under its key: {ratio, ours, peer, unit, accuracy, settings}.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results.json")


class Unavailable(RuntimeError):
    """The peer cannot be had here: the key is left as it is, and the reason is printed."""


def cpu_seconds(fn: Callable[[], object]) -> float:
    """Return the CPU time of fn() in this process (one thread, so that a busy machine matters little)."""
    start = time.process_time()
    fn()
    return time.process_time() - start


def alternate(*fns: Callable[[], float], repeats: int = 5) -> list[float]:
    """Return the median of what each of fns measures (seconds), called in turn `repeats` times."""
    rounds = [[fn() for fn in fns] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def rounded(x: float) -> float:
    """Return x to three significant digits."""
    return float(f"{x:.3g}")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def result(*, ours: float, peer: float, unit: str, accuracy: dict, settings: dict) -> dict:
    """Return one entry of results.json; ratio = peer / ours, how many times less we need."""
    shown = {k: rounded(v) if isinstance(v, float) else v for k, v in accuracy.items()}
    return {"ratio": rounded(peer / ours), "ours": rounded(ours), "peer": rounded(peer), "unit": unit,
            "accuracy": shown, "settings": settings}


def write(key: str, entry: dict) -> None:
    """Put the entry into results.json, all others as they are."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[key] = entry
    part = RESULTS.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False) + "\n")
    part.replace(RESULTS)


def one_thread() -> None:
    """Keep torch to one thread (and set OMP_NUM_THREADS=1, which numpy's BLAS reads at import)."""
    torch.set_num_threads(1)
