"""Largest Hessian eigenvalues from Hessian-vector products: Krylov steps, a warm start, a stop by residual.

The sharpness of the book is S(w) = λ_max(∇²L(w)): the largest eigenvalue, not the largest in magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlt_helpers.functional import Derivatives, Loss, derivatives

SPARE = 3  # Ritz vectors carried from solve to solve beyond the k asked for: one of them may overtake
AHEAD = 1  # pairs beyond k that a cold start must find too, lest one of a bunch be missed
BASIS = 40  # vectors kept before a thick restart: bounds the memory at 2 · BASIS · p numbers
HVP_COST = 1.3  # gradients per product with the graph retained (measured by `make bench`)


class ConvergenceError(RuntimeError):
    """An eigenvalue was asked for and the residual says that it has not been found."""


@dataclass(frozen=True)
class Eigs:
    """Largest eigenpairs of P⁻¹H (P = 1 without a preconditioner), with what they cost.

    Attributes:
        values: [k] descending, in units of 1/lr (loss per squared weight).
        vectors: U [p, k] with H U = P U Λ and UᵀPU = I.
        residuals: [k] ‖P^(-1/2)(H u − θ P u)‖: some eigenvalue lies within this distance of θ.
        converged: every residual is at most tol·|θ|.
        n_hvps, n_gradients: Hessian-vector products, and gradients beside them (the graph's).
        subspace: [p, j ≥ k] the vectors and up to SPARE behind them: what to pass as the next `start`.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool
    n_hvps: int
    n_gradients: int
    subspace: Tensor

    @property
    def cost(self) -> float:
        """Cost in gradient evaluations: n_gradients + HVP_COST · n_hvps."""
        return self.n_gradients + HVP_COST * self.n_hvps


def hvp(loss: Loss, w: Tensor, v: Tensor) -> Tensor:
    """Return ∇²L(w) v for v [p] or V [p, k]; for many products at one w keep `functional.derivatives`.

    Used in: edge_of_stability.

    >>> hvp(lambda w: w[0] * w[1], torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor([0., 1.])
    """
    return derivatives(loss, w).hvp(v)


def dense(loss: Loss, w: Tensor) -> Tensor:
    """Return the whole Hessian ∇²L(w) [p, p], p products: for small p, and for tests.

    >>> dense(lambda w: w[0] * w[1], torch.zeros(2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    return derivatives(loss, w).hvp(torch.eye(len(w), device=w.device, dtype=w.dtype))


def top_eigs(loss: Loss, w: Tensor, k: int = 1, *, start: Tensor | None = None, tol: float = 1e-2,
             max_hvps: int = 500, preconditioner: Tensor | None = None,
             generator: torch.Generator | None = None, at: Derivatives | None = None) -> Eigs:
    """Return the k largest eigenvalues θ and vectors of P^(-1/2) ∇²L(w) P^(-1/2), to residual tol·|θ|.

    Rayleigh–Ritz on a growing orthonormal basis: begin with the start vectors, extend by the residual of the
    last unconverged pair (from one start vector this is Lanczos with full reorthogonalisation), stop when
    ‖A z − θ z‖ ≤ tol·|θ| for all k. Some eigenvalue is then within the residual of θ, and usually within
    residual²/gap. Where eigenvalues bunch, repeat or cross, as at the edge of stability, a small residual may
    belong to a neighbour: hence several start vectors, `AHEAD` more pairs from a cold start, and `SPARE` more
    vectors in the subspace of a warm one.

    Args:
        w: [p] finite.
        start: [p, j] warm start, best the `subspace` of a result a few training steps ago.
            By default k + SPARE Gaussian vectors.
        tol: residual relative to |θ|.
        preconditioner: diagonal of P > 0 [p] (adaptive methods: update = −lr P⁻¹ m). None is P = 1.
        generator: draws the start vectors (seed 0 on the CPU if not given).
        at: `derivatives(loss, w)` if at hand: saves one gradient.
    Returns:
        Eigs; `converged` is False if max_hvps products did not suffice.
    Raises:
        ValueError: k not in 1…p, max_hvps < k, weights or derivatives not finite, preconditioner not
            positive, start of another shape.

    Source: Parlett 1998, ch. 11 and 13; Wu & Simon 2000 (thick restart). Used in: edge_of_stability.

    >>> quadratic = lambda w: 0.5 * (torch.tensor([3.0, 1.0, -5.0]) * w ** 2).sum()
    >>> top_eigs(quadratic, torch.zeros(3), tol=1e-5).values  # largest, not largest in magnitude
    tensor([3.0000])
    """
    p = len(w)
    if not 1 <= k <= p:
        raise ValueError(f"a Hessian of size {p} has {p} eigenvalues; asked for k = {k}: use 1 ≤ k ≤ {p}.")
    if start is not None and (start.ndim != 2 or len(start) != p):
        raise ValueError(f"start must have shape [p, j] with p = {p}; got {tuple(start.shape)}.")
    if preconditioner is not None and not bool(((preconditioner > 0) & preconditioner.isfinite()).all()):
        raise ValueError("the preconditioner must be positive and finite in every coordinate.")
    if max_hvps < k:
        raise ValueError(f"{k} eigenvalues need at least {k} products; max_hvps is {max_hvps}.")
    d = derivatives(loss, w) if at is None else at
    if not bool(w.isfinite().all() & d.grad.isfinite().all()):
        raise ValueError("the weights or the gradient are not finite (a diverged run?): no Hessian here.")
    root = None if preconditioner is None else preconditioner.sqrt()  # P^(1/2)

    def operator(z: Tensor) -> Tensor:
        return d.hvp(z) if root is None else d.hvp(z / root) / root

    draw = _drawer(w, generator)
    if start is None:
        rows = [draw() for _ in range(min(k + SPARE, p))]
    else:
        rows = list(start.T.to(w) if root is None else start.T.to(w) * root)  # z = P^(1/2) u
    ask, keep = k if start is not None else min(k + AHEAD, p), k + SPARE
    values, Z, residuals, bad, n_hvps = _rayleigh_ritz(operator, rows, draw, ask, keep, tol, max_hvps)
    converged = all(i >= k for i in bad)
    U = (Z if root is None else Z / root).T  # [p, j]
    return Eigs(values[:k], U[:, :k], residuals[:k], converged, n_hvps, 1 if at is None else 0, U)


def sharpness(loss: Loss, w: Tensor, **options) -> float:
    """Return S(w) = λ_max(∇²L(w)), or λ_max(P⁻¹∇²L(w)) with `preconditioner=P`; options as for `top_eigs`.

    Raises:
        ConvergenceError: the residual is above tol·S after max_hvps products.

    Used in: edge_of_stability.

    >>> sharpness(lambda w: 2 * w[0] ** 2 - 9 * w[1] ** 2, torch.zeros(2))
    4.0
    """
    return _require(top_eigs(loss, w, 1, **options)).values.item()


def _require(eigs: Eigs) -> Eigs:
    if not eigs.converged:
        worst = (eigs.residuals / eigs.values.abs()).max().item()
        raise ConvergenceError(f"no convergence in {eigs.n_hvps} Hessian-vector products (relative residual "
                               f"{worst:.1e}): raise max_hvps=, or accept a larger tol=.")
    return eigs


class Tracker:
    """A function w [p] -> the k largest eigenvalues (a float if k = 1), started from its last call's vectors.

    Attributes: eigs (the last result), n_solves, n_hvps and n_gradients (totals).
    """

    def __init__(self, loss: Loss, k: int, spare: int, tol: float, max_hvps: int, generator: torch.Generator | None):
        self.loss, self.k, self.spare = loss, k, spare
        self.options = {"tol": tol, "max_hvps": max_hvps, "generator": generator}
        self.eigs: Eigs | None = None
        self.n_solves = self.n_hvps = self.n_gradients = 0

    def __call__(self, w: Tensor, preconditioner: Tensor | None = None) -> float | Tensor:
        start = None if self.eigs is None else self.eigs.subspace[:, : self.k + self.spare]
        eigs = top_eigs(self.loss, w, self.k, start=start, preconditioner=preconditioner, **self.options)
        self.eigs = _require(eigs)
        self.n_solves += 1
        self.n_hvps += eigs.n_hvps
        self.n_gradients += eigs.n_gradients
        return eigs.values.item() if self.k == 1 else eigs.values


def tracker(loss: Loss, *, k: int = 1, spare: int = SPARE, tol: float = 1e-2, max_hvps: int = 500,
            generator: torch.Generator | None = None) -> Tracker:
    """Return a function w ↦ the k largest eigenvalues of ∇²L(w), warm-started from its last call.

    Called along a run, at midpoints rather than at the oscillating iterates, it needs a few products a call:
    k + `spare` for the vectors carried over, and those that the residual asks for. Fewer than `SPARE` are faster,
    and enough where measurements lie close together.
    `tracker(w, preconditioner)` gives those of P⁻¹∇²L. Raises ConvergenceError as `sharpness` does.

    Used in: edge_of_stability.

    >>> sharp = tracker(lambda w: (w ** 4).sum() / 12)  # Hessian diag(w²)
    >>> [round(sharp(torch.tensor([1.0, x])), 3) for x in (2.0, 3.0)]
    [4.0, 9.0]
    """
    return Tracker(loss, k, spare, tol, max_hvps, generator)


def _drawer(w: Tensor, generator: torch.Generator | None) -> Callable[[], Tensor]:
    """Return a function that draws a Gaussian vector like w (from seed 0 on the CPU without a generator)."""
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    return lambda: torch.randn(len(w), generator=source, device=source.device, dtype=w.dtype).to(w.device)


def _extend(Q: Tensor, m: int, v: Tensor) -> bool:
    """Write v, made orthonormal to the rows Q[:m], into Q[m]; False if it lies in their span."""
    v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        v = v - Q[:m].T @ (Q[:m] @ v)
    length = v.norm()
    Q[m] = v / length.clamp_min(torch.finfo(v.dtype).tiny)
    return bool(length > 100 * torch.finfo(v.dtype).eps)


def _rayleigh_ritz(operator: Callable[[Tensor], Tensor], rows: list[Tensor], draw: Callable[[], Tensor],
                   ask: int, keep: int, tol: float,
                   max_hvps: int) -> tuple[Tensor, Tensor, Tensor, list[int], int]:
    """Return (values [keep], Ritz vectors [keep, p], residuals [ask], unconverged of these, products)."""
    p, n, m = len(rows[0]), 0, 0
    size = min(p, max(BASIS, 2 * keep, len(rows)))
    Q, AQ = (rows[0].new_empty(size, p) for _ in range(2))  # basis and its image, one vector a row
    T, new = np.zeros((size, size)), rows  # T = Q A Qᵀ
    while True:
        before = m
        for v in new:
            if m < size and n < max_hvps and _extend(Q, m, v):
                AQ[m] = operator(Q[m])
                T[: m + 1, m] = T[m, : m + 1] = (Q[: m + 1] @ AQ[m]).double().cpu().numpy()
                m, n = m + 1, n + 1
        if not np.isfinite(T).all():
            raise ValueError("a Hessian-vector product is not finite: no Hessian here.")
        if m < min(ask, p) and n < max_hvps:  # too few independent start vectors
            new = [draw()]
            continue
        theta, S = np.linalg.eigh(T[:m, :m])
        theta, S = theta[::-1][:keep].copy(), S.T[::-1][:keep].copy()  # descending, one Ritz vector a row
        values, S = torch.from_numpy(theta).to(Q), torch.from_numpy(S).to(Q)
        R = S[:ask] @ AQ[:m] - values[:ask, None] * (S[:ask] @ Q[:m])  # [ask, p]
        residuals, floor = R.norm(dim=1), 10 * torch.finfo(Q.dtype).eps * float(np.abs(T).max())
        bad = (residuals > (tol * values[:ask].abs()).clamp_min(floor)).nonzero()[:, 0].tolist()
        if not bad or n >= max_hvps or m in (before, p):
            return values, S @ Q[:m], residuals, bad, n
        if m == size:  # thick restart
            Q[:keep], AQ[:keep] = S @ Q[:m], S @ AQ[:m]
            T[:], m = 0, keep
            T[range(m), range(m)] = theta
        new = [R[bad[-1]]]  # not bad[0], which leaves it to one Krylov sequence to tell a bunch apart
