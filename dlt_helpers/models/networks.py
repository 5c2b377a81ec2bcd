"""Networks small enough for two cores; their weights come from a generator."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ACTIVATIONS, Affine, Block, LayerNorm, choose, draw


def _generator(generator):
    return torch.Generator(device="cpu").manual_seed(0) if generator is None else generator


def num_params(model: nn.Module) -> int:
    """Return the number of trainable weights p of `model`.

    >>> num_params(mlp([196, 32, 32, 1]))
    7393
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class MLP(nn.Module):
    """See `mlp`."""

    def __init__(self, layers, activation):
        super().__init__()
        self.layers, self.activation = nn.ModuleList(layers), activation

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)  # [n, c, h, w] -> [n, d]
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)  # [n, k]


def mlp(sizes, *, activation="tanh", parametrisation="standard", weight_std=1.0, bias_std=1.0, bias=True,
        generator=None) -> nn.Module:
    """Return a fully connected network x ↦ W_L φ(… φ(W_1 x + b_1) …) + b_L; images are flattened.

    Parametrisations, with n the fan-in and N the first hidden width: standard W x + b, all entries
    U(−n^-½, n^-½), which is torch's default for nn.Linear; ntk n^-½ W x + b, all entries N(0, 1); mean_field
    the same with N^-1 in the last layer (one hidden layer); mup and mup_adam, maximal updates under gradient
    descent and under Adam: `layers.scales` has the table.

    Args:
        sizes: [d, N_1, …, k], inputs, hidden units of each layer, outputs.
        activation: φ, one of tanh, relu, leaky_relu, gelu, silu, softplus, erf, linear.
        parametrisation: one of standard, ntk, mean_field, mup, mup_adam.
        weight_std, bias_std: factors on the weights and biases drawn (σ_w and σ_b for ntk).
        bias: whether layers have biases b.
        generator: source of the weights, which are float32 on its device; seeded with 0 if None. For
            float64 draw first and convert then (`mlp(…).double()`), so that both precisions start from the
            same weights.

    Raises:
        ValueError: fewer than two sizes, or an unknown activation or parametrisation.

    Source: [jacot2018neural], [mei2018mean], [yang2021tensor]; used in: edge_of_stability.

    >>> mlp([64, 32, 10])(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    sizes = list(sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes is {sizes}; at least inputs and outputs are needed, such as [784, 100, 10]")
    phi, n_hidden = choose(ACTIVATIONS, activation, "activation"), len(sizes) - 2
    roles = ["input"] * (n_hidden > 0) + ["hidden"] * (n_hidden - 1) + ["output"]
    options = {"parametrisation": parametrisation, "width": sizes[min(1, n_hidden)], "bias": bias,
               "weight_std": weight_std, "bias_std": bias_std, "generator": _generator(generator)}
    layers = [Affine(*pair, role=role, **options) for pair, role in zip(pairwise(sizes), roles, strict=True)]
    return MLP(layers, phi)


def deep_linear(sizes, *, parametrisation="standard", weight_std=1.0, generator=None) -> nn.Module:
    """Return the deep linear network x ↦ W_L ⋯ W_1 x without biases; arguments as in `mlp`.

    >>> num_params(deep_linear([10, 10, 10, 1]))
    210
    """
    return mlp(sizes, activation="linear", parametrisation=parametrisation, weight_std=weight_std, bias=False,
               generator=generator)


class CNN(nn.Module):
    """See `cnn`."""

    def __init__(self, convolutions, readout, activation, pool):
        super().__init__()
        self.convolutions, self.readout = nn.ModuleList(convolutions), readout
        self.activation, self.pool = activation, pool

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = self.pool(self.activation(convolution(x)), 2)  # [n, c, h, w] -> [n, c', h/2, w/2]
        return self.readout(x.flatten(1))  # [n, k]


def cnn(shape, channels, n_out, *, kernel=3, activation="tanh", pool="avg", parametrisation="standard",
        weight_std=1.0, bias_std=1.0, bias=True, generator=None) -> nn.Module:
    """Return a convolutional network: (convolution → φ → 2×2 pooling) for each of `channels`, then linear.

    Args:
        shape: (c, h, w) of the images; pooling halves h and w, rounding down.
        channels: channels after each convolution, such as (6, 12).
        n_out: number of outputs k.
        kernel: side of the kernels, odd; zero padding keeps h and w.
        pool: "avg" or "max".
        activation, parametrisation, weight_std, bias_std, bias, generator: as in `mlp`,
            with fan-in c · kernel².

    Raises:
        ValueError: unknown choice, an even kernel, or images too small for that many poolings.

    Used in: edge_of_stability.

    >>> num_params(cnn((1, 8, 8), (6, 12), 1))
    769
    """
    c, h, w = shape
    side = min(h, w) >> len(channels)
    if kernel % 2 == 0 or side < 1:
        raise ValueError(f"kernel {kernel} must be odd and images {h}×{w} allow {len(channels)} halvings")
    phi = choose(ACTIVATIONS, activation, "activation")
    pooling = choose({"avg": F.avg_pool2d, "max": F.max_pool2d}, pool, "pool")
    options = {"parametrisation": parametrisation, "width": channels[0], "bias": bias,
               "weight_std": weight_std, "bias_std": bias_std, "generator": _generator(generator)}
    convolutions = [Affine(*pair, kernel=kernel, role="hidden" if i else "input", **options)
                    for i, pair in enumerate(pairwise([c, *channels]))]
    features = channels[-1] * (h >> len(channels)) * (w >> len(channels))
    return CNN(convolutions, Affine(features, n_out, role="output", **options), phi, pooling)


class ViT(nn.Module):
    """See `vit`."""

    def __init__(self, shape, n_out, patch, dim, depth, heads, hidden, activation, readout, generator):
        super().__init__()
        c, h, w = shape
        self.patch, self.readout = patch, readout
        n_tokens = (h // patch) * (w // patch) + (readout == "class")
        self.embed = Affine(c * patch**2, dim, generator=generator)
        self.position = draw((n_tokens, dim), dim ** -0.5, uniform=False, generator=generator)
        if readout == "class":
            self.class_token = draw((dim,), dim ** -0.5, uniform=False, generator=generator)
        options = {"activation": activation, "generator": generator}
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, **options) for _ in range(depth)])
        self.norm = LayerNorm(dim, device=generator.device)
        self.head = Affine(dim, n_out, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        p = self.patch
        patches = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c * p * p)
        tokens = self.embed(patches)  # [n, t, dim]
        if self.readout == "class":
            tokens = torch.cat([self.class_token.expand(n, 1, -1), tokens], dim=1)  # [n, 1 + t, dim]
        tokens = tokens + self.position
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.readout == "class" else tokens.mean(dim=1))  # [n, k]


def vit(shape, n_out, *, patch=4, dim=16, depth=1, heads=2, mlp_ratio=2, activation="gelu", readout="mean",
        generator=None) -> nn.Module:
    """Return a vision transformer: patches → tokens + positions → pre-norm blocks → norm → read-out → linear.

    Linear maps start as torch's nn.Linear does, positions and class token as N(0, 1/dim).

    Args:
        shape: (c, h, w) of the images.
        n_out: number of outputs k.
        patch: side of the square patches; it must divide h and w.
        dim, depth, heads: features a token, blocks, heads a block.
        mlp_ratio: hidden units of a block's MLP, in multiples of `dim`.
        activation: of the MLPs, as in `mlp`.
        readout: "mean" over tokens, or "class" for a token of its own.
        generator: as in `mlp`.

    Raises:
        ValueError: unknown choice, or `patch` or `heads` that does not divide.

    Source: [dosovitskiy2021image]; used in: edge_of_stability.

    >>> vit((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch is {patch}; it must divide the image sides {shape[1]} and {shape[2]}")
    choose({"mean": 0, "class": 1}, readout, "readout")
    return ViT(shape, n_out, patch, dim, depth, heads, mlp_ratio * dim, activation, readout,
               _generator(generator))


class Transformer(nn.Module):
    """See `transformer`."""

    def __init__(self, n_tokens, context, dim, depth, heads, hidden, activation, generator):
        super().__init__()
        self.context = context
        self.embed = draw((n_tokens, dim), dim ** -0.5, uniform=False, generator=generator)
        self.position = draw((context, dim), dim ** -0.5, uniform=False, generator=generator)
        options = {"activation": activation, "generator": generator, "causal": True}
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, **options) for _ in range(depth)])
        self.norm = LayerNorm(dim, device=generator.device)
        self.head = Affine(dim, n_tokens, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        t = tokens.shape[1]
        if t > self.context:
            raise ValueError(f"{t} tokens, more than the context of {self.context}")
        x = F.embedding(tokens, self.embed) + self.position[:t]  # [n, t] -> [n, t, dim]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # [n, t, n_tokens]


def transformer(n_tokens, *, context=64, dim=32, depth=2, heads=2, mlp_ratio=4, activation="gelu",
                generator=None) -> nn.Module:
    """Return a decoder-only transformer, tokens [n, t] ↦ logits [n, t, n_tokens] of the token after each.

    Args:
        n_tokens: size of the vocabulary.
        context: greatest t.
        dim, depth, heads, mlp_ratio, activation, generator: as in `vit`.

    Source: [vaswani2017attention] with the norm before each part; used in: scaling_laws.

    >>> transformer(64)(torch.zeros(3, 7, dtype=torch.int64)).shape
    torch.Size([3, 7, 64])
    """
    return Transformer(n_tokens, context, dim, depth, heads, mlp_ratio * dim, activation,
                       _generator(generator))
