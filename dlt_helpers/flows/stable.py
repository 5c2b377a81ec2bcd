"""Flows without an oscillation, by Runge-Kutta steps short enough for the sharpness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlt_helpers.functional import Loss, value_and_grad

from .result import Cost, Flow, Recorder, Rule

OWN_EDGE = 2.785  # h η S at which a classical Runge-Kutta step on a quadratic stops contracting
LOOK = 4  # units of time between two measurements of the sharpness, which is extrapolated in between


def gradient_flow(loss: Loss, w0: Tensor, *, lr: float, steps: int, stiffness: float = 2.0) -> Flow:
    """Return dw/dt = −η ∇L(w) by classical Runge-Kutta steps of a length h ≤ 1 with h η S ≤ stiffness.

    The sharpness S is measured at every `LOOK`-th unit of time and expected to grow on as it did: a gradient
    flow that is not resolved has an edge of stability of its own (at h η S = 2.785) and is no longer the flow.

    Args:
        loss: w [p] -> scalar. w0: [p]. lr: η. steps: how long to run, in steps of gradient descent.
        stiffness: largest h η S. What is stiff is damped at 2 as at 1 (by ⅓ a step, exactly e⁻² = 0.14),
            and the slow directions cannot tell the difference.
    Returns:
        Flow with eigs [m, 1] = S and no oscillation (Σ = 0).
    Raises:
        ValueError: stiffness not in (0, 2.5].

    Used in: edge_of_stability (the control of the central flow).

    >>> flow = gradient_flow(lambda w: w @ w / 2, torch.ones(2, dtype=torch.float64), lr=0.1, steps=10)
    >>> round(flow.weights[-1, 0].item(), 5)  # exp(−1)
    0.36788
    """
    return stable_flow(loss, w0, torch.zeros_like(w0), Rule(lr), steps=steps, stiffness=stiffness)


def stable_flow(loss: Loss, w0: Tensor, nu0: Tensor, rule: Rule, *, steps: int, stiffness: float) -> Flow:
    """Return the flow of (w, ν) with Σ = 0."""
    if not 0 < stiffness <= 2.5:
        raise ValueError(f"stiffness must lie in (0, 2.5], below the integrator's own edge at {OWN_EDGE}; "
                         f"got {stiffness}.")
    record, w, nu = Recorder(w0, rule, steps, 1), w0.detach(), nu0.detach()
    U, values, expected = None, None, 0.0  # expected: S until the next look

    def rates(w, nu):
        value, g = value_and_grad(loss, w)
        return *rule.rates(nu, g), value, g

    for t in range(steps + 1):
        first = rates(w, nu)
        if not first[3].norm().isfinite():
            break
        if t % LOOK == 0:
            eigs = rule.top_eigs(loss, w, nu, 1, start=U, tol=5e-2)
            growth = 0.0 if values is None else (eigs.values - values)[0].item()
            U, values, expected = eigs.subspace, eigs.values, eigs.values[0].item() + max(0.0, growth)
            record.cost += Cost(eigs.n_gradients, eigs.n_hvps, 1)
        record.state(t, w, nu, first[2], first[3], values)
        n = max(1, math.ceil(rule.lr * expected / stiffness)) if t < steps else 0
        for i in range(n):
            w, nu = runge_kutta(rates, w, nu, 1 / n, rates(w, nu) if i else first)
        record.cost += Cost(max(1, 4 * n))
    return record.flow()


def runge_kutta(rates, w: Tensor, nu: Tensor, h: float, first: tuple) -> tuple[Tensor, Tensor]:
    """Return (w, ν) after a classical fourth-order step of length h, given the rates at its start."""
    w1, nu1, *_ = first
    w2, nu2, *_ = rates(w + h / 2 * w1, nu + h / 2 * nu1)
    w3, nu3, *_ = rates(w + h / 2 * w2, nu + h / 2 * nu2)
    w4, nu4, *_ = rates(w + h * w3, nu + h * nu3)
    end_w, end_nu = w + h / 6 * (w1 + 2 * w2 + 2 * w3 + w4), nu + h / 6 * (nu1 + 2 * nu2 + 2 * nu3 + nu4)
    return end_w, torch.clamp_min(end_nu, 0)
