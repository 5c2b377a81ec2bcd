"""The sharpness along a real training run that crosses the edge of stability: warm against from scratch.

MNIST, 1000 images, 784-200-200-10 tanh, square loss, full-batch GD at η = 0.1 (2/η = 20), float32, at
midpoints at regular steps. An accuracy is the *largest* relative error over those points, against ARPACK in
float64; each method runs at the loosest of its tolerances that keeps it within 1e-3.
"""

from __future__ import annotations

import functools
import json
import os
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

SIZES, LR, STEPS = [784, 200, 200, 10], 0.1, 500
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


@functools.cache
def measured_points(every: int):
    """Return midpoints [m, p] every so many steps, and the sharpness [m] of each in float64 by ARPACK."""
    loss, w0 = objective()
    run = train.gradient_descent(loss, w0, lr=LR, steps=STEPS, every=every, record={"w": lambda w: w})
    exact = []
    for w in run.records["w"]:
        hvp = functional.derivatives(objective(torch.float64)[0], w).hvp

        def product(v, hvp=hvp):
            return hvp(torch.from_numpy(v.ravel())).numpy()

        operator = LinearOperator((len(w), len(w)), product, dtype=np.float64)
        exact.append(eigsh(operator, k=4, which="LA", tol=1e-6, ncv=24, return_eigenvectors=False).max())
    return run.records["w"].float(), np.array(exact)


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


def loosest(peer, exact, tolerances):
    """Return the first tolerance at which the error over the run is within TARGET."""
    for tol in tolerances:
        if worst(peer(tol)[0], exact) <= TARGET:
            return tol
    raise Unavailable(f"no tolerance in {tolerances} brings the error within {TARGET:g}")


def comparison(points, exact, peer, tol, every, **settings):
    """Return the entry of our tracker against peer(tol) -> (values, products, seconds), five times each."""
    our_tol = loosest(lambda tol: by_tracker(points, tol), exact, (3e-2, 1e-2, 3e-3, 1e-3))
    values, products, _ = peer(tol)
    mine, hvps = by_tracker(points, our_tol)
    default, default_products, default_seconds = peer(None)
    seconds, peer_seconds = alternate(lambda: cpu_seconds(lambda: by_tracker(points, our_tol)),
                                      lambda: peer(tol)[2])
    m = len(points)
    return result(ours=seconds / m, peer=peer_seconds / m, unit="CPU seconds a measurement",
                  accuracy={"ours": worst(mine, exact), "peer": worst(values, exact),
                            "peer_defaults": worst(default, exact)},
                  settings={**SETTINGS, "every": every, "points": m, "repeats": 5, "our_tol": our_tol,
                            "our_hvps": rounded(hvps / m), "peer_hvps": rounded(products / m),
                            "peer_defaults_hvps": rounded(default_products / m),
                            "ratio_to_peer_defaults": rounded(default_seconds / seconds), **settings})


def sharpness_vs_eigsh():
    """Time of a run's measurements: our tracker, warm, against scipy's eigsh from scratch."""
    points, exact = measured_points(10)

    def peer(tol):
        start = time.process_time()
        values, products = by_eigsh(points, **({} if tol is None else {"which": "LA", "tol": tol}))
        return values, products, time.process_time() - start

    tol = loosest(peer, exact, (1e-1, 3e-2, 1e-2, 1e-3, 1e-4))
    return comparison(points, exact, peer, tol, 10, peer_options=f"which=LA, tol={tol:g}",
                      **versions("scipy", "numpy"))


def peer_python() -> Path:
    """Return the Python of an environment with PyHessian, made if absent (a .pth file lends it our torch)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = cache / "dlt_helpers" / f"pyhessian-{PYHESSIAN}-py{sys.version_info.major}{sys.version_info.minor}"
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
    points, exact = measured_points(50)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.pt"
        torch.save({"sizes": SIZES, "x": images()[0], "y": images()[1], "points": points}, file)

        def peer(tol):
            return by_power(file, 1e-3 if tol is None else tol)

        tol = loosest(peer, exact, (1e-3, 1e-4, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7))
        return comparison(points, exact, peer, tol, 50, peer_options=f"tol={tol:g}",
                          pyhessian=PYHESSIAN, **versions("numpy"))


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
