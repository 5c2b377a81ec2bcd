"""The layers the networks are made of; every one of them has right derivatives up to the third order."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01 below zero
    "gelu": F.gelu,  # z Φ(z), exact
    "silu": F.silu,  # z / (1 + e^{−z})
    "softplus": F.softplus,
    "erf": torch.erf,
    "linear": lambda z: z,
}
PARAMETRISATIONS = ("standard", "ntk", "mean_field", "mup", "mup_adam")


def choose(table, name: str, what: str):
    """Return `table[name]`, or raise a ValueError that names the choices."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; the choices are {', '.join(table)}")
    return table[name]


class Scales(NamedTuple):
    """Multipliers and standard deviations of one layer, y = multiplier · W x + bias_multiplier · b."""

    multiplier: float
    bias_multiplier: float
    std: float  # of the entries of W
    bias_std: float  # of the entries of b


def scales(parametrisation: str, role: str, n: int, width: int) -> Scales:
    """Return multipliers and standard deviations of a layer with fan-in n in a network of width N.

    | name       | input layer                  | hidden layer          | output layer            | rate |
    |------------|------------------------------|-----------------------|-------------------------|------|
    | standard   | W x + b, U(−n^-½, n^-½)      | the same              | the same                |      |
    | ntk        | n^-½ W x + b, N(0, 1)        | the same              | the same                | O(1) |
    | mean_field | n^-½ W x + b, N(0, 1)        | (none)                | n^-1 W x + b, N(0, 1)   | O(N) |
    | mup        | √(N/n) W x + √N b, N(0, 1/N) | W x + √N b, N(0, 1/n) | n^-½ W x + b, N(0, 1/n) | O(1) |
    | mup_adam   | n^-½ W x + b, N(0, 1)        | n^-1 W x + b, N(0, n) | n^-1 W x + b, N(0, 1)   | O(1) |

    Formula and distribution of W; "rate" is the order in N of the learning rate (of Adam for mup_adam, of
    gradient descent else) at which features or kernel move by O(1). Hidden biases are drawn from the input
    layer's distribution; the output bias of mean_field, mup and mup_adam starts at 0.

    Args:
        parametrisation: one of PARAMETRISATIONS.
        role: "input", "hidden" or "output".
        n: fan-in of the layer.
        width: N, the number of units of the first hidden layer.

    Raises:
        ValueError: unknown parametrisation, or a hidden layer in mean_field.

    Source: standard: torch.nn.Linear; ntk: [jacot2018neural]; mean_field: [mei2018mean]; mup:
    [yang2021tensor]; mup_adam: [yang2022tensor], written as multipliers so that one rate serves all layers.
    """
    N, is_output = width, role == "output"
    if parametrisation == "standard":
        return Scales(1.0, 1.0, (3 * n) ** -0.5, (3 * n) ** -0.5)
    if parametrisation == "ntk":
        return Scales(n**-0.5, 1.0, 1.0, 1.0)
    if parametrisation == "mean_field" and role == "hidden":
        raise ValueError("mean_field is for one hidden layer: with more, random weights average to zero; "
                         "'mup' is its counterpart for deep networks")
    if parametrisation == "mean_field":
        return Scales(1 / n, 1.0, 1.0, 0.0) if is_output else Scales(n**-0.5, 1.0, 1.0, 1.0)
    if parametrisation == "mup":
        multiplier = {"input": (N / n) ** 0.5, "hidden": 1.0, "output": n**-0.5}[role]
        std = N**-0.5 if role == "input" else n**-0.5
        return Scales(multiplier, 1.0, std, 0.0) if is_output else Scales(multiplier, N**0.5, std, N**-0.5)
    if parametrisation == "mup_adam":
        multiplier = n**-0.5 if role == "input" else 1 / n
        return Scales(multiplier, 1.0, n**0.5 if role == "hidden" else 1.0, 0.0 if is_output else 1.0)
    raise ValueError(f"parametrisation is {parametrisation!r}; the choices are {', '.join(PARAMETRISATIONS)}")


def draw(shape, std: float, *, uniform: bool, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter of independent entries, uniform on ±√3 std or Gaussian with deviation `std`."""
    values = torch.empty(shape, dtype=torch.float32, device=generator.device)
    if uniform:
        values.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
    else:
        values.normal_(0.0, 1.0, generator=generator).mul_(std)
    return nn.Parameter(values)


class Affine(nn.Module):
    """A linear map with bias whose parametrisation is explicit: y = multiplier · W x + bias_multiplier · b.

    W x is a matrix product, [..., n_in] -> [..., n_out], or with `kernel` a convolution that keeps height
    and width, [n, n_in, h, w] -> [n, n_out, h, w] (zero padding, odd kernel, fan-in n_in · kernel²).

    Args:
        n_in, n_out: features, or channels.
        kernel: side of the convolution's kernel; None for a matrix.
        role, width, parametrisation: see `scales`.
        weight_std, bias_std: factors on the weights and biases drawn.
        bias: whether there is a b.
        generator: source of the weights; they are made on its device.
    """

    def __init__(self, n_in, n_out, *, generator, kernel=None, role="hidden", width=None,
                 parametrisation="standard", weight_std=1.0, bias_std=1.0, bias=True):
        super().__init__()
        fan_in = n_in * (kernel or 1) ** 2
        scale = scales(parametrisation, role, fan_in, width or n_out)
        self.multiplier, self.bias_multiplier = scale.multiplier, scale.bias_multiplier
        self.kernel, shape = kernel, (n_out, n_in) + (() if kernel is None else (kernel, kernel))
        options = {"uniform": parametrisation == "standard", "generator": generator}
        self.weight = draw(shape, weight_std * scale.std, **options)
        self.bias = draw((n_out,), bias_std * scale.bias_std, **options) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.multiplier != 1:
            weight = self.multiplier * weight
        if bias is not None and self.bias_multiplier != 1:
            bias = self.bias_multiplier * bias
        if self.kernel is None:
            return F.linear(x, weight, bias)  # [..., n_in] -> [..., n_out]
        return F.conv2d(x, weight, bias, padding=self.kernel // 2)  # [n, n_in, h, w] -> [n, n_out, h, w]


class LayerNorm(nn.Module):
    """Returns γ (x − mean) / √(variance + eps) + β over the last axis, from elementary operations.

    The variance is the biased one, as in torch.nn.LayerNorm. That one is fused, and in torch 2.13 its third
    derivatives are wrong by tens of per cent, which the flows would take for truth.
    """

    def __init__(self, n: int, *, eps: float = 1e-5, device=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n, device=device))
        self.bias = nn.Parameter(torch.zeros(n, device=device))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return self.weight * centred * torch.rsqrt(variance + self.eps) + self.bias


class Attention(nn.Module):
    """Multi-head self-attention softmax(Q Kᵀ/√d_head) V from plain products: [n, t, d] -> [n, t, d].

    Args:
        dim: d, features a token.
        heads: number of heads; it must divide d.
        causal: a token sees only itself and the tokens before it.
        generator: source of the weights.
    """

    def __init__(self, dim, heads, *, generator, causal=False):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads is {heads}; it must divide dim = {dim}")
        self.heads, self.causal = heads, causal
        self.qkv = Affine(dim, 3 * dim, generator=generator)
        self.out = Affine(dim, dim, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads)  # [n, t, 3, heads, d_head]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 × [n, heads, t, d_head]
        scores = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)  # [n, heads, t, t]
        if self.causal:
            future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        mixed = torch.softmax(scores, dim=-1) @ v  # [n, heads, t, d_head]
        return self.out(mixed.transpose(1, 2).reshape(n, t, d))  # [n, t, d]


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); [n, t, d] -> [n, t, d]."""

    def __init__(self, dim, heads, hidden, *, activation, generator, causal=False):
        super().__init__()
        self.activation = choose(ACTIVATIONS, activation, "activation")
        self.norm_attention = LayerNorm(dim, device=generator.device)
        self.attention = Attention(dim, heads, generator=generator, causal=causal)
        self.norm_mlp = LayerNorm(dim, device=generator.device)
        self.up = Affine(dim, hidden, generator=generator)
        self.down = Affine(hidden, dim, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.down(self.activation(self.up(self.norm_mlp(x))))
