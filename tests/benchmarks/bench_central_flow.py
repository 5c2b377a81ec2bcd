"""The cost of one unit of time (one step of gradient descent) of the central flow, in gradient evaluations.

MNIST, 500 images pooled to 14×14, parity, 196-32-32-1 gelu, square loss, η = 0.2, float32.
The peer is the same flow done plainly: four steps a unit, curvature and autograd's third derivatives at each.
The error is the distance, at the end of the run, from a flow of eight steps a unit with eigenvectors to 1e-5
in float64, relative to the distance of the gradient flow from it.
"""

from __future__ import annotations

import functools

import torch

from dlt_helpers import data, flows, functional, models, train
from tests.benchmarks import alternate, cpu_seconds, result, rounded, versions

LR, START, STEPS, SEGMENT = 0.2, 50, 200, 20
PEER = {"dt": 0.25, "hold": 1, "method": "autograd", "tol": 1e-3}


@functools.cache
def objective(dtype=torch.float32):
    """Return (loss, w0)."""
    images = data.standardise(data.subset(data.pool(data.mnist(), 2), per_class=50))
    model = models.mlp([196, 32, 32, 1], activation="gelu", generator=torch.Generator().manual_seed(0))
    f, w0 = functional.flatten(model.to(dtype))
    return functional.empirical_risk(f, images.x.to(dtype), data.parity(images.y, dtype=dtype)), w0


def central(w, steps, **options):
    return flows.central_flow(objective(w.dtype)[0], w, lr=LR, steps=steps, **options)


@functools.cache
def start():
    """Return the midpoint [p] of gradient descent from which the flows start."""
    run = train.gradient_descent(*objective(), lr=LR, steps=START + 1, keep=True)
    return train.midpoints(run.weights)[START - 1]


def segments():
    """Return {name: weights [p]} where a stretch of SEGMENT units with k active directions begins."""
    flow = central(start(), 450)
    found = {}
    for name, k in (("before the edge", 0), ("k = 1", 1), ("k = 2", 2)):
        alike = (flow.n_active == k).unfold(0, SEGMENT + 1, 1).all(1).nonzero()
        if len(alike):
            found[name] = flow.weights[int(alike[len(alike) // 2])]
    return found


def counted(w, **options):
    """Return (gradients, HVPs, solves) per unit of time, after the first look."""
    first, all_ = (central(w, steps, **options).cost for steps in (0, SEGMENT))
    names = ("n_gradients", "n_hvps", "n_solves")
    return [(getattr(all_, name) - getattr(first, name)) / SEGMENT for name in names]


def measured(w, **options):
    """Return a function that measures the CPU seconds of a unit of time, after the first look."""
    return lambda: (cpu_seconds(lambda: central(w, SEGMENT, **options))
                    - cpu_seconds(lambda: central(w, 0, **options))) / SEGMENT


def errors():
    """Return the errors of our settings and of the peer's, relative to the gradient flow's distance."""
    exact = central(start().double(), STEPS, dt=1 / 8, hold=1, tol=1e-5, method="autograd").weights[-1]
    free = flows.gradient_flow(objective()[0], start(), lr=LR, steps=STEPS).weights[-1]
    ends = [central(start(), STEPS, **options).weights[-1] for options in ({}, PEER)]
    return [((end - exact).norm() / (free - exact).norm()).item() for end in ends]


def central_flow_step():
    """One unit of time at the edge (k = 1), and before it and with two directions in the settings."""
    loss, _ = objective()
    points, table = segments(), {}
    for name, w in points.items():
        ours, peer, gradient = alternate(measured(w), measured(w, **PEER), lambda w=w: cpu_seconds(
            lambda: [functional.value_and_grad(loss, w) for _ in range(50)]) / 50, repeats=3)
        g, h, s = counted(w)
        table[name] = {"ours": ours / gradient, "peer": peer / gradient, "gradients": g, "hvps": h,
                       "solves": s, "gradient_cpu_seconds": gradient}
    edge, (error, peer_error) = table["k = 1"], errors()
    short = {name: {key: rounded(value) for key, value in row.items()} for name, row in table.items()}
    return result(ours=edge["ours"], peer=edge["peer"], unit="gradient evaluations a step",
                  accuracy={"ours": error, "peer": peer_error},
                  settings={"network": "196-32-32-1 gelu", "data": "MNIST 14×14, 500 images, parity",
                            "loss": "square", "lr": LR, "steps": STEPS, "dtype": "float32", "threads": 1,
                            "repeats": 3, "ours_options": "dt=1/2, hold=2, tol=3e-3, method=difference",
                            "peer_options": "dt=1/4, hold=1, tol=1e-3, method=autograd", "stages": short,
                            **versions()})


BENCHMARKS = {"central_flow_step": central_flow_step}
