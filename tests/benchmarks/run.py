"""Run the benchmarks named on the command line (all without names) and write results.json."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from tests import benchmarks


def collect() -> dict:
    """Return {key: function} over all modules bench_*.py of this folder."""
    found = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("bench_"):
            found |= importlib.import_module(f"tests.benchmarks.{module.name}").BENCHMARKS
    return found


def main(keys: list[str]) -> int:
    """Run, write and print each benchmark; return 1 if a name is unknown."""
    benchmarks.one_thread()
    known = collect()
    unknown = [key for key in keys if key not in known]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}: use {', '.join(known)}", file=sys.stderr)
        return 1
    for key in keys or known:
        try:
            entry = known[key]()
        except benchmarks.Unavailable as reason:
            print(f"{key}: left out, {reason}", flush=True)
            continue
        benchmarks.write(key, entry)
        print(f"{key}: {entry['ratio']} (ours {entry['ours']}, peer {entry['peer']} {entry['unit']}; "
              f"{entry['accuracy']})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
