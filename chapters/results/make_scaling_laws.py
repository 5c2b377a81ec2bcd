"""Make scaling_laws.json: runs of the chapter scaling_laws that are too long for its two minutes.

    python chapters/results/make_scaling_laws.py             # everything, about ten minutes on one core
    python chapters/results/make_scaling_laws.py tenfold …   # some of the parts

Parts: `tenfold`, three seeds at ten times the greatest compute of the chapter; `far`, the largest model on one pass
through all of the text; `untuned`, the small runs once more with a constant rate, no averaging and a batch four times
as large; `transformers`, four small ones on the same text.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from pathlib import Path

import torch

from dlt_helpers import data, models, scaling

RESULTS = Path(__file__).with_name("scaling_laws.json")
SEEDS = (0, 1, 2)
BUDGET = 2e10  # greatest compute of the chapter's small runs
CONTEXT, LENGTH = 64, 8  # of the transformers: characters in a row, rows a step


def texts():
    """Return training and held-out characters, split and shuffled as in the chapter, and V."""
    plays = data.plays()
    vocabulary = data.vocabulary(plays)
    split = data.split_blocks(data.encode(plays, vocabulary), generator=torch.Generator().manual_seed(100))
    return *split, len(vocabulary)


def checkpoints(tokens):
    """Return numbers of characters at which a run of `tokens` characters is measured, two an octave."""
    return [d for d in (int(14_336 * 2 ** (i / 2)) for i in range(20)) if d < 0.85 * tokens] + [int(tokens)]


def characters(hidden, tokens, **options):
    """Return the curve of three seeds as plain numbers."""
    text, held_out, n_tokens = texts()
    start = time.process_time()
    curve = scaling.train_characters(hidden, text, held_out, n_tokens=n_tokens, at=checkpoints(tokens),
                                     generators=[torch.Generator().manual_seed(s) for s in SEEDS], **options)
    return {"hidden": hidden, "n_params": curve.n_params, "tokens": curve.tokens.tolist(),
            "losses": [[round(x, 5) for x in row] for row in curve.losses.tolist()],
            "options": options, "cpu_seconds": round(time.process_time() - start, 1)}


def tenfold():
    return [characters(160, 10 * BUDGET / (6 * 256 * 160))]


def far():
    return [characters(512, 1_990_000)]


def untuned():
    sizes = {8: 500_000} | {h: 1.02 * BUDGET / (6 * 256 * h) for h in (16, 32, 64, 128)}
    return [characters(h, d, batch=1024, decay=None, average=None) for h, d in sizes.items()]


def transformers():
    return [transformer(dim, rate) for dim, rate in ((8, 0.016), (16, 0.016), (32, 0.008), (64, 0.004))]


def transformer(dim, rate, tokens=1_000_000):
    """Return held-out losses of a small transformer, one seed, with the schedule of the character model."""
    text, held_out, n_tokens = texts()
    start, g = time.process_time(), torch.Generator().manual_seed(0)
    model = models.transformer(n_tokens, context=CONTEXT, dim=dim, depth=2, heads=2, generator=g)
    averaged = [w.detach().clone() for w in model.parameters()]
    rows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    order = rows[torch.randperm(len(rows), generator=g)].split(LENGTH)
    test = held_out[: 512 * (CONTEXT + 1)].view(512, CONTEXT + 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99), fused=True)
    stops = [round(d / (CONTEXT * LENGTH)) for d in checkpoints(tokens)]
    losses = []
    for step in range(stops[-1]):
        optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 40) / (1 + step / 300) ** 0.5
        optimiser.zero_grad()
        transformer_loss(model, order[step]).backward()
        optimiser.step()
        torch._foreach_lerp_(averaged, [w.detach() for w in model.parameters()], 8 / (step + 8))
        if step + 1 in stops:
            now = [w.detach().clone() for w in model.parameters()]
            load(model, averaged)
            with torch.no_grad():
                losses.append(round(sum(transformer_loss(model, part).item() for part in test.split(64)) / 8, 5))
            load(model, now)
    return {"dim": dim, "n_params": 24 * dim * dim + n_tokens * dim, "rate": rate, "losses": losses,
            "tokens": [s * CONTEXT * LENGTH for s in stops], "cpu_seconds": round(time.process_time() - start, 1)}


def transformer_loss(model, rows):
    return torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def load(model, weights):
    with torch.no_grad():
        for mine, other in zip(model.parameters(), weights, strict=True):
            mine.copy_(other)


PARTS = {"tenfold": tenfold, "far": far, "untuned": untuned, "transformers": transformers}


def provenance():
    """Return versions, settings and the checksum of the text."""
    return {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "dtype": "float32", "seeds": list(SEEDS), "budget": BUDGET,
            "text_sha256": hashlib.sha256(data.plays().encode()).hexdigest()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or PARTS:
        results[name] = PARTS[name]()
        results["provenance"] = provenance()
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
