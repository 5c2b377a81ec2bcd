"""Multilevel splitting: a rare fit reached by a ladder of easier ones, for any prior with Gaussian weights."""

from __future__ import annotations

import torch

from .estimates import Sample
from .prior import Prior, checked


def splitting(prior: Prior, problem, threshold: float, particles: int, *, generator: torch.Generator,
              share: float = 0.2, moves: int = 8, final_moves: int = 16, max_levels: int = 60) -> Sample:
    """Return particles with the law of the prior given L_train < threshold, all problems at once.

    The levels fall to the `share` quantile of the training losses until they reach the threshold; at each of
    them the particles above are replaced by copies of those below, and all make `moves` steps
    x' = √(1 − b²) x + b ξ, accepted if the loss stays below the level: the Gaussian prior is left invariant, no
    gradient is used. P(L_train < threshold) is the product of the fractions. The law is exact for infinitely
    many particles; copies are dependent, so take errors from independent calls.

    Args:
        prior: any.
        problem: one problem, or several with a leading axis, which run side by side.
        threshold: ε on L_train.
        particles: per problem.
        final_moves: steps at the threshold, after the last copies.

    Returns:
        Sample with losses, weights [..., particles] and W [..., particles, m, m']; for a problem that did not
        reach the threshold in max_levels the weights are zero: loss nan, acceptance nan.

    Source: cerou2012sequential. Used in: matrix_factorization.
    """
    checked(threshold, particles)
    ladder = _Ladder(prior, problem, particles, generator)
    done = torch.zeros_like(ladder.level, dtype=torch.bool)                           # [P]
    log_p, guesses = torch.zeros_like(ladder.level), particles
    for _ in range(max_levels):
        level = ladder.train.quantile(share, dim=1).clamp_min(threshold)
        inside = ladder.train <= level[:, None]                                       # [P, N]
        log_p += torch.where(done, 0.0, inside.double().mean(1).log().to(log_p))
        ladder.level = level
        ladder.copy(inside)
        done = done | (level <= threshold)
        n_moves = final_moves if done.all() else moves
        guesses += n_moves * particles
        for _ in range(n_moves):
            ladder.move()
        if done.all():
            break
    return ladder.result(log_p, done, guesses, problem)


class _Ladder:
    """Particles x [weights, P, N] with their training losses [P, N] and the level [P] below which they stay."""

    def __init__(self, prior, problem, particles, generator):
        lead = problem.truth.shape[:-2]
        self.prior, self.generator, self.single = prior, generator, not lead
        flat = [t.reshape(-1, *t.shape[len(lead):]) for t in (problem.truth, problem.measurements)]
        self.truth, self.A = flat[0].flatten(1), flat[1].flatten(2)                   # [P, d], [P, n, d]
        self.y = (self.A @ self.truth[..., None])                                     # [P, n, 1]
        self.shape = (prior.n_weights, len(self.truth), particles)
        self.x = self._normal(*self.shape)
        self.W, self.train = self._fit(self.x)
        self.level = torch.full_like(self.train[:, 0], torch.inf)
        self.step = torch.full_like(self.level, 0.5)                                  # b [P]

    def _normal(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=self.truth.dtype,
                           device=self.generator.device).to(self.truth.device)

    def _fit(self, x):
        """W [d, P, N] and training losses [P, N]."""
        W = self.prior.matrices(self.prior.split(x.flatten(1)))                       # [m, m', P N]
        W = W.reshape(-1, *self.shape[1:])                                            # [d, P, N]
        return W, (self.A @ W.movedim(0, 1) - self.y).square().mean(1)

    def copy(self, inside):
        """Replace each particle that is outside by a uniformly chosen one that is inside."""
        order = inside.to(torch.int8).argsort(dim=1, descending=True, stable=True)    # those inside first
        u = torch.rand(inside.shape, generator=self.generator, device=self.generator.device).to(inside.device)
        chosen = order.gather(1, (u * inside.sum(1, keepdim=True)).long())
        index = torch.where(inside, torch.arange(inside.shape[1], device=inside.device), chosen)
        self.x, self.W = (t.gather(2, index.expand(len(t), -1, -1)) for t in (self.x, self.W))
        self.train = self.train.gather(1, index)

    def move(self):
        """One step of every particle; b is moved towards an acceptance of 30 %."""
        b = self.step[:, None]
        x = (1 - b**2).sqrt() * self.x + b * self._normal(*self.shape)
        W, train = self._fit(x)
        ok = train <= self.level[:, None]                                             # [P, N]
        self.x, self.W = torch.where(ok, x, self.x), torch.where(ok, W, self.W)
        self.train = torch.where(ok, train, self.train)
        rate = ok.to(self.step).mean(1)
        self.step = (self.step * torch.exp(rate - 0.3)).clamp(1e-4, 1.0)

    def result(self, log_p, done, guesses, problem):
        W = self.W.permute(1, 2, 0)                                                   # [P, N, d]
        B = problem.unseen.reshape(len(W), -1, W.shape[-1])
        losses = ((W - self.truth[:, None]) @ B.mT).square().mean(-1)                 # [P, N]
        weights = torch.ones_like(losses) * done[:, None]
        acceptance = torch.where(done, log_p.exp(), torch.nan)
        W = W.unflatten(-1, tuple(self.prior.shape))
        parts = (losses, weights, acceptance, W)
        losses, weights, acceptance, W = (t[0] for t in parts) if self.single else parts
        return Sample(losses, weights, acceptance, guesses, W)
