"""hessian.spectrum: quadrature against dense spectra in float64; sampling errors in units of the exact one."""

import math

import pytest
import torch

from dlt_helpers import functional, hessian


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def diagonal(values):
    D = torch.as_tensor(values, dtype=torch.float64)
    return (lambda w: 0.5 * (D * w * w).sum()), torch.zeros(len(D), dtype=torch.float64)


def spectrum_of(values, **options):
    return hessian.spectral_density(*diagonal(values), **{"generator": seeded()} | options)


BULK = torch.cat([torch.linspace(-1, 2, 57, dtype=torch.float64), torch.tensor([7.0, 9.0, 9.0])])


# ---- oracles

def test_each_rule_is_exact_for_polynomials_up_to_its_degree():
    """vᵀ Hᵏ v from the nodes equals the same from the matrix, for k ≤ 2·steps − 1; and not beyond."""
    steps, draw = 5, seeded(3)
    found = spectrum_of(BULK, steps=steps, n_vectors=2, generator=seeded(3))
    for r in range(2):
        v = torch.randn(len(BULK), generator=draw, dtype=torch.float64)
        v = v / v.norm()
        for k in range(2 * steps):
            exact = (v * v * BULK**k).sum()
            torch.testing.assert_close((found.weights[r] * found.nodes[r] ** k).sum(), exact, rtol=1e-9, atol=1e-9)
        beyond = (v * v * BULK ** (2 * steps)).sum()
        assert abs((found.weights[r] * found.nodes[r] ** (2 * steps)).sum() / beyond - 1) > 1e-9


def test_network_moments_lie_within_the_exact_sampling_error(problem):
    """Within four standard deviations √(2/(p + 2) · (tr f²/p − (tr f/p)²) / n) of the dense trace, f = λ, λ²."""
    eigs, n = torch.linalg.eigvalsh(hessian.dense(problem.loss, problem.w)), 30
    found = hessian.spectral_density(problem.loss, problem.w, steps=20, n_vectors=n, generator=seeded(1))
    for k in (1, 2):
        f = eigs**k
        sigma = ((f.square().mean() - f.mean() ** 2) * 2 / (len(f) + 2) / n).sqrt()
        estimate, error = found.moment(k)
        assert abs(estimate - f.mean()) < 4 * sigma
        assert 0.5 < error / sigma < 2  # the spread of 30 vectors is within 13 % (one sigma) of the exact one


def test_density_and_counts_against_the_dense_spectrum():
    x, width = torch.linspace(-2, 10, 241, dtype=torch.float64), 0.3
    found = spectrum_of(BULK, steps=60, n_vectors=200)
    exact = torch.exp(-0.5 * ((x[:, None] - BULK) / width) ** 2).mean(1) / (width * math.sqrt(2 * math.pi))
    density, error = found.density(x, width=width)
    assert density.shape == error.shape == x.shape
    assert ((density - exact).abs() <= 5 * error + 1e-12).all()  # 241 dependent comparisons, five errors
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-3)
    count, error = found.count_above(5.0)
    assert abs(count - 3) < 4 * error
    assert found.count_above(5.0)[0] < found.count_above(1.0)[0] < len(BULK)


# ---- invariants and limits

def test_weights_are_those_of_a_probability_and_nodes_stay_inside():
    found = spectrum_of(BULK, steps=12, n_vectors=4)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(4, dtype=torch.float64))
    assert (found.weights >= 0).all() and (found.nodes.diff(dim=1) >= 0).all()
    assert found.nodes.min() >= BULK.min() - 1e-12 and found.nodes.max() <= BULK.max() + 1e-12
    assert (found.n_hvps, found.p) == (48, len(BULK))


def test_the_ends_of_the_spectrum_are_found_by_few_steps():
    values = torch.cat([BULK, torch.tensor([30.0])])
    assert spectrum_of(values, steps=10, n_vectors=1).nodes.max().item() == pytest.approx(30, rel=1e-8)


def test_scaling_the_loss_scales_the_nodes():
    one, three = spectrum_of(BULK, steps=8), spectrum_of(3 * BULK, steps=8)
    torch.testing.assert_close(three.nodes, 3 * one.nodes)
    torch.testing.assert_close(three.weights, one.weights)


def test_a_generator_makes_it_repeatable_and_at_saves_a_gradient():
    loss, w = diagonal(BULK)
    calls = []

    def counted(w):
        calls.append(1)
        return loss(w)

    d = functional.derivatives(counted, w)
    one = hessian.spectral_density(counted, w, steps=5, n_vectors=2, generator=seeded(), at=d)
    assert len(calls) == 1
    assert torch.equal(one.nodes, spectrum_of(BULK, steps=5, n_vectors=2).nodes)


# ---- edges

def test_a_krylov_space_that_ends_leaves_weights_of_zero():
    found = spectrum_of([2.0, 2.0, 5.0], steps=3, n_vectors=2)  # two distinct eigenvalues
    assert found.n_hvps == 4
    torch.testing.assert_close(found.nodes[:, :2], torch.tensor([[2.0, 5.0]] * 2, dtype=torch.float64))
    assert (found.weights[:, 2] == 0).all()
    torch.testing.assert_close(found.mean(lambda x: x / x)[0], torch.tensor(1.0, dtype=torch.float64))


def test_a_hessian_of_zero_has_all_its_mass_at_zero():
    found = hessian.spectral_density(lambda w: (w**3).sum(), torch.zeros(4, dtype=torch.float64), steps=4)
    assert (found.nodes == 0).all() and found.moment(2)[0] == 0 and found.count_above(1e-9)[0] == 0


def test_more_steps_than_weights_and_a_single_vector():
    found = spectrum_of([1.0, 2.0], steps=50, n_vectors=1)
    torch.testing.assert_close(found.nodes, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert math.isnan(found.moment(1)[1])


@pytest.mark.parametrize("options", [{"steps": 0}, {"n_vectors": 0}])
def test_nothing_to_do_is_an_error(options):
    with pytest.raises(ValueError, match="steps ≥ 1 and n_vectors ≥ 1"):
        spectrum_of([1.0], **options)


def test_a_diverged_run_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        hessian.spectral_density(lambda w: (w**2).sum(), torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="product is not finite"):
        hessian.spectral_density(lambda w: (w.abs() ** 1.5).sum(), torch.zeros(1))


def test_a_width_of_zero_is_an_error():
    with pytest.raises(ValueError, match="width must be positive"):
        spectrum_of([1.0]).density(torch.zeros(1, dtype=torch.float64), width=0)
