"""What a run shows of the quantities that a central flow predicts: the oscillation and time averages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv1d


def oscillation(weights: Tensor) -> Tensor:
    """Return δ_t = w_t − (w_{t−1} + 2 w_t + w_{t+1})/4 of iterates [m, p]: [m, p], first and last row nan.

    If w_t = c + (−1)^t a, then δ_t = (−1)^t a exactly; a path that drifts steadily has δ_t = 0.

    >>> oscillation(torch.tensor([[1.0], [3.0], [1.0], [3.0]])).flatten()
    tensor([nan,  1., -1., nan])
    """
    delta = torch.full_like(weights, float("nan"))
    delta[1:-1] = (2 * weights[1:-1] - weights[:-2] - weights[2:]) / 4
    return delta


def oscillation_trace(weights: Tensor, *, window: int = 20) -> Tensor:
    """Return the time average of ‖δ_t‖² over iterates [m, p]: [m], which the central flow predicts as tr Σ.

    >>> oscillation_trace(torch.tensor([[1.0], [3.0], [1.0], [3.0], [1.0], [3.0]]), window=2)[1:-1]
    tensor([1., 1., 1., 1.])
    """
    return time_average(oscillation(weights).square().sum(1), window=window)


def oscillation_covariance(weights: Tensor, U: Tensor, *, t: int, window: int = 20) -> Tensor:
    """Return the mean of (Uᵀδ_s)(Uᵀδ_s)ᵀ over |s − t| ≤ window/2: [k, k], predicted as UᵀΣU.

    Args:
        weights: [m, p] iterates. U: [p, k], such as an orthonormal basis of the columns of `covariance`.
    Raises:
        ValueError: the window leaves the run.

    >>> weights = torch.tensor([[1.0], [3.0], [1.0], [3.0], [1.0]])
    >>> oscillation_covariance(weights, torch.ones(1, 1), t=2, window=2)
    tensor([[1.]])
    """
    first, last = t - window // 2 - 1, t + window // 2 + 2
    if first < 0 or last > len(weights):
        raise ValueError(f"a window of {window} around t = {t} leaves the {len(weights)} iterates.")
    projected = oscillation(weights[first:last])[1:-1] @ U  # [window + 1, k]
    return projected.T @ projected / len(projected)


def time_average(values: Tensor, *, window: int = 20) -> Tensor:
    """Return the centred moving average of values [m] over `window` steps, the two ends with weight ½: [m].

    An oscillation of period two cancels exactly. Near the ends, and beside a nan, the window is shorter.

    Args:
        window: even, at least 2.
    Raises:
        ValueError: window odd or too short.

    >>> time_average(torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0, 2.0]), window=2)[1:-1]
    tensor([1., 1., 1., 1.])
    """
    if window < 2 or window % 2:
        raise ValueError(f"window must be even and at least 2; got {window}.")
    kernel = torch.ones(1, 1, window + 1, dtype=values.dtype, device=values.device)
    kernel[..., 0] = kernel[..., -1] = 0.5
    known = values.isfinite()
    total, weight = (conv1d(v[None, None], kernel, padding=window // 2)[0, 0]
                     for v in (torch.where(known, values, 0.0), known.to(values.dtype)))
    return torch.where(known, total / weight, float("nan"))
