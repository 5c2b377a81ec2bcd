"""Many runs: the same table whatever happens on the way, and no finished run twice."""

import ast
import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from dlt_helpers import sweep

ROOT = Path(__file__).parents[1]
SCALE = 2.0  # a value that `scaled` takes from around it


def walk(seed, steps):
    """Return the end and the greatest distance of a random walk."""
    path = np.random.default_rng(seed).standard_normal(steps).cumsum()
    return {"end": path[-1], "far": np.abs(path).max()}


def logged(i, log):
    with open(log, "a") as stream:
        stream.write(f"{i}\n")
    return i * i


def fails_at(n, bad):
    if n == bad:
        raise ArithmeticError(f"{n} is not to my liking")
    return {"twice": 2 * n}


def doubled(n):
    return SCALE * n


def scaled(n):
    return doubled(n) + 1


WALKS = sweep.grid(seed=range(4), steps=[10, 20])


def results(table):
    """Return the table without its provenance."""
    return table.drop(columns=list(sweep.PROVENANCE))


def executions(log):
    return Counter(int(line) for line in Path(log).read_text().split()) if Path(log).exists() else Counter()


def entries(cache):
    return sorted(Path(cache).rglob("*.run"))


# ---- the table


def test_table_is_what_a_loop_computes():
    table = sweep.run(walk, WALKS)
    loop = pd.DataFrame([setting | walk(**setting) for setting in WALKS])
    pd.testing.assert_frame_equal(results(table), loop)
    assert list(table.columns) == ["seed", "steps", "end", "far", "seconds", "version", "cached", "error"]
    assert (table.seconds > 0).all() and not table.cached.any() and (table.error == "").all()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cached_table_is_the_computed_one_to_the_bit(tmp_path, n_jobs):
    first = sweep.run(walk, WALKS, cache=tmp_path, n_jobs=n_jobs)
    again = sweep.run(walk, list(reversed(WALKS)), cache=tmp_path, n_jobs=n_jobs)
    assert again.cached.all() and not first.cached.any()
    pd.testing.assert_frame_equal(results(first), results(again[::-1].reset_index(drop=True)), check_exact=True)
    pd.testing.assert_series_equal(first.seconds, again.seconds[::-1].reset_index(drop=True))


def test_a_setting_that_stands_twice_runs_once(tmp_path):
    log = tmp_path / "log"
    table = sweep.run(logged, sweep.grid(i=[3, 4, 3], log=[str(log)]), cache=tmp_path)
    assert list(table.value) == [9, 16, 9] and executions(log) == {3: 1, 4: 1}


def test_a_short_sweep_and_the_execution_of_the_book_show_no_bar(capfd, monkeypatch):
    def nap(n):
        time.sleep(0.6)
        return n

    sweep.run(walk, WALKS)
    assert capfd.readouterr() == ("", "")
    monkeypatch.delenv("DLT_STRICT", raising=False)
    sweep.run(nap, sweep.grid(n=range(3)))
    assert "run" in capfd.readouterr().err
    monkeypatch.setenv("DLT_STRICT", "1")
    sweep.run(nap, sweep.grid(n=range(2)))
    assert capfd.readouterr() == ("", "")


def test_no_setting_no_row(tmp_path):
    assert list(sweep.run(walk, [], cache=tmp_path).columns) == list(sweep.PROVENANCE)


def test_numbers_of_arrays_and_tensors_are_python_numbers():
    def numbers(n):
        return {"tensor": torch.tensor(n), "array": np.float64(n), "curve": np.arange(n)}

    (row,) = sweep.run(numbers, sweep.grid(n=np.array([2]))).to_dict("records")
    assert [type(row[name]) for name in ("n", "tensor", "array", "curve")] == [int, int, float, np.ndarray]


@pytest.mark.parametrize(("call", "says"), [
    (lambda: sweep.grid(lr=0.1), r"lr=0.1 should be a list of values, such as lr=\[0.1\]"),
    (lambda: sweep.grid(loss="square"), r"such as loss=\['square'\]"),
    (lambda: sweep.run(walk, {"seed": [1]}), "and is a mapping"),
    (lambda: sweep.run(walk, [{"seed": 1}, {"steps": 1}]), "all settings should have the names"),
    (lambda: sweep.run(walk, [{"seed": 1, "error": 1}]), "names of columns that run adds"),
    (lambda: sweep.run(lambda n: n, [{"n": 1}]), "defined with def"),
    (lambda: sweep.run(np.sqrt, [{"n": 1}]), "defined with def")])
def test_what_cannot_be_told_apart_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---- failures


def test_a_failing_setting_is_reported_and_the_rest_goes_on(tmp_path):
    for n_jobs in (1, 2):  # the failed one is tried again
        with pytest.warns(sweep.FailedSetting, match=r"1 of 3 settings failed; the first, {'n': 2, 'bad': 2}: Arith"):
            table = sweep.run(fails_at, sweep.grid(n=[1, 2, 3], bad=[2]), cache=tmp_path, n_jobs=n_jobs)
        assert list(table.error) == ["", "ArithmeticError: 2 is not to my liking", ""]
        assert table.twice.isna().tolist() == [False, True, False] and table.twice.sum() == 8
    assert table.cached.tolist() == [True, False, True]


def test_a_result_that_cannot_be_stored_is_a_failure(tmp_path):
    def maker(n):
        return lambda: n

    with pytest.warns(sweep.FailedSetting, match="pickle local object"):
        assert "pickle local" in sweep.run(maker, sweep.grid(n=[1]), cache=tmp_path).error[0]


def test_results_may_not_take_the_names_of_settings():
    def shadow(n):
        return {"n": n + 1}

    with pytest.warns(sweep.FailedSetting, match="names of settings"):
        assert sweep.run(shadow, sweep.grid(n=[1])).error[0].startswith("ValueError: the results ['n']")


@pytest.mark.parametrize("damage", [
    lambda b: b[:-1], lambda b: b[:40], lambda b: b[:7], lambda b: b"", lambda b: b"\0" * len(b),
    lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: bytes([b[0] ^ 1]) + b[1:]],
    ids=["cut", "cut short", "cut to 7 bytes", "empty", "zeros", "a bit of the content", "a bit of the checksum"])
def test_a_corrupt_entry_is_named_and_computed_again(tmp_path, damage):
    log, cache = tmp_path / "log", tmp_path / "cache"
    settings = sweep.grid(i=range(5), log=[str(log)])
    before = sweep.run(logged, settings, cache=cache)
    hurt = entries(cache)[2]
    hurt.write_bytes(damage(hurt.read_bytes()))
    with pytest.warns(sweep.CorruptEntry, match=hurt.name) as found:
        after = sweep.run(logged, settings, cache=cache)
    assert len(found) == 1 and sorted(executions(log).values()) == [1, 1, 1, 1, 2]
    pd.testing.assert_frame_equal(results(before), results(after))
    assert sweep.run(logged, settings, cache=cache).cached.all()  # mended, and no further warning


def test_an_entry_under_the_name_of_another_is_corrupt(tmp_path):
    sweep.run(walk, WALKS, cache=tmp_path)
    one, other = entries(tmp_path)[:2]
    one.write_bytes(other.read_bytes())
    with pytest.warns(sweep.CorruptEntry, match=f"{one.name}.*another run"):
        pd.testing.assert_frame_equal(results(sweep.run(walk, WALKS, cache=tmp_path)), results(sweep.run(walk, WALKS)))


def test_an_entry_whose_class_has_moved_is_corrupt(tmp_path):
    sweep.run(walk, WALKS[:1], cache=tmp_path)
    content = pickle.dumps(walk).replace(b"walk", b"fled")
    entries(tmp_path)[0].write_bytes(sweep._digest(content) + content)
    with pytest.warns(sweep.CorruptEntry, match="cannot be read.*fled"):
        assert not sweep.run(walk, WALKS[:1], cache=tmp_path).cached[0]


def test_what_the_workers_wrote_elsewhere_the_caller_stores(tmp_path, monkeypatch):
    """A cluster without a common disk: the worker's file does not exist here."""
    execute = sweep._execute
    monkeypatch.setattr(sweep, "_execute", lambda fn, setting, key, file: execute(fn, setting, key, None))
    assert not sweep.run(walk, WALKS, cache=tmp_path).cached.any()
    assert sweep.run(walk, WALKS, cache=tmp_path).cached.all()
    entries(tmp_path)[0].write_bytes(b"")
    with pytest.warns(sweep.CorruptEntry):
        sweep.run(walk, WALKS, cache=tmp_path)
    assert sweep.run(walk, WALKS, cache=tmp_path).cached.all()


def test_a_relative_cache_is_where_the_caller_stands(tmp_path, monkeypatch):
    def wander(n):
        os.chdir("/")
        return n

    monkeypatch.chdir(tmp_path)
    sweep.run(wander, sweep.grid(n=range(3)), cache="cache")
    assert len(entries(tmp_path / "cache")) == 3


# ---- what a result depends on


def same(first, second, tmp_path, settings=({"n": 3},)):
    """Whether the runs of the function `first` are found by `second`."""
    sweep.run(first, settings, cache=tmp_path)
    return bool(sweep.run(second, settings, cache=tmp_path).cached.all())


def from_source(text, tmp_path, count=[0]):  # noqa: B006 (a new file for each text, as for each run of a cell)
    count[0] += 1
    path = tmp_path / f"module{count[0]}.py"
    path.write_text(text)
    space = {"__name__": "__main__", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), space)
    return space["f"]


BODY = "def helper(n):\n    return [n * k * factor for k in (1, 2)]\n\ndef f(n):\n    return sum(helper(n))\n"


@pytest.mark.parametrize(("text", "found"), [
    ("factor = 1\n\n# a comment\n" + BODY.replace("n * k for", "n*k  # and another\n for"), True),
    ("unused = 3\nfactor = 1\n" + BODY, True),
    ("factor = 1\n" + BODY.replace("sum(", "max("), False),
    ("factor = 1\n" + BODY.replace("n * k", "n + k"), False),
    ("factor = 1\n" + BODY.replace("f(n)", "f(n, scale=1)"), False),
    ("factor = 5\n" + BODY, False)],
    ids=["comments", "an unused value", "the function", "its helper", "its arguments", "a value in its helper"])
def test_source_decides(tmp_path, text, found):
    first = from_source("factor = 1\n" + BODY, tmp_path)
    assert same(first, from_source(text, tmp_path), tmp_path / "cache") is found


def test_values_around_a_function_decide(tmp_path, monkeypatch):
    def around(value):
        def f(n):
            return n * len(value)
        return f

    assert same(scaled, scaled, tmp_path)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert not sweep.run(scaled, [{"n": 3}], cache=tmp_path).cached[0]
    assert same(around(torch.ones(3)), around(torch.ones(3)), tmp_path)
    assert not sweep.run(around(torch.zeros(3)), [{"n": 3}], cache=tmp_path).cached[0]
    assert not sweep.run(around(torch.ones(3, 1)), [{"n": 3}], cache=tmp_path).cached[0]
    with pytest.raises(ValueError, match="f uses value, which cannot be told from other values.*Linear"):
        sweep.run(around(torch.nn.Linear(2, 2)), [{"n": 3}])


def test_classes_beside_a_function_decide(tmp_path):
    text = ("import dataclasses\n@dataclasses.dataclass\nclass Net:\n    n: int\n    def size(self):\n"
            "        return self.n + 1\n\ndef f(n):\n    return Net(n).size()\n")
    assert same(from_source(text, tmp_path), from_source(text, tmp_path), tmp_path / "cache")
    assert not same(from_source(text, tmp_path), from_source(text.replace("+ 1", "+ 2"), tmp_path), tmp_path / "cache")


def test_settings_and_version_decide(tmp_path, monkeypatch):
    sweep.run(walk, [{"seed": 0, "steps": 10}], cache=tmp_path)
    assert sweep.run(walk, [{"steps": np.int64(10), "seed": 0}], cache=tmp_path).cached[0]
    assert not sweep.run(walk, [{"seed": 0, "steps": 11}], cache=tmp_path).cached[0]
    monkeypatch.setattr("dlt_helpers.__version__", "0.0.1")
    table = sweep.run(walk, [{"seed": 0, "steps": 10}], cache=tmp_path)
    assert not table.cached[0] and table.version[0] == "0.0.1"


def test_dataclasses_and_arrays_are_settings(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Data:
        x: torch.Tensor

    def mean(data, weights):
        return (data.x.numpy() * weights).mean()

    def settings(value):
        return [{"data": Data(torch.full((2,), value)), "weights": np.arange(2.0)}]

    assert same(mean, mean, tmp_path, settings(1.0))
    assert sweep.run(mean, settings(1.0), cache=tmp_path).cached[0]
    assert not sweep.run(mean, settings(2.0), cache=tmp_path).cached[0]


# ---- killed

SWEEP = """
import sys, time
from dlt_helpers import sweep

def slow(i, log):
    with open(log, "a") as stream:
        stream.write(f"{i}\\n")
    time.sleep(0.004 + i % 5 / 1000)
    return {"square": i * i, "third": i / 3}

if __name__ == "__main__":
    table = sweep.run(slow, sweep.grid(i=range(200), log=[sys.argv[1]]), cache=sys.argv[2], n_jobs=int(sys.argv[3]))
    table.to_pickle(sys.argv[4])
"""


def start_sweep(tmp_path, n_jobs):
    script = tmp_path / "script.py"
    script.write_text(SWEEP)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JOBLIB_TEMP_FOLDER": str(tmp_path), "OMP_NUM_THREADS": "1"}
    names = [script, tmp_path / "log", tmp_path / "cache", n_jobs, tmp_path / "table"]
    return subprocess.Popen([sys.executable, "-W", "error", *map(str, names)], env=environment, start_new_session=True)


def kill(sweeping):
    """Send SIGKILL to the sweep and all its workers at once, and take away the semaphores that they leave."""
    os.killpg(sweeping.pid, signal.SIGKILL)
    sweeping.wait()
    for left in Path("/dev/shm").glob(f"sem.loky-{sweeping.pid}-*"):
        left.unlink()


def stored(cache):
    """Return the settings i whose runs are in the cache."""
    settings = (pickle.loads(path.read_bytes()[32:])["setting"] for path in entries(cache))
    return {ast.literal_eval(setting)["i"] for setting in settings}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are killed with POSIX signals")
def test_a_sweep_killed_ten_times_loses_and_repeats_nothing(tmp_path):
    moments, log, cache, n_jobs = random.Random(0), tmp_path / "log", tmp_path / "cache", 2
    finished = set()
    for _ in range(10):
        before, target = executions(log), moments.randint(0, 24)
        sweeping = start_sweep(tmp_path, n_jobs)
        while executions(log).total() <= before.total() + target and sweeping.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        assert sweeping.poll() is None, "the sweep ended before it was killed"
        kill(sweeping)
        assert all(executions(log)[i] == before[i] for i in finished), "a finished run was repeated"
        assert finished <= stored(cache), "a finished run was lost"
        finished = stored(cache)
    assert 20 < len(finished) < 200
    before = executions(log)
    assert start_sweep(tmp_path, n_jobs).wait() == 0
    ran, table = executions(log), pd.read_pickle(tmp_path / "table")
    assert all(ran[i] == before[i] for i in finished), "a finished run was repeated"
    assert set(ran) == set(range(200)) and ran.total() <= 200 + 10 * n_jobs  # only those in flight at a kill
    assert set(table.i[table.cached]) == finished
    expected = pd.DataFrame([{"i": i, "log": str(log), "square": i * i, "third": i / 3} for i in range(200)])
    pd.testing.assert_frame_equal(results(table), expected, check_exact=True)


# ---- clusters

MISSING = "the extra `cluster` (dask[distributed], ray) is not installed"


@pytest.fixture
def no_survivors():
    """No process that the test starts outlives it."""
    psutil = pytest.importorskip("psutil", reason=MISSING)

    def children():  # without the trackers of shared memory, which live as long as pytest
        found = psutil.Process().children(recursive=True)
        return {child for child in found if "resource_tracker" not in " ".join(child.cmdline())}

    before = children()
    yield
    _, alive = psutil.wait_procs(children() - before, timeout=10)
    assert not alive


def sweep_twice(tmp_path):
    """Run a sweep twice under the present `parallel_config`; the second finds all runs of the first."""
    def cube(i, log):  # within a function, so that workers need not import this file
        with open(log, "a") as stream:
            stream.write(f"{i}\n")
        return {"cube": i**3, "third": i / 3, "process": os.getpid()}

    settings = sweep.grid(i=range(12), log=[str(tmp_path / "log")])
    first, again = (sweep.run(cube, settings, cache=tmp_path / "cache") for _ in range(2))
    assert not first.cached.any() and again.cached.all() and (first.error == "").all()
    assert executions(tmp_path / "log") == dict.fromkeys(range(12), 1)
    pd.testing.assert_frame_equal(results(first), results(again))
    assert list(first.cube) == [i**3 for i in range(12)] and list(first.third) == [i / 3 for i in range(12)]
    assert os.getpid() not in set(first.process)  # it did run elsewhere


def test_the_same_sweep_on_dask(tmp_path, no_survivors):
    distributed = pytest.importorskip("distributed", reason=MISSING)
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                                   local_directory=str(tmp_path)) as cluster,
          distributed.Client(cluster), joblib.parallel_config("dask")):
        sweep_twice(tmp_path)


def test_the_same_sweep_on_ray(tmp_path, no_survivors, monkeypatch):
    ray = pytest.importorskip("ray", reason=MISSING)
    register_ray = pytest.importorskip("ray.util.joblib", reason=MISSING).register_ray
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
             logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=2):
            sweep_twice(tmp_path)
    finally:
        ray.shutdown()
