"""Gradient descent on deep factorisations of many problems at once: plain, with momentum, normalised, Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import network
from .problems import Problem, train_loss, unseen_loss

METHODS = ("gd", "normalised", "adam")


@dataclass(frozen=True)
class Descent:
    """Where gradient descent ended; a leading axis [P] where there were several problems.

    Attributes:
        W: the matrix found [..., m, m'].
        factors: W_1 … W_L.
        train, unseen: the two losses at the end [...].
        train_curve, unseen_curve: the same before each recorded step [..., steps // every], nan-free.
    """

    W: Tensor
    factors: tuple[Tensor, ...]
    train: Tensor
    unseen: Tensor
    train_curve: Tensor
    unseen_curve: Tensor


def descend(problem: Problem, factors: Sequence[Tensor], *, lr: float, steps: int, method: str = "gd",
            momentum: float = 0.0, nesterov: bool = False, activation: Callable | None = None,
            normalise: bool = False, decay: bool = False, every: int | None = None) -> Descent:
    """Return the end of W_j ← W_j − η ∂L_train/∂W_j, every problem with its own factors, in one batch.

    Args:
        problem: one, or several with a leading axis.
        factors: W_1 … W_L at the start, with the same leading axis.
        lr: η.
        method: "gd"; "normalised": each problem's gradient divided by its root mean square over all weights
            (one rate for all of them, which crosses plateaus); "adam": by entry, (β₁, β₂) = (momentum, 0.999).
        momentum: β of heavy ball, v ← βv + g, W ← W − ηv; of Nesterov's form, W ← W − η(g + βv), with `nesterov`.
            For "adam" it is β₁.
        activation, normalise: of the network, as in `network`.
        decay: let η fall linearly to zero over the second half of the steps.
        every: record the losses every so many steps (default: 100 times).

    Raises:
        ValueError: for an unknown method.

    Source: alexander2025neural. Used in: matrix_factorization.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} should be one of {', '.join(METHODS)}")
    weights = [f.detach().clone().requires_grad_(True) for f in factors]
    step = _rule(method, momentum, nesterov, weights)
    every, curves = every or max(1, steps // 100), ([], [])
    for t in range(steps):
        W = network(weights, activation, normalise=normalise)
        loss = train_loss(problem, W)                                                 # [...]
        if t % every == 0:
            curves[0].append(loss.detach())
            curves[1].append(unseen_loss(problem, W.detach()))
        gradients = torch.autograd.grad(loss.sum(), weights)
        rate = lr * min(1.0, 2 * (1 - t / steps)) if decay else lr
        with torch.no_grad():
            for w, update in zip(weights, step(gradients, t), strict=True):
                w -= rate * update
    final = tuple(w.detach() for w in weights)
    W = network(final, activation, normalise=normalise)
    return Descent(W, final, train_loss(problem, W), unseen_loss(problem, W),
                   *(torch.stack(curve, -1) for curve in curves))


def _rule(method, beta, nesterov, weights):
    """Return step(gradients, t) -> updates, with its own memory of past gradients."""
    memory = [torch.zeros_like(w) for w in weights]
    squares = [torch.zeros_like(w) for w in weights]

    def adam(gradients, t):
        updates = []
        for g, m, v in zip(gradients, memory, squares, strict=True):
            m.mul_(beta).add_(g, alpha=1 - beta)
            v.mul_(0.999).addcmul_(g, g, value=1e-3)
            updates.append(m / (1 - beta ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8))
        return updates

    def ball(gradients, t):
        if method == "normalised":
            gradients = _normalised(gradients)
        if not beta:
            return gradients
        for g, m in zip(gradients, memory, strict=True):
            m.mul_(beta).add_(g)
        return [g + beta * m for g, m in zip(gradients, memory, strict=True)] if nesterov else memory

    return adam if method == "adam" else ball


def _normalised(gradients):
    """Divide each problem's gradient by its root mean square over all weights."""
    squares = sum(g.square().sum((-2, -1), keepdim=True) for g in gradients)          # [..., 1, 1]
    count = sum(g.shape[-2] * g.shape[-1] for g in gradients)
    rms = (squares / count).sqrt().clamp_min(1e-30)
    return [g / rms for g in gradients]
