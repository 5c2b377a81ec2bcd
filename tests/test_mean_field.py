"""mean_field: training against autograd and an ODE solver, kernels against Jacobians, the limits in γ and N."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from dlt_helpers import kernels, mean_field
from dlt_helpers.mean_field import Particles


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(N=6, d=3, **options):
    at = mean_field.particles(N, d, generator=seeded(), **options)
    a, w = at.a.double(), at.w.double()
    return Particles(a, w / w.norm(dim=1, keepdim=True) if options.get("sphere", True) else w)


def problem(n=8, d=3):
    return drawn(n, d, seed=1), drawn(n, seed=2)


def flat_network(x, activation, gamma, N):
    phi = mean_field.PHI[activation][0]

    def f(theta):  # [N (1 + d)]
        a, w = theta[:N], theta[N:].reshape(N, -1)
        return gamma / N * (phi(x @ w.T) @ a)
    return f


def flat(at):
    return torch.cat([at.a, at.w.reshape(-1)])


@pytest.mark.parametrize("sphere", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("activation", mean_field.PHI)
def test_one_step_is_autograds(activation, gamma, sphere):
    (x, y), at = problem(), cloud(balanced=False, sphere=sphere, a="normal")
    N, step, theta = len(at.a), 1e-3, flat(at).requires_grad_(True)
    f = flat_network(x, activation, gamma, N)
    (g,) = torch.autograd.grad(0.5 * (f(theta) - y).square().mean(), theta)
    ga, gw = g[:N], g[N:].reshape(N, -1)
    if sphere:
        gw = gw - (gw * at.w).sum(1, keepdim=True) * at.w
    a, w = at.a - step * N / gamma**2 * ga, at.w - step * N / gamma**2 * gw
    w = w / w.norm(dim=1, keepdim=True) if sphere else w
    run = mean_field.train_two_layer(at, x, y, times=[step], gamma=gamma, activation=activation, sphere=sphere)
    assert run.steps == 1
    torch.testing.assert_close(run.particles[-1].a, a, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(run.particles[-1].w, w, rtol=1e-12, atol=1e-14)


def test_small_steps_are_the_flow():
    """Against an ODE solver, at two step sizes: the error is of first order in the step."""
    (x, y), at, N = problem(), cloud(balanced=False, sphere=False, a="normal"), 6
    f = flat_network(x, "tanh", 2.0, N)

    def velocity(t, theta):
        theta = torch.from_numpy(theta).requires_grad_(True)
        (g,) = torch.autograd.grad(0.5 * (f(theta) - y).square().mean(), theta)
        return (-N / 4.0 * g).numpy()

    exact = solve_ivp(velocity, (0, 3.0), flat(at).numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
    errors = [np.abs(flat(mean_field.train_two_layer(at, x, y, times=[3.0], gamma=2.0, activation="tanh",
                                                     sphere=False, max_step=h).particles[-1]).numpy() - exact).max()
              for h in (0.02, 0.01)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("train_a", [True, False])
@pytest.mark.parametrize("sphere", [True, False])
def test_the_tangent_kernel_is_the_jacobians(sphere, train_a):
    (x, _), at, gamma = problem(), cloud(balanced=False, a="normal"), 3.0
    N = len(at.a)
    J = torch.func.jacrev(flat_network(x, "erf", gamma, N))(flat(at))                        # [n, N (1 + d)]
    Ja, Jw = J[:, :N], J[:, N:].reshape(len(x), N, -1)
    if sphere:
        Jw = Jw - (Jw * at.w).sum(-1, keepdim=True) * at.w
    exact = N / gamma**2 * (torch.einsum("ijd,kjd->ik", Jw, Jw) + (Ja @ Ja.T if train_a else 0))
    found = mean_field.tangent_kernel(at, x, activation="erf", sphere=sphere, train_a=train_a)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    unit = at.w / at.w.norm(dim=1, keepdim=True) if sphere else None
    phi, slope = mean_field.PHI["erf"]
    top, _ = mean_field._top(phi(x @ at.w.T), slope(x @ at.w.T) * at.a, x, unit, train_a, torch.ones(len(x)).double(),
                             iterations=200)
    assert top == pytest.approx(torch.linalg.eigvalsh(exact)[-1].item(), rel=1e-6)


def test_balanced_particles_cancel_and_come_from_the_generator():
    one, two, other = (mean_field.particles(20, 5, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one.w, two.w) and not torch.equal(one.w, other.w)
    x = torch.randn(7, 5, generator=seeded())
    assert mean_field.outputs(one, x).abs().max() < 1e-7
    assert mean_field.outputs(one, x, gamma=3.0, activation="erf").abs().max() < 1e-7
    torch.testing.assert_close(one.w.norm(dim=1), torch.ones(20))
    assert set(one.a.tolist()) == {1.0, -1.0}
    free = mean_field.particles(4001, 5, generator=seeded(), balanced=False, sphere=False, a="normal")
    assert abs(free.w.square().sum(1).mean() - 1) < 5 * math.sqrt(2 / 5 / 4001)
    assert abs(free.a.square().mean() - 1) < 5 * math.sqrt(2 / 4001)


def test_the_loss_falls_the_lengths_stay_and_the_record_is_of_the_particles():
    (x, y), at = problem(20, 4), cloud(40, 4)
    run = mean_field.train_two_layer(at, x, y, times=[0.0, 1.0, 2.0, 5.0, 20.0], x_test=x[:6], y_test=y[:6],
                                     direction=torch.eye(4)[0].double(), keep=True, refresh=5)
    assert (run.train.diff() < 0).all()
    assert run.train[0] == pytest.approx(0.5 * y.square().mean().item())
    for k, kept in enumerate(run.particles):
        torch.testing.assert_close(kept.w.norm(dim=1), torch.ones(40).double())
        f = mean_field.outputs(kept, x)
        torch.testing.assert_close(run.outputs[k], f)
        assert run.train[k] == pytest.approx(0.5 * (f - y).square().mean().item())
        assert run.test[k] == pytest.approx(0.5 * (f[:6] - y[:6]).square().mean().item())
        assert run.overlap[k] == pytest.approx(
            ((kept.a.abs() * kept.w[:, 0].abs()).sum() / kept.a.abs().sum()).item())
        assert run.size[k] == pytest.approx(kept.a.abs().mean().item())


def test_frozen_output_weights_stay():
    (x, y), at = problem(), cloud()
    run = mean_field.train_two_layer(at, x, y, times=[3.0], train_a=False)
    assert torch.equal(run.particles[-1].a, at.a)
    assert run.particles[-1].w.sub(at.w).abs().max() > 0.01
    assert torch.isnan(run.test).all() and torch.isnan(run.overlap).all() and run.test_outputs is None


def test_a_large_gamma_is_the_kernel_method():
    """The distance to the linearised flow falls as 1/γ² at balanced start (smooth φ); Euler's error is below it."""
    (x, y), at = problem(6, 4), cloud(400, 4)
    K = mean_field.tangent_kernel(at, x, activation="erf")
    linear = kernels.predict_at_time(K, y, 4.0)
    gap = [(mean_field.train_two_layer(at, x, y, times=[4.0], gamma=g, activation="erf", max_step=0.002).outputs[-1]
            - linear).norm().item() for g in (4.0, 8.0)]
    assert gap[0] / gap[1] == pytest.approx(4, rel=0.25)
    assert gap[1] < 0.02


def test_overfitting_takes_time_in_proportion_to_the_width():
    """Near the kernel regime (γ = 8) at a fixed n/(N d): the slope of log t in log N, mean of three seeds."""
    def crossing(N, seed, d=16):
        n, g = N * d // 4, seeded(seed)
        x = torch.randn(n, d, generator=g)
        y = torch.relu(x[:, 0]) + 0.5 * torch.randn(n, generator=g)
        times = np.geomspace(1, 40 * N, 40)
        run = mean_field.train_two_layer(mean_field.particles(N, d, generator=g), x, y, times=times, gamma=8.0)
        below = int((run.train < 0.0625).nonzero()[0])
        return np.interp(-0.0625, -run.train[below - 1:below + 1].numpy(), times[below - 1:below + 1])
    slopes = [np.log(crossing(32, s) / crossing(8, s)) / np.log(4) for s in range(3)]
    assert 0.8 < np.mean(slopes) < 1.4


@pytest.mark.parametrize(("call", "says"), [
    (lambda: mean_field.particles(3, 2, generator=seeded()), "N = 3 is odd"),
    (lambda: mean_field.particles(2, 2, generator=seeded(), a="one"), "'sign' and 'normal'"),
    (lambda: mean_field.outputs(cloud(), drawn(2, 3), activation="gelu"), "relu, erf, tanh"),
    (lambda: mean_field.train_two_layer(cloud(), *problem(), times=[1.0, 1.0]), "increasing times"),
    (lambda: mean_field.train_two_layer(cloud(), *problem(), times=[1.0], gamma=0), "γ > 0"),
])
def test_bad_input_is_explained(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_loss_that_is_not_finite_is_said():
    x, y = problem()
    with pytest.raises(FloatingPointError, match="not finite"):
        mean_field.train_two_layer(cloud(), x, y * math.inf, times=[1.0])
