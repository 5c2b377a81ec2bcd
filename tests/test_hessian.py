"""hessian: eigenvalues against dense ones in float64, also where they bunch, cross, vanish or repeat."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch

from dlt_helpers import functional, hessian

# torch.func.hessian (forward mode) makes torch 2.13 compile its jvp rules with its own deprecated jit
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def rotated(values, seed=0):
    """Return a symmetric matrix [p, p] with these eigenvalues in random directions."""
    D = torch.as_tensor(values, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(len(D), len(D), dtype=torch.float64,
                                    generator=torch.Generator().manual_seed(seed)))[0]
    H = Q @ torch.diag(D) @ Q.T
    return (H + H.T) / 2


CACHE = {}


def dense_oracle(problem):
    """Return the Hessian [p, p] of a fixture problem by forward over reverse, computed once."""
    if problem.name not in CACHE:
        CACHE[problem.name] = torch.func.hessian(problem.loss)(problem.w)
    return CACHE[problem.name]


def quadratic(H):
    return lambda w: 0.5 * w @ (H.to(w) @ w)


def origin(H):
    return torch.zeros(len(H), dtype=H.dtype)


# ---- oracles

def test_dense_hessian_is_that_of_forward_over_reverse(problem):
    H = hessian.dense(problem.loss, problem.w)
    torch.testing.assert_close(H, dense_oracle(problem), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(H, H.T, rtol=1e-9, atol=1e-11)
    V = H[:, :2]
    torch.testing.assert_close(hessian.hvp(problem.loss, problem.w, V), H @ V, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 4])
def test_top_eigenpairs_of_networks_against_eigh(problem, k):
    H = dense_oracle(problem)
    exact = torch.linalg.eigvalsh(H).flip(0)[:k]
    eigs = hessian.top_eigs(problem.loss, problem.w, k, tol=1e-7)
    assert eigs.converged and eigs.vectors.shape == (len(problem.w), k)
    torch.testing.assert_close(eigs.values, exact, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(eigs.vectors.T @ eigs.vectors, torch.eye(k, dtype=H.dtype))
    residuals = (H @ eigs.vectors - eigs.vectors * eigs.values).norm(dim=0)
    torch.testing.assert_close(eigs.residuals, residuals, rtol=1e-3, atol=1e-10)
    assert (residuals <= 1.001e-7 * eigs.values.abs() + 1e-13).all()


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_the_residual_bounds_the_error_and_is_stopped_by(problem, tol):
    spectrum = torch.linalg.eigvalsh(dense_oracle(problem))
    eigs = hessian.top_eigs(problem.loss, problem.w, 3, tol=tol)
    assert eigs.converged and (eigs.residuals <= tol * eigs.values.abs()).all()
    nearest = (spectrum[:, None] - eigs.values).abs().amin(0)
    assert (nearest <= eigs.residuals + 1e-12).all()
    assert (eigs.values <= spectrum.flip(0)[:3] + 1e-12).all()  # Ritz values approach from below


@pytest.mark.parametrize("k", [1, 3])
def test_preconditioned_pairs_against_the_generalised_problem(problem, k, generator):
    P = torch.rand(len(problem.w), generator=generator, dtype=torch.float64) + 0.05
    H = dense_oracle(problem)
    exact = scipy.linalg.eigh(((H + H.T) / 2).numpy(), np.diag(P.numpy()), eigvals_only=True)[::-1][:k]
    eigs = hessian.top_eigs(problem.loss, problem.w, k, preconditioner=P, tol=1e-7)
    U = eigs.vectors
    np.testing.assert_allclose(eigs.values.numpy(), exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(U.T @ (P[:, None] * U), torch.eye(k, dtype=H.dtype), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(H @ U, P[:, None] * U * eigs.values, rtol=1e-4, atol=1e-5)
    warm = hessian.top_eigs(problem.loss, problem.w, k, preconditioner=P, start=U, tol=1e-6)
    assert warm.n_hvps == k


def test_against_arpack_on_a_large_matrix():
    H = rotated(np.random.default_rng(0).standard_cauchy(400), seed=1)
    exact = scipy.sparse.linalg.eigsh(H.numpy(), k=5, which="LA", return_eigenvectors=False)[::-1]
    eigs = hessian.top_eigs(quadratic(H), origin(H), 5, tol=1e-6)
    np.testing.assert_allclose(eigs.values.numpy(), exact, rtol=1e-8)


# ---- traps: magnitude, multiplicity, bunching, crossing

def test_largest_not_largest_in_magnitude():
    H = rotated([3, 1, 0, -2, -50])
    assert hessian.sharpness(quadratic(H), origin(H), tol=1e-8) == pytest.approx(3, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_multiple_eigenvalues_are_all_found(seed, dtype):
    H = rotated([20, 20, 20, 19] + [5] * 60 + [-8] * 10, seed)
    eigs = hessian.top_eigs(quadratic(H), origin(H).to(dtype), 4, tol=1e-4)
    assert eigs.values.tolist() == pytest.approx([20, 20, 20, 19], rel=1e-5)


BUNCH = [20.38, 19.99, 19.62, 19.34, 18.80, 18.40, 18.11, 17.12]  # a network's at 2/η = 20


def missed_in_bunches(k):
    """Return in how many of 40 cold solves one of the k largest eigenvalues of a bunch is off by 1 %."""
    missed = 0
    for seed in range(40):
        H = rotated(BUNCH + list(np.linspace(-3, 12, 100)), seed)
        eigs = hessian.top_eigs(quadratic(H), origin(H), k, generator=torch.Generator().manual_seed(seed))
        assert eigs.converged
        missed += not np.allclose(eigs.values.numpy(), BUNCH[:k], rtol=1e-2)
    return missed


def test_eigenvalues_bunched_at_the_edge_are_not_missed(monkeypatch):
    assert (missed_in_bunches(1), missed_in_bunches(4)) == (0, 0)
    monkeypatch.setattr(hessian.krylov, "AHEAD", 0)  # the control: a small residual alone says nothing of neighbours
    assert missed_in_bunches(1) > 0


def test_an_overtaking_eigenvalue_is_seen_although_nothing_rotates(monkeypatch):
    """Eigenvectors stand still and two eigenvalues cross: the old vector keeps a residual of zero."""
    def path():
        sharp, values = None, []
        for t in range(7):
            H = rotated([10 - t, 5 + t] + list(np.linspace(0, 3, 40)))
            result = hessian.top_eigs(quadratic(H), origin(H), 1, start=sharp)
            sharp = result.subspace
            values.append(result.values.item())
        return values

    assert path() == pytest.approx([10, 9, 8, 8, 9, 10, 11], rel=2e-3)
    monkeypatch.setattr(hessian.krylov, "SPARE", 0)  # the control: with one vector the crossing is not noticed
    assert path()[-1] == pytest.approx(4, rel=1e-2)


def test_tracker_follows_an_eigenvalue_that_overtakes():
    H = rotated([0.0] * 40)
    A, B = (rotated([1.0] + [0.0] * 39, seed) for seed in (1, 2))
    spread = rotated(np.linspace(0, 1, 40), seed=3)
    sharp, pairs = None, []
    matrices = [H + (10 - t) * A + (5 + t) * B + spread for t in np.linspace(0, 6, 25)]  # cross at t = 2.5
    for M in matrices:
        result = hessian.top_eigs(quadratic(M), origin(M), 1, start=sharp, tol=1e-2)
        sharp = result.subspace
        pairs.append((result.values.item(), torch.linalg.eigvalsh(M)[-1].item()))
    assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], rel=1e-3)


def test_restarts_reach_what_one_basis_cannot_hold():
    H = rotated(np.linspace(0, 1, 300))
    eigs = hessian.top_eigs(quadratic(H), origin(H), 2, tol=1e-6, max_hvps=2000)
    assert eigs.n_hvps > hessian.BASIS and eigs.converged
    assert eigs.values.tolist() == pytest.approx([1, 298 / 299], rel=1e-9)


# ---- warm starts and cost

def test_a_warm_start_is_cheap_and_right(problem):
    cold = hessian.top_eigs(problem.loss, problem.w, 2, tol=1e-3)
    moved = problem.w - 1e-3 * functional.value_and_grad(problem.loss, problem.w)[1]
    warm = hessian.top_eigs(problem.loss, moved, 2, tol=1e-3, start=cold.subspace)
    exact = torch.linalg.eigvalsh(hessian.dense(problem.loss, moved)).flip(0)[:2]
    torch.testing.assert_close(warm.values, exact, rtol=1e-4, atol=1e-9)
    assert warm.n_hvps <= cold.n_hvps and warm.n_hvps <= 2 + 2 * hessian.SPARE


def test_tracker_counts_and_starts_where_it_was(problem):
    sharp = hessian.tracker(problem.loss, k=2, tol=1e-3)
    first = sharp(problem.w)
    cold = sharp.n_hvps
    second = sharp(problem.w)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-9)
    assert sharp.n_hvps - cold <= 2 + hessian.SPARE < cold
    assert (sharp.n_solves, sharp.n_gradients) == (2, 2)


def test_products_and_gradients_are_counted(monkeypatch):
    H, counts = rotated(range(30)), {"hvp": 0, "loss": 0}
    product = functional.Derivatives.hvp
    monkeypatch.setattr(functional.Derivatives, "hvp",
                        lambda self, v: (counts.update(hvp=counts["hvp"] + 1), product(self, v))[1])

    def loss(w):
        counts["loss"] += 1
        return quadratic(H)(w)

    eigs = hessian.top_eigs(loss, origin(H), 2, tol=1e-4)
    assert (eigs.n_hvps, eigs.n_gradients) == (counts["hvp"], counts["loss"]) and counts["loss"] == 1
    assert eigs.cost == pytest.approx(1 + hessian.HVP_COST * eigs.n_hvps)
    at = functional.derivatives(loss, origin(H))
    again = hessian.top_eigs(loss, origin(H), 2, tol=1e-4, at=at)
    assert again.n_gradients == 0 and counts["loss"] == 2
    torch.testing.assert_close(again.values, eigs.values)


# ---- invariants and limits

def test_scaling_the_loss_scales_the_sharpness_and_p_divides_it(problem):
    S = hessian.sharpness(problem.loss, problem.w, tol=1e-6)
    scaled = hessian.sharpness(lambda w: 7 * problem.loss(w), problem.w, tol=1e-6)
    P = torch.full_like(problem.w, 4.0)
    divided = hessian.sharpness(problem.loss, problem.w, tol=1e-6, preconditioner=P)
    assert (scaled, divided) == pytest.approx((7 * S, S / 4), rel=1e-9)


def test_relabelling_the_weights_changes_nothing(problem, generator):
    order = torch.randperm(len(problem.w), generator=generator)
    back = order.argsort()
    S = hessian.top_eigs(problem.loss, problem.w, 3, tol=1e-6).values
    permuted = hessian.top_eigs(lambda w: problem.loss(w[back]), problem.w[order], 3, tol=1e-6).values
    torch.testing.assert_close(permuted, S, rtol=1e-8, atol=1e-11)


def test_the_start_does_not_decide_the_result(problem):
    results = [hessian.top_eigs(problem.loss, problem.w, 2, tol=1e-6,
                                generator=torch.Generator().manual_seed(s)).values for s in range(3)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(results[0], results[2], rtol=1e-8, atol=1e-11)


# ---- edges

@pytest.mark.parametrize(("values", "k"), [
    ([2.0], 1), ([3, 2, 1], 3), ([0] * 6, 1), ([0] * 6, 3), ([5, 1] + [0] * 30, 4), ([-1, -2, -3, -4], 2),
    ([-1] * 5 + [0], 2), ([1] * 12, 5),
])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_zero_negative_and_rank_deficient(values, k, dtype):
    H = rotated(np.array(values, dtype=float))
    eigs = hessian.top_eigs(quadratic(H), origin(H).to(dtype), k, tol=1e-3)
    assert eigs.converged and eigs.values.dtype == dtype and eigs.subspace.shape[1] >= k
    assert eigs.values.tolist() == pytest.approx(sorted(values)[::-1][:k], rel=1e-5, abs=1e-5)


def test_starts_that_are_zero_or_dependent_are_filled_up():
    H = rotated(range(20))
    for start in (torch.zeros(20, 2), torch.ones(20, 3), torch.ones(20, 1)):
        eigs = hessian.top_eigs(quadratic(H), origin(H), 3, start=start, tol=1e-6)
        assert eigs.values.tolist() == pytest.approx([19, 18, 17], rel=1e-8)


def test_no_convergence_is_said_and_raised():
    H = rotated(np.linspace(0, 1, 200))
    eigs = hessian.top_eigs(quadratic(H), origin(H), 1, tol=1e-8, max_hvps=6)
    assert not eigs.converged and eigs.n_hvps == 6 and eigs.residuals[0] > 1e-8
    with pytest.raises(hessian.ConvergenceError, match=r"6 Hessian-vector products.*max_hvps=.*tol="):
        hessian.sharpness(quadratic(H), origin(H), tol=1e-8, max_hvps=6)
    with pytest.raises(hessian.ConvergenceError):
        hessian.tracker(quadratic(H), tol=1e-8, max_hvps=6)(origin(H))


@pytest.mark.parametrize(("options", "words"), [
    ({"k": 0}, "asked for k = 0"),
    ({"k": 4}, "asked for k = 4"),
    ({"k": 2, "max_hvps": 1}, "at least 2"),
    ({"start": torch.ones(2, 1)}, r"\[p, j\]"),
    ({"start": torch.ones(3)}, r"\[p, j\]"),
    ({"preconditioner": torch.tensor([1.0, 0, 1])}, "positive"),
    ({"preconditioner": torch.tensor([1.0, torch.nan, 1])}, "positive"),
])
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        hessian.top_eigs(lambda w: (w ** 2).sum(), torch.zeros(3), **options)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_of_a_diverged_run_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        hessian.sharpness(lambda w: (w ** 2).sum(), torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="not finite"):  # finite weights and gradient, infinite curvature
        hessian.sharpness(lambda w: (w.abs() ** 1.5).sum(), torch.zeros(2))
