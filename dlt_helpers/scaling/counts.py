"""Operations of a forward pass counted exactly, part by part, and the gradient noise scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flops:
    """Operations (a multiplication and an addition are two) of matrix products, a token of the forward pass.

    Attributes:
        parts: {name: operations}; looking up an embedding costs none.
        parameters: {name: weights}, with what takes no part in a product (embeddings, biases, norms) listed too.
    """

    parts: dict[str, int]
    parameters: dict[str, int]

    @property
    def forward(self) -> int:
        """Operations of the forward pass a token."""
        return sum(self.parts.values())

    @property
    def training(self) -> int:
        """Operations a token of forward and backward pass: three times the forward pass.

        Backwards, each product Y = X W needs two of the same size, for X and for W (the first layer's product
        for X too where X is a learned embedding).
        """
        return 3 * self.forward


def character_flops(hidden: int, n_tokens: int, *, context: int = 12, embedding: int = 16) -> Flops:
    """Return the operations of `character_logits` a prediction: 2 (k e + V) H in the forward pass.

    >>> flops = character_flops(32, 64)
    >>> flops.training == 6 * 32 * (12 * 16 + 64)
    True
    """
    n = context * embedding
    return Flops({"hidden": 2 * n * hidden, "head": 2 * hidden * n_tokens},
                 {"embedding": n_tokens * embedding, "hidden": n * hidden, "head": hidden * n_tokens,
                  "other": hidden + n_tokens})


def transformer_flops(n_tokens: int, *, context: int, dim: int, depth: int, mlp_ratio: int = 4) -> Flops:
    """Return the operations of `models.transformer` a token, at full context.

    A block has 12 d² weights in products for mlp_ratio = 4; attention adds 4 T d operations a token for scores and
    mixing (all T keys are multiplied, the masked ones too); the head 2 V d.

    Args:
        n_tokens: V. context: T. dim: d. depth: blocks. mlp_ratio: hidden units in multiples of d.

    Source: kaplan2020scaling (table 1), where attention's 2 T d are half of what is computed densely.

    >>> flops = transformer_flops(50_257, context=1024, dim=768, depth=12)  # the smallest GPT-2, head untied
    >>> round(flops.training / (6 * sum(flops.parameters.values())), 3)
    0.873
    """
    block = {"qkv": 3 * dim * dim, "projection": dim * dim, "mlp": 2 * mlp_ratio * dim * dim}
    parts = {name: 2 * depth * weights for name, weights in block.items()}
    parts |= {"attention": 4 * depth * context * dim, "head": 2 * n_tokens * dim}
    biases = 3 * dim + dim + (mlp_ratio + 1) * dim
    parameters = {name: depth * weights for name, weights in block.items()} | {
        "embedding": n_tokens * dim, "position": context * dim, "head": n_tokens * dim,
        "other": depth * (biases + 4 * dim) + 2 * dim + n_tokens}
    return Flops(parts, parameters)


@dataclass(frozen=True)
class NoiseScale:
    """Estimates from gradients of m batches: B_noise = tr Σ/|G|² in examples; nan where |G|² comes out negative.

    Attributes:
        trace: tr Σ, the variance of one example's gradient. squared_norm: |G|², of the true gradient.
        scale: their ratio.
    """

    trace: float
    squared_norm: float
    scale: float


def gradient_noise_scale(gradients: Tensor, *, batch: int = 1) -> NoiseScale:
    """Return B_noise = tr Σ/|G|² from the gradients [m, p] of m ≥ 2 independent batches, both parts unbiased.

    tr Σ = batch · Σ_i |g_i − ḡ|²/(m − 1), and |G|² = |ḡ|² − tr Σ/(m · batch).

    Source: mccandlish2018empirical (eq. 2.9, appendix A). Used in: scaling_laws.

    >>> g = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    >>> gradient_noise_scale(g)  # tr Σ = 2, |G|² = 9 − 1
    NoiseScale(trace=2.0, squared_norm=8.0, scale=0.25)
    """
    if gradients.ndim != 2 or len(gradients) < 2:
        raise ValueError(f"need the gradients [m, p] of at least two batches; got {tuple(gradients.shape)}.")
    g = gradients.detach().double()
    trace = batch * torch.var(g, dim=0).sum().item()  # unbiased
    squared = (g.mean(0) ** 2).sum().item() - trace / (len(g) * batch)
    return NoiseScale(trace, squared, trace / squared if squared > 0 else math.nan)
