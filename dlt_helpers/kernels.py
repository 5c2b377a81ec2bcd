"""Kernels of wide networks: their limits in closed form, those of a given network, and what they predict.

A kernel matrix between x1 [n, d] and x2 [m, d] is [n, m], or [n, k, m, k] where every output counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kernels:
    """The two limits of a random network: `nngp` [n, m], covariance of its outputs, and `ntk` [n, m]."""

    nngp: Tensor
    ntk: Tensor


def _relu_pair(k: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Tensor]:
    scale = (q1[:, None] * q2).sqrt()
    cos = (k / scale.clamp(min=torch.finfo(k.dtype).tiny)).clamp(-1, 1)
    angle = math.pi - cos.acos()  # π − θ
    second = scale * ((1 - cos * cos).sqrt() + angle * cos) / (2 * math.pi)
    return second, torch.where(scale > 0, angle / (2 * math.pi), 0.0)


def _erf_pair(k: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Tensor]:
    product = (1 + 2 * q1)[:, None] * (1 + 2 * q2)
    second = (2 / math.pi) * (2 * k / product.sqrt()).clamp(-1, 1).asin()
    return second, (4 / math.pi) * (product - 4 * k * k).rsqrt()


# E[φ(u) φ(v)] and E[φ'(u) φ'(v)] of Gaussian u, v with variances q1, q2 and covariance k; and for u = v.
Moments = Callable[..., tuple[Tensor, Tensor]]
MOMENTS: dict[str, tuple[Moments, Moments]] = {
    "relu": (_relu_pair, lambda q: (q / 2, torch.where(q > 0, 0.5, 0.0).to(q))),
    "erf": (_erf_pair, lambda q: ((2 / math.pi) * (2 * q / (1 + 2 * q)).asin(),
                                  (4 / math.pi) * (1 + 4 * q).rsqrt())),
    "linear": (lambda k, q1, q2: (k, torch.ones_like(k)), lambda q: (q, torch.ones_like(q))),
}


def analytic(x1: Tensor, x2: Tensor | None = None, *, depth: int, activation: str = "relu",
             weight_var: float = 2.0, bias_var: float | None = None) -> Kernels:
    """Return the kernels of `models.mlp(parametrisation="ntk")` as all widths grow: K^L and Θ^L, by recursion.

    K⁰ = σ_w² ⟨x, x'⟩/d + σ_b², K^l = σ_w² E[φ(u) φ(u')] + σ_b² and, with (u, u') ~ N(0, K^{l−1}),
    Θ⁰ = ⟨x, x'⟩/d + 1, Θ^l = E[φ(u) φ(u')] + 1 + σ_w² E[φ'(u) φ'(u')] Θ^{l−1}; the two 1s only with biases.
    A layer is n^-½ W h + b, with W ~ N(0, σ_w²) and b ~ N(0, σ_b²) themselves trained. (Where σ_w and σ_b
    stand outside the trained parameters, W's part of Θ is σ_w² times ours and b's part σ_b² times.)
    Where x2 is None the diagonal is computed apart, and exact; off it, float32 has a relative error of
    about 1e-4 for relu at nearly parallel inputs.

    Args:
        x1, x2: inputs [n, …], flattened; x2 = x1 if None.
        depth: L, the number of hidden layers; 0 is the linear model.
        activation: φ, one of relu, erf, linear.
        weight_var, bias_var: σ_w² and σ_b²; bias_var None: no biases, 0: biases that start at zero.
    Returns:
        Kernels(nngp [n, m], ntk [n, m]), of one output.
    Raises:
        ValueError: unknown activation, negative depth or variance, or inputs of different size.

    Source: [cho2009kernel] (relu), [williams1996computing] (erf), [jacot2018neural]. Used in: infinite_width.

    >>> analytic(torch.eye(2), depth=1).ntk  # off the diagonal: E[φφ'] = 1/(2π) and Θ⁰ = 0
    tensor([[1.0000, 0.1592],
            [0.1592, 1.0000]])
    """
    if activation not in MOMENTS:
        raise ValueError(f"no closed form for {activation!r}; the choices are {', '.join(MOMENTS)}")
    if depth < 0 or weight_var <= 0 or (bias_var or 0) < 0:
        raise ValueError(f"need depth ≥ 0, weight_var > 0 and bias_var ≥ 0; got {depth}, {weight_var}, {bias_var}")
    x1, same = x1.flatten(1), x2 is None
    x2 = x1 if same else x2.flatten(1)
    d, shift, trained = x1.shape[1], bias_var or 0.0, float(bias_var is not None)
    if x2.shape[1] != d:
        raise ValueError(f"inputs of {d} and {x2.shape[1]} entries have no common kernel")
    pair, single = MOMENTS[activation]
    gram, s1, s2 = x1 @ x2.T / d, x1.square().sum(1) / d, x2.square().sum(1) / d    # [n, m], [n], [m]
    k, q1, q2 = (weight_var * s + shift for s in (gram, s1, s2))
    theta, diagonal = gram + trained, s1 + trained
    for _ in range(depth):
        (second, slope), (p1, r1) = pair(k, q1, q2), single(q1)
        theta = second + trained + weight_var * slope * theta
        diagonal = p1 + trained + weight_var * r1 * diagonal
        k, q1, q2 = (weight_var * s + shift for s in (second, p1, single(q2)[0]))
    if same:
        k, theta = torch.diagonal_scatter(k, q1), torch.diagonal_scatter(theta, diagonal)
    return Kernels(k, theta)


def nngp(x1: Tensor, x2: Tensor | None = None, **options) -> Tensor:
    """Return K^L [n, m], the covariance of the outputs of an infinitely wide random network; see `analytic`.

    >>> nngp(2 * torch.eye(1), depth=3)  # σ_w² = 2 keeps the variance 2 · 4 of the first layer
    tensor([[8.]])
    """
    return analytic(x1, x2, **options).nngp


def ntk(x1: Tensor, x2: Tensor | None = None, **options) -> Tensor:
    """Return Θ^L [n, m], the limit of ⟨∇_w f(x), ∇_w f(x')⟩ at infinite width; see `analytic`.

    >>> ntk(torch.ones(1, 1), depth=3)  # (L + 1) |x|²/d for relu with σ_w² = 2 and no biases
    tensor([[4.]])
    """
    return analytic(x1, x2, **options).ntk


# ---- the kernel of a given network


def empirical_ntk(model: nn.Module, x1: Tensor, x2: Tensor | None = None, *, w: Tensor | None = None,
                  outputs: str | int = "full", block: int = 25) -> Tensor:
    """Return Θ(x, x') = J(x) J(x')ᵀ of a `models.mlp`, J = ∂f/∂w, without forming J.

    The gradient of output a in the weights of layer l is an outer product, c_l D_l[a] ⊗ A_{l−1} of a
    back-propagated error and an activation, so that Θ = Σ_l (c_l² A_{l−1} A'_{l−1}ᵀ + b_l²) ∘ (D_l D'_lᵀ) with
    c_l, b_l the layer's multipliers. That costs n² k² Σ_l n_l multiplications instead of n² k² p.

    Args:
        model: of `models.mlp`, in any parametrisation.
        x1, x2: inputs [n, …]; x2 = x1 if None, and then only half of the matrix is computed.
        w: [p] flat weights in the order of `functional.flatten`, instead of the model's own.
        outputs: "full", "trace" for (1/k) Σ_a Θ_aa, or the number of one output.
        block: rows of x1 at a time. Beside the result, memory holds D (k Σ_l n_l numbers a sample) and a few
            blocks of rows of the result, never J (k p numbers a sample).
    Returns:
        [n, k, m, k] for "full", else [n, m], on the device and in the dtype of the weights.
    Raises:
        ValueError: a model that is not a plain MLP, an unknown output, or a block of no rows.

    Source: [novak2022fast], structured derivatives. Used in: infinite_width.

    >>> from dlt_helpers import models
    >>> empirical_ntk(models.mlp([2, 1], bias=False), torch.eye(2), outputs=0)  # f is linear: Θ = ⟨x, x'⟩
    tensor([[1., 0.],
            [0., 1.]])
    """
    layers = _layers(model, w)
    k, like = layers[-1].weight.shape[0], layers[-1].weight
    if not (outputs in ("full", "trace") or (isinstance(outputs, int) and 0 <= outputs < k)) or block < 1:
        raise ValueError(f"outputs is 'full', 'trace' or one of 0 … {k - 1}, and block ≥ 1; got {outputs!r}, {block}")
    seed = torch.eye(k, dtype=like.dtype, device=like.device)  # D of the last layer, the same for all inputs
    seed = seed if isinstance(outputs, str) else seed[outputs][None]                              # [r, k]
    left = _factors(layers, model.activation, x1.to(like), seed)
    right = left if x2 is None else _factors(layers, model.activation, x2.to(like), seed)
    n, m, r = len(x1), len(x1 if x2 is None else x2), len(seed) if outputs == "full" else 1
    kernel = like.new_empty(n, r, m, r)
    for start in range(0, n, block):
        stop, first = min(start + block, n), 0 if x2 is not None else start
        part = _block(left, right, slice(start, stop), slice(first, m), len(seed), r)  # [stop − start, r, m − first, r]
        kernel[start:stop, :, first:] = part
        if x2 is None:  # what lies right of the diagonal block, mirrored below it
            kernel[stop:, :, start:stop] = part[:, :, stop - start:].permute(2, 3, 0, 1)
    return kernel if outputs == "full" else kernel[:, 0, :, 0] / len(seed)


class _Layer(NamedTuple):
    """c W h + b β, with c and b the multipliers; b = 0 where there is no β."""

    weight: Tensor
    beta: Tensor | None
    c: float
    b: float


class _Factor(NamedTuple):
    """What a layer adds to the kernel: its input A [n, n_in] and the error D [n, r, n_out] at its output."""

    A: Tensor
    D: Tensor | None  # None: D is the same for all inputs (the last layer)
    layer: _Layer


def _layers(model: nn.Module, w: Tensor | None) -> list[_Layer]:
    named = dict(model.named_parameters())
    if not (hasattr(model, "layers") and hasattr(model, "activation")):
        raise ValueError(f"empirical_ntk needs a network of models.mlp; got {type(model).__name__}")
    if w is not None:
        sizes = [p.numel() for p in named.values()]
        if w.shape != (sum(sizes),):
            raise ValueError(f"this model has {sum(sizes)} weights; got a vector of shape {tuple(w.shape)}.")
        named = {key: v.view_as(p) for (key, p), v in zip(named.items(), w.split(sizes), strict=True)}
    named = {key: p.detach() for key, p in named.items()}
    found = []
    for i, layer in enumerate(model.layers):
        beta = named.get(f"layers.{i}.bias")
        found.append(_Layer(named[f"layers.{i}.weight"], beta, layer.multiplier,
                            0.0 if beta is None else layer.bias_multiplier))
    return found


def _factors(layers: Sequence[_Layer], phi: Callable, x: Tensor, seed: Tensor) -> list[_Factor]:
    """Return the factors of each layer, by one pass forward and one back for all outputs in `seed` [r, k]."""
    inputs, slopes, h = [], [], x.flatten(1)
    for layer in layers[:-1]:
        inputs.append(h)
        z = layer.c * (h @ layer.weight.T)                                                   # [n, n_l]
        z = z if layer.beta is None else z + layer.b * layer.beta
        with torch.enable_grad():
            z.requires_grad_(True)
            h = phi(z)
            slopes.append(torch.autograd.grad(h.sum(), z)[0])                                # φ'(z) [n, n_l]
        h = h.detach()
    factors, error = [_Factor(h, None, layers[-1])], seed                                    # D_L: [r, k]
    for i in range(len(layers) - 2, -1, -1):
        back = error @ (layers[i + 1].c * layers[i + 1].weight)                              # [(n,) r, n_l]
        error = back * slopes[i][:, None]                                                    # [n, r, n_l]
        factors.append(_Factor(inputs[i], error, layers[i]))
    return factors


def _block(left: list[_Factor], right: list[_Factor], rows: slice, columns: slice, n_seeds: int, r: int) -> Tensor:
    """Return one block of rows of the kernel, [rows, r, columns, r]; r = 1: summed over the outputs seeded."""
    n, m = rows.stop - rows.start, columns.stop - columns.start
    block = left[0].A.new_zeros(n, r, m, r)
    for one, other in zip(left, right, strict=True):
        gram = one.layer.c**2 * (one.A[rows] @ other.A[columns].T) + one.layer.b**2          # [n, m]
        if one.D is None:
            block.diagonal(dim1=1, dim2=3).add_((n_seeds / r) * gram[:, :, None])
            continue
        errors = one.D[rows].reshape(n * r, -1) @ other.D[columns].reshape(m * r, -1).T      # [n r, m r]
        block.addcmul_(errors.view(n, r, m, r), gram[:, None, :, None])
    return block


# ---- what a kernel predicts


def kernel_ridge(k_train_train: Tensor, y: Tensor, k_test_train: Tensor, *, ridge: float = 0.0) -> Tensor:
    """Return K_* (K + λ I)⁻¹ y, the minimiser of Σ_i (f(x_i) − y_i)² + λ |f|²_K at the test inputs.

    λ is added to K as it is (a penalty λ' beside a *mean* over n examples is λ = n λ'). λ = 0 interpolates.

    Args:
        k_train_train: [n, n] symmetric. k_test_train: [m, n]. y: [n] or [n, k].
        ridge: λ ≥ 0.
    Returns:
        [m] or [m, k].
    Raises:
        ValueError: negative λ, or K + λ I is not positive definite.

    Used in: infinite_width.

    >>> kernel_ridge(torch.eye(2), torch.tensor([1.0, 2.0]), torch.ones(1, 2), ridge=1.0)
    tensor([1.5000])
    """
    if ridge < 0:
        raise ValueError(f"ridge is {ridge}; it must not be negative")
    eye = torch.eye(len(y), dtype=k_train_train.dtype, device=k_train_train.device)
    try:
        factor = torch.linalg.cholesky(k_train_train + ridge * eye)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the kernel plus ridge = {ridge} is not positive definite: two inputs coincide, or rounding "
                         "hides its smallest eigenvalues; take a positive ridge, or float64") from error
    coefficients = torch.cholesky_solve(y[:, None] if y.ndim == 1 else y, factor)            # [n, k]
    return (k_test_train @ coefficients).reshape(len(k_test_train), *y.shape[1:])


def predict_at_time(k_train_train: Tensor, y: Tensor, t: float, *, k_test_train: Tensor | None = None,
                    f0_train: Tensor | float = 0.0, f0_test: Tensor | float = 0.0,
                    lr: float | None = None) -> Tensor:
    """Return f_t = f_0 + Θ_* Θ⁻¹ (I − e^{−t Θ/n}) (y − f_0), the linearised network after time t.

    The flow is ẇ = −∇L on L = 1/(2n) Σ_i |f(x_i) − y_i|². With `lr`, t counts steps of gradient descent, and
    (1 − lr λ/n)^t stands for e^{−t λ/n}. t = ∞ is the interpolator closest to the start (on the range of Θ).

    Args:
        k_train_train: Θ [n, n], or [n, k, n, k] for outputs that interact.
        y: [n] or [n, k].
        k_test_train: Θ_* [m, n] or [m, k, n, k]; None: the training inputs themselves.
        f0_train, f0_test: the network at t = 0 there, shaped like y and like the result.
        lr: η, the learning rate of gradient descent; None: the flow.
    Returns:
        [m] or [m, k].
    Raises:
        ValueError: a negative time.

    Source: [lee2019wide]. Used in: infinite_width.

    >>> predict_at_time(torch.eye(1), torch.ones(1), 2.0, lr=0.5)  # the residual halves at each step
    tensor([0.7500])
    """
    if not t >= 0:
        raise ValueError(f"t is {t}; it must not be negative")
    size, n = y.numel(), len(y)
    start = f0_train if k_test_train is None else f0_test
    cross = k_train_train if k_test_train is None else k_test_train
    wide = k_train_train.ndim == 2 and y.ndim == 2  # one kernel for every output
    values, vectors = torch.linalg.eigh(k_train_train.reshape(n, n) if wide else k_train_train.reshape(size, size))
    filtered = _filter(values, t / n if lr is None else t, None if lr is None else lr / n)
    residual = (y - f0_train).reshape(len(values), -1)                                       # [n k, 1] or [n, k]
    change = cross.reshape(-1, len(values)) @ (vectors @ (filtered[:, None] * (vectors.T @ residual)))
    return start + change.reshape(len(cross), *y.shape[1:])


def _filter(values: Tensor, t: float, rate: float | None) -> Tensor:
    """Return (1 − e^{−λt})/λ, or (1 − (1 − rate λ)^t)/λ, with its limit t (rate·t) at λ = 0."""
    small = values <= values.max().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    safe = torch.where(small, 1.0, values)
    left = torch.exp(-safe * t) if rate is None else (1 - rate * safe) ** t
    limit = 0.0 if math.isinf(t) else t if rate is None else rate * t
    return torch.where(small, limit, (1 - left) / safe)
