"""Many runs of one function: parallel, cached run by run, and resumed where a killed sweep left off.

Parallelism is joblib's, so `joblib.parallel_config("dask")` or `"ray"` moves the very same sweep to a cluster.
The store is our own, beside it, because `joblib.Memory` keeps no checksum (a flipped byte in a stored number
is believed), forgets the results of the old source when a function changes, and does not see the version of a
package or the variables that a function takes from around it.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import inspect
import itertools
import os
import pickle
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import joblib

import dlt_helpers

PROVENANCE = ("seconds", "version", "cached", "error")  # columns that `run` adds


class CorruptEntry(RuntimeWarning):
    """A stored run was truncated or altered, and is computed again; the message names the file."""


class FailedSetting(RuntimeWarning):
    """A setting raised an error, which stands in the column `error`; the others went on."""


def grid(**axes: Iterable) -> list[dict]:
    """Return the settings {name: value, …} of the product of all axes, the last axis running fastest.

    Args:
        **axes: the values of each setting, such as lr=[0.1, 0.2]; one value is a list of one.
    Raises:
        ValueError: an axis that is a text or no list of values.

    Used in: introduction.

    >>> grid(lr=[0.1, 0.2], seed=range(2))
    [{'lr': 0.1, 'seed': 0}, {'lr': 0.1, 'seed': 1}, {'lr': 0.2, 'seed': 0}, {'lr': 0.2, 'seed': 1}]
    """
    for name, values in axes.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ValueError(f"the axis {name}={values!r} should be a list of values, such as {name}=[{values!r}].")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run(fn: Callable, grid: Sequence[Mapping], *, cache: str | os.PathLike | None = None,
        n_jobs: int | None = None, progress: bool = True):
    """Return the table of fn(**setting) for every setting: one row a run, in the order of `grid`.

    A run that has finished is in `cache` and is not repeated, whatever kills the sweep. What is stored is found
    by the source of `fn`, the values and functions that it takes from its own module or from around it, the
    setting, and the version of dlt_helpers: a change of any of them computes anew. What `fn` imports
    is not seen, nor are files that it reads: change a setting with them. The worker stores its runs, and the caller
    those that it does not find (a cluster without a common disk then resumes from whole sweeps only).

    Args:
        fn: a pure function defined with `def`, of the settings by name, returning {name: value} or one number,
            which is named `value`. Tensors and arrays without dimension become numbers.
        grid: settings, as `grid` makes them: mappings with the same names.
        cache: a folder, made if missing; None stores nothing. Entries are pickles: read only those you trust.
        n_jobs: processes, -1 for one a core; None for those of `joblib.parallel_config`, else 1.
        progress: show a bar to who waits more than a second (never in the execution of the book).
    Returns:
        pandas.DataFrame with a column for each setting and each result (missing where the run failed), and
        seconds: how long the run took when it was computed; version: of dlt_helpers; cached: whether it was
        found in the cache; error: "" or what `fn` raised.
    Raises:
        ValueError: a function or settings that cannot be told from others; the message says what would do.
    Warns:
        CorruptEntry: a stored run did not have its checksum; it is computed again.
        FailedSetting: at least one setting failed; it is tried again by the next sweep.

    Used in: introduction.

    >>> def square(n):
    ...     return {"square": n * n}
    >>> list(run(square, grid(n=[1, 2, 3])).square)
    [1, 4, 9]
    """
    settings = _checked(grid)
    identity = _identity(fn)
    keys = [joblib.hash((identity, dlt_helpers.__version__, _hash(setting)), hash_name="sha1") for setting in settings]
    folder = None if cache is None else Path(cache).resolve() / fn.__name__  # workers may stand elsewhere
    files = {key: folder and folder / f"{key}.run" for key in keys}
    runs = {key: entry for key, file in files.items() if file and (entry := _read(file, key))}
    found = set(runs)
    todo = {key: setting for key, setting in zip(keys, settings, strict=True) if key not in found}
    computed = joblib.Parallel(n_jobs=n_jobs)(
        joblib.delayed(_execute)(fn, setting, key, files[key]) for key, setting in _bar(todo, progress))
    for entry in computed:
        runs[entry["key"]] = entry
        if files[entry["key"]] and not entry["error"] and not files[entry["key"]].exists():
            _write(files[entry["key"]], entry)
    return _table(settings, [runs[key] | {"cached": key in found} for key in keys])


def _execute(fn, setting, key, file):
    """Return the entry of one run, which is in `file` before this returns, unless it failed."""
    start = time.perf_counter()
    entry = {"key": key, "setting": repr(setting), "result": {}, "version": dlt_helpers.__version__, "error": ""}
    try:
        entry["result"] = _named(fn(**setting), setting)
        pickle.dumps(entry["result"])  # what cannot be stored is an error of this setting, too
    except Exception as error:  # reported in the table: one setting must not end the sweep
        entry |= {"result": {}, "error": f"{type(error).__name__}: {error}"}
    entry["seconds"] = time.perf_counter() - start
    if file and not entry["error"]:
        _write(file, entry)
    return entry


def _write(file, entry):
    """Write checksum and entry to `file` at once: whoever is killed leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(entry, protocol=5)
    handle, unfinished = tempfile.mkstemp(prefix=".", suffix=".unfinished", dir=file.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(_digest(content) + content)
    os.replace(unfinished, file)


def _read(file, key):
    """Return the entry in `file`, or None if there is none or it is not what was written there."""
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    checksum, content = stored[:32], stored[32:]
    fault = "its checksum is wrong"
    if checksum == _digest(content):
        try:
            entry = pickle.loads(content)
        except Exception as error:  # a class in it may have moved
            fault = f"it cannot be read, {error}"
        else:
            if entry["key"] == key:
                return entry
            fault = "it holds another run"
    warnings.warn(f"the stored run {file} is corrupt ({fault}, {len(stored)} bytes); it is computed again.",
                  CorruptEntry, stacklevel=4)
    file.unlink(missing_ok=True)
    return None


def _digest(content):
    return hashlib.sha256(content).digest()


def _named(result, setting):
    """Return what a run returned as {name: value} without names that are taken."""
    result = dict(result) if isinstance(result, Mapping) else {"value": result}
    if taken := set(result) & {*setting, *PROVENANCE}:
        raise ValueError(f"the results {sorted(taken)} have the names of settings or of {PROVENANCE}; rename them")
    return {name: _number(value) for name, value in result.items()}


def _number(value):
    """Return an array or tensor without dimension as a Python number, anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _checked(grid):
    """Return the settings as dicts with Python numbers, after a look at their names."""
    if isinstance(grid, Mapping):
        raise ValueError("grid should be a list of settings, as sweep.grid(lr=[0.1, 0.2]) makes it, and is a mapping.")
    settings = [{name: _number(value) for name, value in dict(setting).items()} for setting in grid]
    for setting in settings:
        if set(setting) != set(settings[0]):
            raise ValueError(f"all settings should have the names {sorted(settings[0])}; one has {sorted(setting)}.")
        if taken := set(setting) & set(PROVENANCE):
            raise ValueError(f"the settings {sorted(taken)} have the names of columns that run adds; rename them.")
    return settings


def _table(settings, entries):
    """Return the tidy table of the runs, and warn of those that failed."""
    import pandas

    rows = [setting | entry["result"] | {name: entry[name] for name in PROVENANCE}
            for setting, entry in zip(settings, entries, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row if name not in PROVENANCE)
    if failed := [(s, e["error"]) for s, e in zip(settings, entries, strict=True) if e["error"]]:
        warnings.warn(f"{len(failed)} of {len(rows)} settings failed; the first, {failed[0][0]}: {failed[0][1]}",
                      FailedSetting, stacklevel=3)
    return pandas.DataFrame(rows, columns=[*names, *PROVENANCE])


def _bar(todo, progress):
    """Return the items of `todo`, with a progress bar for who waits and wants one."""
    if progress and os.environ.get("DLT_STRICT") != "1":
        try:
            from tqdm import tqdm
        except ImportError:
            return todo.items()
        return tqdm(todo.items(), leave=False, delay=1, unit="run")
    return todo.items()


# ---- what a result depends on


def _identity(fn):
    """Return what tells `fn` from other functions: its source, and what it takes from around it."""
    if not isinstance(fn, FunctionType) or fn.__name__ == "<lambda>":
        raise ValueError(f"fn should be a function defined with def, whose source can be read; got {fn!r}.")
    return _function(fn, set())


def _function(fn, seen):
    """Return the source of `fn`, its defaults, and all that it names of its own module, functions included."""
    seen.add(fn)
    around = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
    values = {name: fn.__globals__[name] for name in _names(fn.__code__) if name in fn.__globals__}
    values |= {name: cell.cell_contents for name, cell in around.items()}
    values |= {"(defaults)": (fn.__defaults__, fn.__kwdefaults__)}
    parts = {name: _part(name, value, fn, seen) for name, value in sorted(values.items())}
    return _source(fn), {name: part for name, part in parts.items() if part is not None}


def _part(name, value, fn, seen):
    """Return what the value of `name` adds to the identity of `fn`; None for what is imported or seen."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, ModuleType):
        return None
    if isinstance(value, type) or hasattr(value, "__qualname__"):  # a class or a function
        if value.__module__ != fn.__module__ or value in seen:
            return None
        return _function(value, seen) if isinstance(value, FunctionType) else _class(value, seen)
    try:
        return _hash(value)
    except Exception as error:
        raise ValueError(f"{fn.__name__} uses {name}, which cannot be told from other values ({error}); "
                         "make it inside the function, or from a setting.") from error


def _class(cls, seen):
    """Return the source of a class, or of its methods where a notebook does not keep the whole."""
    try:
        return _source(cls)
    except ValueError:
        methods = {name: value for name, value in vars(cls).items() if isinstance(value, FunctionType)}
        return cls.__qualname__, str(inspect.get_annotations(cls)), {
            name: _function(value, seen) for name, value in sorted(methods.items())
            if not inspect.unwrap(value).__code__.co_filename.startswith("<")}  # what dataclass wrote has no source


def _names(code):
    """Return all names in the code of a function and of the functions inside it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _source(thing):
    """Return the source of a function or class without comments and layout."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError) as error:
        raise ValueError(f"the source of {thing!r} cannot be read ({error}); define it with def in a file or a "
                         "notebook.") from error


def _hash(value):
    """Return a digest of a value that is the same in every process, or raise ValueError."""
    digests = [joblib.hash(_plain(each), hash_name="sha1") for each in (value, copy.deepcopy(value))]
    if digests[0] != digests[1]:  # its pickle holds addresses, as that of a network does
        raise ValueError(f"two copies of this {type(value).__name__} do not look alike")
    return digests[0]


def _plain(value):
    """Return a value with its tensors as arrays and its dataclasses as dicts, which pickle alike everywhere."""
    if hasattr(value, "detach"):
        return "tensor", str(value.dtype), _bytes(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [_plain(item) for item in value]
    return _number(value)


def _bytes(tensor):
    import torch  # loaded already, where there is a tensor

    return tuple(tensor.shape), tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
