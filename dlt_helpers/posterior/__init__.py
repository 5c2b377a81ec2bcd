"""Guess and check: weights drawn from a prior, kept if they fit; and exact ways to guess faster.

`guess_and_check` is the definition. `conditioned` integrates the last layer out and rejects nothing,
`all_pairs` uses every first half with every second half, `splitting` goes to a rare fit by easier ones.
All of them estimate the same two numbers, P(L_train < ε) and E[L_unseen | L_train < ε].
"""

from .estimates import Estimate, Sample, combine
from .gram import conditioned, gram_limit
from .guess import guess_and_check
from .pairs import all_pairs
from .prior import Prior, prior_loss
from .splitting import splitting

__all__ = [
    "Estimate",
    "Prior",
    "Sample",
    "all_pairs",
    "combine",
    "conditioned",
    "gram_limit",
    "guess_and_check",
    "prior_loss",
    "splitting",
]
