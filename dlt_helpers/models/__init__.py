"""Networks with an explicit parametrisation, weights from a generator, and derivatives that are right.

`mlp`, `deep_linear`, `cnn`, `vit` and `transformer` return plain `torch.nn.Module`s without state beside
their weights, so that `functional.flatten` can make f(w, x) of them.
"""

from .layers import ACTIVATIONS, PARAMETRISATIONS, LayerNorm
from .networks import cnn, deep_linear, mlp, num_params, transformer, vit

__all__ = [
    "ACTIVATIONS",
    "PARAMETRISATIONS",
    "LayerNorm",
    "cnn",
    "deep_linear",
    "mlp",
    "num_params",
    "transformer",
    "vit",
]
