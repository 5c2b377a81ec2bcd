"""Scaling laws: fits of loss to parameters, data and compute with their intervals, and what they are fitted to.

`power_law` and `isoflop` fit one variable, `fit_chinchilla` a surface L(N, D) in the additive form of Hoffmann et
al. or in that of Kaplan et al.; `Surface.optimal` allocates compute. `character_flops` and `transformer_flops` count
operations, `gradient_noise_scale` and `batch_law` tell which batches pay, `train_characters` makes curves L(D).
"""

from .counts import Flops, NoiseScale, character_flops, gradient_noise_scale, transformer_flops
from .fit import Fit, Report, fit_chinchilla, resamples
from .language import (
    Curve,
    character_gradient,
    character_logits,
    character_losses,
    character_weights,
    train_characters,
)
from .power import IsoFlop, PowerLaw, at_compute, batch_law, isoflop, power_law
from .surface import FORMS, Surface, huber, objective, surface

__all__ = [
    "FORMS",
    "Curve",
    "Fit",
    "Flops",
    "IsoFlop",
    "NoiseScale",
    "PowerLaw",
    "Report",
    "Surface",
    "at_compute",
    "batch_law",
    "character_flops",
    "character_gradient",
    "character_logits",
    "character_losses",
    "character_weights",
    "fit_chinchilla",
    "gradient_noise_scale",
    "huber",
    "isoflop",
    "objective",
    "power_law",
    "resamples",
    "surface",
    "train_characters",
    "transformer_flops",
]
