"""What stacked outputs cost and decide: losses, their slopes, and mistakes, for S networks at a time.

Outputs are [S, k, b], members, outputs, examples. Labels are [S or 1, b] int64 (cross_entropy), targets
[S or 1, k, b]; the conventions of the losses are those of `functional.empirical_risk`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOSSES = ("cross_entropy", "square", "logistic")


def target(x: Tensor, y: Tensor | None, sizes: tuple[int, ...], n_members: int, loss: str) -> Tensor:
    """Return y as labels [S or 1, n] or targets [S or 1, k, n].

    Args:
        x: the inputs that belong to y, [n, …] or [S, n, …].
        y: [n] or [S, n] int64 for cross_entropy; else [n, k] or [S, n, k].
    Raises:
        ValueError: unknown loss, wrong type, shape or label.

    >>> target(torch.zeros(3, 4), torch.tensor([0, 2, 1]), (4, 3), 5, "cross_entropy")
    tensor([[0, 2, 1]])
    """
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(LOSSES)}.")
    k, n = sizes[-1], x.shape[1 if x.ndim in (3, 5) else 0]
    with_labels = loss == "cross_entropy"
    shape = (n,) if with_labels else (n, k)
    if n == 0 or y is None or tuple(y.shape) not in (shape, (n_members, *shape)):
        raise ValueError(f"with {n} examples {loss} needs at least one, and y of shape {shape} or "
                         f"{(n_members, *shape)}; got {None if y is None else tuple(y.shape)}.")
    if with_labels and (y.dtype != torch.int64 or not 0 <= int(y.min()) <= int(y.max()) < k):
        raise ValueError(f"labels must be int64 from 0 to {k - 1}; got {y.dtype}, {y.min()} to {y.max()}.")
    if not with_labels and y.dtype != x.dtype:
        raise ValueError(f"targets of {loss} must have the dtype of x, {x.dtype}; got {y.dtype}.")
    y = y if y.ndim > len(shape) else y[None]
    return y if with_labels else y.transpose(1, 2)


def values(out: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the loss of each example, [S, b].

    >>> values(torch.tensor([[[3.0], [5.0]]]), torch.zeros(1, 2, 1), "square")  # ½ (9 + 25)
    tensor([[17.]])
    """
    if loss == "cross_entropy":
        return out.logsumexp(1) - out.gather(1, y[:, None].expand(len(out), 1, -1))[:, 0]
    return 0.5 * (out - y).square().sum(1) if loss == "square" else -logsigmoid(y * out).sum(1)


def slope(out: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the derivative of each example's loss in its outputs, [S, k, b].

    >>> slope(torch.zeros(1, 2, 1), torch.tensor([[1]]), "cross_entropy").flatten()  # softmax − e_y
    tensor([ 0.5000, -0.5000])
    """
    if loss == "cross_entropy":
        index = y[:, None].expand(len(out), 1, -1)
        return out.softmax(1).scatter_add_(1, index, out.new_full((1, 1, 1), -1.0).expand(index.shape))
    return out - y if loss == "square" else -y * torch.sigmoid(-y * out)


def wrong(out: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return which decisions are wrong, [S, b] bool: the greatest output, or the sign of a single one.

    >>> wrong(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1.0, 1.0]]]), "logistic")
    tensor([[False,  True]])
    """
    if loss == "cross_entropy":
        return out.argmax(1) != y
    return (out * y <= 0)[:, 0] if out.shape[1] == 1 else out.argmax(1) != y.argmax(1)
