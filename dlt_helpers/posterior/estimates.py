"""What samplers return: weighted draws with their acceptance probability, and pooled estimates with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Draws from the prior given L_train < ε; a leading axis [P] where there were several problems.

    Attributes:
        losses: L_unseen of the draws, or its conditional mean where the sampler integrates [..., N].
        weights: of the draws [..., N], not normalised; ones for samplers that reject.
        acceptance: estimate of P(L_train < ε) [...].
        guesses: how many draws from the prior were used.
        W: the matrices [..., N, m, m'], None where the sampler makes none.
    """

    losses: Tensor
    weights: Tensor
    acceptance: Tensor
    guesses: int
    W: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """E[L_unseen | L_train < ε] [...]: nan if nothing was accepted."""
        return (self.weights * self.losses).sum(-1) / self.weights.sum(-1)

    @property
    def effective(self) -> Tensor:
        """Effective number of draws (Σw)²/Σw² [...]: 0 if nothing was accepted."""
        square = self.weights.square().sum(-1)
        return torch.where(square > 0, self.weights.sum(-1).square() / square, 0.0)

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        effective = torch.atleast_1d(self.effective)
        if (effective == 0).any():
            empty, of = int((effective == 0).sum()), effective.numel()
            which = "" if of == 1 else f" for {empty} of {of} problems"
            return f"Nothing was accepted in {self.guesses:,} guesses{which}: the loss is nan, not a number."
        return f"{int(effective.sum()):,} effective draws from {self.guesses:,} guesses."


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error over independent samples; nan where nothing was accepted or one sample is all."""

    loss: float
    loss_error: float
    acceptance: float
    acceptance_error: float
    effective: float

    def z(self, other: Estimate) -> tuple[float, float]:
        """Return the differences of loss and of acceptance, in their standard errors."""
        return tuple((getattr(self, name) - getattr(other, name)) /
                     (getattr(self, f"{name}_error") ** 2 + getattr(other, f"{name}_error") ** 2) ** 0.5
                     for name in ("loss", "acceptance"))


def combine(samples: Sequence[Sample]) -> Estimate:
    """Return the pooled estimate of independent samples of one problem, with errors from their spread.

    loss = Σ p_i ℓ_i / Σ p_i with p_i the acceptance of sample i and ℓ_i its loss; its error is that of a ratio,
    std(p_i (ℓ_i − loss)) / (mean p · √R). A sample that accepted nothing counts with p_i = 0.

    >>> ones = [Sample(torch.tensor([x]), torch.ones(1), torch.tensor(0.5), 2) for x in (1.0, 3.0)]
    >>> combine(ones).loss, combine(ones).loss_error
    (2.0, 1.0)
    """
    p = torch.stack([s.acceptance for s in samples]).double().cpu()                   # [R]
    losses = torch.nan_to_num(torch.stack([s.loss for s in samples]).double().cpu())
    loss, root = (p * losses).sum() / p.sum(), len(samples) ** 0.5
    spread = (p * (losses - loss)).std() if len(samples) > 1 else torch.tensor(torch.nan)
    error = p.std() / root if len(samples) > 1 else torch.tensor(torch.nan)
    return Estimate(loss.item(), (spread / p.mean() / root).item(), p.mean().item(), error.item(),
                    float(sum(s.effective.item() for s in samples)))
