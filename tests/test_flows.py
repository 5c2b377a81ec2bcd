"""Flows against closed forms, a dense derivation of their own, and their invariants, in float64."""

import math

import pytest
import torch

from dlt_helpers import data, flows, functional, hessian, models
from dlt_helpers.flows.stable import runge_kutta

F64 = torch.float64
LR = 0.1  # threshold 20


def vector(*numbers):
    return torch.tensor(numbers, dtype=F64)


def close(a, b, **tolerance):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), **tolerance)


def one_direction(w):
    """L = −y − 3z + ½ (20 + 2y + z) x²: at x = 0 the gradient is −(0, 1, 3), the sharpness 20 + 2y + z."""
    x, y, z = w
    return -y - 3 * z + 0.5 * (20 + 2 * y + z) * x**2


def two_directions(w):
    """L = −⟨α, Y⟩ + ½ xᵀ(20 + Y)x, w = (x_1, x_2, Y_11, Y_22, √2 Y_12), α = [[1, 2], [2, 1]]."""
    x, Y = w[:2], torch.stack([w[2], w[4] / math.sqrt(2), w[4] / math.sqrt(2), w[3]]).view(2, 2)
    return -vector(1, 1, 2 * math.sqrt(2)) @ w[2:] + 10 * x @ x + 0.5 * x @ Y @ x


def small_network():
    """loss(w) of 135 weights on 40 real images, and w0: at η = ½ one, then two directions become critical."""
    images = data.standardise(data.subset(data.pool(data.digits(), 2), per_class=4))
    generator = torch.Generator().manual_seed(0)
    f, w0 = functional.flatten(models.mlp([16, 7, 2], activation="gelu", generator=generator).double())
    y = torch.cat([data.parity(images.y), data.parity((images.y < 5).long())], dim=1)
    return functional.empirical_risk(f, images.x.double(), y.double()), w0


@pytest.fixture(scope="module")
def edge():
    """(loss, w0, η, central flow) of the small network, through one and into two critical directions."""
    loss, w0 = small_network()
    return loss, w0, 0.5, flows.central_flow(loss, w0, lr=0.5, steps=60, keep_covariance=(30, 45, 58))


# ---- gradient flow


def test_gradient_flow_on_a_quadratic_is_the_matrix_exponential():
    H, w0 = torch.diag(vector(1, 5, 30)) + 0.3, vector(1, -2, 0.5)
    flow = flows.gradient_flow(lambda w: 0.5 * w @ H @ w, w0, lr=LR, steps=7, stiffness=0.2)
    for t in range(8):
        close(flow.weights[t], torch.linalg.matrix_exp(-LR * t * H) @ w0, atol=1e-5, rtol=0)
    close(flow.eigs[:, 0], torch.linalg.eigvalsh(H)[-1].expand(8), rtol=1e-3, atol=0)
    assert not flow.sigma_trace.any() and flow.nu is None


def test_gradient_flow_is_resolved_with_few_substeps(edge):
    loss, w0, lr, _ = edge
    coarse, fine = (flows.gradient_flow(loss, w0, lr=lr, steps=40, stiffness=s) for s in (2.0, 0.5))
    assert coarse.eigs[-1, 0] > coarse.threshold  # far enough to matter: the descent would be unstable here
    assert (coarse.weights[-1] - fine.weights[-1]).norm() < 1e-3 * (fine.weights[-1] - w0).norm()
    assert fine.cost.n_gradients > 2 * coarse.cost.n_gradients


def test_an_unresolved_gradient_flow_has_an_edge_of_its_own():
    """Runge-Kutta multiplies by 1 − z + z²/2 − z³/6 + z⁴/24, z = h η S: more than one beyond z = 2.785."""
    for z, stable in ((2.7, True), (2.9, False)):
        def rates(w, nu, z=z):
            return -z * w, nu
        w, _ = runge_kutta(rates, vector(1), vector(0), 1.0, rates(vector(1), vector(0)))
        close(w, vector(1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24))
        assert (abs(w.item()) < 1) == stable
    with pytest.raises(ValueError, match="2.785"):
        flows.gradient_flow(one_direction, vector(0, 0, 0), lr=LR, steps=1, stiffness=2.9)


# ---- central flow, closed forms


def test_one_direction_in_closed_form():
    """To the edge, then along it: dw/dt = η (I − n nᵀ)(0, 1, 3) with n = (0, 2, 1)/√5, tr Σ = 2 · 5/5 = 2."""
    flow = flows.central_flow(one_direction, vector(0, -1, -1), lr=LR, steps=16, k_max=2)
    # sharpness 20 + 2y + z = 17 at the start grows by η·5 = ½ a step: at the edge at t = 6
    close(flow.weights[6], vector(0, -0.4, 0.8), atol=1e-9, rtol=0)
    close(flow.weights[16], vector(0, -1.4, 2.8), atol=1e-4, rtol=0)  # velocity η (0, −1, 2)
    close(flow.sigma_trace[:6], torch.zeros(6))
    close(flow.sigma_trace[6:], torch.full((11,), 2.0), atol=1e-5, rtol=0)
    close(flow.oscillation_loss[6:], flow.sigma_trace[6:] / LR, rtol=1e-4, atol=0)
    close(flow.oscillation_grad_sq[6:], flow.sigma_trace[6:] * 4 / LR**2, rtol=1e-4, atol=0)
    close(flow.n_active, [0.0] * 6 + [1.0] * 11)
    close(flow.predicted_losses, flow.losses + flow.oscillation_loss)


def test_two_directions_in_closed_form():
    """From Y = 0: X = 2 Π₊(α) = 3 [[1, 1], [1, 1]], of rank one with a mixed term, and dY/dt = η Π₋(α)."""
    flow = flows.central_flow(two_directions, torch.zeros(5, dtype=F64), lr=LR, steps=4, keep_covariance=[0])
    Sigma = torch.zeros(5, 5, dtype=F64)
    Sigma[:2, :2] = 3
    close(flow.covariance[0] @ flow.covariance[0].T, Sigma, atol=1e-5, rtol=0)
    assert flow.n_active[0] == 1 and flow.complete
    Y = -0.05 * vector(1, 1, -math.sqrt(2))  # per step: η (−1) v vᵀ, v = (1, −1)/√2
    close(flow.weights[4, 2:], 4 * Y, atol=1e-5, rtol=0)


def test_both_directions_oscillate_if_both_sharpen():
    """α = [[2.5, 2], [2, 2.5]] is positive definite: X = 2α in full, and Y stays where it is."""
    def loss(w):
        return two_directions(w) - 1.5 * (w[2] + w[3])

    flow = flows.central_flow(loss, torch.zeros(5, dtype=F64), lr=LR, steps=3)
    close(flow.sigma_trace, torch.full((4,), 2 * 5.0), atol=1e-4, rtol=0)
    assert flow.n_active.tolist() == [2] * 4
    close(flow.weights[3], torch.zeros(5), atol=1e-5, rtol=0)


def test_gradient_descent_oscillates_around_the_prediction():
    """The two-variable model (x, y) in its stable limit: mean of x² = 2α/β, mean loss as predicted."""
    lr, beta = 0.1, 2.0

    def loss(w):
        return -1e-3 * w[1] + 0.5 * (2 / lr + beta * w[1]) * w[0] ** 2

    flow = flows.central_flow(loss, vector(0, 0), lr=lr, steps=1)
    w, path = vector(math.sqrt(flow.sigma_trace[0].item()), 0), []
    for _ in range(2000):
        path.append(w)
        w = w - lr * functional.value_and_grad(loss, w)[1]
    path = torch.stack(path)
    close(flow.sigma_trace[0], 2e-3 / beta, rtol=1e-4, atol=0)
    close(path[:, 0].square().mean(), flow.sigma_trace[0], rtol=0.02, atol=0)
    close(flows.oscillation_trace(path).nanmean(), flow.sigma_trace[0], rtol=0.02, atol=0)
    close(torch.stack([loss(w) for w in path]).mean(), flow.predicted_losses[0], rtol=0.05, atol=0)


# ---- central flow, the derivation once more with dense matrices


def dense_rates(loss, w, nu, Sigma, *, lr, c, eps):
    """dw/dt and dν/dt from the definition, with the whole Hessian and autograd through it."""
    w = w.clone().requires_grad_(True)
    g, = torch.autograd.grad(loss(w), w, create_graph=True)
    rows = [torch.autograd.grad(gi, w, create_graph=True)[0] for gi in g]
    H = torch.stack(rows)
    pull, = torch.autograd.grad(0.5 * (H * Sigma).sum(), w)
    g, H = g.detach(), H.detach()
    return -lr * (g + pull) / (nu.sqrt() + eps), c * (g**2 + (H @ Sigma @ H).diagonal() - nu)


def dense_edge(loss, w, nu, eps):
    """All eigenvalues of P^(-1/2) H P^(-1/2), ascending."""
    root = (nu.sqrt() + eps).sqrt()
    return torch.linalg.eigvalsh(hessian.dense(loss, w) / torch.outer(root, root))


def speeds_of_the_edge(loss, flow, t, *, lr, c=0.0, eps=1.0, k=1):
    """d/dt of the k largest eigenvalues at time t, with the flow's Σ and without: [2, k]."""
    nu = torch.zeros_like(flow.weights[t]) if flow.nu is None else flow.nu[t]
    F, h = flow.covariance[t], 1e-4
    out = []
    for Sigma in (F @ F.T, 0 * F @ F.T):
        dw, dnu = dense_rates(loss, flow.weights[t], nu, Sigma, lr=lr, c=c, eps=eps)
        ends = [dense_edge(loss, flow.weights[t] + s * dw, nu + s * dnu, eps)[-k:] for s in (h, -h)]
        out.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(out)


@pytest.mark.parametrize(("t", "k"), [(30, 1), (45, 2), (58, 2)])
def test_sigma_holds_the_edge_still(edge, t, k):
    loss, _, lr, flow = edge
    assert flow.n_active[t] == k
    held, free = speeds_of_the_edge(loss, flow, t, lr=lr, k=k)
    assert free.max() > 0 and held.abs().max() < 0.1 * free.abs().max()


def test_invariants_of_the_central_flow(edge):
    loss, _, lr, flow = edge
    onset = int((flow.n_active > 0).nonzero()[0])
    assert onset > 15 and flow.n_active.max() == 2 and flow.complete and flow.residual < 1e-5
    assert (flow.losses.diff() <= 1e-12).all()  # the hidden loss never rises
    assert (flow.eigs[:, 0] < 1.01 * flow.threshold).all()
    for t in range(onset + 5, 61, 9):
        assert dense_edge(loss, flow.weights[t], torch.zeros_like(flow.weights[t]), 1.0)[-1] < 1.005 * 2 / lr
    assert (flow.sigma_trace >= 0).all() and flow.sigma_trace[onset:].max() > 0
    active = flow.n_active > 0
    close(flow.oscillation_loss[active], flow.sigma_trace[active] / lr, rtol=0.02, atol=0)


def test_below_the_edge_it_is_the_gradient_flow(edge):
    loss, w0, lr, flow = edge
    free = flows.gradient_flow(loss, w0, lr=lr, steps=15)
    assert not flow.sigma_trace[:16].any()
    assert (flow.weights[15] - free.weights[15]).norm() < 0.01 * (free.weights[15] - w0).norm()


def test_halving_the_step_halves_the_error(edge):
    loss, w0, lr, flow = edge
    start = flow.weights[45]
    ends = [flows.central_flow(loss, start, lr=lr, steps=4, dt=dt, hold=1, tol=1e-5).weights[-1]
            for dt in (1 / 2, 1 / 4, 1 / 16)]
    errors = [(end - ends[-1]).norm().item() for end in ends[:2]]
    assert errors[0] < 0.02 * (ends[-1] - start).norm()
    assert errors[1] < 0.6 * errors[0]  # first order: (1/4 − 1/16)/(1/2 − 1/16) = 0.43


def test_differences_and_autograd_give_the_same_flow(edge):
    loss, w0, lr, flow = edge
    start = flow.weights[45]
    a, b = (flows.central_flow(loss, start, lr=lr, steps=5, method=m) for m in ("difference", "autograd"))
    assert (a.weights[-1] - b.weights[-1]).norm() < 1e-3 * (a.weights[-1] - start).norm()
    assert b.cost.n_thirds > 0 == a.cost.n_thirds


def test_contractions_against_autograd(edge, generator):
    loss, w0, _, _ = edge
    U = torch.randn(len(w0), 3, generator=generator, dtype=F64)
    g = functional.value_and_grad(loss, w0)[1]
    HU, D, cost = flows.contractions(loss, w0, U, g)
    close(HU, hessian.dense(loss, w0) @ U, rtol=1e-5, atol=1e-5)
    for i in range(3):
        for j in range(3):
            close(D[:, i, j], functional.third_derivative(loss, w0, U[:, i], U[:, j], method="autograd"),
                  rtol=0, atol=1e-3 * D.abs().max().item())
    assert cost.n_gradients == 3 + 3**2


# ---- edges of the central flow


def test_too_many_critical_directions_are_said():
    flow = flows.central_flow(two_directions, torch.zeros(5, dtype=F64), lr=LR, steps=2, k_max=1)
    assert not flow.complete


def test_divergence_leaves_nan():
    flow = flows.central_flow(lambda w: -(w**4).sum(), vector(1.0, 2.0), lr=1.0, steps=30)
    assert flow.losses[0] == -17 and flow.losses[-1].isnan() and flow.weights[-1].isnan().all()
    flow = flows.gradient_flow(lambda w: -(w**4).sum(), vector(1.0, 2.0), lr=1.0, steps=30)
    assert flow.losses[0] == -17 and flow.losses[-1].isnan()


def test_no_steps_is_a_look_at_the_start():
    flow = flows.central_flow(one_direction, vector(0, 0, 0), lr=LR, steps=0)
    assert flow.times.tolist() == [0] and flow.sigma_trace[0] == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("bad", [{"dt": 0.3}, {"dt": 2.0}, {"hold": 0}, {"k_max": 0}])
def test_bad_options(bad):
    with pytest.raises(ValueError, match="must be"):
        flows.central_flow(one_direction, vector(0, 0, 0), lr=LR, steps=1, **bad)


# ---- RMSProp


def test_frozen_preconditioner_is_gradient_descent_in_other_coordinates(edge):
    """β₂ → 1: with v = P^(1/2) w the flow is that of gradient descent on v ↦ L(P^(-1/2) v)."""
    loss, _, lr, flow = edge
    start = flow.weights[45]
    nu = torch.linspace(0.5, 1.5, len(start), dtype=F64)
    root = (nu.sqrt() + 1e-8).sqrt()
    turned = flows.central_flow(lambda v: loss(v / root), start * root, lr=lr, steps=6, tol=1e-5)
    same = flows.rmsprop_flow(loss, start, nu, lr=lr, beta2=1 - 1e-12, steps=6, tol=1e-5)
    assert turned.sigma_trace.max() > 0
    moved = (turned.weights[-1] - turned.weights[0]).norm().item()
    close(same.weights * root, turned.weights, rtol=0, atol=1e-4 * moved)
    close(same.oscillation_loss, turned.oscillation_loss, rtol=1e-2, atol=1e-8)


@pytest.fixture(scope="module")
def rmsprop():
    """(loss, start, ν₀, options, flow): RMSProp's central flow on the small network, through its edge."""
    loss, w0 = small_network()
    options = {"lr": 0.01, "beta2": 0.9, "eps": 1e-6}
    run = descend_rmsprop(loss, w0, None, 30, **options)
    flow = flows.rmsprop_flow(loss, *run, steps=40, keep_covariance=(20, 39), **options)
    return loss, *run, options, flow


def descend_rmsprop(loss, w, nu, steps, *, lr, beta2, eps):
    nu = torch.zeros_like(w) if nu is None else nu
    for _ in range(steps):
        g = functional.value_and_grad(loss, w)[1]
        nu = beta2 * nu + (1 - beta2) * g**2
        w = w - lr * g / (nu.sqrt() + eps)
    return w, nu


def test_sigma_holds_the_moving_edge_still(rmsprop):
    loss, _, _, o, flow = rmsprop
    c = (1 - o["beta2"]) / o["beta2"]
    for t in (20, 39):
        k = int(flow.n_active[t])
        assert k > 0
        held, free = speeds_of_the_edge(loss, flow, t, lr=o["lr"], c=c, eps=o["eps"], k=k)
        assert held.abs().max() < 0.1 * free.abs().max()


def test_rmsprop_stays_at_its_edge_and_predicts_nu(rmsprop):
    loss, w0, nu0, o, flow = rmsprop
    assert flow.complete and flow.n_active[10:].all()  # it starts beyond the edge, at an iterate
    assert (flow.eigs[10:, 0] < 1.02 * flow.threshold).all()
    stable = flows.rmsprop_flow(loss, w0, nu0, steps=40, oscillation=False, **o)
    nu = [descend_rmsprop(loss, w0, nu0, t, **o)[1].sum() for t in (39, 40, 41, 42)]
    truth = sum(nu) / 4
    assert abs(flow.nu[-1].sum() / truth - 1) < 0.5 * abs(stable.nu[-1].sum() / truth - 1)
    assert not stable.sigma_trace.any()
