"""About two million characters of Shakespeare's plays, as a sequence of small integers."""

import lzma
from collections import Counter

import torch
from torch import Tensor

from .files import DataError, read_embedded


def plays() -> str:
    """Return fifteen plays of Shakespeare as one text of 2,082,251 characters.

    Speakers stand in capitals on a line of their own, stage directions in the lines; an empty line ends a
    speech.

    Raises:
        DataError: the embedded file is missing, truncated or altered.

    Source: public domain; provenance in dlt_helpers/data/PROVENANCE.md. Used in: scaling_laws.

    >>> plays()[:6]
    'Hamlet'
    """
    text = lzma.decompress(read_embedded("plays.txt.xz")).decode()
    if not text.startswith("Hamlet\n\nACT I"):
        raise DataError("plays.txt.xz does not begin with Hamlet: restore it with `git checkout`.")
    return text


def vocabulary(text: str, *, min_count: int = 100) -> str:
    """Return the characters that occur at least `min_count` times in `text`, and the blank, sorted.

    >>> vocabulary("to be or not to be", min_count=2)
    ' beot'
    """
    frequent = {c for c, count in Counter(text).items() if count >= min_count}
    return "".join(sorted(frequent | {" "}))


def encode(text: str, vocabulary: str) -> Tensor:
    """Return the place of each character of `text` in `vocabulary`, [len(text)]; unknown ones as a blank.

    >>> encode("be&", " beot").tolist()
    [1, 2, 0]
    """
    place = {c: i for i, c in enumerate(vocabulary)}
    return torch.tensor([place.get(c, place[" "]) for c in text], dtype=torch.int64, device="cpu")


def decode(tokens: Tensor, vocabulary: str) -> str:
    """Return the text whose characters have the places `tokens` [t] in `vocabulary`.

    >>> decode(torch.tensor([1, 2]), " beot")
    'be'
    """
    return "".join(vocabulary[i] for i in tokens.tolist())


def split_blocks(tokens: Tensor, *, block: int = 4096, every: int = 25,
                 generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return training and held-out tokens: of the blocks of `block` tokens, every `every`-th is held out.

    So both parts come from all plays. What does not fill a last block is left out.

    Args:
        tokens: [t].
        block: tokens a block.
        every: blocks every, 2·every, … (counted from 1) are held out.
        generator: shuffles the training blocks, which mixes the plays; they keep their order if None.

    Raises:
        ValueError: `tokens` has fewer than every·block tokens, so that nothing would be held out.

    >>> split_blocks(torch.arange(8), block=2, every=2)
    (tensor([0, 1, 4, 5]), tensor([2, 3, 6, 7]))
    """
    n = len(tokens) // block
    if n < every:
        raise ValueError(f"{len(tokens)} tokens make {n} blocks of {block}, fewer than every = {every}")
    blocks = tokens[: n * block].reshape(n, block)  # [t] -> [n, block]
    held_out = torch.arange(1, n + 1, device=tokens.device) % every == 0
    train = blocks[~held_out]
    if generator is not None:
        order = torch.randperm(len(train), generator=generator, device=generator.device)
        train = train[order.to(tokens.device)]
    return train.flatten(), blocks[held_out].flatten()
