"""Known functions that make labels for given inputs: what a student network should find."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Teacher:
    """The function f(x) = Σ_j a_j φ(⟨w_j, x⟩), called as `teacher(x)`: [n, d] or [n, c, h, w] -> [n, 1].

    Attributes:
        W: directions w_j [m, d], each of length 1.
        a: weights a_j [m].
        link: φ, from tensors to tensors of the same shape.
    """

    W: Tensor
    a: Tensor
    link: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.link(x.flatten(1) @ self.W.T.to(x)) @ self.a[:, None].to(x)  # [n, d] -> [n, m] -> [n, 1]


def _directions(m: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(m, d, generator=generator, device=generator.device))


def linear_teacher(d: int, *, generator: torch.Generator) -> Teacher:
    """Return f(x) = ⟨w, x⟩ with w uniform on the unit sphere of ℝ^d; f(x) has variance 1 for x ~ N(0, I)."""
    return single_index_teacher(d, lambda z: z, generator=generator)


def single_index_teacher(d: int, link: Callable[[Tensor], Tensor], *, generator: torch.Generator) -> Teacher:
    """Return f(x) = φ(⟨w, x⟩) with the link φ and w uniform on the unit sphere of ℝ^d.

    >>> teacher = single_index_teacher(3, hermite(2), generator=torch.Generator().manual_seed(0))
    >>> teacher(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """
    W = _directions(1, d, generator)
    return Teacher(W, torch.ones(1, device=W.device), link)


def two_layer_teacher(d: int, m: int, *, link=torch.tanh, generator: torch.Generator) -> Teacher:
    """Return f(x) = m^{-1/2} Σ_j ±φ(⟨w_j, x⟩): m directions uniform on the sphere of ℝ^d, random signs."""
    W = _directions(m, d, generator)
    signs = 2 * torch.randint(2, (m,), generator=generator, device=generator.device) - 1
    return Teacher(W, signs.to(W) / math.sqrt(m), link)


def hermite(k: int) -> Callable[[Tensor], Tensor]:
    """Return the normalised Hermite polynomial h_k, E h_j(z) h_k(z) = δ_jk for z ~ N(0, 1).

    √(k+1) h_{k+1}(z) = z h_k(z) − √k h_{k−1}(z). As the link of a single-index teacher it has information
    exponent k.

    >>> (hermite(2)(torch.tensor([1.0, 3.0])) * math.sqrt(2)).round()
    tensor([0., 8.])
    """
    def h(z: Tensor) -> Tensor:
        previous, current = torch.zeros_like(z), torch.ones_like(z)
        for j in range(k):
            previous, current = current, (z * current - math.sqrt(j) * previous) / math.sqrt(j + 1)
        return current

    return h
