"""What all tests share: one thread, a generator, and tiny real problems that can be solved by brute force."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dlt_helpers import data, functional, models

torch.set_num_threads(1)


@dataclass(frozen=True)
class Problem:
    """A network of a few hundred weights and 20 real images: `loss(w)` at `w` [p], all float64."""

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    w: Tensor
    x: Tensor
    y: Tensor


IMAGES = (1, 4, 4)
NETWORKS = {
    "mlp-tanh": (lambda k: models.mlp([16, 8, k], activation="tanh"), "square", "one_hot"),
    "mlp-gelu": (lambda k: models.mlp([16, 6, 5, k], activation="gelu"), "cross_entropy", "labels"),
    "mlp-softplus": (lambda k: models.mlp([16, 8, k], activation="softplus"), "logistic", "parity"),
    "deep-linear": (lambda k: models.deep_linear([16, 6, 4, k]), "square", "parity"),
    "cnn-tanh": (lambda k: models.cnn(IMAGES, (3, 4), k), "square", "parity"),
    "cnn-silu": (lambda k: models.cnn(IMAGES, (3,), k, activation="silu"), "cross_entropy", "labels"),
    "vit-gelu": (lambda k: models.vit(IMAGES, k, patch=2, dim=4, mlp_ratio=1), "square", "parity"),
    "vit-tanh": (lambda k: models.vit(IMAGES, k, patch=2, dim=4, mlp_ratio=1, activation="tanh",
                                      readout="class"), "cross_entropy", "labels"),
}


def tiny_problem(name):
    """Return the `Problem` of this name, two digits of each class pooled to 4×4."""
    make, loss, target = NETWORKS[name]
    images = data.subset(data.standardise(data.pool(data.digits(), 2)), per_class=2)
    y = {"one_hot": data.one_hot(images.y, 10), "parity": data.parity(images.y), "labels": images.y}[target]
    x, y = images.x.double(), y.double() if y.is_floating_point() else y
    f, w = functional.flatten(make(1 if target == "parity" else 10).double())
    return Problem(name, f, functional.empirical_risk(f, x, y, loss=loss), w, x, y)


@pytest.fixture(params=NETWORKS)
def problem(request):
    """Every network with a loss, one after the other."""
    return tiny_problem(request.param)


@pytest.fixture
def generator():
    """A CPU generator seeded with 0."""
    return torch.Generator().manual_seed(0)
