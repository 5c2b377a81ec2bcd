"""Four samplers of one law, against closed forms, brute force over all pairs, and each other."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.nn.functional import leaky_relu

from dlt_helpers import matrix, posterior

LEAKY = partial(leaky_relu, negative_slope=0.2)


def seeded(i=0):
    return torch.Generator().manual_seed(i)


def sensing(dtype=torch.float64, n=15, shape=(5, 5), **options):
    return matrix.sensing(shape, rank=1, n=n, generator=seeded(5), dtype=dtype, **options)


# ---- prior


@pytest.mark.parametrize(("activation", "depth"), [(None, 2), (torch.tanh, 3), (LEAKY, 4)])
def test_draws_are_networks_of_their_factors(activation, depth):
    prior = posterior.Prior((4, 3), width=6, depth=depth, activation=activation)
    factors = prior.draw(10, generator=seeded(), like=torch.zeros(1, dtype=torch.float64))
    W, sigma = prior.matrices(factors), activation or (lambda h: h)
    for i in range(10):
        H = sigma(factors[0][..., i])
        for factor in factors[1:-1]:
            H = sigma(factor[..., i] @ H)
        torch.testing.assert_close(W[..., i], factors[-1][..., i] @ H)
    assert sum(f[..., 0].numel() for f in factors) == prior.n_weights


def test_entries_have_the_stated_variances_and_split_agrees():
    prior = posterior.Prior((4, 3), width=6, depth=3)
    factors = prior.draw(20_000, generator=seeded(), like=torch.zeros(1))
    for factor, (rows, columns) in zip(factors, prior.layers, strict=True):
        error = math.sqrt(2 / (20_000 * rows * columns))  # of a mean of squares of normals
        assert factor.square().mean().item() * rows == pytest.approx(1, abs=4 * error)
    x = torch.cat([f.flatten(0, 1) * math.sqrt(len(f)) for f in factors])
    for a, b in zip(prior.split(x), factors, strict=True):
        torch.testing.assert_close(a, b)
    assert posterior.Prior(normalise=True).finish(torch.randn(5, 5, 3, generator=seeded())).square().sum().item() \
        == pytest.approx(3)


def test_prior_loss_of_the_linear_prior_is_one_fifth_plus_the_truth():
    """E L_unseen = E W_ij² + mean of ⟨B, W*⟩², and E W_ij² = 1/m."""
    problem = sensing()
    expected = 1 / 5 + torch.einsum("nij,ij->n", problem.unseen, problem.truth).square().mean().item()
    found = posterior.prior_loss(posterior.Prior(width=20), problem, 40_000, generator=seeded()).item()
    assert found == pytest.approx(expected, abs=4 * 0.12 / 200)
    several = matrix.sensing((5, 5), rank=1, n=15, generator=seeded(5), count=2)
    both = posterior.prior_loss(posterior.Prior(), several, 500, generator=seeded())
    assert both[0].item() == pytest.approx(
        posterior.prior_loss(posterior.Prior(), several[0], 500, generator=seeded()).item())


# ---- closed forms


def chi_square(n, x):
    return torch.special.gammainc(*torch.tensor([n / 2, x / 2], dtype=torch.float64)).item()


def test_conditioned_on_the_identity_gram_is_a_chi_square_probability_and_the_prior():
    """G = I: the entries are independent N(0, 1/5). For W* = 0, P(L_train < ε) = P(χ²_n < 5 n ε), and for any
    W* the unseen entries do not feel the seen ones: every weighted draw has the prior's loss."""
    problem = matrix.completion((5, 5), rank=1, n=6, generator=seeded())
    eye = torch.eye(5, dtype=torch.float64)[None]
    found = posterior.conditioned(posterior.Prior(), problem, 0.05, 4_000, generator=seeded(), grams=eye)
    prior = 1 / 5 + problem.truth[problem.unseen.sum(0) > 0].square().mean().item()
    torch.testing.assert_close(found.losses, torch.full_like(found.losses, prior))
    zero = type(problem)(0 * problem.truth, problem.measurements, problem.unseen)
    found = posterior.conditioned(posterior.Prior(), zero, 0.05, 4_000, generator=seeded(), grams=eye)
    error = found.weights.std().item() / math.sqrt(4_000)
    assert found.acceptance.item() == pytest.approx(chi_square(6, 5 * 6 * 0.05), abs=4 * error)


def test_conditioned_loss_is_that_of_a_dense_gaussian():
    """One Gram matrix: E[L_unseen | L_train < ε] by drawing W given G without any algebra, four standard errors."""
    problem, prior = sensing(n=3, shape=(3, 3)), posterior.Prior((3, 3), width=3)
    root = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)).Q * torch.tensor([1.5, 1, 0.4])
    G = (root @ root.T)[None]
    W = torch.randn(200_000, 3, 3, generator=seeded(2), dtype=torch.float64) @ torch.linalg.cholesky(G).mT / 3**0.5
    fits = matrix.train_loss(problem, W) < 0.05
    losses = matrix.unseen_loss(problem, W)[fits]
    found = posterior.conditioned(prior, problem, 0.05, 20_000, generator=seeded(), grams=G)
    p, spread = fits.double().mean().item(), found.weights.std().item() / 20_000**0.5
    assert found.acceptance.item() == pytest.approx(p, abs=4 * math.hypot(math.sqrt(p / 2e5), spread))
    w = found.weights / found.weights.sum()
    spread = (w * (found.losses - found.loss)).square().sum().sqrt().item()
    error = math.hypot(losses.std().item() / len(losses) ** 0.5, spread)
    assert found.loss.item() == pytest.approx(losses.mean().item(), abs=4 * error)


@pytest.mark.parametrize("activation", [None, LEAKY])
@pytest.mark.parametrize("depth", [2, 3])
def test_gram_limit_is_the_mean_of_wide_grams(activation, depth):
    prior = posterior.Prior((2, 3), width=400, depth=depth, activation=activation)
    H = prior.hidden(prior.draw(200, generator=seeded(), like=torch.zeros(1), layers=slice(-1))).movedim(-1, 0)
    G = (H.mT @ H).double()
    error = G.std(0) / math.sqrt(200) + 3e-3 * (depth - 1)  # noise, and a bias of order 1/k
    assert ((G.mean(0) - posterior.gram_limit(prior)).abs() < 4 * error).all()
    rho = posterior.gram_limit(posterior.Prior(activation=LEAKY))
    assert (rho[0, 1] / rho[0, 0]).item() == pytest.approx(0.64 / (2 * math.pi) / 0.52)
    with pytest.raises(ValueError, match="positively homogeneous"):
        posterior.gram_limit(posterior.Prior(activation=torch.tanh))


# ---- all pairs against every pair


@pytest.mark.parametrize(("options", "threshold"), [
    ({}, 0.08), ({"width": 9, "activation": torch.tanh}, 0.08), ({"width": 3, "activation": LEAKY}, 0.08),
    ({"depth": 4, "normalise": True}, 0.03), ({"width": 2, "normalise": True}, 0.04)])
def test_screen_loses_no_pair(options, threshold):
    prior, problem = posterior.Prior(**options), sensing()
    found = posterior.all_pairs(prior, problem, threshold, 300, 400, generator=seeded(), tile=50_000)
    wide = posterior.all_pairs(prior, problem, threshold, 300, 400, generator=seeded(), slack=5.0)
    assert len(found.losses) > 0
    torch.testing.assert_close(found.losses, wide.losses)
    torch.testing.assert_close(found.W, wide.W)
    H = prior.hidden(prior.draw(400, generator=(g := seeded()), like=torch.zeros(1), layers=slice(-1))).movedim(-1, 0)
    R = torch.linalg.qr(H, mode="r").R.double()
    left = torch.randn(300, 5, R.shape[1], generator=g).double() / 5**0.5
    W = left[:, None] @ R                                                             # [300, 400, 5, 5]
    W = W / torch.linalg.matrix_norm(W, keepdim=True) if prior.normalise else W
    fits = matrix.train_loss(problem, W) < threshold
    assert fits.sum() == len(found.losses)
    torch.testing.assert_close(matrix.unseen_loss(problem, W)[fits], found.losses, atol=1e-6, rtol=1e-5)
    assert found.acceptance.item() == pytest.approx(fits.sum().item() / 120_000)


# ---- agreement


SAMPLERS = {
    "plain": lambda prior, problem, eps, g: posterior.guess_and_check(prior, problem, eps, 40_000, generator=g),
    "pairs": lambda prior, problem, eps, g: posterior.all_pairs(prior, problem, eps, 1000, 1000, generator=g),
    "splitting": lambda prior, problem, eps, g: posterior.splitting(prior, problem, eps, 400, generator=g),
    "conditioned": lambda prior, problem, eps, g: posterior.conditioned(prior, problem, eps, 2000, generator=g)}


@pytest.mark.parametrize(("options", "eps", "names"), [
    ({"width": 20}, 0.06, list(SAMPLERS)), ({"width": 20, "activation": torch.tanh}, 0.06, list(SAMPLERS)),
    ({"width": 20, "activation": LEAKY, "depth": 3}, 0.03, list(SAMPLERS)),
    ({"depth": 3, "normalise": True}, 0.02, ["plain", "pairs", "splitting"])])
def test_every_pair_of_samplers_agrees_within_three_standard_errors(options, eps, names):
    prior, problem = posterior.Prior(**options), sensing(torch.float32)
    found = {}
    for k, name in enumerate(names):
        exact = problem.to(torch.float64) if name == "conditioned" else problem
        found[name] = posterior.combine([SAMPLERS[name](prior, exact, eps, seeded(1000 * k + i)) for i in range(14)])
    for a, b in itertools.combinations(names, 2):
        assert max(map(abs, found[a].z(found[b]))) < 3, (a, b, found[a], found[b])


def test_conditioned_weights_matter():
    """A sampler that forgets them is many standard errors off: the comparison above can fail."""
    prior, problem = posterior.Prior(width=20), sensing()
    samples = [posterior.conditioned(prior, problem, 0.1, 2000, generator=seeded(i)) for i in range(8)]
    forgetful = [posterior.Sample(s.losses, torch.ones_like(s.weights), s.acceptance, s.guesses) for s in samples]
    assert abs(posterior.combine(samples).z(posterior.combine(forgetful))[0]) > 5


def test_several_problems_at_once():
    several = matrix.sensing((5, 5), rank=1, n=15, generator=seeded(5), count=3)
    split = posterior.splitting(posterior.Prior(), several, 0.1, 400, generator=seeded())
    weighted = posterior.conditioned(posterior.Prior(width=20), several, 0.1, 400, generator=seeded())
    assert split.loss.shape == weighted.loss.shape == split.acceptance.shape == (3,)
    assert split.W.shape == (3, 400, 5, 5) and split.effective.tolist() == [400.0] * 3
    for i in range(3):
        torch.testing.assert_close(matrix.unseen_loss(several[i], split.W[i]), split.losses[i])
        assert (matrix.train_loss(several[i], split.W[i]) < 0.1 + 1e-9).all()


# ---- edges


def test_nothing_accepted_is_nan_and_a_sentence():
    problem = sensing()
    plain = posterior.guess_and_check(posterior.Prior(), problem, 1e-9, 50, generator=seeded())
    pairs = posterior.all_pairs(posterior.Prior(), problem, 1e-9, 10, 10, generator=seeded())
    stuck = posterior.splitting(posterior.Prior(), problem, 1e-9, 50, generator=seeded(), max_levels=2)
    for sample in (plain, pairs, stuck):
        assert torch.isnan(sample.loss) and sample.effective == 0
        assert sample.sentence.startswith("Nothing was accepted in")
    assert plain.acceptance == pairs.acceptance == 0 and torch.isnan(stuck.acceptance)
    assert math.isnan(posterior.combine([plain, plain]).loss)
    assert plain.W.shape == (0, 5, 5)
    some = posterior.guess_and_check(posterior.Prior(), problem, 0.2, 500, generator=seeded())
    assert some.sentence.endswith("effective draws from 500 guesses.")
    several = posterior.Sample(torch.ones(2, 1), torch.tensor([[1.0], [0.0]]), torch.zeros(2), 7)
    assert "for 1 of 2 problems" in several.sentence


def test_one_sample_has_no_error():
    sample = posterior.guess_and_check(posterior.Prior(), sensing(), 0.2, 500, generator=seeded())
    alone = posterior.combine([sample])
    assert math.isnan(alone.loss_error) and math.isnan(alone.acceptance_error) and alone.loss > 0


def test_accepting_everything_is_the_prior():
    problem = sensing()
    sample = posterior.guess_and_check(posterior.Prior(), problem, 1e9, 20_000, generator=seeded())
    assert sample.acceptance == 1
    assert sample.loss.item() == pytest.approx(
        posterior.prior_loss(posterior.Prior(), problem, 20_000, generator=seeded()).item(), rel=1e-6)
    split = posterior.splitting(posterior.Prior(), problem, 1e9, 200, generator=seeded())
    assert split.acceptance.item() == pytest.approx(1)


def test_bad_input_says_what_is_right():
    problem, several = sensing(), sensing(count=2)
    with pytest.raises(ValueError, match="problems\\[i\\]"):
        posterior.guess_and_check(posterior.Prior(), several, 0.1, 10, generator=seeded())
    with pytest.raises(ValueError, match="should be positive"):
        posterior.all_pairs(posterior.Prior(), problem, 0.0, 10, 10, generator=seeded())
    with pytest.raises(ValueError, match="at least one"):
        posterior.splitting(posterior.Prior(), problem, 0.1, 0, generator=seeded())
    with pytest.raises(ValueError, match="use all_pairs or splitting"):
        posterior.conditioned(posterior.Prior(normalise=True), problem, 0.1, 10, generator=seeded())
    with pytest.raises(ValueError, match="makes G singular"):
        posterior.conditioned(posterior.Prior(width=4), problem, 0.1, 10, generator=seeded())
    with pytest.raises(ValueError, match="depth ≥ 2"):
        posterior.Prior(depth=1)
