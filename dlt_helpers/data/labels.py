"""What a network is asked to say about an image."""

import torch
from torch import Tensor


def parity(y: Tensor, *, dtype=torch.float32) -> Tensor:
    """Return +1 for odd and −1 for even labels, [n, 1].

    A harder target than the classes themselves, with one output: sharpness grows further on it.

    >>> parity(torch.tensor([0, 1, 2])).flatten()
    tensor([-1.,  1., -1.])
    """
    return (2 * (y % 2) - 1).to(dtype)[:, None]  # [n, 1]


def one_hot(y: Tensor, n_classes: int, *, dtype=torch.float32) -> Tensor:
    """Return e_{y_i}, the unit vector of each label, [n, n_classes].

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return (y[:, None] == torch.arange(n_classes, device=y.device)).to(dtype)  # [n, n_classes]


def corrupt_labels(y: Tensor, fraction: float, n_classes: int, *, generator: torch.Generator) -> Tensor:
    """Return the labels with round(fraction · n) of them replaced by labels drawn uniformly, [n].

    A drawn label may be the right one, so a share fraction · (1 − 1/n_classes) is wrong in expectation.

    Args:
        y: labels [n], int64.
        fraction: share that is drawn anew, between 0 and 1.
        n_classes: the new labels are uniform on 0 … n_classes − 1.
        generator: source of the randomness.

    Raises:
        ValueError: `fraction` is not between 0 and 1.

    Source: [zhang2017understanding] (there each label is drawn anew with probability `fraction`).
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must lie between 0 and 1")
    at = generator.device
    chosen = torch.randperm(len(y), generator=generator, device=at)[: round(fraction * len(y))].to(y.device)
    drawn = torch.randint(n_classes, chosen.shape, generator=generator, device=at, dtype=y.dtype).to(y.device)
    return y.index_copy(0, chosen, drawn)
