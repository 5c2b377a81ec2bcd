"""Bounds against brute force: all sign vectors, all samples, all shattered sets of classes small enough for it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from dlt_helpers import bounds


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def all_signs(n):
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)  # [2^n, n]


def exact_rademacher(values):
    """E max_g (1/n) Σ ε_i g(z_i) over all 2^n sign vectors; values [M, n]."""
    return (values @ all_signs(values.shape[1]).T).amax(0).mean().item() / values.shape[1]


def shattered(V):
    """The sets of coordinates that the rows of V (0 and 1) shatter, as tuples."""
    n, rows = len(V[0]), [tuple(v) for v in V]
    subsets = itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1))
    return [S for S in subsets if len({tuple(v[i] for i in S) for v in rows}) == 2 ** len(S)]


def family(seed, n=5):
    """A random nonempty set of vectors in {0, 1}^n."""
    rng = np.random.default_rng(seed)
    cube = list(itertools.product([0, 1], repeat=n))
    return [cube[i] for i in rng.choice(len(cube), rng.integers(1, len(cube) + 1), replace=False)]


# ---- finite classes and symmetrisation


@pytest.mark.parametrize("n", [1, 7, 40, 300])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("M", [1, 25])
def test_independent_functions_exceed_the_finite_class_bound_with_probability_below_delta(n, p, M):
    for delta in (0.01, 0.3):
        t = bounds.finite_class(M, n, delta)
        k = np.arange(n + 1)
        exceeds = stats.binom.pmf(k, n, p)[abs(k / n - p) > t].sum()  # exact, for one of them
        assert 1 - (1 - exceeds) ** M <= delta


def test_the_finite_class_bound_at_a_known_value():
    assert bounds.finite_class(1, 2, 2 / math.e**4) == pytest.approx(1.0)
    assert bounds.finite_class(10, 400, 0.1) == pytest.approx(bounds.finite_class(10, 100, 0.1) / 2)


def populations():
    """Losses of M functions on a population of 3, uniform, and all its samples of 4."""
    samples = torch.tensor(list(itertools.product(range(3), repeat=4)))  # [81, 4]
    for seed in range(4):
        yield torch.rand(5, 3, generator=seeded(seed), dtype=torch.float64), samples


def test_symmetrisation_over_all_samples_and_all_signs():
    for losses, samples in populations():
        deviation = (losses.mean(1)[:, None] - losses[:, samples].mean(2)).amax(0)  # [81]
        conditional = torch.tensor([exact_rademacher(losses[:, s]) for s in samples])
        rad = conditional.mean().item()
        assert deviation.mean().item() <= 2 * rad
        for delta in (0.02, 0.2, 0.7):
            below = deviation <= bounds.symmetrisation(rad, 4, delta)
            seen = torch.tensor([bounds.symmetrisation(c.item(), 4, delta, empirical=True) for c in conditional])
            assert (~below).double().mean() <= delta
            assert (deviation > seen).double().mean() <= delta


def test_symmetrisation_has_the_stated_terms():
    n, delta = 50, 0.1
    assert bounds.symmetrisation(0.25, n, delta) == pytest.approx(0.5 + math.sqrt(math.log(10) / 100))
    assert bounds.symmetrisation(0.25, n, delta, empirical=True) == pytest.approx(
        0.5 + 3 * math.sqrt(math.log(20) / 100))


@pytest.mark.parametrize("seed", range(5))
def test_massart_is_above_the_mean_over_all_signs(seed):
    a = torch.randn(6, 8, generator=seeded(seed), dtype=torch.float64)
    assert exact_rademacher(a) <= bounds.massart(6, 8, radius=a.norm(dim=1).max().item())
    losses = torch.rand(9, 8, generator=seeded(seed), dtype=torch.float64).round()
    assert exact_rademacher(losses) <= bounds.massart(9, 8)


def test_massart_is_nearly_attained_by_all_sign_vectors():
    """All 2^n vectors ±½: the complexity is ½, the bound ½ √(2 log 2)."""
    n = 8
    assert exact_rademacher((all_signs(n) + 1) / 2) == pytest.approx(0.5)
    assert bounds.massart(2**n, n) == pytest.approx(0.5 * math.sqrt(2 * math.log(2)))
    assert bounds.massart(1, n) == 0


# ---- growth functions


@pytest.mark.parametrize("seed", range(20))
def test_families_shatter_as_many_sets_as_they_have_members_and_obey_sauer(seed):
    V = family(seed)
    sets = shattered(V)
    d = max(map(len, sets))
    assert len(V) <= len(sets)
    assert len(V) <= bounds.growth_sauer(5, d)


@pytest.mark.parametrize("d", range(6))
def test_sauer_is_attained_by_the_sets_of_at_most_d_elements(d):
    V = [v for v in itertools.product([0, 1], repeat=5) if sum(v) <= d]
    assert max(map(len, shattered(V))) == d
    assert len(V) == bounds.growth_sauer(5, d)


@pytest.mark.parametrize(("n", "d"), [(1, 0), (5, 2), (50, 12), (400, 399), (400, 400), (7, 30), (3000, 40)])
def test_the_logarithm_of_the_sauer_sum_is_that_of_the_number(n, d):
    assert bounds.log_growth_sauer(n, d) == pytest.approx(math.log(bounds.growth_sauer(n, d)), rel=1e-10)
    if 1 <= d <= n:
        assert bounds.log_growth_sauer(n, d) <= d * math.log(math.e * n / d) + 1e-9


def test_vc_is_the_growth_bound_with_the_sauer_sum_and_is_monotone():
    values = [bounds.vc(500, d, 0.05) for d in range(0, 700, 20)]
    assert values == sorted(values) and values[-1] == values[-5]  # 2^n is the most
    growth = math.log(bounds.growth_sauer(500, 3))
    assert bounds.vc(500, 3, 0.05) == pytest.approx(bounds.from_growth(growth, 500, 0.05))
    assert bounds.vc(10**7, 10, 0.05) < 0.01 < 1 < bounds.vc(10, 10, 0.05)


def test_the_growth_bound_has_the_stated_terms():
    """2Π(n) vectors: the factor 2 pays for the absolute value."""
    expected = math.sqrt(2 * math.log(2 * 30) / 200) + math.sqrt(math.log(10) / 400)
    assert bounds.from_growth(math.log(30), 200, 0.1) == pytest.approx(expected)


def test_thresholds_on_the_line_deviate_less_than_the_growth_bound():
    """sup |R − R̂| over x ↦ 1{x ≤ t} is the Kolmogorov–Smirnov statistic, whose law is known."""
    for n in (10, 100):
        bound = bounds.from_growth(math.log(n + 1), n, 0.05)
        assert stats.kstwo.sf(bound, n) <= 0.05


def test_examples_needed_is_the_least_number():
    n = bounds.examples_needed(lambda n: bounds.vc(n, 5, 0.05), 0.2)
    assert bounds.vc(n, 5, 0.05) <= 0.2 < bounds.vc(n - 1, 5, 0.05)
    assert bounds.examples_needed(lambda n: 0.0, 0.1) == 1
    with pytest.raises(ValueError, match="still above"):
        bounds.examples_needed(lambda n: 1.0, 0.1)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("m", [1, 3, 10, 200])
def test_a_network_without_hidden_layer_is_above_covers_count(d, m):
    """Affine functions on m points in general position have 2 Σ_{i ≤ d} C(m − 1, i) sign patterns."""
    cover = 2 * sum(math.comb(m - 1, i) for i in range(d + 1))
    assert math.log2(cover) <= bounds.relu_network_log2_growth([d, 1], m) + 1e-12


def test_a_tiny_network_has_fewer_sign_patterns_than_its_bound():
    m, x = 7, torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    w = torch.randn(200_000, 7, generator=seeded(), dtype=torch.float64)  # [1, 2, 1]: 4 + 3 parameters
    hidden = (x[None] * w[:, None, :2] + w[:, None, 2:4]).relu()  # [draws, m, 2]
    seen = len(torch.unique((hidden * w[:, None, 4:6]).sum(2) + w[:, None, 6] > 0, dim=0))
    assert 30 < seen <= 2 ** bounds.relu_network_log2_growth([1, 2, 1], m)


def test_the_growth_of_networks_is_the_formula_where_warren_applies():
    m, sizes = 10_000, [3, 4, 5, 1]
    W, total = 0, 0.0
    for i in (1, 2, 3):
        W += (sizes[i - 1] + 1) * sizes[i]
        total += math.log2(2 * (2 * math.e * m * sizes[i] * i / W) ** W)
    assert bounds.relu_network_log2_growth(sizes, m) == pytest.approx(total)
    assert bounds.relu_network_log2_growth(sizes, 1) == 4 + 5 + 1  # too few points: all signs


@pytest.mark.parametrize("sizes", [[1, 1], [2, 3, 1], [20, 10, 1], [20, 10, 10, 1], [784, 512, 1]])
def test_the_vc_bound_of_networks_is_where_the_growth_meets_all_labellings(sizes):
    d = bounds.relu_network_vc(sizes)
    assert bounds.relu_network_log2_growth(sizes, d) >= d
    assert bounds.relu_network_log2_growth(sizes, d + 1) < d + 1
    lower = sizes[0] + 1 if len(sizes) == 2 else 2 * sizes[0] * (sizes[1] // 3)  # Baum
    assert d >= lower


# ---- Rademacher complexities


def test_sup_deviation_is_that_of_the_samples_drawn():
    losses = torch.rand(6, 11, generator=seeded(), dtype=torch.float64)
    found = bounds.sup_deviation(losses, 4, n_draws=9, generator=seeded(3))
    drawn = torch.randint(11, (9, 4), generator=seeded(3))
    expected = [(losses[:, i].mean(1) - losses.mean(1)).abs().max() for i in drawn]
    assert torch.allclose(found, torch.stack(expected), atol=1e-14)


def test_sup_deviation_of_one_function_has_the_binomial_mean():
    n, draws = 9, 4000
    found = bounds.sup_deviation(torch.tensor([[0.0, 0, 1]]).double(), n, n_draws=draws, generator=seeded())
    k = np.arange(n + 1)
    p, gap = stats.binom.pmf(k, n, 1 / 3), abs(k / n - 1 / 3)
    se = math.sqrt((p @ gap**2 - (p @ gap) ** 2) / draws)
    assert abs(found.mean().item() - p @ gap) < 4 * se


def test_signs_are_fair_and_independent_of_the_dtype():
    found = bounds.signs(200, 50, generator=seeded(), like=torch.zeros(1, dtype=torch.float64))
    assert found.dtype == torch.float64 and set(found.unique().tolist()) == {-1.0, 1.0}
    assert abs(found.mean().item()) < 4 / math.sqrt(200 * 50)


@pytest.mark.parametrize("seed", range(3))
def test_rademacher_draws_have_the_mean_over_all_signs(seed):
    values = torch.rand(5, 9, generator=seeded(seed), dtype=torch.float64)
    found = bounds.rademacher_draws(values, n_draws=20_000, generator=seeded(seed))
    assert abs(found.mean().item() - exact_rademacher(values)) < 4 * found.std().item() / math.sqrt(20_000)


def test_rademacher_draws_with_fresh_samples_have_the_mean_over_all_samples():
    for losses, samples in populations():
        expected = np.mean([exact_rademacher(losses[:, s]) for s in samples])
        found = bounds.rademacher_draws(losses, n=4, n_draws=20_000, generator=seeded())
        assert abs(found.mean().item() - expected) < 4 * found.std().item() / math.sqrt(20_000)


@pytest.mark.parametrize("d", [1, 3, 30])
def test_the_linear_class_lies_between_the_khintchine_constant_and_its_bound(d):
    x = torch.randn(10, d, generator=seeded(d), dtype=torch.float64)
    exact = 1.5 * (all_signs(10) @ x).norm(dim=1).mean().item() / 10
    assert math.sqrt(0.5) <= exact / bounds.rademacher_linear(x, 1.5) <= 1
    found = bounds.rademacher_linear_draws(x, 1.5, n_draws=20_000, generator=seeded())
    assert abs(found.mean().item() - exact) < 4 * found.std().item() / math.sqrt(20_000) + 1e-12
    assert bounds.rademacher_linear(x, 3.0, lipschitz=2.0) == pytest.approx(4 * bounds.rademacher_linear(x, 1.5))


def test_orthogonal_inputs_attain_the_linear_bound_and_two_equal_ones_the_khintchine_constant():
    x = torch.eye(6, dtype=torch.float64)
    draws = bounds.rademacher_linear_draws(x, 1.0, n_draws=5, generator=seeded())
    assert draws.tolist() == pytest.approx([bounds.rademacher_linear(x, 1.0)] * 5)
    pair = torch.ones(2, 1, dtype=torch.float64)
    exact = (all_signs(2) @ pair).norm(dim=1).mean().item() / 2
    assert exact / bounds.rademacher_linear(pair, 1.0) == pytest.approx(math.sqrt(0.5))


def neuron_sup(x, eps):
    """sup over ‖w‖ ≤ 1 of |(1/n) Σ ε σ(⟨w, x⟩)| in the plane, on a fine grid of directions."""
    angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    w = torch.stack([angle.cos(), angle.sin()])  # [2, angles]
    return (eps @ (x @ w).relu()).abs().amax(1) / len(x)  # [draws]


def test_two_layer_ascent_finds_the_best_neuron_in_the_plane():
    x = torch.randn(12, 2, generator=seeded(1), dtype=torch.float64)
    found = bounds.two_layer_draws(1.0, x, n_draws=30, generator=seeded(2), steps=200)
    sup = neuron_sup(x, bounds.signs(30, 12, generator=seeded(2), like=x))
    assert (found <= sup + 1e-4).all()  # the grid is 3e-4 wide
    assert (found >= 0.98 * sup).all()


def test_two_layer_networks_of_any_width_stay_below_one_neuron_and_its_bound():
    x, n = torch.randn(10, 2, generator=seeded(4), dtype=torch.float64), 10
    eps = all_signs(n)
    sup = neuron_sup(x, eps)
    assert sup.mean().item() <= bounds.two_layer(1.0, x)
    for width in (1, 3, 20):
        w = torch.nn.functional.normalize(torch.randn(2, width, generator=seeded(width), dtype=torch.float64), dim=0)
        a = torch.randn(width, generator=seeded(width), dtype=torch.float64)
        f = (x @ w).relu() @ (a / a.abs().sum())
        assert (eps @ f / n <= sup + 1e-9).all()


def test_two_layer_is_homogeneous():
    x = torch.rand(6, 1, 2, 2, generator=seeded())  # images are flattened
    assert bounds.two_layer(6.0, x) == pytest.approx(3 * bounds.two_layer(2.0, x))
    assert bounds.two_layer(2.0, x) == pytest.approx(2 * bounds.rademacher_linear(x, 2.0))
    one, two = (bounds.two_layer_draws(g, x, n_draws=3, generator=seeded()) for g in (1.0, 2.0))
    assert torch.allclose(2 * one, two)


# ---- margins


def test_the_margin_bound_is_its_three_terms():
    margins = torch.tensor([0.1, 0.2, 0.2, -0.3], dtype=torch.float64)
    found = bounds.margin(margins, 0.2, 2.0, 0.1)
    assert (found.violations, found.complexity) == (0.5, 2 * 2 / (0.2 * 2))
    assert found.confidence == pytest.approx(math.sqrt(math.log(10) / 8))
    assert found.value == pytest.approx(found.violations + found.complexity + found.confidence)


@pytest.mark.parametrize("ratio", [1.05, 2.0])
def test_the_uniform_margin_bound_is_the_least_on_its_grid_and_pays_for_it(ratio):
    margins = 0.5 + 0.2 * torch.randn(3000, generator=seeded(), dtype=torch.float64)
    found = bounds.margin_uniform(margins, 1.0, 0.05, ratio=ratio)
    k = round(-math.log(found.rho) / math.log(ratio))
    assert found.rho == pytest.approx(ratio**-k)
    assert found == bounds.margin(margins, found.rho, 1.0, 0.05 / ((k + 1) * (k + 2)))
    for j in range(60):
        assert found.value <= bounds.margin(margins, ratio**-j, 1.0, 0.05 / ((j + 1) * (j + 2))).value
    assert found.value > bounds.margin(margins, found.rho, 1.0, 0.05).value


def test_margins_scale_with_the_radius():
    margins = torch.rand(50, generator=seeded(), dtype=torch.float64)
    one, ten = bounds.margin_uniform(margins, 1.0, 0.05), bounds.margin_uniform(10 * margins, 10.0, 0.05)
    assert ten.value == pytest.approx(one.value) and ten.rho == pytest.approx(10 * one.rho)


def test_the_grid_covers_every_margin_that_could_matter():
    """The confidences add up to δ, and below the last margin the second term alone exceeds 1."""
    assert sum(1 / ((k + 1) * (k + 2)) for k in range(10**5)) == pytest.approx(1, abs=1e-4)
    n, ratio = 100, 1.1
    last = math.ceil(math.log(4 * n) / math.log(ratio))
    assert 2 / (ratio ** -(last + 1) * math.sqrt(n)) > 1


def test_the_margin_bound_holds_for_the_best_direction_of_each_sample():
    """Noisy labels on the circle, the direction with the best bound of 12: never wrong in 30 samples."""
    angles = torch.arange(12, dtype=torch.float64) * math.pi / 6
    w, values = torch.stack([angles.cos(), angles.sin()]), []  # [2, 12]
    for trial in range(30):
        x = torch.nn.functional.normalize(torch.randn(900, 2, generator=seeded(trial), dtype=torch.float64), dim=1)
        flip = torch.rand(900, generator=seeded(1000 + trial), dtype=torch.float64) < 0.1
        y = torch.where((x[:, 0] > 0) != flip, 1.0, -1.0)
        found = [bounds.margin_uniform(y * (x @ v), 1.0, 0.1, ratio=1.5).value for v in w.T]
        best = int(np.argmin(found))
        off = min(angles[best].item(), 2 * math.pi - angles[best].item()) / math.pi
        assert 0.1 + 0.8 * off <= found[best]
        values.append(found[best])
    assert max(values) < 0.9  # and it says something


# ---- what is refused


@pytest.mark.parametrize(("call", "says"), [
    (lambda: bounds.finite_class(10, 5, 0.0), "delta is 0.0"),
    (lambda: bounds.finite_class(10, 5, 1.0), "delta is 1.0"),
    (lambda: bounds.finite_class(0, 5, 0.1), "at least one function"),
    (lambda: bounds.massart(0, 5), "at least one vector"),
    (lambda: bounds.vc(0, 5, 0.1), "n is 0"),
    (lambda: bounds.growth_sauer(5, -1), "d is -1"),
    (lambda: bounds.log_growth_sauer(5, -1), "d is -1"),
    (lambda: bounds.relu_network_log2_growth([784, 10], 5), "one output"),
    (lambda: bounds.relu_network_log2_growth([784], 5), "one output"),
    (lambda: bounds.sup_deviation(torch.zeros(1, 2), 0, n_draws=1, generator=seeded()), "n is 0"),
    (lambda: bounds.rademacher_draws(torch.zeros(1, 2), n=0, n_draws=1, generator=seeded()), "n is 0"),
    (lambda: bounds.margin(torch.ones(3), 0.0, 1.0, 0.1), "must be positive"),
    (lambda: bounds.margin(torch.ones(3), 1.0, 1.0, 2.0), "delta is 2.0"),
    (lambda: bounds.margin_uniform(torch.ones(3), 1.0, 0.1, ratio=1.0), "ratio is 1.0")])
def test_bad_input_is_refused_with_what_would_be_right(call, says):
    with pytest.raises(ValueError, match=says):
        call()
