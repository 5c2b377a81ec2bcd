"""Least squares in the first N features, for many N at the price of little more than the largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fit_path(Z: Tensor, y: Tensor, sizes: Sequence[int], *, ridge: float | Sequence[float] = 0.0) -> list[Tensor]:
    """Return for each N in sizes the weights a = argmin ‖y − Z_N a‖² + ridge ‖a‖², Z_N the first N columns of Z.

    Without ridge it is the minimiser of least norm. Below N = n the matrices Z_Nᵀ Z_N are leading blocks of one
    Gram matrix; from N = n on Z_N Z_Nᵀ grows by the new columns only. Each N then costs one Cholesky
    factorisation of a matrix of side min(N, n), and one step of refinement from the residual, which restores what
    forming the Gram matrix has lost. A singular Gram matrix (dead or repeated features) is solved by its
    pseudo-inverse.

    Args:
        Z: features [n, N_max]; float64 where the condition number matters. y: targets [n, k] (or [n]).
        sizes: numbers of columns, each in 1 … N_max, in any order.
        ridge: ρ ≥ 0 in the units of ‖y‖²/‖a‖² (sums, not means), or one number for each size.
    Returns:
        one [N, k] for each size (or [N]), in the order of `sizes`.
    Raises:
        ValueError: a size out of range, a negative ridge, or as many ridges as sizes are not given.

    Source: Björck 1987 for the refinement. Used in: double_descent.

    >>> Z = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> [a.tolist() for a in fit_path(Z, torch.tensor([2.0, 4.0]), [1, 3])]
    [[2.0], [1.0, 1.0, 2.0]]
    """
    n, N_max = Z.shape
    sizes = [int(N) for N in sizes]
    ridges = [float(ridge)] * len(sizes) if isinstance(ridge, (int, float)) else [float(rho) for rho in ridge]
    if any(not 1 <= N <= N_max for N in sizes):
        raise ValueError(f"sizes must lie in 1 … {N_max}, the columns of Z; got {sizes}.")
    if len(ridges) != len(sizes) or any(not rho >= 0 for rho in ridges):
        raise ValueError(f"ridge must be one number ≥ 0, or one for each of the {len(sizes)} sizes; got {ridge}.")
    targets = y[:, None] if y.ndim == 1 else y  # [n, k]
    below = max((N for N in sizes if n > N), default=0)
    gram = Z[:, :below].T @ Z[:, :below]  # [below, below]
    kernel, done = Z.new_zeros(n, n), 0
    weights: list[Tensor] = [targets] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        N = sizes[i]
        if n > N:
            a = _primal(Z[:, :N], gram[:N, :N], targets, ridges[i])
        else:
            kernel = kernel + Z[:, done:N] @ Z[:, done:N].T  # [n, n]
            done = N
            a = _dual(Z[:, :N], kernel, targets, ridges[i])
        weights[i] = a if y.ndim > 1 else a[:, 0]
    return weights


def _primal(Z: Tensor, gram: Tensor, y: Tensor, ridge: float) -> Tensor:
    solve = _solver(gram, ridge)
    a = solve(Z.T @ y)
    return a + solve(Z.T @ (y - Z @ a) - ridge * a)  # [N, k]


def _dual(Z: Tensor, kernel: Tensor, y: Tensor, ridge: float) -> Tensor:
    solve = _solver(kernel, ridge)
    alpha = solve(y)
    a = Z.T @ alpha  # [N, k]
    return a + Z.T @ solve(y - Z @ a - ridge * alpha)


def _solver(A: Tensor, ridge: float):
    """Return b ↦ (A + ridge I)⁻¹ b, with the pseudo-inverse where A is singular to working precision."""
    A = A + ridge * torch.eye(len(A), dtype=A.dtype, device=A.device)
    L, info = torch.linalg.cholesky_ex(A)
    diagonal = L.diagonal()
    if info.item() == 0 and (diagonal.min() / diagonal.max()).square() > len(A) * torch.finfo(A.dtype).eps:
        return lambda b: torch.cholesky_solve(b, L)
    inverse = torch.linalg.pinv(A, hermitian=True)
    return lambda b: inverse @ b
