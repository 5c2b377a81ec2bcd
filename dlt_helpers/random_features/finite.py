"""The same two ridges at finite N, n and d, with the kernel's own eigenvalues in place of their limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .limit import Prediction, _ridge_seen


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel (or a covariance) by eigenspace.

    Attributes:
        values: eigenvalues [k], positive or zero. counts: their multiplicities [k].
        tail: sum, with multiplicity, of all eigenvalues that are not listed: they are too small for the ridge.
    """

    values: np.ndarray
    counts: np.ndarray
    tail: float = 0.0


def sphere_spectrum(d: int, activation: Callable[[torch.Tensor], torch.Tensor], *, degrees: int = 12) -> Spectrum:
    """Return the eigenvalues of E_w σ(⟨w, x⟩/√d) σ(⟨w, x'⟩/√d), x, x', w uniform on the sphere of radius √d.

    On the harmonics of degree k the eigenvalue is ξ_k², ξ_k = E σ(√d u) Q_k(u), u one coordinate of a unit vector
    and Q_k the Gegenbauer polynomial with Q_k(1) = 1; its multiplicity is B_k = (2k + d − 2)/k · C(k + d − 3, k − 1).
    Σ_k B_k ξ_k² = E σ(√d u)².

    Args:
        d: dimension, at least 2. activation: σ on a float64 tensor, by entry; a kink at 0 is allowed for.
        degrees: greatest degree listed; what lies above goes into `tail`.
    Raises:
        ValueError: d < 2 or degrees < 1.

    Source: [mei2022generalization]. Used in: double_descent.

    >>> spectrum = sphere_spectrum(50, lambda t: t)  # linear: degree 1 only
    >>> spectrum.counts[1], spectrum.values[:3].round(12).tolist()
    (np.float64(50.0), [0.0, 0.02, 0.0])
    """
    if d < 2 or degrees < 1:
        raise ValueError(f"need d ≥ 2 and degrees ≥ 1; got {d} and {degrees}.")
    u, w = _coordinate(d)
    values = activation(torch.from_numpy(math.sqrt(d) * u)).numpy()
    Q, before, xi, counts = np.ones_like(u), np.zeros_like(u), [], []
    for k in range(degrees + 1):
        xi.append(w @ (values * Q))
        counts.append((2 * k + d - 2) * math.comb(k + d - 3, k - 1) / k if k else 1)
        Q, before = ((2 * k + d - 2) * u * Q - k * before) / (k + d - 2) if k + d > 2 else u * Q, Q
    squares, counts = np.square(xi), np.array(counts, float)
    return Spectrum(squares, counts, max(0.0, float(w @ values**2 - counts @ squares)))


def finite_d(spectrum: Spectrum, N: float, n: float, *, ridge: float = 0.0) -> Prediction:
    """Return the expected test error of n examples and N random features, with S(γ) = Σ_k B_k λ_k/(λ_k + γ):

        (1 − S/N)(1 − S/n) γ = ridge/n,   κ = γ (1 − S/N),   s₂ = Σ_k B_k (λ_k/(λ_k + γ))²,
        A = 1/(1 − [s₂ (1 − 2 S/N) + S²/N]/[n (1 − s₂/N)]),   variance = A − 1,
        bias_k = A [γ/(λ_k + γ) − κ λ_k/(λ_k + γ)² /(1 − s₂/N)],

    λ_k and B_k the eigenvalues and their multiplicities. The test error without the noise of the test label is
    Σ_k bias_k v_k² + variance τ², v_k² the target's power in eigenspace k. N = math.inf is kernel ridge
    regression, or ridge regression on inputs of this covariance.

    Args:
        spectrum: of the kernel E_w σ(⟨w, x⟩) σ(⟨w, x'⟩).
        N, n: features and examples, positive; one may be math.inf.
        ridge: δ ≥ 0, added to the kernel matrix (1/N) Z Zᵀ [n, n]; without it N and n must differ.
    Raises:
        ValueError: a parameter out of range, or fewer eigenvalues than min(N, n) without a ridge.

    Source: [simon2024more]; [defilippis2024dimension]; an approximation. Used in: double_descent.

    >>> flat = Spectrum(np.ones(1), np.array([20.0]))  # 20 isotropic inputs, 10 examples: `isotropic` in the limit
    >>> prediction = finite_d(flat, math.inf, 10)
    >>> round(float(prediction.bias[0]), 9), round(prediction.variance, 9)
    (0.5, 1.0)
    """
    values, counts = np.asarray(spectrum.values, float), np.asarray(spectrum.counts, float)
    if not (N > 0 and n > 0 and 0 <= ridge < math.inf) or min(N, n) == math.inf:
        raise ValueError(f"N and n must be positive, one of them finite, and ridge at least 0; got {N}, {n}, {ridge}.")
    if ridge == 0 and n == N:
        raise ValueError(f"without ridge the expected error is infinite at N = n = {N}: take a ridge > 0.")
    rank = counts[values > 0].sum()
    if ridge == 0 and spectrum.tail == 0 and rank <= min(N, n):
        raise ValueError(f"{rank:g} positive eigenvalues are too few to interpolate min(N, n) = {min(N, n):g}.")

    def dof(gamma):
        return float(counts @ (values / (values + gamma))) + spectrum.tail / gamma

    gamma = _ridge_seen(dof, N, n, ridge / n)
    S, share = dof(gamma), values / (values + gamma)
    s2, kappa = float(counts @ share**2), gamma * max(0.0, 1 - S / N)
    A = 1 / (1 - (s2 * (1 - 2 * S / N) + S**2 / N) / (n * (1 - s2 / N)))
    bias = A * (1 - share - kappa * values / (values + gamma) ** 2 / (1 - s2 / N))
    return Prediction(bias, A - 1, kappa, gamma, S)


def _coordinate(d):
    """Return nodes u and weights of one coordinate of a uniform unit vector in R^d, exact on each side of 0."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    width = min(math.pi / 2, 15 / math.sqrt(d))  # beyond it cos^(d−2) is below rounding
    angle = width * (nodes + 1) / 2
    log = (d - 2) * np.log(np.cos(angle)) + math.lgamma(d / 2) - math.lgamma((d - 1) / 2) - 0.5 * math.log(math.pi)
    half = weights * width / 2 * np.exp(log)
    u = np.sin(angle)
    return np.concatenate([-u, u]), np.concatenate([half, half])
