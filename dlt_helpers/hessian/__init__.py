"""The Hessian of a loss through its products with vectors: extreme eigenvalues, and the density of all of them.

The sharpness of the book is S(w) = λ_max(∇²L(w)): the largest eigenvalue, not the largest in magnitude.
"""

from .krylov import (
    AHEAD,
    BASIS,
    HVP_COST,
    SPARE,
    ConvergenceError,
    Eigs,
    Tracker,
    dense,
    hvp,
    sharpness,
    top_eigs,
    tracker,
)
from .spectrum import Spectrum, spectral_density

__all__ = [
    "AHEAD",
    "BASIS",
    "HVP_COST",
    "SPARE",
    "ConvergenceError",
    "Eigs",
    "Spectrum",
    "Tracker",
    "dense",
    "hvp",
    "sharpness",
    "spectral_density",
    "top_eigs",
    "tracker",
]
