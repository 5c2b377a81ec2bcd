"""Levenberg–Marquardt for Huber's loss on log L, for many weightings and starts of one data set at once.

The variables of a fit are θ = (a, b, e, α, q) in the model

    log L = log(eᵉ + exp(γ log(e^(a − α x) + e^(b − β y)))),   x, y = log N, log D minus their means,

with q = β, γ = 1 in the additive form and β = 1, q = γ in Kaplan's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .surface import huber

SMALLEST = 1e-12  # damping; below it the matrix is Newton's to rounding


class Problem(NamedTuple):
    """Data of K fits: x, y, z = log L are [m] and shared, counts [K, m] their own; delta is Huber's δ."""

    x: Tensor
    y: Tensor
    z: Tensor
    counts: Tensor
    form: str
    delta: float


class Descent(NamedTuple):
    """θ [K, 5], its objective [K], Newton's relative decrement [K], steps [K] and whether it converged [K]."""

    theta: Tensor
    value: Tensor
    decrement: Tensor
    steps: Tensor
    converged: Tensor


def model(theta: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return log L [K, m] and its derivatives in θ [K, 5, m].

    >>> one = torch.zeros(1, dtype=torch.float64)
    >>> theta = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    >>> model(theta, Problem(one, one, one, one[None], "additive", 1e-3))[0].exp()  # 1 + (1 + 1)
    tensor([[3.0000]], dtype=torch.float64)
    """
    a, b, e, alpha, q = theta[:, :, None].unbind(1)  # [K, 1]
    beta, gamma = (1.0, q) if problem.form == "kaplan" else (q, 1.0)
    u, v = a - alpha * problem.x, b - beta * problem.y  # [K, m]
    s = torch.logaddexp(u, v)
    f = torch.logaddexp(e.expand_as(s), gamma * s)
    floor, share = torch.exp(e - f), torch.exp(u - s)  # parts of E in L, and of A/N^α in the sum
    slope = gamma * (1 - floor)  # ∂f/∂s
    du, dv = slope * share, slope * (1 - share)
    last = (1 - floor) * s if problem.form == "kaplan" else -dv * problem.y
    return f, torch.stack([du, dv, floor, -du * problem.x, last], dim=1)  # [K, 5, m]


def value_and_slope(theta: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return Σ_i c_i Huber_δ(log L_i − model_i) [K] and its gradient in θ [K, 5].

    >>> one = torch.zeros(1, dtype=torch.float64)
    >>> theta = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    >>> value, _ = value_and_slope(theta, Problem(one, one, one, 1 + one[None], "additive", 1e-3))
    >>> round(value.item(), 6)  # δ (log 3 − ½ δ)
    0.001098
    """
    f, J = model(theta, problem)
    residual = problem.z - f
    psi = residual.clamp(-problem.delta, problem.delta) * problem.counts
    return (huber(residual, problem.delta) * problem.counts).sum(1), -torch.einsum("kpm,km->kp", J, psi)


def minimise(theta: Tensor, problem: Problem, *, steps: int = 300, tol: float = 1e-10) -> Descent:
    """Return a local minimum of the objective for each row of θ [K, 5].

    A step solves (M_λ + λ diag M_1) s = −∇, where M_λ = J' diag(c · (1 inside, λ δ/|r| outside)) J, with points inside
    where |r| ≤ δ: for λ = 1 it is reweighted least squares, and for λ → 0 Newton's step, since outside Huber's loss is
    linear. A step is taken if the objective falls; λ then falls fivefold, and else rises fourfold. A problem is
    finished, and leaves the batch, when the decrease that its quadratic model still promises is below `tol` times the
    objective, or below rounding.
    """
    theta = theta.clone()
    K = len(theta)
    value, grad = value_and_slope(theta, problem)
    damping = theta.new_full((K,), 1.0)
    decrement = theta.new_full((K,), float("inf"))
    taken = torch.zeros(K, dtype=torch.int64, device=theta.device)
    live = torch.arange(K, device=theta.device)
    part, stuck = problem, torch.zeros(K, dtype=torch.bool, device=theta.device)
    for _ in range(steps):
        if not len(live):
            break
        step, promised = _step(theta[live], part, damping[live])
        tried = theta[live] + step
        new, _ = value_and_slope(tried, part)
        better = new < value[live]
        chosen = live[better]
        theta[chosen], value[chosen] = tried[better], new[better]
        damping[live] = torch.where(better, damping[live] / 5, damping[live] * 4).clamp(SMALLEST, 1e12)
        decrement[live], taken[live] = promised / value[live].clamp(min=1e-300), taken[live] + 1
        finished = (decrement[live] <= tol) & (damping[live] < 1) | (value[live] < 1e-28)
        stuck[live] = damping[live] >= 1e10
        keep = ~(finished | stuck[live])
        if not bool(keep.all()):
            live, part = live[keep], part._replace(counts=part.counts[keep])
    converged = torch.ones(K, dtype=torch.bool, device=theta.device)
    converged[live] = False
    return Descent(theta, value, decrement, taken, converged & ~stuck)


def _step(theta: Tensor, problem: Problem, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped Newton step [K, 5] and the decrease it promises [K]."""
    f, J = model(theta, problem)
    residual = problem.z - f
    size = residual.abs()
    grad = -torch.einsum("kpm,km->kp", J, residual.clamp(-problem.delta, problem.delta) * problem.counts)
    outside = size > problem.delta
    reweighted = torch.where(outside, problem.delta / size, 1.0)
    weight = problem.counts * torch.where(outside, damping[:, None].clamp(max=1) * reweighted, 1.0)
    M = torch.bmm(J * weight[:, None], J.transpose(1, 2))  # [K, 5, 5]
    scale = torch.einsum("kpm,km->kp", J * J, problem.counts * reweighted).clamp(min=1e-300)
    # in units of √scale the matrix has entries of order one
    unit = scale.rsqrt()
    M = M * unit[:, :, None] * unit[:, None, :]
    M.diagonal(dim1=1, dim2=2).add_(damping[:, None])
    step, _ = torch.linalg.solve_ex(M, -(grad * unit)[..., None])
    step = torch.where(step.isfinite(), step, 0.0)[..., 0] * unit
    return step, -0.5 * (grad * step).sum(1)
