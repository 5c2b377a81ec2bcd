"""Scaling laws: fits against scipy and finite differences, counts against torch's own counter."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.utils.flop_counter import FlopCounterMode

from dlt_helpers import models, scaling
from dlt_helpers.scaling import descent, starts

TRUE = {"additive": {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366},
        "kaplan": {"E": 1.2, "A": 700.0, "B": 2.9e5, "alpha": 0.65, "beta": 1.0, "gamma": 0.23}}
RANGE = {"additive": (1e18, 1e22), "kaplan": (1e9, 1e12)}  # of the compute in `design`


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def design(form="additive", m=120, noise=0.005, seed=0):
    """Return N, D, L of m runs spread around the optimum, with noise in log L that has tails."""
    g = generator(seed)
    true = scaling.surface(**TRUE[form])
    C = torch.empty(m, dtype=torch.float64).uniform_(*np.log10(RANGE[form]), generator=g)
    N = true.optimal(10**C)[0] * 10 ** torch.empty(m, dtype=torch.float64).uniform_(-0.8, 0.8, generator=g)
    D = 10**C / 6 / N
    heavy = torch.where(torch.rand(m, generator=g, dtype=torch.float64) < 0.1, 3.0, 0.6)
    return N, D, true(N, D) * (noise * heavy * torch.randn(m, generator=g, dtype=torch.float64)).exp()


def problem(form, m=40, K=3):
    N, D, loss = design(form, m)
    counts = scaling.resamples(m, K, generator=generator()).double()
    return descent.Problem(N.log() - N.log().mean(), D.log() - D.log().mean(), loss.log(), counts, form, 1e-3)


def thetas(K=3):
    return torch.tensor([[-1.0, -0.5, 0.3, 0.4, 0.6]], dtype=torch.float64) + 0.1 * torch.randn(
        K, 5, generator=generator(), dtype=torch.float64)


# ---- the surface and its gradient


@pytest.mark.parametrize("form", scaling.FORMS)
def test_gradients_are_those_of_finite_differences(form):
    p, theta, h = problem(form), thetas(), 1e-6
    f, J = descent.model(theta, p)
    value, grad = descent.value_and_slope(theta, p)
    for j in range(5):
        e = h * torch.eye(5, dtype=torch.float64)[j]
        up, down = theta + e, theta - e
        torch.testing.assert_close(J[:, j], (descent.model(up, p)[0] - descent.model(down, p)[0]) / (2 * h),
                                   rtol=1e-7, atol=1e-8)
        slope = (descent.value_and_slope(up, p)[0] - descent.value_and_slope(down, p)[0]) / (2 * h)
        torch.testing.assert_close(grad[:, j], slope, rtol=1e-4, atol=1e-6)  # Huber's slope has kinks


@pytest.mark.parametrize("form", scaling.FORMS)
def test_the_two_ways_to_write_the_objective_agree(form):
    N, D, loss = design(form)
    fit = scaling.fit_chinchilla(N, D, loss, form=form)
    assert scaling.objective(fit.surface, N, D, loss).item() == pytest.approx(fit.report.objective[0].item(), rel=1e-10)


def test_kaplans_form_is_the_one_of_the_paper():
    aN, aD, Nc, Dc = 0.076, 0.103, 6.4e13, 1.8e13
    ours = scaling.surface(E=0, A=Nc ** (aN / aD), B=Dc, alpha=aN / aD, beta=1, gamma=aD)
    N, D = 1.5e9, 2e10
    assert ours(N, D).item() == pytest.approx(((Nc / N) ** (aN / aD) + Dc / D) ** aD)


def test_huber_meets_its_tangent():
    r = torch.tensor([0.5, 1 - 1e-9, 1 + 1e-9, -4.0], dtype=torch.float64)
    torch.testing.assert_close(scaling.huber(r, 1.0), torch.tensor([0.125, 0.5, 0.5, 3.5]).double())


@pytest.mark.parametrize("form", scaling.FORMS)
def test_the_optimum_beats_its_neighbours_at_equal_compute(form):
    true = scaling.surface(**TRUE[form])
    C = torch.tensor(RANGE[form], dtype=torch.float64)
    N, D, loss = true.optimal(C)
    torch.testing.assert_close(6 * N * D, C)
    for factor in (0.9, 1.1):
        assert (true(N * factor, D / factor) > loss).all()
    law = scaling.power_law(C, N)
    assert law.exponent.item() == pytest.approx(true.exponent.item())
    fall = scaling.power_law(C, loss - true.E)
    assert -fall.exponent.item() == pytest.approx(true.loss_exponent.item())


# ---- the fit


@pytest.mark.parametrize("form", scaling.FORMS)
def test_the_truth_is_recovered_without_noise(form):
    N, D, loss = design(form, noise=0.0)
    fit = scaling.fit_chinchilla(N, D, loss, form=form)
    for name, value in TRUE[form].items():
        assert getattr(fit.surface, name).item() == pytest.approx(value, rel=1e-4), name


def scipy_best(p, k, n_starts=5):
    """Return the least objective of scipy's BFGS from several random starts, for the k-th weighting."""
    one = p._replace(counts=p.counts[k:k + 1])

    def both(theta):
        value, grad = descent.value_and_slope(torch.tensor(theta)[None], one)
        return value.item(), grad[0].numpy()

    rng = np.random.default_rng(k)
    low, high = [-3, -3, -1, 0.1, 0.1], [0, 0, 0.8, 1, 1]
    return min(minimize(both, rng.uniform(low, high), jac=True, method="BFGS",
                        options={"gtol": 1e-9, "maxiter": 2000}).fun for _ in range(n_starts))


@pytest.mark.parametrize("form", scaling.FORMS)
def test_never_worse_than_scipy(form):
    N, D, loss = design(form, m=60)
    fit = scaling.fit_chinchilla(N, D, loss, form=form, n_bootstrap=8, generator=generator(1))
    counts = scaling.resamples(60, 8, generator=generator(1)).double()
    p = descent.Problem(N.log() - N.log().mean(), D.log() - D.log().mean(), loss.log(), counts, form, 1e-3)
    theirs = torch.tensor([scipy_best(p, k) for k in range(8)], dtype=torch.float64)
    assert (fit.report.objective[1:] <= theirs * (1 + 1e-8)).all()
    assert fit.report.converged.all()


def test_the_report_tells_an_unfinished_fit():
    fit = scaling.fit_chinchilla(*design(), steps=3)
    assert not fit.report.converged[0] and fit.report.decrement[0] > 1e-9
    whole = scaling.fit_chinchilla(*design()).report
    assert whole.agreeing >= 4 and whole.decrement[0] <= 1e-9 and whole.steps > 3


def test_the_mean_instead_of_the_sum_stops_early():
    """The pitfall: scipy's L-BFGS-B with default tolerances, once on the sum and once on the mean."""
    N, D, loss = design(m=240)
    p = descent.Problem(N.log(), D.log(), loss.log(), torch.ones(1, 240, dtype=torch.float64), "additive", 1e-3)

    def both(theta, scale):
        value, grad = descent.value_and_slope(torch.tensor(theta)[None], p)
        return value.item() * scale, grad[0].numpy() * scale

    begin = [10.0, 10.0, 0.0, 0.5, 0.5]
    found = {s: minimize(both, begin, args=(s,), jac=True, method="L-BFGS-B") for s in (1.0, 1 / 240)}
    best = scaling.fit_chinchilla(N, D, loss).report.objective[0].item()
    assert found[1 / 240].success and found[1 / 240].fun * 240 > 1.3 * best
    assert found[1 / 240].fun * 240 > found[1.0].fun >= best * (1 - 1e-9)


def test_bootstrap_intervals_cover():
    """Each of 12 intervals at 95 % misses with probability about 0.05: at most 3 misses, 99.8 % if all is right."""
    hits = 0
    for seed in range(12):
        fit = scaling.fit_chinchilla(*design(seed=seed), n_bootstrap=100, restarts=1, generator=generator(seed))
        low, high = fit.interval("exponent")
        hits += low <= scaling.surface(**TRUE["additive"]).exponent.item() <= high
    assert hits >= 9


def test_a_duplicate_counts_twice():
    N, D, loss = design(m=30)
    twice = scaling.fit_chinchilla(*(torch.cat([z, z[:10]]) for z in (N, D, loss)))
    counts = torch.ones(30, dtype=torch.float64)
    counts[:10] = 2
    assert scaling.objective(twice.surface, N, D, loss, counts=counts).item() == pytest.approx(
        twice.report.objective[0].item(), rel=1e-9)


def test_units_do_not_matter():
    """N and D in other units change A and B only."""
    N, D, loss = design()
    a, b = scaling.fit_chinchilla(N, D, loss).surface, scaling.fit_chinchilla(N / 1e6, D / 1e9, loss).surface
    torch.testing.assert_close(torch.stack([a.E, a.alpha, a.beta]), torch.stack([b.E, b.alpha, b.beta]), rtol=1e-5,
                               atol=0)
    assert (a.A / b.A).item() == pytest.approx(1e6 ** a.alpha.item(), rel=1e-3)


def test_clusters_are_drawn_together():
    clusters = torch.tensor([7, 7, 3, 3, 3, 5])
    counts = scaling.resamples(6, 50, clusters=clusters, generator=generator())
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, [0, 2, 5]].sum(1) == 3).all()


@pytest.mark.parametrize(("change", "says"), [
    (lambda N, D, L: (N[:5], D[:5], L[:5], {}), "at least 6"),
    (lambda N, D, L: (N, D, -L, {}), "positive and finite"),
    (lambda N, D, L: (N, D, L * math.nan, {}), "positive and finite"),
    (lambda N, D, L: (torch.ones_like(N), D, L, {}), "3 different N"),
    (lambda N, D, L: (N, D[:-1], L, {}), "one length"),
    (lambda N, D, L: (N, D, L, {"form": "sum"}), "additive, kaplan"),
    (lambda N, D, L: (N, D, L, {"n_bootstrap": 5}), "generator")])
def test_what_cannot_be_fitted_is_refused(change, says):
    *data, options = change(*design(m=20))
    with pytest.raises(ValueError, match=says):
        scaling.fit_chinchilla(*data, **options)
    with pytest.raises(ValueError, match="n_bootstrap=400"):
        scaling.fit_chinchilla(*design(m=20)).interval("alpha")


def test_nonnegative_least_squares_is_scipys():
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    for _ in range(20):
        u, v, t = rng.normal(size=(3, 6))
        A, B = starts.nonnegative(*(torch.tensor([x]) for x in (u @ u, u @ v, v @ v, u @ t, v @ t)))
        np.testing.assert_allclose([A.item(), B.item()], nnls(np.stack([u, v], 1), t)[0], atol=1e-10)


# ---- one variable


def test_a_power_law_is_scipys_line():
    from scipy.stats import linregress

    x = torch.logspace(0, 2, 9, dtype=torch.float64)
    y = 3 * x**-0.4 * (0.05 * torch.randn(2, 9, generator=generator(), dtype=torch.float64)).exp()
    law = scaling.power_law(x, y)
    for i in range(2):
        line = linregress(x.log().numpy(), y[i].log().numpy())
        assert law.exponent[i].item() == pytest.approx(line.slope)
        assert law.std_err[i].item() == pytest.approx(line.stderr)
        assert law.coefficient[i].item() == pytest.approx(math.exp(line.intercept))


def test_intervals_and_forecasts_cover():
    """1,000 lines: coverage 0.95 within 4 standard errors (0.028)."""
    x, g = torch.logspace(0, 1, 6, dtype=torch.float64), generator(3)
    y = 2 * x**-0.3 * (0.1 * torch.randn(1000, 6, generator=g, dtype=torch.float64)).exp()
    law = scaling.power_law(x, y)
    low, high = law.interval()
    assert ((low < -0.3) & (high > -0.3)).double().mean().item() == pytest.approx(0.95, abs=0.028)
    new = 2 * 30.0**-0.3 * (0.1 * torch.randn(1000, generator=g, dtype=torch.float64)).exp()
    low, high = law.forecast(30.0)
    assert ((low < new) & (high > new)).double().mean().item() == pytest.approx(0.95, abs=0.028)


def test_two_points_have_no_error_bar():
    law = scaling.power_law(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    assert law.exponent.item() == pytest.approx(2) and law.std_err.isnan() and law.interval()[0].isnan()


@pytest.mark.parametrize(("x", "y", "says"), [
    ([1.0, 1.0], [1.0, 2.0], "two different"), ([1.0, 2.0], [1.0, -2.0], "positive"), ([1.0], [1.0], "two different")])
def test_a_line_through_nothing_is_refused(x, y, says):
    with pytest.raises(ValueError, match=says):
        scaling.power_law(torch.tensor(x), torch.tensor(y))


def test_isoflop_finds_vertices_and_says_where_there_are_none():
    N = torch.tensor([8.0, 16, 32, 64, 128]).double()
    loss = torch.stack([torch.exp(0.05 * torch.log(N / c) ** 2) for c in (20.0, 200.0)] + [N, N])
    loss[2] = torch.exp(-torch.log(N / 20) ** 2)
    loss[3, 2:] = torch.nan
    found = scaling.isoflop(N, loss)
    torch.testing.assert_close(found.n_opt[:2], torch.tensor([20.0, 200.0]).double())
    torch.testing.assert_close(found.curvature[:2], torch.tensor([0.1, 0.1]).double())
    torch.testing.assert_close(found.loss[:2], torch.ones(2).double())
    assert found.n_opt[2:].isnan().all() and found.loss[2:].isnan().all()
    assert found.inside.tolist() == [True, False, False, False]
    loss[0, 0] = torch.nan
    assert scaling.isoflop(N, loss[0]).n_opt.item() == pytest.approx(20.0)


def test_curves_are_read_off_where_they_were_measured():
    tokens = torch.tensor([10, 100, 1000])
    losses = torch.stack([2.0 * tokens**-0.5, 3.0 * tokens**-0.1])
    C = 6 * 7 * torch.tensor([5.0, 10.0, 30.0, 1000.0, 1001.0])
    read = scaling.at_compute(7, tokens, losses, C)
    assert read[:, [0, 4]].isnan().all()
    torch.testing.assert_close(read[0, 1:4], 2 * torch.tensor([10.0, 30.0, 1000.0]).double() ** -0.5, rtol=1e-6, atol=0)


def test_batch_law_recovers_itself_under_noise():
    B = 2.0 ** torch.arange(1, 9, dtype=torch.float64)
    noisy = (35 + 6400 / B) * (0.02 * torch.randn(50, 8, generator=generator(), dtype=torch.float64)).exp()
    S, E = scaling.batch_law(B, noisy)
    assert (E / S).mean().item() == pytest.approx(6400 / 35, rel=0.03)  # 4 standard errors
    with pytest.raises(ValueError, match="two different"):
        scaling.batch_law(torch.ones(3), torch.ones(3))


# ---- counts and noise


def counted(model, *inputs, backward=True):
    with FlopCounterMode(display=False) as counter:
        out = model(*inputs)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("hidden", [3, 32])
def test_the_character_model_is_counted_as_torch_counts(hidden):
    weights = [w.requires_grad_() for w in scaling.character_weights(hidden, 17, generators=[generator()])]
    tokens = torch.randint(17, (1, 10, 12), generator=generator())
    flops = scaling.character_flops(hidden, 17)
    assert counted(lambda t: scaling.character_logits(weights, t), tokens) == 10 * flops.training
    assert sum(flops.parameters.values()) == sum(w.numel() for w in weights)
    assert flops.training == 6 * (flops.parameters["hidden"] + flops.parameters["head"])


@pytest.mark.parametrize(("dim", "depth", "ratio"), [(8, 1, 4), (16, 3, 2)])
def test_the_transformer_is_counted_as_torch_counts(dim, depth, ratio):
    model = models.transformer(29, context=6, dim=dim, depth=depth, mlp_ratio=ratio)
    tokens = torch.randint(29, (5, 6), generator=generator())
    flops = scaling.transformer_flops(29, context=6, dim=dim, depth=depth, mlp_ratio=ratio)
    assert counted(model, tokens, backward=False) == 30 * flops.forward
    assert counted(model, tokens) == 30 * flops.training
    assert sum(flops.parameters.values()) == models.num_params(model)


def test_noise_scale_is_unbiased():
    """Gaussian gradients, tr Σ = 20, |G|² = 5; 400 estimates from 8 batches of 4, four standard errors."""
    g = torch.randn(400, 8, 20, generator=generator(), dtype=torch.float64) / 2 + 0.5  # batches of 4
    found = [scaling.gradient_noise_scale(each, batch=4) for each in g]
    for name, value in (("trace", 20.0), ("squared_norm", 5.0)):
        values = torch.tensor([getattr(f, name) for f in found], dtype=torch.float64)
        assert abs(values.mean().item() - value) < 4 * values.std().item() / 20


def test_noise_without_a_gradient_is_nan():
    assert math.isnan(scaling.gradient_noise_scale(torch.tensor([[1.0], [-1.0]])).scale)
    with pytest.raises(ValueError, match="at least two batches"):
        scaling.gradient_noise_scale(torch.ones(1, 3))


# ---- the character model


def text(length=4000):
    return torch.randint(5, (length,), generator=generator()) * torch.arange(length).remainder(2)


def train(seeds, **options):
    return scaling.train_characters(6, text(), text(), n_tokens=5, batch=16, context=3, embedding=4,
                                    at=[160, 640], generators=[generator(s) for s in seeds], **options)


def test_members_do_not_know_of_each_other():
    both, one = train([1, 2]), train([2])
    torch.testing.assert_close(both.losses[1:], one.losses, rtol=1e-5, atol=0)
    assert both.n_params == 6 * (3 * 4 + 5) and both.tokens.tolist() == [160, 640]
    assert (both.losses[:, 1] < both.losses[:, 0]).all()


def test_the_model_is_a_plain_torch_module():
    w = scaling.character_weights(6, 5, context=3, embedding=4, generators=[generator()])
    w = [part + 0.1 for part in w]
    tokens = torch.randint(5, (7, 3), generator=generator())
    x = torch.nn.functional.embedding(tokens, w[0][0]).flatten(1)
    plain = torch.relu(x @ w[1][0] + w[2][0]) @ w[3][0] + w[4][0]
    torch.testing.assert_close(scaling.character_logits(w, tokens)[0], plain)
    windows = torch.cat([tokens, tokens[:, :1]], 1)
    expected = torch.nn.functional.cross_entropy(plain, tokens[:, 0])
    found = scaling.character_losses(w, windows, chunk=3)
    torch.testing.assert_close(found, expected[None].double(), rtol=1e-5, atol=0)


def test_the_gradient_is_autograds():
    generators = [generator(1), generator(2)]
    w = scaling.character_weights(6, 5, context=3, embedding=4, generators=generators)
    w = [(part + torch.randn(part.shape, generator=generators[0])).double().requires_grad_() for part in w]
    windows = torch.randint(5, (2, 9, 4), generator=generator())
    logits = scaling.character_logits(w, windows[..., :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[..., -1].flatten(), reduction="sum") / 9
    with torch.no_grad():
        ours = scaling.character_gradient(w, windows)
    for mine, theirs in zip(ours, torch.autograd.grad(loss, w), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_more_text_than_there_is_is_refused():
    with pytest.raises(ValueError, match="must increase"):
        scaling.train_characters(6, text(50), text(50), n_tokens=5, batch=16, context=3, at=[64],
                                 generators=[generator()])
