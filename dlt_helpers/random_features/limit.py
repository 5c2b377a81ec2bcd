"""The test error of random-features ridge regression as N, n, d → ∞ in proportion, in two equal forms.

Inputs and weights uniform on the sphere of radius √d, features σ(⟨w_a, x⟩/√d), target ⟨β, x⟩ + f_NL(x) with
‖β‖ = F₁ and E f_NL² = F_*² (no linear part), label noise τ², N/d → ψ₁, n/d → ψ₂, the minimiser of
(1/n) Σ (y_i − Σ_a a_a σ_a(x_i))² + (N λ/d) ‖a‖². The test error without the noise of the test label tends to

    F₁² bias + (F_*² + τ²) variance + F_*².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq


@dataclass(frozen=True)
class Prediction:
    """Coefficients of the test error, and the two ridges behind them.

    Attributes:
        bias: the share of the target's power that stays in the error; a float for the linear part, or one number
            [k] for each eigenspace (which includes what its estimate varies with the sample).
        variance: what label noise of variance 1 adds.
        kappa: the ridge that regression on the drawn features sees, after the finite sample.
        gamma: the ridge that the target sees, after finitely many features too.
        dof: S(gamma), the degrees of freedom (in the limit: divided by d).
    """

    bias: float | np.ndarray
    variance: float
    kappa: float
    gamma: float
    dof: float


def moments(activation: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float, float]:
    """Return (μ₀, μ₁, μ_*²): E σ(G), E G σ(G), and E σ(G)² − μ₀² − μ₁², for G ~ N(0, 1).

    Args:
        activation: σ on a float64 tensor, by entry; a kink at 0 is allowed for.

    Source: [mei2022generalization]. Used in: double_descent.

    >>> [round(m, 6) for m in moments(torch.relu)]  # 1/√(2π), 1/2, 1/4 − 1/(2π)
    [0.398942, 0.5, 0.090845]
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half = 6.5 * (nodes + 1)  # [0, 13], and its mirror image
    t, w = np.concatenate([-half, half]), np.concatenate([weights, weights]) * 6.5
    w = w * np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    values = activation(torch.from_numpy(t)).numpy()
    mu0, mu1 = float(w @ values), float(w @ (t * values))
    return mu0, mu1, float(w @ values**2) - mu0**2 - mu1**2


def two_ridge(psi1: float, psi2: float, zeta_sq: float, ridge: float = 0.0) -> Prediction:
    """Return the limit in its two-ridge form, with S(γ) = ζ²/(ζ² + γ) + 1/γ:

        (1 − S/ψ₁)(1 − S/ψ₂) γ = ridge,   κ = γ (1 − S/ψ₁),   s₂ = (ζ²/(ζ² + γ))²,
        A = 1/(1 − [s₂ (1 − 2 S/ψ₁) + S²/ψ₁]/[ψ₂ (1 − s₂/ψ₁)]),   variance = A − 1,
        bias = A [γ/(ζ² + γ) − κ ζ²/(ζ² + γ)² /(1 − s₂/ψ₁)].

    Args:
        psi1, psi2: N/d and n/d, positive; math.inf is allowed for one of them, and for both if ridge > 0.
        zeta_sq: ζ² = μ₁²/μ_*².
        ridge: λ/μ_*² ≥ 0; 0 is the limit from above.
    Raises:
        ValueError: a parameter out of range.

    Source: thm-two-ridge in double_descent; [simon2024more]; [defilippis2024dimension]. Used in: double_descent.

    >>> round(two_ridge(math.inf, 3.0, 2.752, 1.0).kappa, 4) == round(two_ridge(1e9, 3.0, 2.752, 1.0).kappa, 4)
    True
    """
    _check(psi1, psi2, zeta_sq, ridge)
    gamma = _ridge_seen(lambda g: zeta_sq / (zeta_sq + g) + 1 / g, psi1, psi2, ridge)
    share = zeta_sq / (zeta_sq + gamma)
    dof = share + 1 / gamma if gamma < math.inf else 0.0
    kappa = gamma * max(0.0, 1 - dof / psi1)
    s2 = share**2
    A = 1 / (1 - (s2 * (1 - 2 * dof / psi1) + dof**2 / psi1) / (psi2 * (1 - s2 / psi1)))
    bias = A * (gamma / (zeta_sq + gamma) - kappa * zeta_sq / (zeta_sq + gamma) ** 2 / (1 - s2 / psi1))
    return Prediction(bias, A - 1, kappa, gamma, dof)


def mei_montanari(psi1: float, psi2: float, zeta_sq: float, ridge: float = 0.0) -> tuple[float, float]:
    """Return (bias, variance) = (E₁/E₀, E₂/E₀), the published polynomials in χ = ν₁ ν₂.

    ν₁, ν₂ solve ν₁ = ψ₁ (−ξ − ν₂ − ζ² ν₂/(1 − ζ² ν₁ν₂))⁻¹ and the same with the indices exchanged, at
    ξ = i (ψ₁ ψ₂ ridge)^½; there −χ is the root in (0, h⁻¹(min ψ)) of (ψ₁ − h)(ψ₂ − h) = ψ₁ψ₂ ridge q with
    h(q) = q + ζ² q/(1 + ζ² q).

    Args:
        psi1, psi2: N/d and n/d, positive and finite; different if ridge is 0.
        zeta_sq: ζ² = μ₁²/μ_*². ridge: λ/μ_*² ≥ 0.
    Raises:
        ValueError: a parameter out of range.

    Source: [mei2022generalization], Definition 1 and Theorem 2. Used in: double_descent.

    >>> bias, variance = mei_montanari(6.0, 3.0, 2.752, 0.1)
    >>> prediction = two_ridge(6.0, 3.0, 2.752, 0.1)
    >>> abs(bias - prediction.bias) < 1e-12, abs(variance - prediction.variance) < 1e-12
    (True, True)
    """
    _check(psi1, psi2, zeta_sq, ridge)
    E0, E1, E2 = polynomials(psi1, psi2, zeta_sq, -_minus_chi(psi1, psi2, zeta_sq, ridge))
    return E1 / E0, E2 / E0


def polynomials(p1, p2, Z, x):
    """Return (E₀, E₁, E₂) at χ = x, ζ² = Z, for numbers of any kind (fractions too)."""
    E0 = (-(x**5) * Z**3 + 3 * x**4 * Z**2 + (p1 * p2 - p2 - p1 + 1) * x**3 * Z**3 - 2 * x**3 * Z**2
          - 3 * x**3 * Z + (p1 + p2 - 3 * p1 * p2 + 1) * x**2 * Z**2 + 2 * x**2 * Z + x**2
          + 3 * p1 * p2 * x * Z - p1 * p2)
    E1 = p2 * x**3 * Z**2 - p2 * x**2 * Z + p1 * p2 * x * Z - p1 * p2
    E2 = (x**5 * Z**3 - 3 * x**4 * Z**2 + (p1 - 1) * x**3 * Z**3 + 2 * x**3 * Z**2 + 3 * x**3 * Z
          + (-p1 - 1) * x**2 * Z**2 - 2 * x**2 * Z - x**2)
    return E0, E1, E2


def _minus_chi(psi1: float, psi2: float, Z: float, ridge: float) -> float:
    psi = min(psi1, psi2)
    t = psi * Z - Z - 1
    root = math.sqrt(t * t + 4 * Z * psi)
    top = (t + root) / (2 * Z) if t > 0 else 2 * psi / (root - t)  # h(top) = ψ
    if ridge == 0:
        return top

    def excess(q):
        h = q + Z * q / (1 + Z * q)
        return (psi1 - h) * (psi2 - h) / (psi1 * psi2) - ridge * q

    return brentq(excess, 0.0, top, xtol=1e-300, rtol=1e-15, maxiter=2000)


def _ridge_seen(dof, N, n, ridge):
    """Return γ with (1 − S/N)(1 − S/n) γ = ridge and S(γ) ≤ min(N, n), for a decreasing S = dof."""
    limit = min(N, n)
    if limit == math.inf:
        return ridge
    low = 0.0  # where S(γ) = limit, if S gets there at all
    if dof(math.exp(-300)) > limit:
        low = math.exp(_root(lambda u: math.log(dof(math.exp(u)) / limit), -300, 300))
    if ridge == 0:
        return low

    def gamma(u):  # resolves γ − low, however small
        return low + math.exp(u)

    def excess(u):
        S = dof(gamma(u))
        return math.log(max((1 - S / N) * (1 - S / n) * gamma(u), 1e-320) / ridge)

    lowest = math.log(low) - 34 if low else -300
    return gamma(_root(excess, lowest, 300))


def _root(f, low, high):
    return brentq(f, low, high, xtol=1e-14, rtol=1e-15, maxiter=1000)


def _check(psi1, psi2, zeta_sq, ridge):
    if not (psi1 > 0 and psi2 > 0 and 0 < zeta_sq < math.inf and 0 <= ridge < math.inf):
        raise ValueError(f"psi1, psi2 and zeta_sq must be positive and ridge at least 0; got {psi1}, {psi2}, "
                         f"{zeta_sq}, {ridge}.")
    if ridge == 0 and (psi1 == psi2 or math.inf in (psi1, psi2) and min(psi1, psi2) == math.inf):
        raise ValueError(f"without ridge the error is infinite at psi1 = psi2 = {psi1}: take a ridge > 0.")
