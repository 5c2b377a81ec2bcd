"""Low-rank matrices from few numbers, sought as products of matrices: problems, factors, flow, descent.

A problem gives n numbers y_i = ⟨A_i, W*⟩ of an unknown matrix W* of low rank; a factorisation seeks W* as
W = W_L σ(W_{L−1} ⋯ σ(W_1)), and what it finds between the measurements is the subject.
"""

from .descent import Descent, descend
from .factors import balanced_factors, effective_rank, imbalance, network, product, random_factors
from .flow import Path, factor_velocities, gradient_flow, singular_value_ode, singular_value_velocity
from .problems import Problem, completion, recovery_gradient, sensing, train_loss, unseen_loss

__all__ = [
    "Descent",
    "Path",
    "Problem",
    "balanced_factors",
    "completion",
    "descend",
    "effective_rank",
    "factor_velocities",
    "gradient_flow",
    "imbalance",
    "network",
    "product",
    "random_factors",
    "recovery_gradient",
    "sensing",
    "singular_value_ode",
    "singular_value_velocity",
    "train_loss",
    "unseen_loss",
]
