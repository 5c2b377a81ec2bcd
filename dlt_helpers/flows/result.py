"""What a flow leaves behind, and the rule that tells gradient descent from RMSProp."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlt_helpers import hessian
from dlt_helpers.functional import Loss


@dataclass(frozen=True)
class Cost:
    """What was evaluated: gradients, Hessian-vector products, eigen-solves, third derivatives by autograd.

    >>> Cost(3) + Cost(1, n_hvps=2)
    Cost(n_gradients=4, n_hvps=2, n_solves=0, n_thirds=0)
    """

    n_gradients: int = 0
    n_hvps: int = 0
    n_solves: int = 0
    n_thirds: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.n_gradients + other.n_gradients, self.n_hvps + other.n_hvps,
                    self.n_solves + other.n_solves, self.n_thirds + other.n_thirds)


@dataclass(frozen=True)
class Flow:
    """A flow sampled at t = 0, 1, …, steps; nan after a divergence.

    Attributes:
        times: [m] in steps of the discrete method, from the flow's own start. threshold: 2/η.
        weights: [m, p]. nu: [m, p] for RMSProp, else None.
        losses: [m] L(w(t)), without the oscillation. grad_sq: [m] ‖g(w(t))‖².
        eigs: [m, k] largest eigenvalues of P⁻¹H, descending, as last measured; nan where fewer were.
        sigma_trace: [m] tr Σ, the predicted mean of ‖w_t − w(t)‖². n_active: [m] rank of Σ.
        oscillation_loss: [m] ½⟨H, Σ⟩, predicted mean of L(w_t) − L(w(t)); tr Σ/η for gradient descent.
        oscillation_grad_sq: [m] tr HΣH, predicted mean of ‖g_t‖² − ‖g(w(t))‖²; for descent 4 tr Σ/η².
        covariance: {time: F [p, k]} with Σ = F Fᵀ, at the times asked for.
        complete: False if at some time more than `k_max` directions were critical: do not trust what follows.
        residual: largest residual of the complementarity problems solved. cost: what was evaluated.
    """

    times: Tensor
    threshold: float
    weights: Tensor
    losses: Tensor
    grad_sq: Tensor
    eigs: Tensor
    sigma_trace: Tensor
    oscillation_loss: Tensor
    oscillation_grad_sq: Tensor
    n_active: Tensor
    nu: Tensor | None = None
    covariance: dict[int, Tensor] = field(default_factory=dict)
    complete: bool = True
    residual: float = 0.0
    cost: Cost = Cost()

    @property
    def predicted_losses(self) -> Tensor:
        """[m] L(w) + ½⟨H, Σ⟩, the prediction for the time average of the training loss."""
        return self.losses + self.oscillation_loss


@dataclass(frozen=True)
class Rule:
    """Learning rate η, and P(ν) = √ν + eps with a ν that follows the mean squared gradient at rate c."""

    lr: float
    c: float = 0.0
    eps: float = 1.0

    @property
    def threshold(self) -> float:
        return 2 / self.lr

    def P(self, nu: Tensor) -> Tensor:
        return nu.sqrt() + self.eps

    def slope(self, nu: Tensor) -> Tensor:
        """dP/dν = 1/(2√ν), taken as 0 where ν = 0: a weight that never had a gradient."""
        return torch.where(nu > 0, 0.5 * nu.clamp_min(torch.finfo(nu.dtype).tiny).rsqrt(), 0.0)

    def rates(self, nu: Tensor, g: Tensor, pull: Tensor | float = 0.0,
              excess: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """dw/dt and dν/dt [p], given pull = ½∇⟨H, Σ⟩ and excess = diag(HΣH)."""
        return -self.lr * (g + pull) / self.P(nu), self.c * (g * g + excess - nu)

    def top_eigs(self, loss: Loss, w: Tensor, nu: Tensor, k: int, **options) -> hessian.Eigs:
        P = self.P(nu) if self.c else None
        return hessian.top_eigs(loss, w, min(k, len(w)), preconditioner=P, **options)


class Recorder:
    """The arrays of a `Flow` while it is being computed; k is the number of eigenvalues kept."""

    def __init__(self, w0: Tensor, rule: Rule, steps: int, k: int):
        def nan(*shape):
            return w0.new_full((steps + 1, *shape), float("nan"))

        names = "losses grad_sq sigma_trace oscillation_loss oscillation_grad_sq n_active"
        self.arrays = {name: nan() for name in names.split()}
        self.arrays |= {"weights": nan(len(w0)), "eigs": nan(min(k, len(w0)))}
        self.arrays |= {"nu": nan(len(w0))} if rule.c else {}
        self.times = torch.arange(steps + 1, dtype=w0.dtype, device=w0.device)
        self.rule, self.cost, self.covariance, self.quality = rule, Cost(), {}, {}

    def state(self, t: int, w: Tensor, nu: Tensor, value: Tensor, g: Tensor, values: Tensor) -> None:
        now = {"weights": w, "losses": value, "grad_sq": g @ g, "sigma_trace": 0, "n_active": 0,
               "oscillation_loss": 0, "oscillation_grad_sq": 0} | ({"nu": nu} if self.rule.c else {})
        for name, quantity in now.items():
            self.arrays[name][t] = quantity
        k = min(len(values), self.arrays["eigs"].shape[1])
        self.arrays["eigs"][t, :k] = values[:k]

    def oscillation(self, t: int, U: Tensor, HU: Tensor, X: Tensor, keep: bool) -> None:
        """What follows from Σ = U X Uᵀ, U and HU [p, k], X [k, k]."""
        size, V = torch.linalg.eigh(X) if len(X) else (X.new_zeros(0), X)
        if len(X):
            self.arrays["sigma_trace"][t] = (X * (U.T @ U)).sum()
            self.arrays["oscillation_loss"][t] = (X * (U.T @ HU)).sum() / 2
            self.arrays["oscillation_grad_sq"][t] = (X * (HU.T @ HU)).sum()
            self.arrays["n_active"][t] = ((size > 0) & (size > 1e-4 * size[-1])).sum()
        if keep:
            self.covariance[t] = U @ (V * size.clamp_min(0).sqrt())  # [p, k]

    def flow(self) -> Flow:
        return Flow(times=self.times, threshold=self.rule.threshold, covariance=self.covariance,
                    cost=self.cost, **self.quality, **self.arrays)
