"""0 ⪯ X ⊥ A + B[X] ⪰ 0 against an independent solver, and its edges."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dlt_helpers.complementarity import solve_complementarity


def symmetric(M):
    return (M + M.transpose(-1, -2)) / 2


def random_problem(seed, k, rank=None, room=0.0):
    """B_ijkl = ⟨D_ij, D_kl⟩ with D_ij in `rank` dimensions, and A = `room` and a matrix in the range of B."""
    generator = torch.Generator().manual_seed(seed)
    rank = 3 * k * k if rank is None else rank
    D = torch.randn(k, k, rank, generator=generator, dtype=torch.float64)
    D = (D + D.transpose(0, 1)) / 2
    B = torch.einsum("ijp,klp->ijkl", D, D) / rank
    A = torch.einsum("ijp,p->ij", D, torch.randn(rank, generator=generator, dtype=torch.float64)) / rank**0.5
    return A + room * torch.eye(k, dtype=torch.float64), B


def apply(B, X):
    return torch.einsum("ijkl,kl->ij", B, X)


def objective(A, B, X):
    return (0.5 * (X * apply(B, X)).sum() + (A * X).sum()).item()


def oracle(A, B):
    """Least ½⟨X, B[X]⟩ + ⟨A, X⟩ over X = F Fᵀ, F square (so no spurious minima), by BFGS."""
    k, rng, best = len(A), np.random.default_rng(0), (np.inf, None)

    def value_and_slope(f):
        F = torch.tensor(f.reshape(k, k), requires_grad=True)
        X = F @ F.T
        value = 0.5 * (X * apply(B, X)).sum() + (A * X).sum()
        value.backward()
        return value.item(), F.grad.numpy().ravel()

    for _ in range(3):
        found = minimize(value_and_slope, rng.normal(size=k * k), jac=True, method="BFGS",
                         options={"gtol": 1e-9, "maxiter": 5000})
        if found.fun < best[0]:
            F = found.x.reshape(k, k)
            best = found.fun, torch.tensor(F @ F.T)
    return best


def assert_solves(A, B, found, tol):
    slack = A + apply(B, found.X)
    scale = A.abs().max().clamp_min(1.0).item()
    assert torch.linalg.eigvalsh(found.X)[0] >= -1e-12 * max(1, found.X.abs().max().item())
    assert torch.linalg.eigvalsh(slack)[0] >= -tol * scale
    assert abs((found.X * slack).sum().item()) <= tol * scale * max(1, found.X.abs().max().item())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_least_value_and_solution_agree_with_bfgs_over_factors(k, seed):
    A, B = random_problem(seed, k)
    found = solve_complementarity(A, B)
    value, X = oracle(A, B)
    assert found.converged and found.residual <= 1e-9
    assert_solves(A, B, found, 1e-6)
    assert objective(A, B, found.X) == pytest.approx(value, abs=1e-9, rel=1e-7)
    torch.testing.assert_close(found.X, X, atol=2e-3, rtol=2e-3)  # BFGS is only this good where X is singular


@pytest.mark.parametrize("seed", range(10))
def test_rank_deficient_problems_reach_the_least_value(seed):
    A, B = random_problem(seed, 3, rank=2, room=0.05)  # six unknowns, B of rank two
    found = solve_complementarity(A, B, tol=1e-7)
    assert found.converged
    assert objective(A, B, found.X) <= oracle(A, B)[0] + 1e-6


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_identity_is_the_projection_on_the_cone(k, seed):
    """B = 1: X = Π₊(−A), also where A has zero eigenvalues (nothing strictly complementary)."""
    generator = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0]
    size = torch.randn(k, generator=generator, dtype=torch.float64)
    size[0] = 0
    eye = torch.eye(k, dtype=torch.float64)
    B = (torch.einsum("ik,jl->ijkl", eye, eye) + torch.einsum("il,jk->ijkl", eye, eye)) / 2
    found = solve_complementarity((V * size) @ V.T, B)
    torch.testing.assert_close(found.X, (V * (-size).clamp_min(0)) @ V.T, atol=1e-9, rtol=0)


@pytest.mark.parametrize("k", [2, 4])
def test_solution_turns_with_the_basis(k):
    A, B = random_problem(3, k)
    Q = torch.linalg.qr(torch.randn(k, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turned = solve_complementarity(Q.T @ A @ Q, torch.einsum("ijkl,ia,jb,kc,ld->abcd", B, Q, Q, Q, Q))
    torch.testing.assert_close(Q @ turned.X @ Q.T, solve_complementarity(A, B).X, atol=1e-6, rtol=1e-6)


def test_units_do_not_matter():
    A, B = random_problem(0, 3)
    X = solve_complementarity(A, B).X
    torch.testing.assert_close(solve_complementarity(1e-6 * A, 1e8 * B).X, 1e-14 * X, atol=1e-20, rtol=1e-5)


def test_room_everywhere_means_no_oscillation():
    A, B = random_problem(0, 3, room=100.0)
    found = solve_complementarity(A, B)
    assert found.n_iterations == 0 and not found.X.any()


def test_warm_start_at_the_solution_stops_at_once():
    A, B = random_problem(1, 3)
    cold = solve_complementarity(A, B)
    warm = solve_complementarity(A, B, start=cold.X, tol=1e-8)
    assert cold.n_iterations > 10 >= warm.n_iterations
    torch.testing.assert_close(warm.X, cold.X, atol=1e-6, rtol=1e-6)


def test_no_solution_is_said_and_not_invented():
    """B = 0 and A with a negative eigenvalue: nothing can hold the sharpness back."""
    for k in (1, 2):
        A = -torch.eye(k, dtype=torch.float64)
        found = solve_complementarity(A, torch.zeros(k, k, k, k, dtype=torch.float64), max_iterations=50)
        assert not found.converged and found.X.isfinite().all()


def test_dtype_and_bad_input():
    A, B = (t.float() for t in random_problem(0, 2))
    assert solve_complementarity(A, B).X.dtype == torch.float32
    with pytest.raises(ValueError, match="must be"):
        solve_complementarity(A, B[0])
    with pytest.raises(ValueError, match="finite"):
        solve_complementarity(A * float("nan"), B)
