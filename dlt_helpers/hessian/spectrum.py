"""The density of all eigenvalues from a few random vectors: stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlt_helpers.functional import Derivatives, Loss, derivatives

from .krylov import _drawer, _extend


@dataclass(frozen=True)
class Spectrum:
    """The spectral measure (1/p) Σ_i δ(λ − λ_i) of a Hessian, as an average of quadrature rules.

    Row r is the rule of one random unit vector v_r: Σ_j weights[r, j] f(nodes[r, j]) ≈ v_rᵀ f(H) v_r, whose
    expectation is tr f(H) / p. It is exact for polynomials f of degree at most 2·steps − 1.

    Attributes:
        nodes: [n_vectors, steps] Ritz values, ascending, in units of 1/lr.
        weights: [n_vectors, steps] nonnegative, each row of sum one; zero behind the end of a Krylov space.
        p: size of the Hessian. n_hvps: Hessian-vector products.
    """

    nodes: Tensor
    weights: Tensor
    p: int
    n_hvps: int

    def mean(self, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the estimate of tr f(H) / p and its standard error over the random vectors.

        Args:
            f: nodes [n_vectors, steps] -> values [..., n_vectors, steps].
        Returns:
            (estimate [...], standard error [...]); the error is nan for a single vector.
        """
        each = (self.weights * f(self.nodes)).sum(-1)  # [..., n_vectors]
        n = each.shape[-1]
        spread = each.std(-1) if n > 1 else torch.full_like(each[..., 0], math.nan)
        return each.mean(-1), spread / math.sqrt(n)

    def moment(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the estimate of tr Hᵏ / p and its standard error."""
        return self.mean(lambda nodes: nodes**k)

    def density(self, x: Tensor, *, width: float) -> tuple[Tensor, Tensor]:
        """Return the density at x [m], smoothed by Gaussians of standard deviation `width`, and its standard error.

        It integrates to one; p times it counts eigenvalues.
        """
        if not width > 0:
            raise ValueError(f"width must be positive; got {width}.")
        scale = width * math.sqrt(2 * math.pi)
        return self.mean(lambda nodes: torch.exp(-0.5 * ((x[:, None, None] - nodes) / width) ** 2) / scale)

    def count_above(self, x: float) -> tuple[Tensor, Tensor]:
        """Return the estimate of the number of eigenvalues above x, and its standard error.

        To be trusted where x lies in a gap: inside a bulk the rule cannot follow the step, and is biased.
        """
        estimate, error = self.mean(lambda nodes: (nodes > x).to(nodes.dtype))
        return self.p * estimate, self.p * error


def spectral_density(loss: Loss, w: Tensor, *, steps: int = 80, n_vectors: int = 8,
                     generator: torch.Generator | None = None, at: Derivatives | None = None) -> Spectrum:
    """Return the spectral measure of ∇²L(w) by `steps` Lanczos steps from each of `n_vectors` random directions.

    For a unit vector v, vᵀ f(H) v = Σ_i (uᵢᵀv)² f(λᵢ); the Lanczos matrix T of v gives its Gauss quadrature: the
    nodes are the eigenvalues of T, the weights the squared first entries of its eigenvectors. Averaged over v
    uniform on the sphere this is (1/p) Σ_i f(λᵢ), with variance 2/(p + 2) · (tr f²/p − (tr f/p)²) for each v.
    The basis is orthogonalised in full, which keeps ghosts out and needs steps · p numbers.

    Args:
        w: [p] finite. steps: Lanczos steps a vector; at most p are taken.
        generator: draws the vectors (seed 0 on the CPU if not given).
        at: `derivatives(loss, w)` if at hand: saves one gradient.
    Returns:
        Spectrum, with steps · n_vectors products or fewer.
    Raises:
        ValueError: steps or n_vectors below one, weights or derivatives not finite.

    Source: Golub & Welsch 1969; Ghorbani, Krishnan & Xiao 2019. Used in: landscape.

    >>> quadratic = lambda w: 0.5 * (torch.tensor([3.0, 1.0]) * w ** 2).sum()
    >>> spectral_density(quadratic, torch.zeros(2), steps=2, n_vectors=1).nodes
    tensor([[1.0000, 3.0000]])
    """
    if steps < 1 or n_vectors < 1:
        raise ValueError(f"need steps ≥ 1 and n_vectors ≥ 1; got {steps} and {n_vectors}.")
    d = derivatives(loss, w) if at is None else at
    if not bool(w.isfinite().all() & d.grad.isfinite().all()):
        raise ValueError("the weights or the gradient are not finite (a diverged run?): no Hessian here.")
    draw, steps = _drawer(w, generator), min(steps, len(w))
    nodes, weights = (w.new_zeros(n_vectors, steps) for _ in range(2))
    n_hvps = 0
    for r in range(n_vectors):
        T = _lanczos(d.hvp, draw(), steps)
        theta, S = np.linalg.eigh(T)
        m, n_hvps = len(theta), n_hvps + len(theta)
        nodes[r, :m], nodes[r, m:] = torch.from_numpy(theta).to(w), float(theta[-1])
        weights[r, :m] = torch.from_numpy(S[0] ** 2).to(w)
    return Spectrum(nodes, weights, len(w), n_hvps)


def _lanczos(operator: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> np.ndarray:
    """Return T = Q A Qᵀ [m, m], Q an orthonormal basis of span{v, Av, …}; m < steps if that space ends before."""
    Q = v.new_empty(steps, len(v))
    T, m = np.zeros((steps, steps)), 0
    while m < steps and _extend(Q, m, v):
        v = operator(Q[m])
        T[: m + 1, m] = T[m, : m + 1] = (Q[: m + 1] @ v).double().cpu().numpy()
        m += 1
    if not np.isfinite(T).all():
        raise ValueError("a Hessian-vector product is not finite: no Hessian here.")
    return T[:m, :m]
