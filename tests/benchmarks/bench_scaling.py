"""The cost of 400 bootstraps of a Chinchilla fit, to one optimum, against loops over scipy's BFGS.

240 synthetic runs of the design of hoffmann2022training, drawn from the corrected parameters of
besiroglu2024chinchilla. The peer is what the replication does for its point estimate, done for every resample: BFGS
from each start of a grid (a, b in 0 … 25, e in −1 … 1, α, β in 0 … 2), the best kept. A part of its starts is timed,
and the time multiplied. Beside it stands a much leaner loop: BFGS with the exact gradient from one start only, the
optimum of the whole data.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import minimize

from dlt_helpers import scaling
from tests.benchmarks import alternate, cpu_seconds, result, rounded, versions

RUNS, BOOTSTRAPS, DELTA = 240, 400, 1e-3
GRID = list(itertools.product((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1),
                              (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2)))  # a, b, e, α, β: 4,500 starts
TIMED = 20  # starts of the grid that are timed
COMPARED = 40  # resamples that the lean loop is run on


def runs():
    """Return N, D and L in float64."""
    g = torch.Generator().manual_seed(0)
    truth = scaling.surface(E=1.82, A=482.0, B=2085.0, alpha=0.348, beta=0.366)
    C, off = 10 ** (18 + 4 * torch.rand(RUNS, generator=g, dtype=torch.float64)), torch.rand(RUNS, generator=g).double()
    N = truth.optimal(C)[0] * 10 ** (1.6 * off - 0.8)
    return N, C / 6 / N, truth(N, C / 6 / N) * (0.006 * torch.randn(RUNS, generator=g, dtype=torch.float64)).exp()


def ours(n_bootstrap=BOOTSTRAPS):
    return scaling.fit_chinchilla(*runs(), n_bootstrap=n_bootstrap, generator=torch.Generator().manual_seed(1))


def value_and_slope(theta, log_N, log_D, log_L, counts):
    """Return Σ c Huber_δ and its gradient in (a, b, e, α, β), in numpy."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * log_N, b - beta * log_D, np.full_like(log_N, e)])
    f = np.logaddexp.reduce(terms)
    p = np.exp(terms - f)
    r = log_L - f
    psi = counts * np.clip(r, -DELTA, DELTA)
    value = (counts * np.where(abs(r) <= DELTA, r * r / 2, DELTA * (abs(r) - DELTA / 2))).sum()
    return value, -np.array([psi @ p[0], psi @ p[1], psi @ p[2], -psi @ (p[0] * log_N), -psi @ (p[1] * log_D)])


def bfgs(start, counts, data, exact=True):
    """Return scipy's minimum from one start, with the exact gradient or with finite differences."""
    fun = value_and_slope if exact else lambda *args: value_and_slope(*args)[0]
    return minimize(fun, start, args=(*data, counts), jac=exact, method="BFGS", options={"gtol": 1e-8}).fun


def best_of_many(data, counts, start):
    """Return the least objective that BFGS finds from the optimum and five perturbed starts."""
    rng = np.random.default_rng(0)
    return min(bfgs(np.array(start) * (1 + 0.1 * i * rng.normal(size=5)), counts, data) for i in range(6))


def chinchilla_fit_vs_scipy_loop():
    """CPU seconds of 400 bootstraps."""
    fit = ours()
    data = [z.log().numpy() for z in runs()]
    s = fit.surface
    optimum = [s.A.log().item(), s.B.log().item(), s.E.log().item(), s.alpha.item(), s.beta.item()]
    counts = scaling.resamples(RUNS, BOOTSTRAPS, generator=torch.Generator().manual_seed(1)).double().numpy()
    chosen = [GRID[i] for i in np.random.default_rng(0).choice(len(GRID), TIMED, replace=False)]

    def grid_part():
        with np.errstate(all="ignore"):
            return [bfgs(np.array(start, float), counts[i], data, exact=False) for i, start in enumerate(chosen)]

    def lean_part():
        return [bfgs(optimum, c, data) for c in counts[:COMPARED]]

    mine, grid, lean = alternate(lambda: cpu_seconds(ours), lambda: cpu_seconds(grid_part),
                                 lambda: cpu_seconds(lean_part), repeats=3)
    theirs = np.array([best_of_many(data, c, optimum) for c in counts[:COMPARED]])
    objective = fit.report.objective[1:].numpy()
    lean_excess = np.array(lean_part()) / objective[:COMPARED] - 1
    return result(ours=mine, peer=grid / TIMED * len(GRID) * BOOTSTRAPS, unit="CPU seconds for 400 bootstraps",
                  accuracy={"largest_excess_over_the_best_of_scipy": float((objective[:COMPARED] / theirs - 1).max()),
                            "converged": float(fit.report.converged.double().mean()),
                            "lean_loop_largest_excess": float(lean_excess.max())},
                  settings={"runs": RUNS, "bootstraps": BOOTSTRAPS, "starts_of_the_grid": len(GRID),
                            "timed": f"{TIMED} of {len(GRID) * BOOTSTRAPS} minimisations, multiplied",
                            "our_starts": "3 for each resample, from 8 for the fit",
                            "lean_loop": "BFGS, exact gradient, one start at the optimum of the fit",
                            "lean_loop_seconds": rounded(lean / COMPARED * BOOTSTRAPS),
                            "lean_loop_ratio": rounded(lean / COMPARED * BOOTSTRAPS / mine),
                            "dtype": "float64", "threads": 1, "repeats": 3, **versions("scipy", "numpy")})


BENCHMARKS = {"chinchilla_fit_vs_scipy_loop": chinchilla_fit_vs_scipy_loop}
