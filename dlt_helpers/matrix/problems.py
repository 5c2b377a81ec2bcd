"""Matrix sensing and matrix completion: what is measured, what is unseen, and the two losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A matrix W* to recover from y_i = ⟨A_i, W*⟩; a leading axis [P] in every field makes it P problems.

    Attributes:
        truth: W* [m, m'].
        measurements: A_1 … A_n [n, m, m'], each of Frobenius norm 1, linearly independent.
        unseen: orthonormal basis of the matrices orthogonal to all A_i [m m' − n, m, m'].
    """

    truth: Tensor
    measurements: Tensor
    unseen: Tensor

    @property
    def targets(self) -> Tensor:
        """y_i = ⟨A_i, W*⟩ [n]."""
        return torch.einsum("...nij,...ij->...n", self.measurements, self.truth)

    def to(self, *args) -> Problem:
        """Return the problem on another device or in another dtype, as `Tensor.to`."""
        return Problem(self.truth.to(*args), self.measurements.to(*args), self.unseen.to(*args))

    def __getitem__(self, i) -> Problem:
        """Return problem i of several."""
        if self.truth.ndim < 3:
            raise TypeError("This is one problem and not several, so it cannot be indexed; use it as it is.")
        return Problem(self.truth[i], self.measurements[i], self.unseen[i])


def sensing(shape, *, rank: int, n: int, generator: torch.Generator, count: int | None = None, spectrum=None,
            dtype: torch.dtype = torch.float64) -> Problem:
    """Return W* of the given rank and n Gaussian measurements A_i, each scaled to Frobenius norm 1.

    W* = U V with Gaussian U [m, rank], V [rank, m'], scaled to ‖W*‖_F = 1; with `spectrum` its singular values
    are these and its singular vectors uniform.

    Args:
        shape: (m, m').
        rank: of W*.
        n: number of measurements, less than m m'.
        generator: on the CPU; all randomness comes from it.
        count: number of problems (leading axis); None for one without that axis.
        spectrum: singular values [rank], in place of the Gaussian factors.

    Raises:
        ValueError: if the rank or n do not fit the shape.

    >>> problem = sensing((5, 4), rank=1, n=12, generator=torch.Generator().manual_seed(0))
    >>> tuple(problem.unseen.shape), round(problem.truth.norm().item(), 6)
    ((8, 5, 4), 1.0)

    Source: alexander2025neural. Used in: matrix_factorization.
    """
    _check(shape, rank, n)
    return _stacked(count, lambda: _sense(shape, rank, n, generator, spectrum, dtype))


def completion(shape, *, rank: int, n: int, generator: torch.Generator, count: int | None = None, spectrum=None,
               dtype: torch.dtype = torch.float64) -> Problem:
    """Return W* of the given rank and n of its entries, drawn without replacement: A_i = e_a e_bᵀ.

    Arguments and errors as for `sensing`; `unseen` are the other entries.

    >>> problem = completion((3, 3), rank=1, n=4, generator=torch.Generator().manual_seed(0))
    >>> problem.measurements.sum().item(), problem.unseen.sum().item()
    (4.0, 5.0)

    Source: arora2019implicit. Used in: matrix_factorization.
    """
    _check(shape, rank, n)
    return _stacked(count, lambda: _complete(shape, rank, n, generator, spectrum, dtype))


def train_loss(problem: Problem, W: Tensor) -> Tensor:
    """Return (1/n) Σ_i (⟨A_i, W⟩ − y_i)² [...]: the mean over measurements, without a factor ½.

    Args:
        W: [..., m, m'], one matrix a problem, or any number of them for a single problem.
    """
    return _mean_square(problem.measurements, W - problem.truth)


def unseen_loss(problem: Problem, W: Tensor) -> Tensor:
    """Return the mean over B of (⟨B, W⟩ − ⟨B, W*⟩)² [...], B the orthonormal basis `problem.unseen`.

    The lecture's generalisation loss; the zero matrix has the mean square of W* in the unseen directions.
    """
    return _mean_square(problem.unseen, W - problem.truth)


def recovery_gradient(problem: Problem, W: Tensor) -> Tensor:
    """Return ∇ℓ(W) [..., m, m'] of ℓ(W) = (m m'/2n) Σ_i (⟨A_i, W⟩ − y_i)².

    The factor makes the mean of ∇ℓ over isotropic measurements W − W*, so that times are those of ½‖W − W*‖².
    """
    A = problem.measurements
    residual = torch.einsum("...nij,...ij->...n", A, W - problem.truth)               # [..., n]
    return torch.einsum("...n,...nij->...ij", residual, A) * (A.shape[-2] * A.shape[-1] / A.shape[-3])


def _mean_square(matrices, difference):
    return torch.einsum("...nij,...ij->...n", matrices, difference).square().mean(-1)


def _stacked(count, make):
    if count is None:
        return make()
    problems = [make() for _ in range(count)]
    return Problem(*(torch.stack([getattr(p, field) for p in problems])
                     for field in ("truth", "measurements", "unseen")))


def _sense(shape, rank, n, generator, spectrum, dtype):
    truth, d = _truth(shape, rank, generator, spectrum, dtype), shape[0] * shape[1]
    A = torch.randn(n, d, generator=generator, dtype=dtype, device=generator.device)
    Q = torch.linalg.qr(A.T, mode="complete").Q                                       # [d, d]
    A = A / A.norm(dim=1, keepdim=True)
    return Problem(truth, A.reshape(n, *shape), Q[:, n:].T.reshape(d - n, *shape).contiguous())


def _complete(shape, rank, n, generator, spectrum, dtype):
    truth, d = _truth(shape, rank, generator, spectrum, dtype), shape[0] * shape[1]
    order = torch.randperm(d, generator=generator, device=generator.device)
    entries = torch.eye(d, dtype=dtype, device=generator.device)[order].reshape(d, *shape)
    return Problem(truth, entries[:n], entries[n:])


def _truth(shape, rank, generator, spectrum, dtype):
    options = {"generator": generator, "dtype": dtype, "device": generator.device}
    U, V = torch.randn(shape[0], rank, **options), torch.randn(rank, shape[1], **options)
    if spectrum is None:
        return U @ V / (U @ V).norm()
    values = torch.as_tensor(spectrum, dtype=dtype, device=generator.device)          # [rank]
    return torch.linalg.qr(U).Q * values @ torch.linalg.qr(V.T).Q.T


def _check(shape, rank, n):
    m, d = min(shape), shape[0] * shape[1]
    if not 1 <= rank <= m:
        raise ValueError(f"rank {rank} should lie between 1 and {m}, the lesser side of the matrix.")
    if not 1 <= n < d:
        raise ValueError(f"n = {n} measurements should be at least 1 and fewer than the {d} entries.")
