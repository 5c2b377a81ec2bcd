"""Curves through weight space: the segment between two networks, and a bent one along which the loss stays low."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlt_helpers import train
from dlt_helpers.functional import Loss


@dataclass(frozen=True)
class Curve:
    """The quadratic Bézier curve t ↦ (1 − t)² start + 2 t (1 − t) bend + t² end, 0 ≤ t ≤ 1.

    Attributes:
        start, end: [p] its ends. bend: [p] its control point, which it does not pass through.
    """

    start: Tensor
    bend: Tensor
    end: Tensor

    def __call__(self, t: Tensor | float) -> Tensor:
        """Return the point at t (a number: [p]) or the points at t [m]: [m, p]."""
        t = torch.as_tensor(t, device=self.start.device, dtype=self.start.dtype)
        s = t[:, None] if t.ndim else t
        return (1 - s) ** 2 * self.start + 2 * s * (1 - s) * self.bend + s**2 * self.end

    def length(self, *, pieces: int = 100) -> Tensor:
        """Return the length of the curve, as that of a polygon with so many sides."""
        t = torch.linspace(0, 1, pieces + 1, device=self.start.device, dtype=self.start.dtype)
        return self(t).diff(dim=0).norm(dim=1).sum()


def segment(start: Tensor, end: Tensor) -> Curve:
    """Return the straight segment t ↦ (1 − t) start + t end as a Curve.

    Used in: landscape.

    >>> segment(torch.zeros(2), torch.ones(2))(0.25)
    tensor([0.2500, 0.2500])
    """
    if start.shape != end.shape or start.ndim != 1:
        raise ValueError(f"both ends must have one shape [p]; got {tuple(start.shape)} and {tuple(end.shape)}.")
    return Curve(start, (start + end) / 2, end)


def connect(batch_loss: Callable[[Tensor, Tensor], Tensor], start: Tensor, end: Tensor, *, n: int,
            batch_size: int, lr: float, steps: int, generator: torch.Generator,
            momentum: float = 0.9) -> Curve:
    """Return the Bézier curve from start to end whose bend minimises E_t L(curve(t)), t uniform on [0, 1].

    The bend starts on the segment. A step of stochastic gradient descent draws one t and one batch; both ends
    stay where they are.

    Args:
        batch_loss: (w [p], indices [batch_size]) -> scalar, as for `train.sgd`.
        start, end: [p] trained weights.
        n, batch_size, lr, steps, momentum: as for `train.sgd`.
        generator: draws batches and t.
    Raises:
        ValueError: ends of different shapes, options out of range.
        RuntimeError: the fit diverged.

    Source: Garipov et al. 2018. Used in: landscape.

    >>> ring = lambda w, batch: (w @ w - 1) ** 2  # its minima are a circle
    >>> ends = torch.tensor([1.0, 0.01]), torch.tensor([-1.0, 0.01])
    >>> curve = connect(ring, *ends, n=1, batch_size=1, lr=0.05, steps=300, generator=torch.Generator())
    >>> barrier(profile(lambda w: ring(w, None), curve)).item() < 0.1  # on the segment it is 1
    True
    """
    line = segment(start, end)

    def at_random_t(bend: Tensor, batch: Tensor) -> Tensor:
        t = torch.rand((), generator=generator, device=generator.device).to(bend)
        return batch_loss(Curve(start, bend, end)(t), batch)

    fit = train.sgd(at_random_t, line.bend, n=n, batch_size=batch_size, lr=lr, steps=steps, momentum=momentum,
                    generator=generator)
    if fit.diverged:
        raise RuntimeError(f"the curve diverged at lr = {lr}: use a smaller learning rate.")
    return Curve(start, fit.w, end)


def profile(loss: Loss, curve: Curve, *, points: int = 41) -> Tensor:
    """Return the loss at equally spaced t along the curve, ends included: [points].

    `loss` may be any function of the weights, such as an error rate.

    Used in: landscape.

    >>> profile(lambda w: w @ w, segment(torch.tensor([-1.0]), torch.tensor([1.0])), points=3)
    tensor([1., 0., 1.])
    """
    if points < 2:
        raise ValueError(f"need at least the two ends; got points = {points}.")
    t = torch.linspace(0, 1, points, device=curve.start.device, dtype=curve.start.dtype)
    with torch.no_grad():
        return torch.stack([torch.as_tensor(loss(curve(s)), device=t.device) for s in t])


def barrier(values: Tensor) -> Tensor:
    """Return max_t [L(t) − ((1 − t) L(0) + t L(1))] of a profile [m]: 0 if it stays below the chord of its ends.

    Source: Frankle et al. 2020; Entezari et al. 2022. Used in: landscape.

    >>> barrier(torch.tensor([0.0, 3.0, 2.0]))  # the chord is 1 in the middle
    tensor(2.)
    """
    t = torch.linspace(0, 1, len(values), device=values.device, dtype=values.dtype)
    return (values - (1 - t) * values[0] - t * values[-1]).max()
