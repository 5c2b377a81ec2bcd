"""Optimisers on one flat weight vector, with measurements taken along the way.

Each method is written as it is analysed: a step is a few lines in w, the state is explicit, and what is
measured is measured at the midpoints (w₋ + 2w + w₊)/4, where an oscillation of period two cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlt_helpers.functional import Loss, value_and_grad

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Trajectory:
    """What a run left behind.

    Attributes:
        w: [p] the last iterate. lr: learning rate.
        losses: [steps + 1] training loss L(w_t) of every iterate, nan where it was not measured.
        times: [m] steps at which the records were taken.
        records: {name: tensor [m] or [m, k]} in float64.
        weights: [steps + 1, p] every iterate if `keep`, nan after a divergence; else None.
        diverged: a loss or a weight stopped being finite, and the run ended there.
        state: the method's last state by name (velocity; m, nu).
    """

    w: Tensor
    lr: float
    losses: Tensor
    times: Tensor
    records: dict[str, Tensor]
    weights: Tensor | None = field(repr=False)
    diverged: bool
    state: dict[str, Tensor] = field(repr=False)


def midpoints(weights: Tensor) -> Tensor:
    """Return (w_{t−1} + 2 w_t + w_{t+1})/4 for the inner rows of weights [m, p]: [m − 2, p].

    A term (−1)^t a vanishes, and (−1)^t a(t) with a slowly varying amplitude leaves only −a″/4.

    Source: Cohen et al. 2025. Used in: edge_of_stability.

    >>> midpoints(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    tensor([[0.],
            [0.]])
    """
    return (weights[:-2] + 2 * weights[1:-1] + weights[2:]) / 4


def gradient_descent(loss: Loss, w0: Tensor, *, lr: float, steps: int, momentum: float = 0.0,
                     nesterov: bool = False, weight_decay: float = 0.0, noise: float = 0.0,
                     generator: torch.Generator | None = None, **recording) -> Trajectory:
    """Return the run w_{t+1} = w_t − η g_t + β (w_t − w_{t−1}), with w_{−1} = w_0.

    Heavy ball (Polyak) evaluates g_t = ∇L(w_t) + λ w_t at the iterate; Nesterov evaluates it at
    y_t = w_t + β (w_t − w_{t−1}) and steps from there: w_{t+1} = y_t − η g(y_t).
    On a quadratic a direction is unstable above curvature 2/η (GD), 2/η − λ (weight decay), (2 + 2β)/η (heavy
    ball), (2 + 2β)/(η (1 + 2β)) (Nesterov).

    Args:
        loss: w [p] -> scalar. w0: [p] start, not changed.
        lr: η > 0. steps: number of updates. momentum: β in [0, 1). weight_decay: λ, as λ/2 ‖w‖² in the loss
            (not included in the recorded losses).
        noise: standard deviation of a Gaussian added to every weight after each step (needs `generator`).
        **recording: every=1, record=None, at="midpoint", keep=False: see `run`.
    Returns:
        Trajectory; `losses` at every iterate (with nesterov, where the gradient is taken elsewhere, one more
        forward pass a step).
    Raises:
        ValueError: lr, momentum or noise out of range.

    Source: Polyak 1964; Nesterov 1983. Used in: edge_of_stability.

    >>> run = gradient_descent(lambda w: (w ** 2).sum() / 2, torch.ones(1), lr=0.5, steps=3)
    >>> run.losses
    tensor([0.5000, 0.1250, 0.0312, 0.0078])
    """
    _positive(lr=lr)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1); got {momentum}.")
    if noise and generator is None:
        raise ValueError("noise needs a generator: pass generator=torch.Generator().manual_seed(0).")

    def step(t: int, w: Tensor, state: State) -> tuple[Tensor, Tensor, State, None]:
        (velocity,) = state  # w_t − w_{t−1}
        y = w + momentum * velocity if nesterov else w
        value, g = value_and_grad(loss, y)
        if nesterov and momentum:
            value = _value(loss, w)
        new = w + momentum * velocity - lr * (g + weight_decay * y if weight_decay else g)
        if noise:
            new += noise * torch.randn(len(w), generator=generator, device=generator.device).to(w)
        return value, new, (new - w,), None

    return run(step, loss, w0, {"velocity": torch.zeros_like(w0)}, lr=lr, steps=steps, **recording)


def sgd(batch_loss: Callable[[Tensor, Tensor], Tensor], w0: Tensor, *, n: int, batch_size: int, lr: float,
        steps: int, generator: torch.Generator, momentum: float = 0.0, loss: Loss | None = None,
        **recording) -> Trajectory:
    """Return the run w_{t+1} = w_t − η ∇L_B(w_t) + β (w_t − w_{t−1}) over mini-batches B without replacement.

    Every epoch is a new permutation of the n examples; what is left after its last whole batch is dropped.

    Args:
        batch_loss: (w [p], indices [batch_size] int64) -> scalar, the mean loss of those examples.
        n, batch_size: examples, and examples a batch (1 … n).
        generator: draws the permutations.
        loss: full training loss; if given it is measured every `every` steps (the rest of `losses` is nan),
            otherwise `losses` holds the loss of each step's batch.
        **recording: see `run`.
    Raises:
        ValueError: batch_size not in 1 … n, lr or momentum out of range.

    Used in: edge_of_stability.

    >>> x = torch.arange(4.0)
    >>> risk = lambda w, batch: ((w - x[batch]) ** 2).mean() / 2
    >>> run = sgd(risk, torch.zeros(1), n=4, batch_size=2, lr=0.1, steps=100, generator=torch.Generator())
    >>> abs(run.w.item() - 1.5) < 0.5
    True
    """
    _positive(lr=lr)
    if not 1 <= batch_size <= n or not 0 <= momentum < 1:
        raise ValueError(f"need 1 ≤ batch_size ≤ {n} and 0 ≤ momentum < 1; got {batch_size} and {momentum}.")
    batches = _batches(n, batch_size, generator)
    every = recording.get("every", 1)

    def step(t: int, w: Tensor, state: State) -> tuple[Tensor, Tensor, State, None]:
        (velocity,) = state
        batch = next(batches).to(w.device)
        value, g = value_and_grad(lambda w: batch_loss(w, batch), w)
        if loss is not None:
            value = _value(loss, w) if t % every == 0 else torch.full_like(value, math.nan)
        new = w - lr * g + momentum * velocity
        return value, new, (new - w,), None

    def last(w: Tensor) -> Tensor:
        return w.new_tensor(math.nan) if loss is None else loss(w)

    return run(step, last, w0, {"velocity": torch.zeros_like(w0)}, lr=lr, steps=steps, **recording)


def adam(loss: Loss, w0: Tensor, *, lr: float, steps: int, betas: tuple[float, float] = (0.9, 0.999),
         eps: float = 1e-8, **recording) -> Trajectory:
    """Return the run w_{t+1} = w_t − η P_t⁻¹ m_t of Adam, both bias corrections inside P.

    m_t = β₁ m_{t−1} + (1 − β₁) g_t, ν_t = β₂ ν_{t−1} + (1 − β₂) g_t², and after s = t + 1 gradients
    P_t = (1 − β₁^s) (√(ν_t / (1 − β₂^s)) + ε). With P frozen a direction of P⁻¹H is unstable above
    (2 + 2β₁)/((1 − β₁) η), which is 38/η at β₁ = 0.9.

    Args:
        betas: (β₁, β₂), each in [0, 1). eps: ε > 0, added outside the root (as in torch.optim.Adam).
        **recording: see `run`; recorded functions are called with (w, P).
    Raises:
        ValueError: a parameter out of range.

    Source: Kingma & Ba 2015; Cohen et al. 2022 for P. Used in: edge_of_stability.

    >>> adam(lambda w: (w ** 2).sum(), torch.tensor([5.0]), lr=0.1, steps=1).w  # first step: lr · sign(g)
    tensor([4.9000])
    """
    _positive(lr=lr, eps=eps)
    beta1, beta2 = betas
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"betas must be in [0, 1); got {betas}.")

    def step(t: int, w: Tensor, state: State) -> tuple[Tensor, Tensor, State, Tensor]:
        m, nu = state
        value, g = value_and_grad(loss, w)
        m = beta1 * m + (1 - beta1) * g
        nu = beta2 * nu + (1 - beta2) * g * g
        P = (1 - beta1 ** (t + 1)) * ((nu / (1 - beta2 ** (t + 1))).sqrt() + eps)
        return value, w - lr * m / P, (m, nu), P

    start = {"m": torch.zeros_like(w0), "nu": torch.zeros_like(w0)}
    return run(step, loss, w0, start, lr=lr, steps=steps, **recording)


def rmsprop(loss: Loss, w0: Tensor, *, lr: float, steps: int, beta2: float = 0.99, eps: float = 1e-8,
            nu0: Tensor | None = None, **recording) -> Trajectory:
    """Return the run w_{t+1} = w_t − η P_t⁻¹ g_t, with ν_t = β₂ ν_{t−1} + (1 − β₂) g_t² and P_t = √ν_t + ε.

    ν_t uses the *current* gradient and there is no bias correction (as in torch.optim.RMSprop). With P frozen
    a direction of P⁻¹H is unstable above 2/η.

    Args:
        beta2: β₂ in [0, 1). eps: ε > 0, outside the root. nu0: [p] ν before the first step (zero by default,
            which makes the first steps η/√(1 − β₂) long).
        **recording: see `run`; recorded functions are called with (w, P).
    Raises:
        ValueError: a parameter out of range.

    Used in: edge_of_stability.

    >>> rmsprop(lambda w: (w ** 2).sum(), torch.tensor([5.0]), lr=0.1, beta2=0.75, steps=1).w
    tensor([4.8000])
    """
    _positive(lr=lr, eps=eps)
    if not 0 <= beta2 < 1:
        raise ValueError(f"beta2 must be in [0, 1); got {beta2}.")

    def step(t: int, w: Tensor, state: State) -> tuple[Tensor, Tensor, State, Tensor]:
        (nu,) = state
        value, g = value_and_grad(loss, w)
        nu = beta2 * nu + (1 - beta2) * g * g
        P = nu.sqrt() + eps
        return value, w - lr * g / P, (nu,), P

    start = {"nu": torch.zeros_like(w0) if nu0 is None else nu0.detach().clone()}
    return run(step, loss, w0, start, lr=lr, steps=steps, **recording)


def run(step: Callable, last_loss: Loss, w0: Tensor, state: Mapping[str, Tensor], *, lr: float, steps: int,
        every: int = 1, record: Mapping[str, Callable] | None = None, at: str = "midpoint",
        keep: bool = False) -> Trajectory:
    """Return the Trajectory of w_{t+1} = step(t, w_t, …): the loop that every method shares.

    Args:
        step: (t, w, state) -> (L(w), next w, next state, P or None); a new method is a new `step`.
        last_loss: measures the loss of the last iterate.
        state: initial state by name.
        every: steps between records, taken at t = every, 2 every, … (iterate: from t = 0 on) while t < steps.
        record: {name: fn} with fn(w), or fn(w, P) for a method with a preconditioner; -> float or tensor [k].
        at: "midpoint" gives fn (w_{t−1} + 2 w_t + w_{t+1})/4, "iterate" gives it w_t; P is that of step t.
        keep: keep every iterate.

    A value or weight that is not finite ends the run (`diverged`); losses after it are nan.
    """
    if at not in ("midpoint", "iterate"):
        raise ValueError(f"unknown at={at!r}: use 'midpoint' or 'iterate'.")
    if steps < 0 or every < 1:
        raise ValueError(f"need steps ≥ 0 and every ≥ 1; got {steps} and {every}.")
    names, now = list(state), tuple(state.values())
    w = w0.detach().clone()
    before, losses = w, w.new_full((steps + 1,), math.nan)
    weights = w.new_full((steps + 1, len(w)), math.nan) if keep else None
    times: list[int] = []
    rows: dict[str, list] = {name: [] for name in record or {}}
    diverged = False
    for t in range(steps + 1):
        if keep:
            weights[t] = w
        if t == steps:
            losses[t] = _value(last_loss, w)
            break
        losses[t], new, now, P = step(t, w, now)
        if not _is_finite(new):
            diverged = True
            break
        if rows and t % every == 0 and (t > 0 or at == "iterate"):
            here = w if at == "iterate" else (before + 2 * w + new) / 4
            times.append(t)
            for name, fn in record.items():
                rows[name].append(fn(here) if P is None else fn(here, P))
        before, w = w, new
    records = {name: _column(values) for name, values in rows.items()}
    return Trajectory(w, lr, losses, torch.tensor(times, dtype=torch.int64, device="cpu"), records, weights,
                      diverged, dict(zip(names, now, strict=True)))


def _value(loss: Loss, w: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(w)


def _is_finite(w: Tensor) -> bool:
    return math.isfinite(w.sum().item())  # one pass; an overflow of the sum is a divergence too


def _column(values: list) -> Tensor:
    """Return recorded numbers or tensors [k] as one float64 tensor [m] or [m, k] on the CPU."""
    rows = [torch.as_tensor(v, device="cpu").detach().to("cpu", torch.float64) for v in values]
    return torch.stack(rows) if rows else torch.empty(0, dtype=torch.float64, device="cpu")


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(n, generator=generator, device=generator.device)
        yield from (b for b in order.split(batch_size) if len(b) == batch_size)


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}.")
