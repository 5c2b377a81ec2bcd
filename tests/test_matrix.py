"""Problems, factors, flow and descent against closed forms, brute force and an independent integrator."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from dlt_helpers import matrix


def seeded(i=0):
    return torch.Generator().manual_seed(i)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def power(S, exponent):
    """Power of a symmetric positive semidefinite matrix by its eigenvalues."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0) ** exponent) @ vectors.T


# ---- problems


@pytest.mark.parametrize("make", [matrix.sensing, matrix.completion])
def test_seen_and_unseen_directions_are_orthogonal_and_complete(make):
    problem = make((5, 4), rank=2, n=12, generator=seeded())
    A, B = problem.measurements.flatten(1), problem.unseen.flatten(1)
    torch.testing.assert_close(A.norm(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(B @ B.T, torch.eye(8, dtype=torch.float64))
    assert (A @ B.T).abs().max() < 1e-12
    assert torch.linalg.matrix_rank(torch.cat([A, B])) == 20
    assert torch.linalg.matrix_rank(problem.truth) == 2
    assert problem.truth.norm().item() == pytest.approx(1)


def test_losses_are_sums_over_loops():
    problem, W = matrix.sensing((4, 3), rank=1, n=5, generator=seeded()), gaussian(4, 3, seed=1)
    y = [(a * problem.truth).sum() for a in problem.measurements]
    torch.testing.assert_close(problem.targets, torch.stack(y))
    by_hand = sum(((a * W).sum() - t) ** 2 for a, t in zip(problem.measurements, y, strict=True)) / 5
    assert matrix.train_loss(problem, W).item() == pytest.approx(by_hand.item())
    unseen = sum((b * (W - problem.truth)).sum() ** 2 for b in problem.unseen) / 7
    assert matrix.unseen_loss(problem, W).item() == pytest.approx(unseen.item())
    assert matrix.train_loss(problem, problem.truth) == matrix.unseen_loss(problem, problem.truth) == 0


def test_completion_splits_the_frobenius_norm():
    problem, W = matrix.completion((4, 3), rank=1, n=5, generator=seeded()), gaussian(4, 3, seed=1)
    total = 5 * matrix.train_loss(problem, W) + 7 * matrix.unseen_loss(problem, W)
    torch.testing.assert_close(total, (W - problem.truth).square().sum())


def test_gradient_is_that_of_its_loss_and_isotropic_on_average():
    problem = matrix.sensing((4, 3), rank=1, n=5, generator=seeded())
    W = gaussian(4, 3, seed=1).requires_grad_(True)
    (slope,) = torch.autograd.grad(12 / 2 * matrix.train_loss(problem, W), W)
    torch.testing.assert_close(matrix.recovery_gradient(problem, W.detach()), slope)
    many = matrix.sensing((3, 2), rank=1, n=3, generator=seeded(2), count=20_000)
    mean = (matrix.recovery_gradient(many, gaussian(3, 2)) + many.truth).mean(0)  # four standard errors below
    torch.testing.assert_close(mean, gaussian(3, 2), atol=0.06, rtol=0)


def test_several_problems_are_the_single_ones_stacked():
    several = matrix.sensing((4, 3), rank=1, n=5, generator=seeded(), count=3)
    g = seeded()
    for i in range(3):
        torch.testing.assert_close(several[i].truth, matrix.sensing((4, 3), rank=1, n=5, generator=g).truth)
    W = gaussian(3, 4, 3)
    torch.testing.assert_close(matrix.train_loss(several, W)[1], matrix.train_loss(several[1], W[1]))
    assert several.to(torch.float32).truth.dtype == torch.float32
    with pytest.raises(TypeError, match="one problem"):
        several[0][0]


def test_spectrum_and_bad_input():
    problem = matrix.completion((6, 5), rank=3, n=9, generator=seeded(), spectrum=[10, 6, 3])
    values = torch.linalg.svdvals(problem.truth)
    torch.testing.assert_close(values, torch.tensor([10.0, 6, 3, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="rank 0 should lie between 1 and 5"):
        matrix.sensing((6, 5), rank=0, n=9, generator=seeded())
    with pytest.raises(ValueError, match="fewer than the 30 entries"):
        matrix.sensing((6, 5), rank=1, n=30, generator=seeded())


# ---- factors


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_balanced_factors_multiply_to_W_and_balance(depth, shape):
    W = gaussian(*shape)
    for width in (None, 7):
        factors = matrix.balanced_factors(W, depth, width=width)
        assert len(factors) == depth
        torch.testing.assert_close(matrix.product(factors), W)
        assert matrix.imbalance(factors) < 1e-12


def test_balanced_factors_of_a_singular_matrix():
    W = torch.outer(gaussian(4), gaussian(3, seed=1))
    torch.testing.assert_close(matrix.product(matrix.balanced_factors(W, 3)), W)
    assert not matrix.product(matrix.balanced_factors(0 * W, 2)).any()
    with pytest.raises(ValueError, match="width 2 should be at least 3"):
        matrix.balanced_factors(W, 2, width=2)
    with pytest.raises(ValueError, match="depth 0"):
        matrix.balanced_factors(W, 0)


def test_network_is_the_forward_pass_on_one_hot_inputs():
    factors = matrix.random_factors((5, 4), width=6, depth=3, scale=1.0, generator=seeded())
    columns = [factors[2] @ torch.tanh(factors[1] @ torch.tanh(factors[0] @ e))
               for e in torch.eye(4, dtype=torch.float64)]
    W = matrix.network(factors, torch.tanh)
    torch.testing.assert_close(W, torch.stack(columns, 1))
    assert matrix.network(factors, torch.tanh, normalise=True).norm().item() == pytest.approx(1)


def test_random_factors_scale_the_product():
    big, small = (matrix.product(matrix.random_factors((5, 4), width=6, depth=3, scale=s, generator=seeded(), count=2))
                  for s in (1.0, 1e-6))
    torch.testing.assert_close(small, 1e-6 * big)


def test_imbalance_of_known_factors_and_of_one():
    a, b = torch.eye(2), 2 * torch.eye(2)
    assert matrix.imbalance([a, b]).item() == pytest.approx(3 * math.sqrt(2))
    assert matrix.imbalance([a]).item() == 0


def test_effective_rank_of_flat_spectra_and_of_nothing():
    for r in (1, 3, 7):
        values = torch.cat([torch.full((r,), 2.5), torch.zeros(4)])
        assert matrix.effective_rank(values).item() == pytest.approx(r)
    torch.testing.assert_close(matrix.effective_rank(torch.tensor([3.0, 1.0])),
                               matrix.effective_rank(torch.tensor([[1.0, 3.0]]))[0])
    assert torch.isnan(matrix.effective_rank(torch.zeros(3)))


# ---- flow


def flow(depth, seed=0, balanced=True, shape=(5, 4)):
    n = shape[0] * shape[1] - 6
    problem = matrix.sensing(shape, rank=2, n=n, generator=seeded(seed), spectrum=[2.0, 1.0])
    start = 0.1 * gaussian(*shape, seed=seed + 1) + 0.3 * torch.eye(*shape)
    factors = matrix.balanced_factors(start, depth) if balanced else matrix.random_factors(
        shape, width=5, depth=depth, scale=0.3, generator=seeded(seed))
    return problem, factors


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_velocities_are_autograds(depth):
    problem, factors = flow(depth, balanced=False)
    weights = [f.clone().requires_grad_(True) for f in factors]
    slopes = torch.autograd.grad(20 / 2 * matrix.train_loss(problem, matrix.product(weights)), weights)  # m m'/2
    gradient = matrix.recovery_gradient(problem, matrix.product(factors))
    for v, g in zip(matrix.factor_velocities(gradient, factors), slopes, strict=True):
        torch.testing.assert_close(v, -g)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_flow_is_the_dense_ode_of_the_product(depth):
    """dW/dt = −Σ_j (WWᵀ)^{(L−j)/L} ∇ℓ (WᵀW)^{(j−1)/L}, integrated by scipy's LSODA, knows nothing of factors."""
    problem, factors = flow(depth, shape=(4, 4))  # square, so that the powers of WWᵀ are smooth
    times = np.linspace(0, 2, 9)

    def velocity(_, state):
        W = torch.from_numpy(state.reshape(4, 4))
        G = matrix.recovery_gradient(problem, W)
        moved = sum(power(W @ W.T, (depth - j) / depth) @ G @ power(W.T @ W, (j - 1) / depth)
                    for j in range(1, depth + 1))
        return -moved.numpy().ravel()

    start = matrix.product(factors).numpy().ravel()
    dense = solve_ivp(velocity, (0, 2), start, "LSODA", t_eval=times, rtol=1e-8, atol=1e-11).y.T.reshape(-1, 4, 4)
    path = matrix.gradient_flow(lambda W: matrix.recovery_gradient(problem, W), factors, times)
    torch.testing.assert_close(path.product, torch.from_numpy(dense), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_flow_conserves_every_gap_balanced_or_not(depth):
    for balanced in (True, False):
        problem, factors = flow(depth, balanced=balanced)
        path = matrix.gradient_flow(lambda W, p=problem: matrix.recovery_gradient(p, W), factors, [0, 1, 3])
        for a, b in zip(path.factors, path.factors[1:], strict=False):
            gap = b.mT @ b - a @ a.mT
            torch.testing.assert_close(gap[2], gap[0], atol=1e-7, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_singular_value_velocity_is_that_of_the_flow(depth):
    problem, factors = flow(depth)
    W = matrix.product(factors)
    gradient = matrix.recovery_gradient(problem, W)
    h, moved = 1e-6, matrix.factor_velocities(gradient, factors)
    ahead, behind = (torch.linalg.svdvals(matrix.product([f + s * h * v for f, v in zip(factors, moved, strict=True)]))
                     for s in (1, -1))
    values, force, velocity = matrix.singular_value_velocity(W, gradient, depth)
    torch.testing.assert_close(velocity, (ahead - behind) / (2 * h), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(velocity, -depth * values ** (2 - 2 / depth) * force)


def test_singular_values_turn_with_the_matrix():
    W, G = gaussian(5, 4), gaussian(5, 4, seed=1)
    Q, P = (torch.linalg.qr(gaussian(n, n, seed=n)).Q for n in (5, 4))
    for a, b in zip(matrix.singular_value_velocity(W, G, 3), matrix.singular_value_velocity(Q @ W @ P, Q @ G @ P, 3),
                    strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_separated_ode_reaches_the_closed_form(depth):
    """ℓ = ½(σ − 2)²: dσ/dt = L σ^{2−2/L} (2 − σ); for L = 1, 2 in closed form, else against scipy."""
    t = np.linspace(0, 2, 4001)
    exact = {1: lambda t: 2 - 1.9 * np.exp(-t), 2: lambda t: 2 / (1 + 19 * np.exp(-4 * t))}.get(depth)
    if exact is None:
        sigma = solve_ivp(lambda _, s: depth * s ** (2 - 2 / depth) * (2 - s), (0, 2), [0.1], "DOP853", t_eval=t,
                          rtol=1e-10, atol=1e-12).y[0]
    else:
        sigma = exact(t)
    sigma = torch.from_numpy(sigma)[:, None]
    found = matrix.singular_value_ode(sigma[0], sigma - 2, torch.from_numpy(t), depth)
    torch.testing.assert_close(found, sigma, atol=2e-6, rtol=1e-5)
    coarse = matrix.singular_value_ode(sigma[0], sigma[::100] - 2, torch.from_numpy(t[::100]), depth)
    torch.testing.assert_close(coarse, sigma[::100], atol=2.5e-4, rtol=0)  # order four: the plain rule is far off
    start = [torch.full((1, 1), 0.1 ** (1 / depth), dtype=torch.float64)] * depth
    path = matrix.gradient_flow(lambda W: W - 2, start, t)
    torch.testing.assert_close(path.product[:, 0], sigma, atol=1e-6, rtol=1e-6)


def test_zero_stays_zero_for_depth_two_and_the_ode_says_infinity_when_it_blows_up():
    zero = [torch.zeros(3, 3, dtype=torch.float64)] * 2
    assert not matrix.gradient_flow(lambda W: W - 1, zero, [0, 1]).product.any()
    found = matrix.singular_value_ode(torch.ones(1), -torch.ones(2, 1), torch.tensor([0.0, 10.0]), 4)
    assert torch.isinf(found[1, 0])


def test_a_flow_that_cannot_be_integrated_is_an_error():
    nowhere = torch.full((1, 1), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="finite"):
        matrix.gradient_flow(lambda W: W, [nowhere], [0, 1])


# ---- descent


def by_hand(problem, factors, rule, lr, steps, activation=None):
    """The same descent with one problem and an explicit loop over numbers."""
    weights, state = [f.clone().requires_grad_(True) for f in factors], None
    for t in range(steps):
        loss = matrix.train_loss(problem, matrix.network(weights, activation))
        update, state = rule(torch.autograd.grad(loss, weights), state, t)
        weights = [(w - lr * u).detach().requires_grad_(True) for w, u in zip(weights, update, strict=True)]
    return matrix.network(weights, activation).detach()


def normalised(gradients, state, t):
    rms = torch.cat([g.flatten() for g in gradients]).square().mean().sqrt()
    return [g / rms for g in gradients], None


def ball(nesterov):
    def rule(gradients, state, t):
        state = gradients if state is None else [0.9 * s + g for s, g in zip(state, gradients, strict=True)]
        return ([g + 0.9 * s for g, s in zip(gradients, state, strict=True)] if nesterov else state), state
    return rule


@pytest.mark.parametrize(("options", "rule"), [
    ({}, lambda g, s, t: (g, None)), ({"method": "normalised"}, normalised), ({"momentum": 0.9}, ball(False)),
    ({"momentum": 0.9, "nesterov": True}, ball(True))])
def test_descent_in_a_batch_is_the_loop_over_problems(options, rule):
    problems = matrix.sensing((4, 3), rank=1, n=8, generator=seeded(), count=3)
    factors = matrix.random_factors((4, 3), width=5, depth=3, scale=0.5, generator=seeded(1), count=3)
    run = matrix.descend(problems, factors, lr=0.02, steps=7, activation=torch.tanh, **options)
    for i in range(3):
        alone = by_hand(problems[i], [f[i] for f in factors], rule, 0.02, 7, torch.tanh)
        torch.testing.assert_close(run.W[i], alone)
        torch.testing.assert_close(run.unseen[i], matrix.unseen_loss(problems[i], alone))


def test_adam_is_torchs():
    problem = matrix.sensing((4, 3), rank=1, n=8, generator=seeded())
    factors = matrix.random_factors((4, 3), width=5, depth=2, scale=0.5, generator=seeded(1))
    weights = [f.clone().requires_grad_(True) for f in factors]
    optimiser = torch.optim.Adam(weights, lr=0.02, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(9):
        optimiser.zero_grad()
        matrix.train_loss(problem, matrix.product(weights)).backward()
        optimiser.step()
    run = matrix.descend(problem, factors, lr=0.02, steps=9, method="adam", momentum=0.9)
    torch.testing.assert_close(run.W, matrix.product(weights).detach())


def test_small_initialisation_recovers_rank_one_and_large_does_not():
    problems = matrix.sensing((5, 5), rank=1, n=15, generator=seeded(), count=4)
    small, large = (matrix.descend(problems, matrix.random_factors(
        (5, 5), width=10, depth=2, scale=s, generator=seeded(1), count=4), lr=0.5, steps=2000) for s in (1e-6, 3.0))
    assert small.train.max() < 1e-3 and small.unseen.median() < 1e-3
    assert large.unseen.median() > 0.05
    assert small.train_curve.shape == (4, 100) and (small.train_curve[:, 0] > small.train_curve[:, -1]).all()


def test_decay_and_unknown_method():
    problem = matrix.sensing((4, 3), rank=1, n=8, generator=seeded())
    factors = matrix.random_factors((4, 3), width=5, depth=2, scale=1e-3, generator=seeded(1))
    rough, fine = (matrix.descend(problem, factors, lr=0.02, steps=600, method="normalised", decay=decay).train
                   for decay in (False, True))
    assert fine < rough / 10
    with pytest.raises(ValueError, match="should be one of gd, normalised, adam"):
        matrix.descend(problem, factors, lr=0.1, steps=1, method="sgd")
