"""Many networks of one shape, trained as one program: stacked weights, one product a layer, one optimiser.

Features come first, [S, units, examples], so that the stacked weights W [S, out, in], each of them as nn.Linear
keeps it, multiply from the left; where all members see the same inputs the first layer of all of them is a
single matrix product, (S · out × in)(in × examples). The members share nothing else: the gradient of the sum
of their losses is the stack of their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dlt_helpers import models
from dlt_helpers.models.layers import choose

from . import decisions, members
from .members import Weights, has_own

CHUNK = 2**21  # numbers in the widest activation of one chunk when a whole set is evaluated


@dataclass(frozen=True)
class Ensemble:
    """What S networks left behind; a diverged member has nan from there on.

    Attributes:
        weights: W [S, out, in] and b [S, out] of each layer, after the last epoch.
        sizes, activation: the shape that the members share.
        times: [m] epochs at which was measured (int64, on the CPU, as the others).
        losses, errors: [S, m] mean training loss (without weight decay) and share of training examples wrong,
            in float64.
        test_losses, test_errors: [S, m] the same on the test examples, nan without any.
        fitted: [S] first measured epoch without a training error, nan if there was none.
    """

    weights: Weights = field(repr=False)
    sizes: tuple[int, ...]
    activation: str
    times: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    errors: Tensor = field(repr=False)
    test_losses: Tensor = field(repr=False)
    test_errors: Tensor = field(repr=False)
    fitted: Tensor

    def outputs(self, x: Tensor) -> Tensor:
        """Return f_s(x_i) [S, n, k] for shared inputs x [n, …] or a set for each member, [S, n, …]."""
        return torch.cat([out for _, out in _evaluate(self.weights, x, models.ACTIVATIONS[self.activation])],
                         dim=2).transpose(1, 2)  # [S, k, n] -> [S, n, k]

    def member(self, i: int) -> nn.Module:
        """Return the i-th network as a module of its own, `models.mlp` with a copy of its weights."""
        model = models.mlp(self.sizes, activation=self.activation).to(self.weights[0])
        with torch.no_grad():
            for mine, stacked in zip(members.in_order(model), self.weights, strict=True):
                mine.copy_(stacked[i])
        return model


def ensemble(sizes: Sequence[int], x: Tensor, y: Tensor, *, lr: float | Sequence[float] | Tensor, epochs: int,
             generators: Sequence[torch.Generator] | None = None, init: Weights | None = None,
             generator: torch.Generator | None = None, batch_size: int | None = None, method: str = "sgd",
             momentum: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
             weight_decay: float | Sequence[float] | Tensor = 0.0, loss: str = "cross_entropy",
             activation: str = "relu", weight_std: float = 1.0, dropout: float = 0.0,
             augment: Callable | None = None, x_test: Tensor | None = None, y_test: Tensor | None = None,
             every: int = 1, until_fitted: bool = False) -> Ensemble:
    """Return S networks x ↦ W_L φ(… φ(W_1 x + b_1) …) + b_L, each trained as if it were alone.

    Each member minimises (1/n) Σ_i ℓ(f(x_i), y_i) on mini-batches without replacement; the batches (the same
    for all members) are cut from a new permutation every epoch, what is left over is dropped, and without
    `batch_size` a batch is the whole set, so that an epoch is one step. Losses as in
    `functional.empirical_risk`: cross_entropy with labels; square, ½ Σ over outputs; logistic, y = ±1.
    The decision is the greatest output, or the sign of a single one.

    Args:
        sizes: [d, N_1, …, k]. x: [n, d] or [n, c, h, w] for all, or [S, n, d] or [S, n, c, h, w].
        y: labels [n] int64 (cross_entropy) or targets [n, k] in the dtype of x, with S in front if each member
            has its own.
        lr, weight_decay: η > 0 and λ ≥ 0 (λ/2 ‖w‖² is added to the loss); numbers, or one for each member.
        epochs: passes through the data.
        generators: one for each member, which draws its weights as `models.mlp` does, times `weight_std`
            (√6 gives He's variance 2/n_in); or
        init: the weights to start from, as `stack` and `Ensemble.weights` have them; not changed.
        generator: draws batches, dropout and augmentation; needed by any of them.
        method: "sgd" (with momentum β) or "adam" (with `betas`), as in torch.optim.
        dropout: share of hidden units silenced (for each member, unit and example by itself) in training.
        augment: (batch of x, generator) -> batch of the same shape, before the images are flattened.
        x_test, y_test: like x and y, measured only.
        every: epochs between measurements; at 0 and after the last epoch is always measured.
        until_fitted: stop at the first measurement that finds every member without training error
            (or diverged).
    Raises:
        ValueError: what does not fit together, or is out of range.

    Source: the conditions of zhang2017understanding. Used in: random_labels, double_descent.

    >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> starts = [torch.Generator().manual_seed(seed) for seed in range(3)]
    >>> run = ensemble([4, 8, 2], x, torch.stack([y, 1 - y, y]), generators=starts, lr=1.0, epochs=30)
    >>> run.errors[:, -1], run.member(1)(x).argmax(1)
    (tensor([0., 0., 0.], dtype=torch.float64), tensor([1, 0, 1, 0]))
    """
    phi, sizes = choose(models.ACTIVATIONS, activation, "activation"), tuple(sizes)
    weights = members.start(sizes, x, generators, init, activation, weight_std)
    n, n_members = x.shape[1 if has_own(x) else 0], len(weights[0])
    batch_size = n if batch_size is None else batch_size
    _check(n, batch_size, epochs, every, dropout, generator if batch_size < n or dropout or augment else True)
    train = (x, decisions.target(x, y, sizes, n_members, loss))
    test = None if x_test is None else (x_test, decisions.target(x_test, y_test, sizes, n_members, loss))
    optimiser, slots = members.optimiser(weights, method, lr, weight_decay, momentum, betas)

    def step(batch: Tensor) -> None:
        inputs = x[:, batch] if has_own(x) else x[batch]
        inputs = inputs if augment is None else augment(inputs, generator)
        with torch.enable_grad():
            out = _forward(weights, inputs, phi, dropout, generator)  # [S, k, b]
        slope = decisions.slope(out.detach(), train[1][..., batch], loss).div_(len(batch))
        grads = torch.autograd.grad(out, weights, slope)  # of the sum over members of their mean losses
        for parameter, which, owners in slots:
            parameter.grad = grads[which][owners]
        optimiser.step()

    times, rows = [], []
    for epoch in range(epochs + 1):
        if epoch % every == 0 or epoch == epochs:
            times.append(epoch)
            rows.append(torch.cat([_measure(weights, data, phi, loss) for data in (train, test)]))  # [4, S]
            if until_fitted and _all_fitted(rows):
                break
        for batch in _batches(n, batch_size, generator, x.device) if epoch < epochs else ():
            step(batch)
    times, table = torch.tensor(times, device="cpu"), torch.stack(rows, dim=2).cpu()  # [m], [4, S, m]
    first = times.double().where(table[1] == 0, math.inf).amin(1)  # [S]
    return Ensemble(tuple(w.detach() for w in weights), sizes, activation, times, *table,
                    first.where(first.isfinite(), math.nan))


def _forward(weights: Weights, x: Tensor, phi: Callable, dropout: float = 0.0,
             generator: torch.Generator | None = None) -> Tensor:
    """Return the outputs [S, k, b] for x [b, …] or [S, b, …]."""
    W, b = weights[:2]
    if has_own(x):
        h = torch.baddbmm(b[:, :, None], W, x.flatten(2).transpose(1, 2))  # [S, N, d] [S, d, b] -> [S, N, b]
    else:
        h = torch.addmm(b.reshape(-1, 1), W.flatten(0, 1), x.flatten(1).T).view(*b.shape, -1)  # [S, N, b]
    for W, b in zip(weights[2::2], weights[3::2], strict=True):
        h = phi(h)
        if dropout:
            kept = torch.rand(h.shape, generator=generator, device=generator.device) >= dropout
            h = h * kept.to(h) / (1 - dropout)
        h = torch.baddbmm(b[:, :, None], W, h)
    return h


def _evaluate(weights: Weights, x: Tensor, phi: Callable) -> Iterator[tuple[slice, Tensor]]:
    """Yield (which examples, their outputs [S, k, c]) in chunks that bound the memory."""
    own = has_own(x)
    size = max(32, CHUNK // sum(w.shape[0] * w.shape[1] for w in weights[1::2]))
    with torch.no_grad():
        for start in range(0, x.shape[1 if own else 0], size):
            part = slice(start, start + size)
            yield part, _forward(weights, x[:, part] if own else x[part], phi)


def _measure(weights: Weights, data: tuple[Tensor, Tensor] | None, phi: Callable, loss: str) -> Tensor:
    """Return mean loss and share of wrong decisions [2, S] in float64, nan for a diverged member or no data."""
    n_members, total = len(weights[0]), 0.0
    if data is None:
        return weights[0].new_full((2, n_members), math.nan, dtype=torch.float64)
    x, y = data
    for part, out in _evaluate(weights, x, phi):
        parts = [f(out, y[..., part], loss).sum(1, dtype=torch.float64) for f in (decisions.values, decisions.wrong)]
        total = total + torch.stack(parts)  # [2, S]
    return (total / y.shape[-1]).where(total[0].isfinite(), math.nan)


def _all_fitted(rows: list[Tensor]) -> bool:
    """Return whether every member has been measured without training error, or has diverged."""
    errors = torch.stack([row[1] for row in rows])  # [m, S]
    return bool(((errors == 0).any(0) | errors[-1].isnan()).all())


def _batches(n: int, size: int, generator: torch.Generator | None, device: torch.device) -> Iterator[Tensor]:
    """Yield the indices of one epoch: whole batches of a new permutation, or all of them in order."""
    if size == n:
        yield torch.arange(n, device=device)
        return
    order = torch.randperm(n, generator=generator, device=generator.device).to(device)
    yield from order[: n // size * size].split(size)


def _check(n: int, batch_size: int, epochs: int, every: int, dropout: float, generator) -> None:
    if not 1 <= batch_size <= n or epochs < 0 or every < 1 or not 0 <= dropout < 1:
        raise ValueError(f"need 1 ≤ batch_size ≤ {n}, epochs ≥ 0, every ≥ 1 and 0 ≤ dropout < 1; got "
                         f"{batch_size}, {epochs}, {every} and {dropout}.")
    if generator is None:
        raise ValueError("batches, dropout and augmentation need a generator: pass "
                         "generator=torch.Generator().manual_seed(0).")
