"""Guess and check with the last layer integrated out: exact, and nothing is rejected.

Given H, the matrix that the last factor multiplies, the rows of W = W_L H are independent N(0, G/m) with the
Gram matrix G = HᵀH. So the measured numbers a = (⟨A_i, W⟩) and the unseen ones b = (⟨B_j, W⟩) are jointly
Gaussian given G, and a need not be guessed: it is drawn uniformly in the ball |a − y|² ≤ n ε that accepts
it, and weighted by its density there; and the mean of L_unseen given a and G has a closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .estimates import Sample
from .prior import Prior, checked


def conditioned(prior: Prior, problem, threshold: float, draws: int, *, generator: torch.Generator,
                grams: Tensor | None = None, batch: int = 2_000) -> Sample:
    """Return weighted draws of E[L_unseen | a, G] with a in the ball that is accepted, for a Gaussian last layer.

    Unbiased always, and precise where the ball is small against the spread of a given G: width well above m',
    and a threshold that few draws meet. Elsewhere the weights have heavy tails: look at `effective`.

    Args:
        prior: any depth, width k ≥ m' and activation, but not normalised.
        problem: one problem, or several, which then share the Gram matrices.
        threshold: ε on L_train.
        draws: number of Gram matrices, each with one point a.
        grams: [N, m', m'] to use in turn instead of drawing them, for instance `gram_limit` for k = ∞.

    Returns:
        Sample with losses and weights [..., draws]; acceptance is the mean weight.

    Raises:
        ValueError: for a normalised prior or k < m' (then a has no density, or W is not Gaussian given G).

    Source: derived on the page. Used in: matrix_factorization.
    """
    checked(threshold, draws)
    if prior.normalise:
        raise ValueError("W is not Gaussian given G once it is normalised; use all_pairs or splitting.")
    if grams is None and prior.width < prior.shape[1]:
        raise ValueError(f"width {prior.width} < {prior.shape[1]} makes G singular; use all_pairs or splitting.")
    A, B = problem.measurements.flatten(-2), problem.unseen.flatten(-2)               # [*, n, d], [*, q, d]
    y = (A @ problem.truth.flatten(-2)[..., None])[..., 0]                            # [*, n]
    hidden_truth = (B @ problem.truth.flatten(-2)[..., None])[..., 0]                 # [*, q]
    radius = math.sqrt(A.shape[-2] * threshold)
    rows = torch.cat([A, B], -2).unflatten(-1, tuple(prior.shape)) / math.sqrt(prior.shape[0])  # [*, d, m, m']
    losses, weights = [], []
    for start in range(0, draws, batch):
        size = min(batch, draws - start)
        G = _grams(prior, size, generator, y) if grams is None else grams[
            torch.arange(start, start + size, device=grams.device) % len(grams)]
        C = torch.einsum("...aij,njk,...bik->...nab", rows, G, rows)                  # [*, N, d, d]
        a = y[..., None, :] + radius * _in_ball(size, y, generator)                   # [*, N, n]
        loss, log_density = _given(C, a, hidden_truth[..., None, :])
        losses.append(loss)
        weights.append(torch.exp(log_density + _log_volume(y.shape[-1], radius)))
    weights = torch.cat(weights, -1)
    return Sample(torch.cat(losses, -1), weights, weights.mean(-1), draws)


def gram_limit(prior: Prior) -> Tensor:
    """Return the limit k → ∞ of the Gram matrix HᵀH [m', m'], by the arc-cosine kernel recursion.

    Column j of the pre-activation of layer 1 is √k⁻¹ times a standard normal vector; σ is taken to be positively
    homogeneous (linear, ReLU, leaky ReLU), for which the scale 1/√k passes through it.

    Raises:
        ValueError: if σ is not positively homogeneous.

    >>> gram_limit(Prior((2, 2)))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)

    Source: cho2009kernel. Used in: matrix_factorization.
    """
    points = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64)
    sigma = prior.activation or (lambda h: h)
    if not torch.allclose(sigma(3 * points), 3 * sigma(points)):
        raise ValueError("the limit of G is given for positively homogeneous activations (linear, leaky ReLU) only.")
    n = prior.shape[1]
    plus, minus = sigma(points[-1:]).item() / 2, -sigma(points[:1]).item() / 2        # σ(z) = plus z₊ − minus z₋
    same, square, rho = (plus + minus) ** 2 / 4, (plus**2 + minus**2) / 2, 0.0        # σ = ½(p+m) z + ½(p−m)|z|
    scale, even = 1.0, (plus - minus) ** 2 / 4
    for _ in range(prior.depth - 1):
        absolute = 2 / math.pi * (math.sqrt(1 - rho**2) + rho * math.asin(rho))       # E|z||z'|
        rho = (same * rho + even * absolute) / square
        scale *= square
    eye = torch.eye(n, dtype=torch.float64)
    return scale * ((1 - rho) * eye + rho)


def _grams(prior, n, generator, like):
    """[n, m', m'] draws of HᵀH."""
    H = prior.hidden(prior.draw(n, generator=generator, like=like, layers=slice(-1))).movedim(-1, 0)  # [n, k, m']
    return H.mT @ H


def _in_ball(n, y, generator):
    """[*, n, len(y)] uniform points in the unit ball."""
    shape = (*y.shape[:-1], n, y.shape[-1])
    z = torch.randn(shape, generator=generator, dtype=y.dtype, device=generator.device)
    u = torch.rand(*shape[:-1], 1, generator=generator, dtype=y.dtype, device=generator.device)
    return (z / z.norm(dim=-1, keepdim=True) * u ** (1 / shape[-1])).to(y.device)


def _given(C, a, truth):
    """E[mean (b − truth)² | a] [*, N] and log density of a [*, N] for (a, b) ~ N(0, C)."""
    n = a.shape[-1]
    R = torch.linalg.cholesky(C)                                                      # [*, N, d, d]
    white = torch.linalg.solve_triangular(R[..., :n, :n], a[..., None], upper=False)  # [*, N, n, 1]
    mean = (R[..., n:, :n] @ white)[..., 0]                                           # [*, N, q]
    variance = R[..., n:, n:].square().sum((-2, -1))                                  # [*, N]
    loss = ((mean - truth).square().sum(-1) + variance) / truth.shape[-1]
    logs = R[..., :n, :n].diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return loss, -white.square().sum((-2, -1)) / 2 - logs - n / 2 * math.log(2 * math.pi)


def _log_volume(n, radius):
    """log volume of a ball in n dimensions."""
    return n / 2 * math.log(math.pi) - math.lgamma(n / 2 + 1) + n * math.log(radius)
