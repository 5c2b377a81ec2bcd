"""Random features: fits against lstsq, theory against quadrature, the published system, and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from dlt_helpers import random_features as rf

ZETA_SQ = 0.25 / (0.25 - 1 / (2 * math.pi))  # of ReLU


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def parameters(draws, seed=0):
    """Draw (psi1, psi2, zeta_sq, ridge), a third of them without ridge, none at psi1 = psi2."""
    rng = np.random.default_rng(seed)
    for i in range(draws):
        psi1, psi2 = np.exp(rng.uniform(-2, 3, 2))
        yield psi1, psi2, math.exp(rng.uniform(-2, 2)), math.exp(rng.uniform(-8, 2)) if i % 3 else 0.0


# ---------------------------------------------------------------- features and fits

def test_fourier_features_average_to_the_gaussian_kernel():
    x = drawn(6, 3)
    N = 200_000
    Z = rf.fourier(x, N, bandwidth=1.5, generator=generator())(x)
    kernel = torch.exp(-torch.cdist(x, x) ** 2 / (2 * 1.5**2))
    error = (Z @ Z.T / N - kernel).abs().max().item()
    assert error < 5 * math.sqrt(1.5 / N)  # Var 2 cos cos' ≤ 3/2: five standard errors


def test_relu_features_are_relu_of_products_with_unit_vectors():
    x = drawn(5, 4)
    features = rf.relu(x, 7, generator=generator())
    assert torch.allclose(features.W.norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(features(x.reshape(5, 2, 2)), (x @ features.W.T).clamp(min=0))


@pytest.mark.parametrize("d", [2, 3, 10])
def test_relu_gram_is_the_mean_over_the_sphere(d):
    W = drawn(3, d, seed=1)
    x = rf.sphere(400_000, d, generator=generator(2))
    products = (x @ W.T).clamp(min=0)[:, :, None] * (x @ W.T).clamp(min=0)[:, None]
    z = (products.mean(0) - rf.relu_gram(W)) / (products.std(0) / math.sqrt(len(x)))
    assert z.abs().max() < 4.5  # standard errors, nine numbers


def test_points_of_the_sphere_have_length_root_d_and_mean_zero():
    x = rf.sphere(40_000, 5, generator=generator())
    assert torch.allclose(x.norm(dim=1), torch.full((40_000,), math.sqrt(5), dtype=torch.float64))
    assert x.mean(0).abs().max() < 5 / math.sqrt(40_000)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_path_agrees_with_lstsq_of_each_size(ridge):
    Z, y = drawn(20, 50), drawn(20, 3, seed=1)
    sizes = [50, 1, 7, 19, 20, 21, 33]
    for N, a in zip(sizes, rf.fit_path(Z, y, sizes, ridge=ridge), strict=True):
        rows = torch.cat([Z[:, :N], math.sqrt(ridge) * torch.eye(N, dtype=Z.dtype)]) if ridge else Z[:, :N]
        targets = torch.cat([y, y.new_zeros(N, 3)]) if ridge else y
        expected = torch.linalg.lstsq(rows, targets, driver="gelsd").solution
        assert torch.allclose(a, expected, rtol=1e-9, atol=1e-9), N


def test_path_takes_a_ridge_for_each_size_and_one_column():
    Z, y = drawn(8, 12), drawn(8, seed=1)
    both = rf.fit_path(Z, y, [3, 12], ridge=[0.5, 2.0])
    for a, (N, ridge) in zip(both, [(3, 0.5), (12, 2.0)], strict=True):
        (alone,) = rf.fit_path(Z, y[:, None], [N], ridge=ridge)
        assert torch.allclose(a, alone[:, 0]) and a.shape == (N,)


def test_path_interpolates_above_n_and_its_norm_falls_there():
    Z, y = drawn(15, 60), drawn(15, 1, seed=1)
    path = rf.fit_path(Z, y, [15, 20, 40, 60])
    assert all(torch.allclose(Z[:, : len(a)] @ a, y, atol=1e-9) for a in path)
    norms = [a.norm().item() for a in path]
    assert norms == sorted(norms, reverse=True)


def test_refinement_restores_what_the_gram_matrix_loses():
    U = torch.linalg.qr(drawn(30, 12))[0]
    Z = U * torch.logspace(0, -6, 12, dtype=torch.float64)  # condition number 1e6, squared 1e12
    Z = Z @ torch.linalg.qr(drawn(12, 12, seed=3))[0]
    a = drawn(12, 1, seed=4)
    (found,) = rf.fit_path(Z, Z @ a, [12])
    assert (found - a).norm() / a.norm() < 1e-8  # without it 1e-5


def test_refinement_above_n_interpolates_better():
    left, right = torch.linalg.qr(drawn(12, 12))[0], torch.linalg.qr(drawn(40, 12, seed=3))[0].T
    Z = left * torch.logspace(0, -6, 12, dtype=torch.float64) @ right  # [12, 40], condition number 1e6
    y = drawn(12, 1, seed=4)
    (a,) = rf.fit_path(Z, y, [40])
    assert (Z @ a - y).norm() / y.norm() < 1e-8  # without it 1e-5


def test_dead_and_repeated_features_get_the_least_norm():
    Z = drawn(10, 4)
    Z = torch.cat([Z, torch.zeros(10, 1, dtype=torch.float64), Z[:, :1]], 1)
    (a,) = rf.fit_path(Z, drawn(10, 1, seed=1), [6])
    expected = torch.linalg.lstsq(Z, drawn(10, 1, seed=1), driver="gelsd").solution
    assert torch.allclose(a, expected, rtol=1e-10, atol=1e-10) and a[4].abs() < 1e-14


def test_bad_input_to_the_fits_is_named():
    Z, y = drawn(4, 6), drawn(4, 1)
    with pytest.raises(ValueError, match="1 … 6"):
        rf.fit_path(Z, y, [7])
    with pytest.raises(ValueError, match="2 sizes"):
        rf.fit_path(Z, y, [1, 2], ridge=[1.0])
    with pytest.raises(ValueError, match="≥ 0"):
        rf.fit_path(Z, y, [1], ridge=-1.0)
    with pytest.raises(ValueError, match="bandwidth"):
        rf.fourier(Z, 3, bandwidth=0, generator=generator())


# ---------------------------------------------------------------- least squares

@pytest.mark.parametrize(("n", "d"), [(20, 8), (20, 13), (12, 20), (10, 40)])
def test_isotropic_risk_is_that_of_regressions(n, d):
    trials, beta = 20_000, drawn(d, seed=9)
    X = drawn(trials, n, d, seed=1)
    pinv = torch.linalg.pinv(X)  # [trials, d, n]
    bias = (pinv @ (X @ beta)[:, :, None] - beta[:, None]).square().sum((1, 2)) / (beta @ beta)
    variance = pinv.square().sum((1, 2))
    for sample, exact in zip((bias, variance), rf.isotropic(n, d), strict=True):
        assert abs(sample.mean().item() - exact) <= 4 * sample.std().item() / math.sqrt(trials) + 1e-12


def test_isotropic_tends_to_its_limit_and_is_infinite_at_the_threshold():
    for aspect in (0.3, 0.9, 1.5, 4.0):
        n = 10**7
        assert rf.isotropic(n, int(aspect * n)) == pytest.approx(rf.marchenko_pastur(aspect), rel=1e-5)
    assert all(rf.isotropic(10, d)[1] == math.inf for d in (9, 10, 11))
    assert rf.marchenko_pastur(1.0) == (0.0, math.inf)


@pytest.mark.parametrize("aspect", [0.3, 0.8, 1.3, 5.0])
def test_marchenko_pastur_agrees_with_the_density(aspect):
    """∫ dF(s)/(s + λ) by quadrature over the published density; variance as γ ∫ s/(s + λ)² dF_d(s)."""
    low, high = (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2

    def mean(f):  # over the law of the eigenvalues of XᵀX/n [d, d]
        def density(angle):  # s = middle + half cos, which removes the roots at both ends
            s = (low + high) / 2 + (high - low) / 2 * math.cos(angle)
            return f(s) * ((high - low) / 2 * math.sin(angle)) ** 2 / (2 * math.pi * aspect * s)
        return integrate.quad(density, 0, math.pi, epsabs=1e-13)[0] + max(0, 1 - 1 / aspect) * f(0)

    for ridge in (0.01, 0.5):
        bias, variance = rf.marchenko_pastur(aspect, ridge=ridge)
        assert mean(lambda s, r=ridge: r**2 / (s + r) ** 2) == pytest.approx(bias, rel=1e-9)
        assert aspect * mean(lambda s, r=ridge: s / (s + r) ** 2) == pytest.approx(variance, rel=1e-9)


def test_a_vanishing_ridge_is_no_ridge():
    for aspect in (0.4, 2.5):
        assert rf.marchenko_pastur(aspect, ridge=1e-13) == pytest.approx(rf.marchenko_pastur(aspect), abs=1e-9)


def test_bad_input_to_least_squares_is_named():
    with pytest.raises(ValueError, match="positive"):
        rf.isotropic(0, 3)
    with pytest.raises(ValueError, match="aspect"):
        rf.marchenko_pastur(-1.0)


# ---------------------------------------------------------------- the limit

def test_moments_of_relu_and_erf_have_closed_forms():
    relu = (1 / math.sqrt(2 * math.pi), 0.5, 0.25 - 1 / (2 * math.pi))
    assert rf.moments(torch.relu) == pytest.approx(relu, abs=1e-12)
    mu1 = 2 / math.sqrt(3 * math.pi)
    second = 2 / math.pi * math.asin(2 / 3)
    assert rf.moments(torch.erf) == pytest.approx((0, mu1, second - mu1**2), abs=1e-12)


def test_two_ridges_equal_the_published_polynomials():
    worst = 0.0
    for setting in parameters(3000):
        prediction, published = rf.two_ridge(*setting), rf.mei_montanari(*setting)
        for ours, theirs in zip((prediction.bias, prediction.variance), published, strict=True):
            worst = max(worst, abs(ours / theirs - 1))
    assert worst < 1e-10


def test_the_published_system_is_solved():
    """ν₁, ν₂ by iterating their two complex equations from the asymptotics; no use of the scalar reduction."""
    settings = np.array([s for s in parameters(60, seed=1) if s[3] > 1e-2])
    psi1, psi2, Z, ridge = settings.T
    xi = 1j * np.sqrt(psi1 * psi2 * ridge)
    nu1, nu2 = -psi1 / xi, -psi2 / xi
    for _ in range(20_000):
        def new(psi, other, product, Z=Z):
            return psi / (-xi - other - Z * other / (1 - Z * product))
        nu1 = 0.5 * nu1 + 0.5 * new(psi1, nu2, nu1 * nu2)
        nu2 = 0.5 * nu2 + 0.5 * new(psi2, nu1, nu1 * nu2)
    for p1, p2, z, lam, chi in zip(psi1, psi2, Z, ridge, nu1 * nu2, strict=True):
        E0, E1, E2 = rf.limit.polynomials(p1, p2, z, chi)
        assert abs(chi.imag) < 1e-10
        assert rf.mei_montanari(p1, p2, z, lam) == pytest.approx(((E1 / E0).real, (E2 / E0).real), rel=1e-8)


def test_infinitely_many_features_are_kernel_ridge_regression():
    """Kernel ridge regression has one ridge: n = S(κ) + δ/κ, here in units of d."""
    for psi2, ridge in ((3.0, 0.5), (0.7, 0.01), (3.0, 0.0)):
        limit, wide = (rf.two_ridge(psi1, psi2, ZETA_SQ, ridge) for psi1 in (math.inf, 1e10))
        for name in ("bias", "variance", "kappa"):
            assert getattr(limit, name) == pytest.approx(getattr(wide, name), rel=1e-8)
        assert limit.kappa == limit.gamma
        assert psi2 == pytest.approx(limit.dof + psi2 * ridge / limit.kappa)
        share = ZETA_SQ / (ZETA_SQ + limit.kappa)
        assert limit.variance == pytest.approx(share**2 / psi2 / (1 - share**2 / psi2))


def test_infinitely_many_examples_leave_the_approximation_error():
    """Best linear approximation of ⟨β, x⟩ by N features, n = ∞: no variance; with N = ∞ too, no bias."""
    assert rf.two_ridge(2.0, math.inf, ZETA_SQ).variance == pytest.approx(0, abs=1e-14)
    biases = [rf.two_ridge(psi1, math.inf, ZETA_SQ).bias for psi1 in (0.5, 2, 8, 1e8)]
    assert biases == sorted(biases, reverse=True) and biases[-1] < 1e-7


def test_the_error_is_infinite_at_the_threshold_and_a_ridge_removes_that():
    near = [rf.two_ridge(3 * (1 + gap), 3.0, ZETA_SQ).variance for gap in (0.1, 0.01, 0.001)]
    assert near[1] / near[0] == pytest.approx(10, rel=0.2) and near[2] / near[1] == pytest.approx(10, rel=0.2)
    assert rf.two_ridge(3.0, 3.0, ZETA_SQ, 0.1).variance < 1
    with pytest.raises(ValueError, match="infinite"):
        rf.two_ridge(3.0, 3.0, ZETA_SQ)
    with pytest.raises(ValueError, match="positive"):
        rf.mei_montanari(-1.0, 3.0, ZETA_SQ)


# ---------------------------------------------------------------- finite dimension

@pytest.mark.parametrize("d", [2, 3, 10, 100])
def test_spectrum_adds_up_and_agrees_with_another_quadrature(d):
    spectrum = rf.sphere_spectrum(d, torch.relu, degrees=6)
    assert spectrum.counts @ spectrum.values + spectrum.tail == pytest.approx(0.5, rel=1e-10)  # E σ² = E u² d/2
    alpha = (d - 2) / 2
    for k in range(5):
        def integrand(u, k=k):
            Q = special.eval_gegenbauer(k, alpha, u) / special.eval_gegenbauer(k, alpha, 1.0) if d > 2 else math.cos(
                k * math.acos(u))
            return math.sqrt(d) * u * Q
        weight = special.beta(0.5, (d - 1) / 2)
        value = integrate.quad(lambda t, f=integrand: f(math.sin(t)) * math.cos(t) ** (d - 2), 0, math.pi / 2,
                               epsabs=1e-13, limit=200)[0] / weight
        assert spectrum.values[k] == pytest.approx(value**2, rel=1e-9, abs=1e-16)


def test_degree_one_of_relu_is_known():
    """ξ₁ = E u σ(√d u) = √d E u²/2 = 1/(2√d), on the sphere exactly."""
    for d in (3, 30, 3000):
        assert rf.sphere_spectrum(d, torch.relu).values[1] == pytest.approx(1 / (4 * d), rel=1e-10)


def test_finite_dimension_tends_to_the_limit():
    limit = rf.two_ridge(4.0, 3.0, ZETA_SQ, 0.05 / rf.moments(torch.relu)[2])
    gaps = []
    for d in (100, 1000, 10_000):
        found = rf.finite_d(rf.sphere_spectrum(d, torch.relu), 4 * d, 3 * d, ridge=3 * 0.05)
        gaps.append(abs(found.bias[1] / limit.bias - 1) + abs(found.variance / limit.variance - 1))
    assert gaps[1] < gaps[0] / 5 and gaps[2] < gaps[1] / 5


@pytest.mark.parametrize(("d", "ridge"), [(20, 0.3), (20, 0.0), (120, 0.0), (120, 0.3)])
def test_linear_inputs_are_the_isotropic_case(d, ridge):
    n = 50
    flat = rf.Spectrum(np.ones(1), np.array([float(d)]))
    if d < n and ridge == 0:
        with pytest.raises(ValueError, match="too few"):
            rf.finite_d(flat, math.inf, n)
        return
    found = rf.finite_d(flat, math.inf, n, ridge=n * ridge)
    assert (found.bias[0], found.variance) == pytest.approx(rf.marchenko_pastur(d / n, ridge=ridge), rel=1e-9)


def test_ridge_regression_with_a_decaying_covariance_matches_simulation():
    eigenvalues = np.arange(1, 201.0) ** -1.5
    n, ridge, trials = 60, 0.05, 400
    theory = rf.finite_d(rf.Spectrum(eigenvalues, np.ones(200)), math.inf, n, ridge=ridge)
    scale = torch.from_numpy(eigenvalues)
    X = drawn(trials, n, 200, seed=5) * scale.sqrt()
    solve = X.mT @ torch.linalg.inv(X @ X.mT + ridge * torch.eye(n, dtype=torch.float64))  # [trials, d, n]
    variance = (solve.square() * scale[:, None]).sum((1, 2))
    z = (variance.mean() - theory.variance) / (variance.std() / math.sqrt(trials))
    assert abs(z) < 4


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_random_features_match_simulation(ridge):
    """d = 60, ReLU, both sides of the threshold: four standard errors over 60 trials."""
    d, n, tau, trials = 60, 180, 0.5, 60
    sizes, rows = [30, 90, 360, 720], []
    for trial in range(trials):
        g = generator(trial)
        x, W = rf.sphere(n, d, generator=g), rf.sphere(sizes[-1], d, generator=g) / math.sqrt(d)
        beta, noise = drawn(d, 1, seed=1000 + trial), tau * drawn(n, 1, seed=2000 + trial)
        beta, U = beta / beta.norm(), rf.relu_gram(W)
        path = rf.fit_path((x @ W.T).clamp(min=0), x @ beta + noise, sizes, ridge=[n * N * ridge / d for N in sizes])
        rows.append([(a.T @ U[:N, :N] @ a - a.T @ W[:N] @ beta + 1).item() for N, a in zip(sizes, path, strict=True)])
    rows, spectrum = np.array(rows), rf.sphere_spectrum(d, torch.relu)
    theory = [rf.finite_d(spectrum, N, n, ridge=n * ridge / d) for N in sizes]
    theory = np.array([t.bias[1] + tau**2 * t.variance for t in theory])
    z = (rows.mean(0) - theory) / (rows.std(0, ddof=1) / math.sqrt(trials))
    assert np.abs(z).max() < 4


def test_bad_input_to_the_finite_theory_is_named():
    spectrum = rf.sphere_spectrum(10, torch.relu)
    with pytest.raises(ValueError, match="N = n"):
        rf.finite_d(spectrum, 5, 5)
    with pytest.raises(ValueError, match="positive"):
        rf.finite_d(spectrum, 0, 5)
    with pytest.raises(ValueError, match="d ≥ 2"):
        rf.sphere_spectrum(1, torch.relu)
