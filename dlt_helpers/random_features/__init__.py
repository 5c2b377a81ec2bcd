"""Random features: a two-layer network whose first layer is drawn and kept, so that training is least squares.

Three things live here: the model and its exact fits along the number of features N (`features`, `path`), what
the test error of least squares is when nothing but the inputs is random (`least_squares`), and what it is for
random features, in the limit and at finite dimension (`limit`, `finite`).
"""

from .features import RandomFeatures, fourier, relu, relu_gram, sphere
from .finite import Spectrum, finite_d, sphere_spectrum
from .least_squares import isotropic, marchenko_pastur
from .limit import Prediction, mei_montanari, moments, two_ridge
from .path import fit_path

__all__ = [
    "Prediction",
    "RandomFeatures",
    "Spectrum",
    "finite_d",
    "fit_path",
    "fourier",
    "isotropic",
    "marchenko_pastur",
    "mei_montanari",
    "moments",
    "relu",
    "relu_gram",
    "sphere",
    "sphere_spectrum",
    "two_ridge",
]
