"""128 networks of one shape: one stacked program against a loop over nn.Modules, on the same batches.

Fashion-MNIST 14×14, 1,000 images, 196-H-10 relu, cross-entropy, SGD with momentum. The peer is the plain loop
(forward, backward and torch.optim.SGD of each module, one after the other; cross_entropy of torch). Time is CPU
time of a step of all 128, without measurements; accuracy is the greatest difference of any weight between the
two after ten steps in float64, relative to the greatest weight.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from dlt_helpers import data, models, train
from tests.benchmarks import alternate, cpu_seconds, result, rounded, versions

S, N, LR, BETA = 128, 1000, 0.05, 0.9
WIDTHS, BATCHES = (16, 64, 256), (100, 32)
REPORTED = (64, 100)  # width and batch of the ratio on top; all others stand in the settings


def images(dtype=torch.float32):
    """Return inputs [1000, 196] and labels."""
    full = data.standardise(data.subset(data.fashion_mnist(), per_class=N // 10))
    return full.x.flatten(1).to(dtype), full.y


def networks(width, dtype=torch.float32):
    return [models.mlp([196, width, 10], activation="relu", generator=torch.Generator().manual_seed(i)).to(dtype)
            for i in range(S)]


def loop(modules, optimisers, x, y, batch_size, epochs=1):
    """Train each module for `epochs` on the batches that `train.ensemble` takes."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(N, generator=generator)
        for batch in order[: N // batch_size * batch_size].split(batch_size):
            inputs, labels = x[batch], y[batch]
            for module, optimiser in zip(modules, optimisers, strict=True):
                optimiser.zero_grad()
                cross_entropy(module(inputs), labels).backward()
                optimiser.step()


def optimisers_of(modules):
    return [torch.optim.SGD(module.parameters(), lr=LR, momentum=BETA) for module in modules]


def stacked(init, x, y, batch_size, epochs=1):
    """Return the ensemble after `epochs`; nothing is measured but the last epoch (and the start)."""
    return train.ensemble([196, init[0].shape[1], 10], x, y, init=init, lr=LR, momentum=BETA, epochs=epochs,
                          batch_size=batch_size, generator=torch.Generator().manual_seed(0), every=epochs or 1)


def seconds(width, batch_size):
    """Return CPU seconds of a step of all networks (ours, the loop)."""
    x, y = images()
    modules = networks(width)
    init, optimisers, steps = train.stack(modules), optimisers_of(modules), N // batch_size

    def ours():  # the difference of three epochs and one: without start and measurements
        times = [cpu_seconds(lambda e=e: stacked(init, x, y, batch_size, e)) for e in (1, 3)]
        return (times[1] - times[0]) / (2 * steps)

    return alternate(ours, lambda: cpu_seconds(lambda: loop(modules, optimisers, x, y, batch_size)) / steps,
                     repeats=3)


def difference(width=64, batch_size=100):
    """Return the greatest difference of a weight after one epoch in float64, relative to the greatest weight."""
    x, y = images(torch.float64)
    modules = networks(width, torch.float64)
    ours = stacked(train.stack(modules), x, y, batch_size).weights
    loop(modules, optimisers_of(modules), x, y, batch_size)
    pairs = list(zip(ours, train.stack(modules), strict=True))
    return max((a - b).abs().max().item() for a, b in pairs) / max(b.abs().max().item() for _, b in pairs)


def ensemble_vs_loop():
    """Every width and batch; the one on top is REPORTED."""
    table = {(width, batch): seconds(width, batch) for width in WIDTHS for batch in BATCHES}
    ours, peer = table[REPORTED]
    short = {f"width {w}, batch {b}": {"ratio": rounded(theirs / mine), "ours": rounded(1e3 * mine),
                                       "peer": rounded(1e3 * theirs)} for (w, b), (mine, theirs) in table.items()}
    return result(ours=1e3 * ours, peer=1e3 * peer, unit="CPU ms a step of 128 networks",
                  accuracy={"difference from the loop after 10 steps": difference()},
                  settings={"networks": S, "shape": f"196-{REPORTED[0]}-10 relu", "batch": REPORTED[1],
                            "data": "Fashion-MNIST 14×14, 1000 images", "method": "SGD, momentum 0.9",
                            "loss": "cross_entropy", "dtype": "float32", "threads": 1, "repeats": 3,
                            "all": short, **versions()})


BENCHMARKS = {"ensemble_vs_loop": ensemble_vs_loop}
