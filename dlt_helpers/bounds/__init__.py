"""Generalisation bounds with their constants, and the quantities that they bound.

Losses lie in [0, 1] and examples are drawn independently, unless a docstring says otherwise. The Rademacher
complexity of a class G is Rad_n(G) = E sup_g (1/n) Σ ε_i g(z_i), without an absolute value or a factor 2.
What is random is returned draw by draw (`sup_deviation`, `*_draws`), so that mean and standard error are
the caller's.
"""

from .counting import (
    examples_needed,
    finite_class,
    from_growth,
    growth_sauer,
    log_growth_sauer,
    massart,
    relu_network_log2_growth,
    relu_network_vc,
    sup_deviation,
    symmetrisation,
    vc,
)
from .margins import MarginBound, margin, margin_uniform
from .rademacher import (
    rademacher_draws,
    rademacher_linear,
    rademacher_linear_draws,
    signs,
    two_layer,
    two_layer_draws,
)

__all__ = [
    "MarginBound",
    "examples_needed",
    "finite_class",
    "from_growth",
    "growth_sauer",
    "log_growth_sauer",
    "margin",
    "margin_uniform",
    "massart",
    "rademacher_draws",
    "rademacher_linear",
    "rademacher_linear_draws",
    "relu_network_log2_growth",
    "relu_network_vc",
    "signs",
    "sup_deviation",
    "symmetrisation",
    "two_layer",
    "two_layer_draws",
    "vc",
]
