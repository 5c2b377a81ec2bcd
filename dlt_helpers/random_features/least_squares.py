"""The risk of least-squares regression of minimum norm when the inputs are isotropic Gaussian."""

from __future__ import annotations

import math


def isotropic(n: int, d: int) -> tuple[float, float]:
    """Return (bias, variance): E‖β̂ − β‖² = bias ‖β‖² + variance τ² for x ~ N(0, I_d), y = ⟨β, x⟩ + N(0, τ²).

    β̂ is the least-squares solution of least norm from n examples. Exact at finite n and d: bias 0 and
    variance d/(n − d − 1) for d < n − 1; bias 1 − n/d and variance n/(d − n − 1) for d > n + 1; infinite variance
    for |n − d| ≤ 1.

    Args:
        n: examples. d: inputs. Both positive.
    Raises:
        ValueError: n or d not positive.

    Source: [belkin2020two]. Used in: double_descent.

    >>> isotropic(10, 4), isotropic(10, 20), isotropic(10, 10)
    ((0.0, 0.8), (0.5, 1.1111111111111112), (0.0, inf))
    """
    if n < 1 or d < 1:
        raise ValueError(f"n and d must be positive; got {n} and {d}.")
    bias = max(0.0, 1 - n / d)
    return bias, math.inf if abs(n - d) <= 1 else min(n, d) / (abs(n - d) - 1)


def marchenko_pastur(aspect: float, *, ridge: float = 0.0) -> tuple[float, float]:
    """Return (bias, variance) of `isotropic` in the limit n, d → ∞ with d/n → aspect; with a ridge if wanted.

    Without ridge: variance γ/(1 − γ) below γ = 1 and 1/(γ − 1) above it, bias max(0, 1 − 1/γ). With the penalty
    ridge ‖β‖² beside the mean square error (1/n) Σ (y − ⟨β, x⟩)²: κ > 0 solves 1 = γ/(1 + κ) + ridge/κ, and

        bias = κ²/((1 + κ)² − γ),   variance = γ/((1 + κ)² − γ).

    1/κ = ∫ dF(s)/(s + ridge) for the law F of the eigenvalues of (1/n) X Xᵀ [n, n] (Marchenko–Pastur).

    Args:
        aspect: γ = d/n > 0. ridge: λ ≥ 0.
    Raises:
        ValueError: aspect not positive, or a negative ridge.

    Source: [marchenko1967distribution]; [hastie2022surprises]. Used in: double_descent.

    >>> marchenko_pastur(0.5), marchenko_pastur(2.0), marchenko_pastur(1.0)
    ((0.0, 1.0), (0.5, 1.0), (0.0, inf))
    """
    if not aspect > 0 or not ridge >= 0:
        raise ValueError(f"aspect must be positive and ridge at least 0; got {aspect} and {ridge}.")
    b = aspect + ridge - 1
    kappa = (b + math.sqrt(b * b + 4 * ridge)) / 2 if b > 0 else 2 * ridge / (math.sqrt(b * b + 4 * ridge) - b or 1)
    denominator = (1 + kappa) ** 2 - aspect
    if denominator == 0:
        return 0.0, math.inf
    return kappa**2 / denominator, aspect / denominator
