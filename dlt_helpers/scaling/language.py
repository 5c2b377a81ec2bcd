"""A character model in the manner of Bengio et al., small enough to have a clean scaling law on two cores.

Several seeds of one width train as one batched program: weights carry the seed in front, [S, …].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Weights = tuple[Tensor, ...]  # embedding [S, V, e], W_1 [S, k·e, H], b_1 [S, 1, H], W_2 [S, H, V], b_2 [S, 1, V]


@dataclass(frozen=True)
class Curve:
    """Held-out losses of S character models along one pass through the text.

    Attributes:
        hidden: H. n_params: N, the weights in matrix products, (k e + V) H.
        tokens: [m] characters seen (int64, on the CPU). losses: [S, m] nats a character of the averaged
            weights, in float64 on the CPU.
        weights: the averaged weights after the last step.
    """

    hidden: int
    n_params: int
    tokens: Tensor
    losses: Tensor
    weights: Weights = field(repr=False, default=())


def character_weights(hidden: int, n_tokens: int, *, context: int = 12, embedding: int = 16,
                      generators: Sequence[torch.Generator]) -> Weights:
    """Return initial weights of S models: embedding N(0, 1), W_1 of He's variance 2/(k e), all else zero.

    Args:
        hidden: H. n_tokens: V. context: k characters read. embedding: e numbers a character.
        generators: one for each model, all on one device.

    Source: bengio2003neural, with ReLU and without its direct connections. Used in: scaling_laws.

    >>> [tuple(w.shape) for w in character_weights(8, 64, generators=[torch.Generator().manual_seed(0)])]
    [(1, 64, 16), (1, 192, 8), (1, 1, 8), (1, 8, 64), (1, 1, 64)]
    """
    n, device = context * embedding, generators[0].device
    shapes = ((n_tokens, embedding), (n, hidden))
    drawn = [[torch.randn(shape, generator=g, device=device) for shape in shapes] for g in generators]
    table, W1 = (torch.stack(column) for column in zip(*drawn, strict=True))
    zeros = [torch.zeros(len(table), *shape, device=device)
             for shape in ((1, hidden), (hidden, n_tokens), (1, n_tokens))]
    return table, W1 * (2 / n) ** 0.5, *zeros


def character_logits(weights: Weights, tokens: Tensor) -> Tensor:
    """Return the logits [S, b, V] of the character after each row of `tokens`, [S, b, k] or [b, k] for all.

    >>> w = character_weights(8, 5, context=3, generators=[torch.Generator().manual_seed(0)])
    >>> character_logits(w, torch.tensor([[0, 1, 2]])).shape
    torch.Size([1, 1, 5])
    """
    table, W1, b1, W2, b2 = weights
    offsets = torch.arange(len(table), device=tokens.device)[:, None, None] * table.shape[1]
    rows = (tokens + offsets).flatten()  # [S · b · k]
    x = table.flatten(0, 1).index_select(0, rows).view(len(table), -1, W1.shape[1])  # [S, b, k·e]
    return torch.baddbmm(b2, torch.baddbmm(b1, x, W1).relu(), W2)  # [S, b, V]


def character_gradient(weights: Weights, windows: Tensor) -> Weights:
    """Return the gradient of each model's mean cross-entropy of the last character of its windows.

    Written out, because for networks this small autograd takes as long as the arithmetic.

    Args:
        windows: [S, b, k + 1], a batch for each model.

    Used in: scaling_laws.

    >>> w = character_weights(8, 5, context=3, generators=[torch.Generator().manual_seed(0)])
    >>> [tuple(g.shape) for g in character_gradient(w, torch.tensor([[[0, 1, 2, 3]]]))]
    [(1, 5, 16), (1, 48, 8), (1, 1, 8), (1, 8, 5), (1, 1, 5)]
    """
    table, W1, b1, W2, b2 = weights
    S, V, e = table.shape
    offsets = torch.arange(S, device=windows.device)[:, None, None] * V
    rows = (windows[..., :-1] + offsets).flatten()
    x = table.flatten(0, 1).index_select(0, rows).view(S, -1, W1.shape[1])  # [S, b, k·e]
    h = torch.baddbmm(b1, x, W1).relu_()
    slope = torch.baddbmm(b2, h, W2).softmax(2)  # [S, b, V]
    slope.scatter_add_(2, windows[..., -1:], slope.new_full((1, 1, 1), -1.0).expand(S, x.shape[1], 1))
    slope /= x.shape[1]  # ∂ mean loss/∂ logits
    back = (slope @ W2.mT) * (h > 0)
    to_table = torch.zeros_like(table).view(S * V, e).index_add_(0, rows, (back @ W1.mT).view(-1, e))
    return (to_table.view_as(table), x.mT @ back, back.sum(1, keepdim=True), h.mT @ slope,
            slope.sum(1, keepdim=True))


def train_characters(hidden: int, text: Tensor, held_out: Tensor, *, n_tokens: int, at: Sequence[int],
                     generators: Sequence[torch.Generator], context: int = 12, embedding: int = 16,
                     batch: int = 256, peak: float | None = None, warmup: int = 40, decay: float | None = 300.0,
                     average: float | None = 8.0, evaluated: int = 2**15) -> Curve:
    """Return the held-out losses, after `at` characters, of S models that each read the text once, shuffled.

    Adam with β = (0.9, 0.99) at the rate peak · min(1, s/warmup) / √(1 + s/decay), which needs no horizon, and a
    running average of the weights with the rate a/(s + a), roughly the mean over the last share 1/a of the
    steps: so one run gives the whole curve L(D).

    Args:
        hidden: H. text, held_out: characters as integers, [t], on the device of the models.
        n_tokens: V. at: increasing numbers of characters, rounded to whole batches (at least one).
        generators: one for each model, on the CPU; it draws the weights, then the order of the text.
        batch: positions a step. peak: greatest rate, 0.016 (64/H)^¼ if None.
        decay: None for a constant rate. average: a; None evaluates the weights themselves.
        evaluated: predictions in the held-out loss, spread evenly over `held_out`.
    Raises:
        ValueError: more characters are asked for than the text has, or `at` does not increase.

    Used in: scaling_laws.

    >>> text = torch.arange(200) % 4
    >>> curve = train_characters(8, text, text, n_tokens=4, at=[16, 96], batch=8, context=2,
    ...                          generators=[torch.Generator().manual_seed(0)])
    >>> curve.tokens, bool(curve.losses[0, 1] < curve.losses[0, 0])
    (tensor([16, 96]), True)
    """
    stops = [max(1, round(d / batch)) for d in at]
    windows, test = text.unfold(0, context + 1, 1), held_out.unfold(0, context + 1, 1)  # [t − k, k + 1]
    if sorted(set(stops)) != stops or stops[-1] * batch > len(windows):
        raise ValueError(f"`at` must increase, by a batch at least, up to the {len(windows)} positions of the text; "
                         f"got {list(at)} with batches of {batch}.")
    windows, test = windows.contiguous(), test[:: max(1, len(test) // evaluated)][:evaluated].contiguous()
    weights = [w.to(text.device) for w in character_weights(
        hidden, n_tokens, context=context, embedding=embedding, generators=generators)]
    order = torch.stack([torch.randperm(len(windows), generator=g, device="cpu")[: stops[-1] * batch]
                         for g in generators]).to(text.device)  # [S, steps · batch]
    averaged = [w.clone() for w in weights]
    peak = 0.016 * (64 / hidden) ** 0.25 if peak is None else peak
    optimiser = torch.optim.Adam(weights, lr=peak, betas=(0.9, 0.99), fused=True)
    losses = []
    for step in range(stops[-1]):
        chosen = order[:, step * batch:(step + 1) * batch]
        part = windows.index_select(0, chosen.flatten()).view(*chosen.shape, -1)  # [S, batch, k + 1]
        for w, grad in zip(weights, character_gradient(weights, part), strict=True):
            w.grad = grad
        optimiser.param_groups[0]["lr"] = peak * min(1, (step + 1) / warmup) / (
            1 if decay is None else (1 + step / decay) ** 0.5)
        optimiser.step()
        rate = 1.0 if average is None else average / (step + average)
        torch._foreach_lerp_(averaged, weights, rate)
        if step + 1 in stops:
            losses.append(character_losses(averaged, test))
    n_params = hidden * (context * embedding + n_tokens)
    return Curve(hidden, n_params, torch.tensor(stops, device="cpu") * batch, torch.stack(losses, 1), tuple(averaged))


def character_losses(weights: Weights, windows: Tensor, *, chunk: int = 2048) -> Tensor:
    """Return the mean loss [S] in nats of the last character of each window [n, k + 1], float64 on the CPU."""
    total = 0.0
    with torch.no_grad():
        for part in windows.split(chunk):
            logits = character_logits(weights, part[:, :-1])  # [S, c, V]
            own = logits.gather(2, part[:, -1:].expand(len(logits), -1, 1))[..., 0]
            total = total + (logits.logsumexp(2) - own).sum(1, dtype=torch.float64)  # [S]
    return (total / len(windows)).cpu()
