"""Accepted samples a second of guess and check: every pair, and the last layer integrated out, against plain guessing.

Matrix sensing, 5×5, rank 1, 15 Gaussian measurements, L_train < 0.02, depth 2, linear: the width experiments of
Alexander et al. The peer is our own plain sampler, in batches, with one matrix product for all measurements, at
the fastest of a few batch sizes. Effective samples are counted where draws carry weights; the accuracy is the
difference of the loss from a long reference run in standard errors.
"""

from __future__ import annotations

import functools

import torch

from dlt_helpers import matrix, posterior
from tests.benchmarks import alternate, cpu_seconds, result, rounded, versions

EPS, REPEATS = 0.02, 5
SETTINGS = {"problem": "sensing, 5×5, rank 1, 15 measurements", "threshold": EPS, "depth": 2, "activation": "linear",
            "threads": 1, "repeats": REPEATS}


@functools.cache
def problem(dtype=torch.float32):
    return matrix.sensing((5, 5), rank=1, n=15, generator=torch.Generator().manual_seed(0)).to(dtype)


class Sampler:
    """A sampler that remembers its samples, each from a generator of its own."""

    def __init__(self, draw, seed):
        self.draw, self.seed, self.samples = draw, seed, []

    def __call__(self):
        self.seed += 1
        self.samples.append(self.draw(torch.Generator().manual_seed(self.seed)))

    def seconds(self):
        return cpu_seconds(self)


def plain(width, guesses):
    """Return the plain sampler at the fastest of three batch sizes."""
    prior = posterior.Prior(width=width)

    def draw(g, batch, n=guesses):
        return posterior.guess_and_check(prior, problem(), EPS, n, generator=g, batch=batch)

    def speed(batch):
        return cpu_seconds(lambda: draw(torch.Generator().manual_seed(0), batch, 40_000))

    batch = min((1_000, 4_000, 20_000), key=speed)
    return Sampler(lambda g: draw(g, batch), 1000), batch


def comparison(width, ours, guesses, **settings):
    """Return the entry: seconds an accepted sample of ours and of plain guessing, timed in turn.

    Plain guessing is given the acceptance that our sampler measures (it accepts too few to measure it well);
    its own count is in the settings.
    """
    peer, batch = plain(width, guesses)
    ours()
    ours.samples.clear()
    seconds, peer_seconds = alternate(ours.seconds, peer.seconds, repeats=REPEATS)
    found, seen = (posterior.combine(sampler.samples) for sampler in (ours, peer))
    reference = posterior.combine([posterior.splitting(posterior.Prior(width=width), problem(), EPS, 2000,
                                                       generator=torch.Generator().manual_seed(i)) for i in range(8)])
    accepted = found.effective / REPEATS
    return result(ours=seconds / accepted, peer=peer_seconds / (guesses * found.acceptance),
                  unit="CPU seconds an accepted sample",
                  accuracy={"loss_z": abs(found.z(reference)[0]), "acceptance_z": abs(found.z(reference)[1])},
                  settings={**SETTINGS, "width": width, "ours_accepted": rounded(accepted),
                            "acceptance": rounded(found.acceptance), "peer_acceptance": rounded(seen.acceptance),
                            "peer_guesses": guesses, "peer_batch": batch, **settings, **versions()})


def guess_and_check_vs_plain():
    """Width 5: all pairs of 12,000 last and 12,000 first factors against plain guesses."""
    n = 12_000
    draw = Sampler(lambda g: posterior.all_pairs(posterior.Prior(), problem(), EPS, n, n, generator=g), 0)
    return comparison(5, draw, 400_000, ours_method="all_pairs", left=n, right=n)


def guess_and_check_conditioned_vs_plain():
    """Width 160: the last layer integrated out against plain guesses."""
    n = 4_000
    draw = Sampler(lambda g: posterior.conditioned(posterior.Prior(width=160), problem(torch.float64), EPS, n,
                                                   generator=g), 0)
    return comparison(160, draw, 40_000, ours_method="conditioned", draws=n)


BENCHMARKS = {"guess_and_check_vs_plain": guess_and_check_vs_plain,
              "guess_and_check_conditioned_vs_plain": guess_and_check_conditioned_vs_plain}
