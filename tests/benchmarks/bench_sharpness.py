"""The sharpness along a real training run that crosses the edge of stability: warm against from scratch.

MNIST, 1000 images, 784-200-200-10 tanh, square loss, full-batch GD at η = 0.1 (2/η = 20), float32, at
midpoints at regular steps. An accuracy is the *largest* relative error over those points, against ARPACK in
float64; each method runs at the loosest of its tolerances that keeps it within 1e-3.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.func import grad, jvp

from dlt_helpers import data, functional, hessian, models, train
from tests.benchmarks import Unavailable, alternate, cpu_seconds, result, rounded, versions

SIZES, LR, STEPS, EVERY = [784, 200, 200, 10], 0.1, 700, 20
TARGET = 1e-3  # largest relative error over the run
PYHESSIAN = "0.1"


@functools.cache
def images(dtype=torch.float32):
    """Return x [1000, 784], each pixel centred and all divided by one number, and y [1000, 10]."""
    subset = data.subset(data.mnist(), per_class=100)
    x = subset.x.flatten(1).to(dtype)
    x = x - x.mean(0)
    return x / x.std(), data.one_hot(subset.y, 10).to(dtype)


@functools.cache
def objective(dtype=torch.float32):
    """Return (loss, w0) of the network on these images."""
    model = models.mlp(SIZES, activation="tanh", generator=torch.Generator().manual_seed(0))
    f, w0 = functional.flatten(model)
    return functional.empirical_risk(f, *images(dtype)), w0.to(dtype)


def cache() -> Path:
    """Return the folder outside the checkout that holds the peer's environment and the references."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dlt_helpers"


def fingerprint(points) -> str:
    """Return a short name of exactly these numbers."""
    return hashlib.sha256(points.numpy().tobytes()).hexdigest()[:16]


def measured_points():
    """Return the midpoints [m, p] measured along the run, and the sharpness [m] of each by `reference`."""
    loss, w0 = objective()
    run = train.gradient_descent(loss, w0, lr=LR, steps=STEPS, every=EVERY, record={"w": lambda w: w})
    points = run.records["w"].float()
    file = cache() / f"sharpness-{fingerprint(points)}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, [reference(w.double()) for w in points])
    return points, np.load(file)


def reference(w):
    """Return the sharpness at w in float64 by ARPACK, residual 1e-6, four eigenvalues lest one be missed."""
    hvp = functional.derivatives(objective(torch.float64)[0], w).hvp
    operator = LinearOperator((len(w),) * 2, lambda v: hvp(torch.from_numpy(v.ravel())).numpy(), dtype=float)
    return eigsh(operator, k=4, which="LA", tol=1e-6, ncv=24, return_eigenvectors=False).max()


def by_tracker(points, tol):
    """Return (sharpness at every point, HVPs) by our warm-started tracker."""
    sharp = hessian.tracker(objective()[0], tol=tol)
    values = [sharp(w) for w in points]
    return np.array(values), sharp.n_hvps


def by_eigsh(points, **options):
    """Return (sharpness at every point, HVPs) by eigsh from random starts; a double backward a product."""
    loss, _ = objective()
    values, count, rng = [], 0, np.random.default_rng(0)
    for w in points:
        def product(v, w=w):
            nonlocal count
            count += 1
            at = w.clone().requires_grad_(True)
            (g,) = torch.autograd.grad(loss(at), at, create_graph=True)
            return torch.autograd.grad(g, at, torch.from_numpy(v.ravel()))[0].numpy()

        operator = LinearOperator((len(w), len(w)), product, dtype=np.float32)
        start = rng.standard_normal(len(w)).astype(np.float32)
        values.append(eigsh(operator, k=1, v0=start, return_eigenvectors=False, **options)[0])
    return np.array(values), count


def worst(values, exact):
    """Return the largest relative error."""
    return float(np.max(np.abs(values - exact) / exact))


def tried(method, tol, points, exact):
    """Return [error, products a point] of method(tol) -> (values, products, seconds), kept in the cache."""
    file = cache() / f"{method.__name__}-{tol}-{fingerprint(points)}.json"
    if not file.exists():
        values, products, _ = method(tol)
        file.write_text(json.dumps([worst(values, exact), products / len(points)]))
    return json.loads(file.read_text())


def loosest(method, tolerances, points, exact):
    """Return the first tolerance at which the error over the run is within TARGET (it is measured anew later)."""
    for tol in tolerances:
        if tried(method, tol, points, exact)[0] <= TARGET:
            return tol
    raise Unavailable(f"no tolerance in {tolerances} brings the error within {TARGET:g}")


def comparison(points, exact, peer, tolerances, **settings):
    """Return the entry of our tracker against peer(tol), timed in turn five times."""
    def ours(tol):
        start = time.process_time()
        values, products = by_tracker(points, tol)
        return values, products, time.process_time() - start

    our_tol = loosest(ours, (3e-2, 1e-2, 3e-3, 1e-3), points, exact)
    tol, defaults = loosest(peer, tolerances, points, exact), tried(peer, None, points, exact)
    runs = {"ours": [], "peer": []}
    for _ in range(5):
        runs["ours"].append(ours(our_tol))
        runs["peer"].append(peer(tol))
    error = {name: max(worst(values, exact) for values, *_ in rows) for name, rows in runs.items()}
    hvps, seconds = ({name: statistics.median(row[i] for row in rows) / len(points) for name, rows in runs.items()}
                     for i in (1, 2))
    return result(**seconds, unit="CPU seconds a measurement", accuracy={**error, "peer_defaults": defaults[0]},
                  settings={**SETTINGS, "every": EVERY, "points": len(points), "repeats": 5, "our_tol": our_tol,
                            "our_hvps": rounded(hvps["ours"]), "peer_hvps": rounded(hvps["peer"]),
                            "peer_defaults_hvps": rounded(defaults[1]), "peer_tol": tol, **settings})


def sharpness_vs_eigsh():
    """Time of a run's measurements: our tracker, warm, against scipy's eigsh from scratch."""
    points, exact = measured_points()

    def eigsh_from_scratch(tol):
        start = time.process_time()
        values, products = by_eigsh(points, **({} if tol is None else {"which": "LA", "tol": tol}))
        return values, products, time.process_time() - start

    return comparison(points, exact, eigsh_from_scratch, (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4), peer_options="which=LA",
                      **versions("scipy", "numpy"))


def peer_python() -> Path:
    """Return the Python of an environment with PyHessian, made if absent (a .pth file lends it our torch)."""
    home = cache() / f"pyhessian-{PYHESSIAN}-py{sys.version_info.major}{sys.version_info.minor}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    try:
        venv.create(home, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", f"pyhessian=={PYHESSIAN}"]
        subprocess.run(install, check=True)
        site = next(home.glob("lib/python*/site-packages"))
        site.joinpath("project.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
        subprocess.run([python, "-c", "import pyhessian"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"PyHessian could not be installed ({error})") from None
    (home / "complete").touch()
    return python


def by_power(file: Path, tol: float):
    """Return (sharpness at every point, products, CPU seconds) by PyHessian in its own environment."""
    script = Path(__file__).with_name("peer_pyhessian.py")
    done = subprocess.run([peer_python(), script, file, str(tol)], check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return np.array(answer["values"]), answer["products"], answer["seconds"]


def sharpness_vs_power():
    """Time of a run's measurements: our tracker, warm, against PyHessian's power iteration."""
    peer_python()
    points, exact = measured_points()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.pt"
        torch.save({"sizes": SIZES, "x": images()[0], "y": images()[1], "points": points}, file)

        def pyhessian_power(tol):
            return by_power(file, 1e-3 if tol is None else tol)

        return comparison(points, exact, pyhessian_power, (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-7),
                          peer_options="maxIter=5000", pyhessian=PYHESSIAN, **versions("numpy"))


def hvp_reverse_vs_forward():
    """One Hessian-vector product: reverse over reverse on the retained graph against forward over reverse."""
    loss, w = objective()
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(1))
    d = functional.derivatives(loss, w)

    def forward(loss, w, v):
        return jvp(grad(loss), (w,), (v,))[1]

    exact = functional.derivatives(objective(torch.float64)[0], w.double()).hvp(v.double())
    errors = [((h.double() - exact).norm() / exact.norm()).item() for h in (d.hvp(v), forward(loss, w, v))]
    def batched():
        return torch.autograd.grad(d._graph, d._w, v.expand(4, -1), is_grads_batched=True, retain_graph=True)

    measured = [lambda: d.hvp(v), lambda: forward(loss, w, v), lambda: functional.value_and_grad(loss, w),
                lambda: functional.derivatives(loss, w), lambda: d.hvp(v[:, None].expand(-1, 4)), batched]
    seconds = alternate(*(functools.partial(cpu_seconds, fn) for fn in measured), repeats=41)
    ours, peer, _, build, looped, batch = (s / seconds[2] for s in seconds)
    return result(ours=ours, peer=peer, unit="gradient evaluations",
                  accuracy={"ours": errors[0], "peer": errors[1]},
                  settings={**SETTINGS, "repeats": 41, "gradient_cpu_seconds": rounded(seconds[2]),
                            "graph": rounded(build), "four_products_looped": rounded(looped),
                            "four_products_batched": rounded(batch), **versions()})


SETTINGS = {"network": "784-200-200-10 tanh", "data": "MNIST, 1000 images", "loss": "square", "lr": LR,
            "steps": STEPS, "dtype": "float32", "threads": 1}
BENCHMARKS = {"hvp_reverse_vs_forward": hvp_reverse_vs_forward, "sharpness_vs_eigsh": sharpness_vs_eigsh,
              "sharpness_vs_power": sharpness_vs_power}
