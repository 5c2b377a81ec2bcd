"""Optimisers with measurements taken along the way: one network on a flat weight vector, or many at once.

`gradient_descent`, `sgd`, `adam` and `rmsprop` follow one weight vector w [p] of any loss(w) and record what
they are asked to; a new method is a new `step` for `run`. `ensemble` trains many networks of one shape as a
single batched program, each with its own weights and, where wanted, its own labels, inputs and rates.
"""

from .descent import State, Trajectory, adam, gradient_descent, midpoints, rmsprop, run, sgd
from .members import stack
from .stacked import Ensemble, ensemble

__all__ = [
    "Ensemble",
    "State",
    "Trajectory",
    "adam",
    "ensemble",
    "gradient_descent",
    "midpoints",
    "rmsprop",
    "run",
    "sgd",
    "stack",
]
