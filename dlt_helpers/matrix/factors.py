"""Factorisations W = W_L σ(W_{L−1} ⋯ σ(W_1)): their products, balance, rank and initial values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def network(factors: Sequence[Tensor], activation: Callable | None = None, *, normalise: bool = False) -> Tensor:
    """Return W = W_L σ(W_{L−1} ⋯ σ(W_1)) [..., m, m'], divided by ‖W‖_F if `normalise`.

    Args:
        factors: W_1 … W_L, [..., out, in]; the columns of W are the outputs of the network for one-hot inputs.
        activation: σ, by entry; None for the identity.

    >>> network([torch.ones(2, 3), torch.ones(1, 2)])
    tensor([[2., 2., 2.]])
    """
    W = factors[0]
    for factor in factors[1:]:
        W = factor @ (W if activation is None else activation(W))
    return W / torch.linalg.matrix_norm(W, keepdim=True) if normalise else W


def product(factors: Sequence[Tensor]) -> Tensor:
    """Return W_L ⋯ W_1 [..., m, m']."""
    return network(factors)


def imbalance(factors: Sequence[Tensor]) -> Tensor:
    """Return max_j ‖W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ‖_F [...], which is zero for balanced factors.

    Conserved by gradient flow matrix by matrix; zero for a single factor.
    """
    first = factors[0]
    gaps = [torch.linalg.matrix_norm(b.mT @ b - a @ a.mT) for a, b in zip(factors, factors[1:], strict=False)]
    return torch.stack(gaps).amax(0) if gaps else first.new_zeros(first.shape[:-2])


def balanced_factors(W: Tensor, depth: int, *, width: int | None = None) -> tuple[Tensor, ...]:
    """Return W_1 … W_L with W_L ⋯ W_1 = W and W_{j+1}ᵀ W_{j+1} = W_j W_jᵀ, from the SVD of W.

    W_1 = S^{1/L} Vᵀ, W_j = S^{1/L}, W_L = U S^{1/L}, padded with zeros to the hidden width.

    Args:
        W: [m, m'].
        depth: L ≥ 1, the number of factors.
        width: of the hidden layers, at least min(m, m') (which is the default).

    Raises:
        ValueError: for a width too small to hold every W.

    >>> W = torch.diag(torch.tensor([8.0, 1.0]))
    >>> [f.diagonal().tolist() for f in balanced_factors(W, 3)]
    [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]

    Source: arora2019implicit. Used in: matrix_factorization.
    """
    if depth < 1:
        raise ValueError(f"depth {depth} should be at least 1, the number of factors.")
    if depth == 1:
        return (W,)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    width = len(s) if width is None else width
    if width < len(s):
        raise ValueError(f"width {width} should be at least {len(s)}, the lesser side of W.")
    root = s ** (1 / depth)
    pad = width - len(s)
    first = torch.nn.functional.pad(root[:, None] * Vh, (0, 0, 0, pad))               # [k, m']
    middle = torch.diag(torch.nn.functional.pad(root, (0, pad)))                      # [k, k]
    last = torch.nn.functional.pad(U * root, (0, pad))                                # [m, k]
    return (first, *(middle.clone() for _ in range(depth - 2)), last)


def random_factors(shape, *, width: int, depth: int, scale: float, generator: torch.Generator,
                   count: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return W_1 … W_L with entries uniform in ±1/√(columns), all multiplied by scale^{1/L}: product ∝ scale.

    Args:
        shape: (m, m') of the product.
        width: of the hidden layers.
        scale: by which the product is smaller than PyTorch's initialisation of `nn.Linear` makes it.
        count: number of independent factorisations (leading axis); None for one without that axis.

    >>> g = torch.Generator().manual_seed(0)
    >>> [tuple(f.shape) for f in random_factors((5, 4), width=7, depth=3, scale=1e-3, generator=g)]
    [(7, 4), (7, 7), (5, 7)]
    """
    sides = [shape[1], *[width] * (depth - 1), shape[0]]
    lead = () if count is None else (count,)
    def draw(rows, columns):
        u = torch.rand(*lead, rows, columns, generator=generator, dtype=dtype, device=generator.device)
        return (2 * u - 1) * scale ** (1 / depth) / columns**0.5

    return tuple(draw(rows, columns) for columns, rows in zip(sides, sides[1:], strict=False))


def effective_rank(values: Tensor) -> Tensor:
    """Return exp(−Σ_r p_r log p_r) [...] with p_r = values_r / Σ values: the number of values that matter.

    Between 1 (one value) and the number of values (all equal); nan if all of them vanish.

    Args:
        values: singular values or eigenvalues, not negative, [..., r].

    >>> effective_rank(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0

    Source: roy2007effective. Used in: matrix_factorization.
    """
    p = values / values.sum(-1, keepdim=True)
    return torch.exp(torch.special.entr(p).sum(-1))
