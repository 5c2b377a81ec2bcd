"""Guess and check with every first half and every second half: N₁ N₂ guesses from N₁ + N₂ draws.

W = W_a H_b fits if a quadratic function of its entries is small; for a fixed pair that function is an inner
product of numbers of a alone with numbers of b alone, so that one matrix product checks all pairs.
The last factor W_a is Gaussian, so W_a O has its law for every orthogonal O: only the triangular factor R_b of
H_b = O_b R_b matters, m'(m'+1)/2 numbers whatever the width, and pairs are taken of W_a and R_b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .estimates import Sample
from .prior import Prior, checked, one_problem, residuals


def all_pairs(prior: Prior, problem, threshold: float, left: int, right: int, *, generator: torch.Generator,
              tile: int = 2**22, slack: float = 0.02) -> Sample:
    """Return the pairs (last factor a, all other factors b) that fit, out of left × right pairs.

    Each pair has the law of the prior, so that the share of accepted pairs and the mean of their losses are
    unbiased (up to the ratio); but pairs that share a half are dependent: take errors from independent calls.
    The screen is a necessary condition with a margin against rounding; what passes is checked in float64.

    Args:
        prior: any activation and depth, normalised or not; the cost of a pair does not depend on k ≥ m'.
        problem: one problem.
        threshold: ε on L_train.
        left, right: numbers of last factors and of products of the others.
        tile: pairs per matrix product. slack: the margin, relative to the threshold.

    Returns:
        Sample with losses [accepted] and W [accepted, m, m'] in float64.

    Source: derived on the page. Used in: matrix_factorization.
    """
    one_problem(problem)
    checked(threshold, min(left, right))
    single, double = problem.truth.float(), problem.truth.double()
    H = prior.hidden(prior.draw(right, generator=generator, like=single, layers=slice(-1)))
    R = torch.linalg.qr(H.movedim(-1, 0), mode="r").R                                 # [right, c, m'], c = min(k, m')
    W = torch.randn(left, prior.shape[0], R.shape[1], generator=generator, device=generator.device)
    W = W.to(single) / prior.shape[0] ** 0.5                                          # [left, m, c]
    form, linear, limit = _screen(prior, problem, threshold, slack, single)
    a, b = _left_features(W, form, linear), _right_features(R)                        # [left, f], [right, f]
    step, pairs = max(1, tile // right), []
    for start in range(0, left, step):
        found = (a[start : start + step] @ b.T <= limit).nonzero()                    # [passed, 2]
        pairs.append(found + torch.tensor([start, 0], device=found.device))
    pairs = torch.cat(pairs)
    exact = prior.finish(torch.einsum("pik,pkj->ijp", W[pairs[:, 0]].double(), R[pairs[:, 1]].double()))
    train, unseen = residuals(_double(problem), exact)
    fits = train < threshold
    losses = unseen[fits]
    return Sample(losses, torch.ones_like(losses), double.new_tensor(len(losses) / (left * right)), left * right,
                  exact[..., fits].movedim(-1, 0))


def _screen(prior, problem, threshold, slack, like):
    """Q [m, m', m, m'], q [m, m'] and limit with wᵀQw + qᵀw ≤ limit for every w that fits.

    Not normalised: |Aw − y|² ≤ n ε as it stands. Normalised: with |w| = 1 the part of Aw orthogonal to y is at most
    n ε in square, a condition that does not change when w is scaled.
    """
    A, y = problem.measurements.flatten(1).double(), problem.targets.double()         # [n, d], [n]
    radius2 = len(y) * threshold * (1 + slack)
    if prior.normalise:
        across = A - torch.outer(y, y @ A) / (y @ y)
        Q, q, limit = across.T @ across - radius2 * torch.eye(A.shape[1], dtype=A.dtype, device=A.device), 0 * A[0], 0.0
    else:
        Q, q, limit = A.T @ A, -2 * y @ A, radius2 - (y @ y).item()
    return Q.reshape(*prior.shape, *prior.shape).to(like), q.reshape(prior.shape).to(like), limit


def _left_features(W: Tensor, form: Tensor, linear: Tensor) -> Tensor:
    """[left, f]: coefficients of h hᵀ (upper triangle) and of h in the quadratic function of w = vec(W R)."""
    kept = _upper(W.shape[2], form.shape[1], W.device)                                # entries of R that are not 0
    half = torch.einsum("nil,ijab->nljab", W, form)                                   # [left, c, m', m, m']
    M = torch.einsum("nljab,nac->nljcb", half, W).flatten(3).flatten(1, 2)[:, kept][:, :, kept]
    i, j = torch.triu_indices(*M.shape[1:], device=M.device)
    twice = torch.where(i == j, 1.0, 2.0).to(M)
    return torch.cat([M[:, i, j] * twice, torch.einsum("nil,ij->nlj", W, linear).flatten(1)[:, kept]], 1)


def _right_features(R: Tensor) -> Tensor:
    """[right, f]: h hᵀ (upper triangle) and h, h = the entries of R on and above the diagonal."""
    h = R.flatten(1)[:, _upper(*R.shape[1:], R.device)]
    i, j = torch.triu_indices(h.shape[1], h.shape[1], device=h.device)
    return torch.cat([h[:, i] * h[:, j], h], 1)


def _upper(rows, columns, device):
    """Indices of the entries on and above the diagonal of a matrix, flattened."""
    i, j = torch.triu_indices(rows, columns, device=device)
    return i * columns + j


def _double(problem):
    return type(problem)(problem.truth.double(), problem.measurements.double(), problem.unseen.double())
