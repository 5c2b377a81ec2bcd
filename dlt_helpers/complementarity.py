"""The semidefinite complementarity problem of the central flow: 0 ⪯ X ⊥ A + B[X] ⪰ 0.

X says how strongly each critical direction oscillates, A + B[X] how far the sharpness stays below its
threshold: where there is room nothing oscillates, and what oscillates has no room. For a symmetric positive
semidefinite B the problem is the optimality condition of a convex quadratic programme,

    X = argmin ½⟨X, B[X]⟩ + ⟨A, X⟩   over symmetric X ⪰ 0,

which we solve by a closed form where there is one and by accelerated projected gradient where there is none.
The matrices are k × k, k the number of critical directions (1 to 6 or so), hence NumPy in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Complementarity:
    """Solution X of 0 ⪯ X ⊥ A + B[X] ⪰ 0 with a certificate.

    Attributes:
        X: [k, k] symmetric and positive semidefinite by construction, on the device and in the dtype of A.
        residual: ‖X − Π₊(X − (A + B[X])/β)‖ · β/‖A‖ with β the largest eigenvalue of B and Π₊ the projection
            on the positive semidefinite matrices, in coordinates in which B_iiii = 1: zero exactly at a
            solution, and free of units.
        n_iterations: projected gradient steps taken (0 where a closed form applied).
        converged: whether the residual is below the tolerance asked for.
    """

    X: torch.Tensor
    residual: float
    n_iterations: int
    converged: bool


def solve_complementarity(A: torch.Tensor, B: torch.Tensor, *, start: torch.Tensor | None = None,
                          tol: float = 1e-9, max_iterations: int = 20_000) -> Complementarity:
    """Return X with 0 ⪯ X ⊥ A + B[X] ⪰ 0, where B[X]_ij = Σ_kl B_ijkl X_kl.

    One direction has the closed form X = max(0, −A/B).
    For several, X = 0 solves it if A ⪰ 0, and X = −B⁻¹[A] if that is positive semidefinite;
    otherwise accelerated projected gradient with restarts runs until the residual is below `tol`.

    Args:
        A: [k, k] symmetric.
        B: [k, k, k, k] symmetric positive semidefinite as a map of symmetric matrices; if it is not, the
            nearest such B is used.
        start: [k, k] positive semidefinite first guess.
        tol: largest residual accepted.
        max_iterations: limit; if it is reached, or if no solution exists, `converged` is False.

    Returns:
        Complementarity(X, residual, n_iterations, converged).

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    >>> import torch
    >>> A, B = torch.tensor([[-3.0]]), torch.tensor(2.0).reshape(1, 1, 1, 1)
    >>> solve_complementarity(A, B).X
    tensor([[1.5000]])

    Source: the method is FISTA (Beck and Teboulle 2009) with restarts (O'Donoghue and Candès 2015).
    Used in: edge_of_stability.
    """
    k, like = A.shape[0], A
    if A.shape != (k, k) or B.shape != (k, k, k, k):
        raise ValueError("A must be [k, k] and B [k, k, k, k] with the same k; "
                         f"got {tuple(A.shape)} and {tuple(B.shape)}.")
    A, B = _numpy(A), _numpy(B)
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError("A and B must be finite, and they are not.")
    t = _scale(B)                                                                       # [k, k]
    S = _symmetric_basis(k)                                                             # [k², m]
    a = (t * A).ravel() @ S                                                             # [m]
    b = _nearest_psd(S.T @ (t[:, :, None, None] * B * t).reshape(k * k, k * k) @ S)     # [m, m]
    x = np.zeros_like(a) if start is None else (_numpy(start) / t).ravel() @ S
    x, residual, n = _solve(a, b, S, x, tol, max_iterations)
    X = torch.from_numpy(t * (S @ x).reshape(k, k)).to(like)                            # [k, k]
    return Complementarity(X, residual, n, residual <= tol)


def _scale(B):
    """[k, k] factors t_i t_j: with X = t X' t (which keeps X' ⪰ 0) the diagonal entries B_iiii become 1."""
    diagonal = np.einsum("iiii->i", B)
    t = np.where(diagonal > 0, np.abs(diagonal) + (diagonal == 0), 1.0) ** -0.25
    return np.outer(t, t)


def _solve(a, b, S, x, tol, max_iterations):
    """Coordinates of X, the residual and the number of iterations: closed forms, else projected gradient."""
    beta, scale = np.linalg.eigvalsh(b)[-1] or 1.0, np.linalg.norm(a) or 1.0

    def step(y):
        return _project(y - (a + b @ y) / beta, S)

    def residual(y):
        return float(np.linalg.norm(y - step(y)) * beta / scale)

    guesses = [np.zeros_like(a)]
    if np.linalg.cond(b) < 1e10:
        guesses.append(_project(-np.linalg.solve(b, a), S))
    for guess in guesses:
        if residual(guess) <= tol:
            return guess, residual(guess), 0
    return _accelerated(step, residual, _project(x, S), tol, max_iterations)


def _accelerated(step, residual, x, tol, max_iterations):
    """Projected gradient steps, extrapolated; the momentum restarts when it points uphill."""
    y, inertia = x, 1.0
    for n in range(1, max_iterations + 1):
        new = step(y)
        if (y - new) @ (new - x) > 0:
            inertia = 1.0
        faster = (1 + np.sqrt(1 + 4 * inertia**2)) / 2
        x, y, inertia = new, new + (inertia - 1) / faster * (new - x), faster
        if n % 10 == 0 and residual(x) <= tol:
            break
    return x, residual(x), n


def _project(x, S):
    """Nearest positive semidefinite matrix, in coordinates: negative eigenvalues become zero."""
    k = int(np.sqrt(len(S)))
    values, vectors = np.linalg.eigh((S @ x).reshape(k, k))
    return ((vectors * np.maximum(values, 0)) @ vectors.T).ravel() @ S


def _nearest_psd(b):
    values, vectors = np.linalg.eigh((b + b.T) / 2)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _symmetric_basis(k):
    """[k², m] orthonormal basis of the symmetric k × k matrices, m = k(k+1)/2 of them."""
    i, j = np.triu_indices(k)                                                           # [m], [m]
    S = np.zeros((k, k, len(i)))
    S[i, j, range(len(i))] = S[j, i, range(len(i))] = np.where(i == j, 1.0, np.sqrt(0.5))
    return S.reshape(k * k, -1)


def _numpy(tensor):
    return tensor.detach().cpu().double().numpy()
