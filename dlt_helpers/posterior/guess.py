"""Plain guess and check: draw, keep what fits."""

from __future__ import annotations

import torch

from .estimates import Sample
from .prior import Prior, checked, one_problem, residuals


def guess_and_check(prior: Prior, problem, threshold: float, guesses: int, *, generator: torch.Generator,
                    batch: int = 20_000) -> Sample:
    """Return the draws from the prior with L_train < threshold, out of `guesses`, and their share.

    Args:
        prior: of the factors.
        problem: one `matrix.Problem`.
        threshold: ε on L_train = (1/n) Σ (⟨A_i, W⟩ − y_i)².
        guesses: how many weight settings are drawn.
        batch: how many of them at once.

    Returns:
        Sample with losses [accepted] (of length 0, and loss nan, if none fits), W [accepted, m, m'].

    >>> from types import SimpleNamespace
    >>> eye = torch.eye(4).reshape(4, 2, 2)
    >>> problem = SimpleNamespace(truth=eye[0], measurements=eye[:2], unseen=eye[2:], targets=eye[0].flatten()[:2])
    >>> guess_and_check(Prior((2, 2)), problem, 1e-12, 10, generator=torch.Generator().manual_seed(0)).sentence
    'Nothing was accepted in 10 guesses: the loss is nan, not a number.'

    Source: alexander2025neural. Used in: matrix_factorization.
    """
    one_problem(problem)
    checked(threshold, guesses)
    losses, matrices = [], []
    for start in range(0, guesses, batch):
        size = min(batch, guesses - start)
        W = prior.matrices(prior.draw(size, generator=generator, like=problem.truth))  # [m, m', size]
        train, unseen = residuals(problem, W)
        fits = train < threshold                                                      # [size]
        losses.append(unseen[fits])
        matrices.append(W[..., fits].movedim(-1, 0))
    losses = torch.cat(losses)
    acceptance = losses.new_tensor(len(losses) / guesses)
    return Sample(losses, torch.ones_like(losses), acceptance, guesses, torch.cat(matrices))
