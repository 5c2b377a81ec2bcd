"""Two-layer networks as clouds of particles, with one parameter between the mean-field and the kernel scaling.

f(x) = (γ/N) Σ_j a_j φ(⟨w_j, x⟩): γ = 1 is the mean-field scaling, γ = √N the one of the tangent kernel. Time is
counted so that at every γ the outputs move at the same speed at the start: θ̇ = −(N/γ²) ∇R̂.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PHI: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {  # φ, φ'
    "relu": (torch.relu, lambda z: (z > 0).to(z)),
    "erf": (torch.erf, lambda z: (2 / math.sqrt(math.pi)) * torch.exp(-z * z)),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z).square()),
}


@dataclass(frozen=True)
class Particles:
    """The hidden units θ_j = (a_j, w_j) of one network: `a` [N] and `w` [N, d]."""

    a: Tensor
    w: Tensor


@dataclass(frozen=True)
class TwoLayerRun:
    """What a run left behind; one row for each recorded time.

    Attributes:
        times: [m]. train: R̂ [m]. test: ½ mean (f − f*)² [m] on the test inputs, nan without any.
        overlap: Σ|a_j| |⟨w_j, w*⟩| / Σ|a_j| |w_j| [m], nan without a direction w*.
        size: (1/N) Σ |a_j| [m], and the mean-field bound on f's complexity is γ times this.
        outputs: f on the training inputs [m, n]. test_outputs: on the test inputs [m, n_test] or None.
        particles: of each recorded time if `keep`, else of the last.
        steps: gradient evaluations taken.
    """

    times: Tensor
    train: Tensor
    test: Tensor
    overlap: Tensor
    size: Tensor
    outputs: Tensor
    test_outputs: Tensor | None
    particles: list[Particles]
    steps: int


def particles(N: int, d: int, *, generator: torch.Generator, balanced: bool = True, sphere: bool = True,
              a: str = "sign") -> Particles:
    """Return N particles: w_j uniform on the unit sphere (or N(0, I/d)), a_j = ±1 or N(0, 1).

    Balanced: the second half repeats the w_j of the first with the opposite a_j, so that f = 0 exactly while
    every pair is as random as two single particles; N must be even.

    Args:
        sphere: False for w_j ~ N(0, I/d).
        a: "sign" or "normal".
    Returns:
        Particles on the generator's device, float32.
    Raises:
        ValueError: an odd N with `balanced`, or an unknown law of a.

    Used in: infinite_width.

    >>> start = particles(4, 3, generator=torch.Generator().manual_seed(0))
    >>> bool((start.a[:2] == -start.a[2:]).all()), bool((start.w[:2] == start.w[2:]).all())
    (True, True)
    """
    if balanced and N % 2:
        raise ValueError(f"balanced particles come in pairs, and N = {N} is odd")
    if a not in ("sign", "normal"):
        raise ValueError(f"a is {a!r}; the choices are 'sign' and 'normal'")
    count, options = N // 2 if balanced else N, {"generator": generator, "device": generator.device}
    w = torch.randn(count, d, **options)
    w = torch.nn.functional.normalize(w) if sphere else w / math.sqrt(d)
    values = torch.randn(count, **options)
    values = values.sign() if a == "sign" else values
    return Particles(torch.cat([values, -values]), torch.cat([w, w])) if balanced else Particles(values, w)


def outputs(at: Particles, x: Tensor, *, activation: str = "relu", gamma: float = 1.0) -> Tensor:
    """Return f(x_i) = (γ/N) Σ_j a_j φ(⟨w_j, x_i⟩) [n] for x [n, d].

    >>> outputs(Particles(torch.tensor([1.0, 3.0]), torch.eye(2)), torch.tensor([[2.0, -1.0]]))
    tensor([1.])
    """
    return (gamma / len(at.a)) * (_phi(activation)[0](x @ at.w.T) @ at.a)


def tangent_kernel(at: Particles, x: Tensor, *, activation: str = "relu", sphere: bool = True,
                   train_a: bool = True) -> Tensor:
    """Return K = (N/γ²) J Jᵀ = (1/N) Σ_j ∇φ_j(x) · ∇φ_j(x') [n, n], ∇ in (a_j, w_j): the same for every γ.

    In time t the residual r = f − y obeys ṙ = −K r / n. On the sphere ∇ is tangential.

    >>> tangent_kernel(Particles(torch.ones(1), torch.tensor([[1.0, 0.0]])), torch.eye(2))  # φ only: w ∥ x_1
    tensor([[1., 0.],
            [0., 0.]])
    """
    phi, slope = _phi(activation)
    z = x @ at.w.T                                                                           # [n, N]
    moved = at.a * slope(z)                                                                  # a_j φ'(z)
    kernel = (moved @ moved.T) * (x @ x.T)
    if sphere:
        radial = moved * z / at.w.norm(dim=1)
        kernel = kernel - radial @ radial.T
    if train_a:
        kernel = kernel + phi(z) @ phi(z).T
    return kernel / len(at.a)


def train_two_layer(start: Particles, x: Tensor, y: Tensor, *, times: Sequence[float], gamma: float = 1.0,
                    activation: str = "relu", sphere: bool = True, train_a: bool = True, max_step: float = 0.5,
                    safety: float = 0.8, refresh: int = 50, x_test: Tensor | None = None,
                    y_test: Tensor | None = None, direction: Tensor | None = None,
                    keep: bool = False) -> TwoLayerRun:
    """Return the run of θ̇ = −(N/γ²) ∇R̂ from `start`, by gradient descent with an adaptive step in time.

    R̂ = 1/(2n) Σ_i (f(x_i) − y_i)². The step is min(max_step, safety/λ) with λ the greatest eigenvalue of K/n,
    by power iteration, renewed every `refresh` steps: the edge of stability is at 2/λ, and a fixed step that
    is safe at the start is not safe later. A step ends at every time to record.

    Args:
        start: Particles; x [n, d], y [n] the training set.
        times: increasing times to record at; 0 may be among them.
        gamma: γ in f = (γ/N) Σ a_j φ(⟨w_j, x⟩).
        activation: φ, one of relu, erf, tanh.
        sphere: keep |w_j| as they are (tangential gradient, then the length restored).
        train_a: False freezes the a_j.
        x_test, y_test: inputs and *noiseless* targets of the test error.
        direction: w* [d] of the overlap.
        keep: keep the particles of every recorded time.
    Returns:
        TwoLayerRun.
    Raises:
        ValueError: unknown activation, times that do not increase, or γ ≤ 0.
        FloatingPointError: the loss is not finite.

    Source: scalings of [mei2018mean] and [chizat2019lazy]. Used in: infinite_width.

    >>> at = Particles(torch.ones(1), torch.ones(1, 1))
    >>> run = train_two_layer(at, torch.ones(1, 1), 2 * torch.ones(1), times=[50.0])  # a φ(1) → 2
    >>> round(run.outputs[-1].item(), 3)
    2.0
    """
    phi, slope = _phi(activation)
    if gamma <= 0 or any(b <= a for a, b in zip([-1.0, *times], times, strict=False)) or min(times) < 0:
        raise ValueError(f"need γ > 0 and increasing times ≥ 0; got γ = {gamma} and {list(times)}")
    a, w, n = start.a.clone(), start.w.clone(), len(x)
    length = w.norm(dim=1, keepdim=True)                                                     # [N, 1]
    now, step, steps, rows, kept = 0.0, 0.0, 0, [], []
    probe = torch.ones_like(y)
    for time in times:
        while now < time:
            z = x @ w.T                                                                      # [n, N]
            active, moved = phi(z), slope(z) * a
            if steps % refresh == 0:
                top, probe = _top(active, moved, x, w / length if sphere else None, train_a, probe)
                step = min(max_step, safety * n / top)
            r = (gamma / len(a)) * (active @ a) - y                                          # [n]
            if not torch.isfinite(r.square().sum()):
                raise FloatingPointError(f"the loss is not finite at t = {now:.3g}; take a smaller max_step")
            dt = min(step, time - now)
            rate = dt / (n * gamma)
            a, old = a - rate * (active.T @ r) if train_a else a, w
            change = (moved * r[:, None]).T @ x                                              # [N, d]
            if sphere:
                change = change - (change * old).sum(1, keepdim=True) * old / length.square()
            w = old - rate * change
            w = w * (length / w.norm(dim=1, keepdim=True)) if sphere else w
            now, steps = time if time - now <= step else now + step, steps + 1
        rows.append(_record(Particles(a, w), x, y, x_test, y_test, direction, activation, gamma))
        kept = [*kept, Particles(a, w)] if keep else [Particles(a, w)]
    train, test, overlap, size, f, f_test = zip(*rows, strict=True)
    stamps = torch.tensor(list(times), dtype=x.dtype, device=x.device)
    return TwoLayerRun(stamps, *map(torch.stack, (train, test, overlap, size, f)),
                       None if x_test is None else torch.stack(f_test), kept, steps)


def _phi(activation: str) -> tuple[Callable, Callable]:
    if activation not in PHI:
        raise ValueError(f"activation is {activation!r}; the choices are {', '.join(PHI)}")
    return PHI[activation]


def _top(active: Tensor, moved: Tensor, x: Tensor, unit: Tensor | None, train_a: bool, probe: Tensor,
         iterations: int = 8) -> tuple[float, Tensor]:
    """Return the greatest eigenvalue of K and its vector, by power iteration from `probe`, without forming K."""
    for _ in range(iterations):
        probe = probe / probe.norm()
        change = (moved * probe[:, None]).T @ x                                              # Jᵀ probe, [N, d]
        if unit is not None:
            change = change - (change * unit).sum(1, keepdim=True) * unit
        image = (moved * (x @ change.T)).sum(1)                                              # [n]
        if train_a:
            image = image + active @ (active.T @ probe)
        probe = image / active.shape[1]
    return float(probe.norm().clamp(min=1e-12)), probe


def _record(at: Particles, x, y, x_test, y_test, direction, activation, gamma):
    f = outputs(at, x, activation=activation, gamma=gamma)
    nothing = f.new_full((), math.nan)
    f_test = None if x_test is None else outputs(at, x_test, activation=activation, gamma=gamma)
    test = nothing if x_test is None else 0.5 * (f_test - y_test).square().mean()
    weight, overlap = at.a.abs(), nothing
    if direction is not None:
        overlap = (weight * (at.w @ direction).abs()).sum() / (weight * at.w.norm(dim=1)).sum()
    return 0.5 * (f - y).square().mean(), test, overlap, weight.mean(), f, f_test
