"""Features σ(⟨w_a, x⟩ + b_a) with w_a and b_a drawn once and never trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomFeatures:
    """The map x ↦ σ(W x + b), features in rows: called with x [n, …] it returns Z [n, N].

    Attributes:
        W: weights [N, d]. b: biases [N]. activation: σ, by entry.
    """

    W: Tensor
    b: Tensor
    activation: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation(x.flatten(1) @ self.W.T + self.b)  # [n, N]


def fourier(x: Tensor, N: int, *, bandwidth: float, generator: torch.Generator) -> RandomFeatures:
    """Return N features √2 cos(⟨w, x⟩ + b), w ~ N(0, I/bandwidth²), b ~ U(0, 2π), for inputs such as x.

    Their products average to the Gaussian kernel: (1/N) Σ_a φ_a(x) φ_a(x') → exp(−‖x − x'‖²/(2 bandwidth²)).

    Args:
        x: inputs [n, …], which give dimension, type and device. N: number of features.
        bandwidth: in units of x.
    Raises:
        ValueError: bandwidth not positive.

    Source: [rahimi2007random]. Used in: double_descent.

    >>> fourier(torch.zeros(1, 3), 5, bandwidth=1.0, generator=torch.Generator())(torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, in units of x; got {bandwidth}.")
    W = _normal(x, N, generator) / bandwidth
    b = 2 * math.pi * torch.rand(N, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return RandomFeatures(W, b, lambda t: math.sqrt(2) * torch.cos(t))


def relu(x: Tensor, N: int, *, generator: torch.Generator) -> RandomFeatures:
    """Return N features max(0, ⟨w, x⟩) without bias, w uniform on the unit sphere, for inputs such as x.

    With ‖x‖ = √d this is σ(⟨w', x⟩/√d) with w' on the sphere of radius √d: the convention of Mei and Montanari.

    Args:
        x: inputs [n, …], which give dimension, type and device. N: number of features.

    Source: [mei2022generalization]. Used in: double_descent.

    >>> relu(torch.zeros(1, 3), 5, generator=torch.Generator()).W.norm(dim=1).sum().round()
    tensor(5.)
    """
    W = _normal(x, N, generator)
    return RandomFeatures(W / W.norm(dim=1, keepdim=True), x.new_zeros(N), torch.relu)


def relu_gram(W: Tensor) -> Tensor:
    """Return U_ab = E_x max(0, ⟨w_a, x⟩) max(0, ⟨w_b, x⟩), x uniform on the sphere of radius √d: [N, N].

    U_ab = ‖w_a‖ ‖w_b‖ (sin θ + (π − θ) cos θ)/(2π), θ the angle between w_a and w_b. The formula is that for a
    Gaussian x; it holds on the sphere too, exactly and for every d, because ReLU is homogeneous and E‖x‖² = d.

    Args:
        W: weights [N, d].

    Source: [cho2009kernel]. Used in: double_descent.

    >>> relu_gram(torch.eye(2, dtype=torch.float64)).mul(2 * math.pi).round(decimals=6)
    tensor([[3.1416, 1.0000],
            [1.0000, 3.1416]], dtype=torch.float64)
    """
    norms = W.norm(dim=1)
    cos = (W @ W.T / (norms[:, None] * norms)).clamp(-1, 1)  # [N, N]
    cos.fill_diagonal_(1.0)
    angle = torch.arccos(cos)
    return norms[:, None] * norms * ((1 - cos * cos).sqrt() + (math.pi - angle) * cos) / (2 * math.pi)


def sphere(n: int, d: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return n points uniform on the sphere of radius √d in R^d, [n, d], on the device of the generator.

    >>> sphere(2, 4, generator=torch.Generator()).norm(dim=1)
    tensor([2., 2.], dtype=torch.float64)
    """
    x = torch.randn(n, d, generator=generator, device=generator.device, dtype=dtype)
    return math.sqrt(d) * x / x.norm(dim=1, keepdim=True)


def _normal(x: Tensor, N: int, generator: torch.Generator) -> Tensor:
    shape = (N, x[0].numel())
    return torch.randn(shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)  # [N, d]
