"""Rademacher complexities: single draws of the supremum, and the bounds of its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from .counting import check


def signs(n_draws: int, n: int, *, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return independent uniform signs ±1, [n_draws, n], on the device and in the dtype of `like`."""
    drawn = torch.randint(2, (n_draws, n), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like)


def rademacher_draws(values: Tensor, *, n_draws: int, generator: torch.Generator, n: int | None = None) -> Tensor:
    """Return sup_g (1/n) Σ ε_i g(z_i) for each of n_draws sign vectors; the mean estimates the complexity.

    Args:
        values: g(z) for every function and example, [M, N].
        n: if given, every draw takes its own sample of n of the N examples, with replacement, so that the mean
            estimates Rad_n of the population; if not, the sample is all N of them, and the mean estimates the
            complexity on that sample.

    Returns:
        [n_draws].

    Used in: statistical_learning.

    >>> rademacher_draws(torch.tensor([[1.0], [-1.0]]), n_draws=3, generator=torch.Generator())
    tensor([1., 1., 1.])
    """
    N = values.shape[1]
    eps = signs(n_draws, n or N, generator=generator, like=values)  # [n_draws, n]
    if n is not None:
        check(n=n)
        drawn = torch.randint(N, (n_draws, n), generator=generator, device=generator.device).to(values.device)
        eps = torch.zeros(n_draws, N, dtype=values.dtype, device=values.device).scatter_add_(1, drawn, eps)
    return (values @ eps.T).amax(0) / (n or N)  # [n_draws]


def rademacher_linear(x: Tensor, radius: float, *, lipschitz: float = 1.0) -> float:
    """Return lipschitz · radius · √(Σ ‖x_i‖²)/n, at least the complexity of x ↦ ⟨w, x⟩, ‖w‖ ≤ radius, on the sample.

    The complexity is between 1/√2 of it (Khintchine and Kahane) and all of it.

    Args:
        x: [n, d]. lipschitz: constant of a loss put on top, by the contraction lemma.

    Source: [bartlett2002rademacher]. Used in: statistical_learning.

    >>> rademacher_linear(torch.ones(4, 9), 2.0)
    3.0
    """
    return lipschitz * radius * x.flatten(1).norm().item() / len(x)


def rademacher_linear_draws(x: Tensor, radius: float, *, n_draws: int, generator: torch.Generator) -> Tensor:
    """Return sup_{‖w‖ ≤ radius} (1/n) Σ ε_i ⟨w, x_i⟩ = radius ‖Σ ε_i x_i‖/n for n_draws sign vectors, [n_draws].

    Used in: statistical_learning.
    """
    x = x.flatten(1)  # [n, d]
    return radius * (signs(n_draws, len(x), generator=generator, like=x) @ x).norm(dim=1) / len(x)


def two_layer(gamma: float, x: Tensor, *, lipschitz: float = 1.0) -> float:
    """Return 2 · lipschitz · γ √(Σ ‖x_i‖²)/n, at least the complexity of two-layer networks of any width.

    The class is Σ_j a_j σ(⟨w_j, x⟩) with Σ |a_j| ≤ γ, ‖w_j‖ ≤ 1, σ 1-Lipschitz and σ(0) = 0.

    Source: [bartlett1998sample; bartlett2002rademacher]. Used in: statistical_learning, random_labels.

    >>> two_layer(3.0, torch.ones(4, 9))
    9.0
    """
    return 2 * rademacher_linear(x, gamma, lipschitz=lipschitz)


def two_layer_draws(gamma: float, x: Tensor, *, n_draws: int, generator: torch.Generator, starts: int = 32,
                    steps: int = 60) -> Tensor:
    """Return, for n_draws sign vectors, what ascent finds of sup (1/n) Σ ε_i f(x_i) over `two_layer`'s ReLU networks.

    The supremum is γ sup_w |(1/n) Σ ε_i σ(⟨w, x_i⟩)|: one neuron has all the weight. Each of `starts` neurons
    climbs along its normalised gradient, half of them for each sign; what is found is a lower bound.

    Returns:
        [n_draws].

    Used in: statistical_learning.
    """
    x = x.flatten(1)
    n, d = x.shape
    eps = signs(n_draws, n, generator=generator, like=x) / n  # [n_draws, n]
    w = torch.randn(n_draws, d, starts, generator=generator, device=generator.device).to(x)
    side = torch.where(torch.arange(starts, device=x.device) % 2 == 0, 1.0, -1.0).to(x)  # [starts]
    best = torch.zeros_like(eps[:, 0])
    for step in range(steps):
        w = w / w.norm(dim=1, keepdim=True)
        pre = x @ w  # [n_draws, n, starts]
        value = side * (eps[:, :, None] * pre.relu()).sum(1)  # [n_draws, starts]
        best = torch.maximum(best, value.amax(1))
        slope = side * (x.T @ (eps[:, :, None] * (pre > 0)))  # [n_draws, d, starts]
        w = w + (1 - step / steps) * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return gamma * best
