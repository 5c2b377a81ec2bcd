"""Fits of a loss surface L(N, D) to runs, with bootstrap intervals and a report on convergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import starts as search
from .descent import Descent, Problem, minimise
from .surface import FORMS, Surface


@dataclass(frozen=True)
class Report:
    """How the minimisations went; the first entries are those of the fit, the others of the bootstraps.

    Attributes:
        objective: [1 + K] least value found of Σ Huber_δ. decrement: [1 + K] relative decrease that the quadratic
            model at the end still promised. converged: [1 + K] whether that is below the tolerance.
        agreeing: how many of the starts of the fit ended within 1e-6 of the best. starts: how many there were.
        steps: greatest number of steps of any minimisation.
    """

    objective: Tensor
    decrement: Tensor
    converged: Tensor
    agreeing: int
    starts: int
    steps: int


@dataclass(frozen=True)
class Fit:
    """A fitted surface, its bootstrap replicates (a batch of surfaces [K], K may be 0) and the report."""

    surface: Surface
    bootstrap: Surface = field(repr=False)
    report: Report

    def interval(self, quantity: Callable[[Surface], Tensor] | str, *, level: float = 0.95) -> tuple[float, float]:
        """Return the bootstrap percentile interval of `quantity(surface)` or of the attribute of that name.

        >>> N, D = torch.cartesian_prod(10.0 ** torch.arange(2, 8), 10.0 ** torch.arange(3, 9)).T
        >>> fit = fit_chinchilla(N, D, 1 + N**-0.5 + D**-0.5, n_bootstrap=20, generator=torch.Generator())
        >>> [round(end, 3) for end in fit.interval("alpha")]
        [0.5, 0.5]
        """
        values = getattr(self.bootstrap, quantity) if isinstance(quantity, str) else quantity(self.bootstrap)
        if values.numel() == 0:
            raise ValueError("there are no bootstrap replicates: fit with n_bootstrap=400 and a generator.")
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype, device=values.device)
        low, high = torch.quantile(values, ends).tolist()
        return low, high


def fit_chinchilla(N: Tensor, D: Tensor, loss: Tensor, *, form: str = "additive", delta: float = 1e-3,
                   n_bootstrap: int = 0, clusters: Tensor | None = None,
                   generator: torch.Generator | None = None, starts: int = 8, restarts: int = 3,
                   steps: int = 400, tol: float = 1e-9) -> Fit:
    """Return the surface that minimises Σ_i Huber_δ(log L_i − log L(N_i, D_i)), in float64.

    Variable projection over a grid of E and of the exponents gives the starts, Levenberg–Marquardt takes all of
    them, and all bootstrap resamples, to their minimum as one batch. The objective is the *sum* over runs: with
    the mean a tolerance of common optimisers fires long before the minimum.

    Args:
        N, D, loss: [m] parameters, tokens and loss in nats of each run, all positive; duplicates count twice.
        form: "additive", E + A/N^α + B/D^β, or "kaplan", E + (A/N^α + B/D)^γ.
        delta: Huber's δ in log L.
        n_bootstrap: K resamples of the runs with replacement, drawn by `generator`.
        clusters: [m] int, runs with one number are drawn together (checkpoints of one training run).
        starts: minimisations of the fit. restarts: minimisations of each resample: from the fit, and from the best
            starts of the grid.
        steps, tol: greatest number of steps, and relative decrement at which a minimisation ends.
    Raises:
        ValueError: fewer than 6 runs, fewer than 3 different N or D, what is not positive or finite, an unknown form,
            or a bootstrap without a generator.

    Source: hoffmann2022training (approach 3), besiroglu2024chinchilla; kaplan2020scaling (eq. 1.5).
    Used in: scaling_laws.

    >>> N, D = torch.cartesian_prod(10.0 ** torch.arange(6, 10), 10.0 ** torch.arange(8, 12)).T
    >>> fit = fit_chinchilla(N, D, 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28)
    >>> round(fit.surface.alpha.item(), 4), round(fit.surface.E.item(), 3), bool(fit.report.converged)
    (0.34, 1.69, True)
    """
    N, D, loss = (z.detach().double() for z in (N, D, loss))
    _check(N, D, loss, form, n_bootstrap, generator)
    log_N, log_D = N.log(), D.log()
    means = log_N.mean(), log_D.mean()
    ones = torch.ones_like(loss)[None]
    data = Problem(log_N - means[0], log_D - means[1], loss.log(), ones, form, float(delta))
    guesses = search.grid(data.x, data.y, data.z, ones[0], form=form, keep=starts)
    tried = minimise(guesses, data._replace(counts=ones.expand(starts, -1)), steps=steps, tol=tol)
    fit = _best(tried, 1)
    agreeing = int((tried.value <= fit.value * (1 + 1e-6) + 1e-20).sum())
    draws = resamples(len(N), n_bootstrap, clusters=clusters, generator=generator or torch.Generator("cpu"))
    draws = draws.to(ones)
    others = minimise(torch.cat([fit.theta, guesses[: restarts - 1]]).repeat(n_bootstrap, 1),
                      data._replace(counts=draws.repeat_interleave(restarts, 0)), steps=steps, tol=tol)
    others = _best(others, n_bootstrap)
    both = [torch.cat(pair) for pair in zip(fit, others, strict=True)]
    report = Report(both[1], both[2], both[4], agreeing, starts, int(torch.cat([tried.steps, others.steps]).max()))
    return Fit(_surface(fit.theta[0], *means, form), _surface(others.theta, *means, form), report)


def resamples(m: int, n_bootstrap: int, *, generator: torch.Generator, clusters: Tensor | None = None) -> Tensor:
    """Return counts [K, m]: how often each of m runs occurs in each of K resamples with replacement.

    >>> resamples(5, 2, generator=torch.Generator().manual_seed(0)).sum(1)
    tensor([5, 5])
    """
    device = generator.device
    if clusters is None:
        clusters = torch.arange(m, device=device)
    names, which = torch.unique(clusters.to(device), return_inverse=True)
    drawn = torch.randint(len(names), (n_bootstrap, len(names)), generator=generator, device=device)
    counts = torch.zeros(n_bootstrap, len(names), dtype=torch.int64, device=device)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn))[:, which]  # [K, m]


def _best(tried: Descent, problems: int) -> Descent:
    """Return the best of the starts of each problem; `tried` holds them one problem after the other."""
    if problems == 0:
        return Descent(*(part[:0] for part in tried))
    value = tried.value.view(problems, -1)
    index = value.argmin(1) + torch.arange(problems, device=value.device) * value.shape[1]
    return Descent(*(part[index] for part in tried))


def _surface(theta: Tensor, mean_x: Tensor, mean_y: Tensor, form: str) -> Surface:
    """Return the surface of θ […, 5], with the means of log N and log D put back."""
    a, b, e, alpha, q = theta.unbind(-1)
    one = torch.ones_like(q)
    beta, gamma = (one, q) if form == "kaplan" else (q, one)
    return Surface(e.exp(), (a + alpha * mean_x).exp(), (b + beta * mean_y).exp(), alpha, beta, gamma)


def _check(N: Tensor, D: Tensor, loss: Tensor, form: str, n_bootstrap: int, generator) -> None:
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; the choices are {', '.join(FORMS)}.")
    if not N.shape == D.shape == loss.shape or N.ndim != 1 or len(N) < 6:
        raise ValueError(f"five parameters need N, D and loss of one length, at least 6 runs; got {tuple(N.shape)}, "
                         f"{tuple(D.shape)} and {tuple(loss.shape)}.")
    if not all(bool((z.isfinite() & (z > 0)).all()) for z in (N, D, loss)):
        raise ValueError("N, D and loss must be positive and finite: the fit is one of log L in log N and log D.")
    if min(len(N.unique()), len(D.unique())) < 3:
        raise ValueError("an exponent and a floor need at least 3 different N and 3 different D; got "
                         f"{len(N.unique())} and {len(D.unique())}.")
    if n_bootstrap and generator is None:
        raise ValueError("resampling needs a generator: pass generator=torch.Generator().manual_seed(0).")
