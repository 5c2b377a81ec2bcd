"""The members of an ensemble: their stacked weights, and one optimiser with a rate for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

from dlt_helpers import models
from dlt_helpers.models.layers import choose

Weights = tuple[Tensor, ...]  # W_1 [S, N_1, d], b_1 [S, N_1], W_2 …


def stack(networks: Sequence[nn.Module]) -> Weights:
    """Return the weights of MLPs of one shape as W_1 [S, N_1, d], b_1 [S, N_1], W_2 …, detached copies.

    Args:
        networks: modules from `models.mlp` with the standard parametrisation and biases.
    Raises:
        ValueError: no network, one that is no such MLP, or different shapes.

    Used in: random_labels.

    >>> [tuple(w.shape) for w in stack([models.mlp([5, 3, 2])] * 4)]
    [(4, 3, 5), (4, 3), (4, 2, 3), (4, 2)]
    """
    rows = [[p.detach() for p in in_order(network)] for network in networks]
    if len({tuple(p.shape for p in row) for row in rows}) != 1:
        raise ValueError(f"need at least one network, and all of one shape; got {len(rows)} of them.")
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def start(sizes: tuple[int, ...], x: Tensor, generators, init: Weights | None, activation: str, std: float
           ) -> Weights:
    """Return new leaves that require gradients, drawn by `generators` or copied from `init`."""
    if (generators is None) == (init is None):
        raise ValueError("pass either generators, one for each member, or init, the stacked weights.")
    if init is None:
        init = stack([models.mlp(sizes, activation=activation, weight_std=std, generator=g) for g in generators])
    shapes = [shape for d, k in pairwise(sizes) for shape in ((k, d), (k,))]
    if [tuple(w.shape[1:]) for w in init] != shapes or len({len(w) for w in init}) != 1:
        raise ValueError(f"the weights of {list(sizes)} have shapes S × {shapes}; got "
                         f"{[tuple(w.shape) for w in init]}.")
    if x.ndim not in (2, 3, 4, 5) or x.flatten(2 if has_own(x) else 1).shape[-1] != sizes[0]:
        raise ValueError(f"x {tuple(x.shape)} must be [n, {sizes[0]}], images of that many pixels, or either "
                         "with the members in front.")
    if has_own(x) and len(x) != len(init[0]):
        raise ValueError(f"x holds inputs for {len(x)} members; there are {len(init[0])}.")
    return tuple(w.detach().to(x, copy=True).contiguous().requires_grad_() for w in init)


def has_own(x: Tensor) -> bool:
    """Return whether each member has inputs of its own, [S, n, d] or [S, n, c, h, w]."""
    return x.ndim in (3, 5)


def optimiser(weights: Weights, method: str, lr, weight_decay, momentum: float, betas: tuple[float, float]
               ) -> tuple[torch.optim.Optimizer, list[tuple[Tensor, int, slice]]]:
    """Return a fused optimiser and its slots (parameter, which of the weights, which members).

    The parameters are views of the weights; members in a row with equal rates share one.
    """
    n_members, slots, groups = len(weights[0]), [], []
    rates = list(zip(_per_member(lr, n_members, "lr"), _per_member(weight_decay, n_members, "weight_decay"),
                     strict=True))
    if not all(rate > 0 and decay >= 0 for rate, decay in rates) or not 0 <= momentum < 1:
        raise ValueError("need lr > 0 and weight_decay ≥ 0 for every member, and 0 ≤ momentum < 1.")
    for (rate, decay), alike in groupby(range(n_members), key=rates.__getitem__):
        alike = list(alike)
        members = slice(alike[0], alike[-1] + 1)
        views = [w.detach()[members] for w in weights]
        slots += [(view, which, members) for which, view in enumerate(views)]
        groups.append({"params": views, "lr": rate, "weight_decay": decay})
    make = {"sgd": (torch.optim.SGD, {"momentum": momentum}), "adam": (torch.optim.Adam, {"betas": betas})}
    optimiser, options = choose(make, method, "method")
    return optimiser(groups, lr=1.0, fused=True, **options), slots


def _per_member(value: float | Sequence[float] | Tensor, n_members: int, name: str) -> list[float]:
    values = torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(-1).tolist()
    if len(values) not in (1, n_members):
        raise ValueError(f"{name} must be a number or one for each of {n_members} members; got {len(values)}.")
    return values * (n_members // len(values))


def in_order(network: nn.Module) -> list[Tensor]:
    """Return W_1, b_1, W_2, … of an MLP."""
    layers = list(getattr(network, "layers", ()))
    if not layers or any(layer.multiplier != 1 or layer.bias is None for layer in layers):
        raise ValueError("an ensemble is made of models.mlp with the standard parametrisation and biases.")
    return [p for layer in layers for p in (layer.weight, layer.bias)]
