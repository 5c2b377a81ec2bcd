"""Margin bounds for linear classifiers, at a margin fixed in advance and at the margin read off the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .counting import check


@dataclass(frozen=True)
class MarginBound:
    """P(y⟨w, x⟩ ≤ 0) ≤ value = violations + complexity + confidence, each at least 0, at the margin rho."""

    value: float
    rho: float
    violations: float
    complexity: float
    confidence: float


def margin(margins: Tensor, rho: float, radius: float, delta: float) -> MarginBound:
    """Return #{i: y_i⟨w, x_i⟩ < ρ}/n + 2r/(ρ√n) + √(log(1/δ)/(2n)), for a ρ that was fixed before the sample.

    Args:
        margins: y_i⟨w, x_i⟩ with ‖w‖ ≤ 1, [n].
        radius: r with ‖x‖ ≤ r almost surely.

    Source: [koltchinskii2002empirical]. Used in: statistical_learning, random_labels.

    >>> import torch
    >>> margin(torch.tensor([0.5, 0.6, 0.7, 0.1]), 0.5, 1.0, 0.05).violations
    0.25
    """
    n = len(margins)
    check(n=n, delta=delta)
    if not (rho > 0 and radius > 0):
        raise ValueError(f"rho is {rho} and radius {radius}; both must be positive")
    parts = (margins < rho).double().mean().item(), 2 * radius / (rho * math.sqrt(n)), math.sqrt(
        math.log(1 / delta) / (2 * n))
    return MarginBound(sum(parts), float(rho), *parts)


def margin_uniform(margins: Tensor, radius: float, delta: float, *, ratio: float = 1.1) -> MarginBound:
    """Return the least `margin` over ρ_k = r ratio⁻ᵏ with δ_k = δ/((k+1)(k+2)): valid for the ρ read off the data.

    Margins below r/(4n) are not tried: there the second term alone exceeds 1.

    Source: [koltchinskii2002empirical]. Used in: statistical_learning, random_labels.
    """
    if ratio <= 1:
        raise ValueError(f"ratio is {ratio}; the margins fall from one to the next only if it exceeds 1")
    last = math.ceil(math.log(4 * len(margins)) / math.log(ratio))
    tried = (margin(margins, radius * ratio**-k, radius, delta / ((k + 1) * (k + 2))) for k in range(last + 1))
    return min(tried, key=lambda bound: bound.value)
