"""Gaussian priors over deep factorisations, drawn with the draws as the last axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prior:
    """The law of W = W_L σ(W_{L−1} ⋯ σ(W_1)) with independent W_j[a, b] ~ N(0, 1/rows of W_j).

    So a hidden layer has variance 1/k and the last one 1/m, the scaling of the experiments of Alexander et al.

    Attributes:
        shape: (m, m') of W.
        width: k, of the hidden layers.
        depth: L ≥ 2.
        activation: σ, by entry; None for the identity.
        normalise: divide W by its Frobenius norm.
    """

    shape: tuple[int, int] = (5, 5)
    width: int = 5
    depth: int = 2
    activation: Callable | None = None
    normalise: bool = False

    def __post_init__(self):
        if self.depth < 2 or self.width < 1:
            raise ValueError(f"a prior needs depth ≥ 2 and width ≥ 1, and this has {self.depth} and {self.width}.")

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(rows, columns) of W_1 … W_L."""
        sides = [self.shape[1], *[self.width] * (self.depth - 1), self.shape[0]]
        return [(rows, columns) for columns, rows in zip(sides, sides[1:], strict=False)]

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return sum(rows * columns for rows, columns in self.layers)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return W_1 … W_L, each [rows, columns, N], from standard normal numbers x [n_weights, N]."""
        parts = x.split([rows * columns for rows, columns in self.layers])
        return [part.view(rows, columns, -1) / math.sqrt(rows)
                for part, (rows, columns) in zip(parts, self.layers, strict=True)]

    def draw(self, n: int, *, generator: torch.Generator, like: Tensor, layers: slice = slice(None)) -> list[Tensor]:
        """Return n independent draws of W_1 … W_L (or of some of them), [rows, columns, n] each."""
        return [torch.randn(rows, columns, n, generator=generator, dtype=like.dtype,
                            device=generator.device).to(like.device) / math.sqrt(rows)
                for rows, columns in self.layers[layers]]

    def hidden(self, factors: list[Tensor]) -> Tensor:
        """Return H = σ(W_{L−1} ⋯ σ(W_1)) [k, m', N] of W_1 … W_{L−1}, the matrix that the last factor multiplies."""
        H = self._activate(factors[0])
        for factor in factors[1:]:
            H = self._activate(multiply(factor, H))
        return H

    def matrices(self, factors: list[Tensor]) -> Tensor:
        """Return W [m, m', N] of W_1 … W_L."""
        return self.finish(multiply(factors[-1], self.hidden(factors[:-1])))

    def finish(self, W: Tensor) -> Tensor:
        """Return W [m, m', N], divided by its norm if the prior asks for it."""
        return W / W.square().sum((0, 1)).sqrt() if self.normalise else W

    def _activate(self, H):
        return H if self.activation is None else self.activation(H)


def multiply(W: Tensor, H: Tensor) -> Tensor:
    """Return the products W H [a, b, N] of W [a, k, N] and H [k, b, N]: k fused steps over all draws at once."""
    out = W[:, :1] * H[0]                                                             # [a, b, N]
    for j in range(1, len(H)):
        out.addcmul_(W[:, j : j + 1], H[j])
    return out


def residuals(problem, W: Tensor) -> tuple[Tensor, Tensor]:
    """Return L_train [N] and L_unseen [N] of the draws W [m, m', N] for one problem."""
    difference = (W - problem.truth[..., None]).flatten(0, 1)                         # [m m', N]
    return tuple((matrices.flatten(1) @ difference).square().mean(0)
                 for matrices in (problem.measurements, problem.unseen))


def prior_loss(prior: Prior, problem, n: int, *, generator: torch.Generator, batch: int = 20_000) -> Tensor:
    """Return the mean of L_unseen over n draws from the prior [] (for several problems [P]): nothing is checked.

    >>> from types import SimpleNamespace
    >>> eye = torch.eye(4).reshape(4, 2, 2)
    >>> problem = SimpleNamespace(truth=torch.zeros(2, 2), measurements=eye[:2], unseen=eye[2:])
    >>> prior = Prior((2, 2), width=50, normalise=True)  # so that every entry has mean square ¼
    >>> round(prior_loss(prior, problem, 40_000, generator=torch.Generator().manual_seed(0)).item(), 2)
    0.25

    Used in: matrix_factorization.
    """
    truth, B = problem.truth, problem.unseen.flatten(-2)                              # [*, m, m'], [*, q, m m']
    total = torch.zeros(truth.shape[:-2], dtype=truth.dtype, device=truth.device)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        W = prior.matrices(prior.draw(size, generator=generator, like=truth)).flatten(0, 1)
        seen = B @ W - (B @ truth.flatten(-2)[..., None])                             # [*, q, size]
        total += seen.square().mean(-2).sum(-1)
    return total / n


def one_problem(problem):
    """Raise unless `problem` is a single one."""
    if problem.truth.ndim != 2:
        raise ValueError(f"this sampler takes one problem, truth [m, m']; got truth {list(problem.truth.shape)}. "
                         "Index the problems, problems[i].")


def checked(threshold: float, n: int) -> None:
    """Raise unless the threshold is positive and at least one guess is made."""
    if not threshold > 0:
        raise ValueError(f"the threshold {threshold} on the training loss should be positive.")
    if n < 1:
        raise ValueError(f"{n} guesses: at least one is needed.")
