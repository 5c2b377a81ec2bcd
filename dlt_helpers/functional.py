"""The training objective as a function of one flat weight vector, and its derivatives up to order three.

Every instrument of the book (Hessian, flows, optimisers) needs only `loss(w)` with `w` [p].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus
from torch.utils.checkpoint import checkpoint

Loss = Callable[[Tensor], Tensor]  # w [p] -> scalar

# Distance |h u| of the two probes of the central difference, by precision: see `third_derivative`.
DIFFERENCE_STEP = {torch.float32: 1e-2, torch.float64: 1e-4}


def flatten(model: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return f with f(w, x) = model(x) at flat weights w [p], and the model's own weights w0 [p].

    The order of the weights is that of `model.named_parameters()`, which is also that of
    `torch.nn.utils.parameters_to_vector`. The model is not changed: f substitutes views of `w` for its
    parameters (buffers stay the model's own).

    Args:
        model: any module with floating-point parameters of one dtype; a shared parameter counts once.
    Returns:
        f: (w [p], x) -> outputs, differentiable in w to any order the layers support.
        w0: [p] a detached copy, on the device and in the dtype of the model.
    Raises:
        ValueError: the model has no parameters.

    Used in every chapter that measures curvature.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> f, w0 = flatten(model)
    >>> f(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 2.0]]))
    tensor([[11.]])
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError("flatten needs a model with parameters, and this one has none.")
    names, shapes = list(parameters), [p.shape for p in parameters.values()]
    sizes = [p.numel() for p in parameters.values()]
    w0 = torch.cat([p.detach().reshape(-1) for p in parameters.values()])  # [p]

    def f(w: Tensor, x: Tensor) -> Tensor:
        if w.shape != w0.shape:
            raise ValueError(f"this model has {len(w0)} weights; got a vector of shape {tuple(w.shape)}.")
        views = {n: part.view(s) for n, part, s in zip(names, w.split(sizes), shapes, strict=True)}
        return functional_call(model, views, (x,))

    return f, w0


def _square(out: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (out - y).square().sum()


def _logistic(out: Tensor, y: Tensor) -> Tensor:
    return softplus(-y * out).sum()


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(out, y, reduction="sum")


LOSSES = {"square": _square, "logistic": _logistic, "cross_entropy": _cross_entropy}  # sums over examples


def empirical_risk(f: Callable, x: Tensor, y: Tensor, *, loss: str = "square",
                   chunk: int | None = None) -> Loss:
    """Return loss(w) = (1/n) Σ_i ℓ(f(w, x_i), y_i), a function of the flat weights alone.

    square: ℓ = ½ ‖f − y‖², the *sum* over outputs, so L = 1/(2n) Σ_i ‖f(x_i; w) − y_i‖²
    (`nn.MSELoss` is larger by 2/outputs, and so would be every sharpness).
    cross_entropy: natural logarithm, integer labels y [n]. logistic: ℓ = log(1 + exp(−y f)), y = ±1.

    Args:
        f: (w [p], x) -> outputs [n, k].
        x, y: [n, …] examples; y has the shape of the outputs, except for cross_entropy: [n] int64.
        chunk: examples evaluated at a time; their activations are then recomputed in the backward pass,
            which bounds the memory of a gradient at the price of one more forward pass (a retained graph of
            second derivatives keeps all of them anyway).
    Raises:
        ValueError: unknown loss, no examples, or outputs and targets of different shapes.

    Used in every chapter that trains.

    >>> risk = empirical_risk(lambda w, x: x @ w[:, None], torch.eye(2), torch.zeros(2, 1))
    >>> risk(torch.tensor([2.0, 0.0]))  # ½ · mean of (4, 0)
    tensor(1.)
    """
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(LOSSES)}.")
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"need as many targets as examples, and at least one; got {len(x)} and {len(y)}.")
    total = LOSSES[loss]

    def part(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        out = f(w, x)
        if loss != "cross_entropy" and out.shape != y.shape:
            raise ValueError(f"outputs {tuple(out.shape)} and targets {tuple(y.shape)} differ in shape.")
        return total(out, y)

    def risk(w: Tensor) -> Tensor:
        if chunk is None or chunk >= len(x):
            return part(w, x, y) / len(x)
        parts = zip(x.split(chunk), y.split(chunk), strict=True)
        return sum(checkpoint(part, w, a, b, use_reentrant=False) for a, b in parts) / len(x)

    return risk


def value_and_grad(loss: Loss, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return L(w) (scalar) and g = ∇L(w) [p], both detached: the unit in which costs are counted.

    >>> value_and_grad(lambda w: (w ** 2).sum(), torch.tensor([1.0, 3.0]))
    (tensor(10.), tensor([2., 6.]))
    """
    with torch.enable_grad():
        w = w.detach().requires_grad_(True)
        value = loss(w)
        (grad,) = torch.autograd.grad(value, w)
    return value.detach(), grad


@dataclass(frozen=True)
class Derivatives:
    """L(w), g = ∇L(w) [p] and v ↦ H(w) v, sharing one retained graph.

    Attributes:
        value: scalar, detached. grad: [p], detached.
    The graph lives as long as this object does.
    """

    value: Tensor
    grad: Tensor
    _w: Tensor = field(repr=False)
    _graph: Tensor = field(repr=False)  # ∇L(w) with its graph

    def hvp(self, v: Tensor) -> Tensor:
        """Return H v for v [p], or H V for V [p, k], by differentiating gᵀv again (reverse over reverse)."""
        if v.ndim == 2:
            return torch.stack([self.hvp(column) for column in v.unbind(1)], dim=1)  # [p, k]
        if not self._graph.requires_grad:  # a loss linear in w
            return torch.zeros_like(v)
        return torch.autograd.grad(self._graph, self._w, v, retain_graph=True, materialize_grads=True)[0]


def derivatives(loss: Loss, w: Tensor) -> Derivatives:
    """Return L(w), ∇L(w) and the product v ↦ ∇²L(w) v from a single forward pass.

    The graph of the gradient is built once and kept, so that each Hessian-vector product costs one backward
    pass through it (not much more than a gradient) instead of a new forward pass and two backward ones.

    Args:
        loss: w [p] -> scalar, twice differentiable by autograd.
        w: [p]; not changed.
    Returns:
        Derivatives(value, grad [p], hvp).

    Source: Pearlmutter 1994. Used in: edge_of_stability.

    >>> d = derivatives(lambda w: w[0] ** 2 * w[1], torch.tensor([1.0, 2.0]))  # H = [[4, 2], [2, 0]]
    >>> d.hvp(torch.tensor([1.0, 0.0]))
    tensor([4., 2.])
    """
    with torch.enable_grad():
        w = w.detach().requires_grad_(True)
        value = loss(w)
        (graph,) = torch.autograd.grad(value, w, create_graph=True)
    return Derivatives(value.detach(), graph.detach(), w, graph)


def third_derivative(loss: Loss, w: Tensor, u: Tensor, v: Tensor | None = None, *,
                     method: str = "difference", grad: Tensor | None = None,
                     step: float | None = None) -> Tensor:
    """Return ∇_w [uᵀ H(w) v] [p], with u and v held fixed (v = u if not given).

    difference, u = v: (g(w + h u) − 2 g(w) + g(w − h u)) / h², two gradients besides g(w).
    difference, u ≠ v: polarisation, T[u,v] = ¼ (T[u+v,u+v] − T[u−v,u−v]), four gradients and no g(w).
    autograd: reverse mode three times, exact where every layer's third derivative is (the fused layer_norm
    and batch_norm of torch 2.13 are silently wrong at order three; the difference is not affected).

    Args:
        u, v: [p], of any length.
        grad: g(w) [p] if known; saves one gradient when u = v.
        step: distance |h u| in weight space; by default `DIFFERENCE_STEP`, 1e-2 in float32 and 1e-4 in
            float64, where rounding (∝ 1/h²) and truncation (∝ h²) balanced in a scan over the book's
            networks at standard scale: relative error at most 1e-3 and 5e-8 there.
    Raises:
        ValueError: unknown method, or a dtype without a default step.

    Used in: edge_of_stability (central flow).

    >>> w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> third_derivative(lambda w: w[0] ** 2 * w[1], w, u, method="autograd")  # uᵀHu = 2 w_1
    tensor([0., 2.], dtype=torch.float64)
    """
    if method == "autograd":
        return _third_by_autograd(loss, w, u, u if v is None else v)
    if method != "difference":
        raise ValueError(f"unknown method {method!r}: use 'difference' or 'autograd'.")
    if step is None and w.dtype not in DIFFERENCE_STEP:
        raise ValueError(f"no default step for {w.dtype}: pass step=, or use float32 or float64 weights.")
    step = DIFFERENCE_STEP[w.dtype] if step is None else step
    scale_u, scale_v = u.norm(), (u if v is None else v).norm()
    if scale_u == 0 or scale_v == 0:
        return torch.zeros_like(w)

    def g(direction: Tensor) -> Tensor:
        return value_and_grad(loss, w + direction)[1]

    if v is None:
        hu = (step / scale_u) * u
        g0 = value_and_grad(loss, w)[1] if grad is None else grad
        return (g(hu) - 2 * g0 + g(-hu)) * (scale_u / step) ** 2
    h = step / math.sqrt(2)  # |h(u ± v)| is about `step` for unit u ⊥ v
    hu, hv = (h / scale_u) * u, (h / scale_v) * v
    return (g(hu + hv) + g(-hu - hv) - g(hu - hv) - g(hv - hu)) * (scale_u * scale_v / (4 * h * h))


def _third_by_autograd(loss: Loss, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return ∇_w [uᵀ H(w) v] by three reverse passes that share one graph."""
    with torch.enable_grad():
        w = w.detach().requires_grad_(True)
        out = loss(w)
        for direction in (u, v, None):  # L -> uᵀg -> uᵀHv -> ∇(uᵀHv)
            if not out.requires_grad:
                return torch.zeros_like(w)
            (slope,) = torch.autograd.grad(out, w, create_graph=direction is not None, materialize_grads=True)
            out = slope if direction is None else slope @ direction
    return out.detach()
