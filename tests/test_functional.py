"""functional: the flat objective against its module, derivatives against dense ones and differences."""

import math

import pytest
import torch
from torch import nn

from dlt_helpers import functional

# torch.func.hessian (forward mode) makes torch 2.13 compile its jvp rules with its own deprecated jit
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def directions(p, count=2):
    """Return `count` unit vectors [p] in general position."""
    V = torch.randn(count, p, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return V / V.norm(dim=1, keepdim=True)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---- flatten

def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_flat_function_is_the_model_and_leaves_it_alone():
    model, x = small_net(), torch.randn(5, 3, dtype=torch.float64)
    f, w0 = functional.flatten(model)
    assert torch.equal(w0, nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(f(w0, x), model(x))
    moved, before = w0 + 1, model(x)
    out = f(moved, x)
    assert torch.equal(model(x), before)
    nn.utils.vector_to_parameters(moved, model.parameters())
    assert torch.equal(out, model(x))


def test_flat_gradient_is_the_modules_gradient():
    model, x, y = small_net(), torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    f, w0 = functional.flatten(model)
    loss = functional.empirical_risk(f, x, y)
    value, grad = functional.value_and_grad(loss, w0)
    (0.5 * (model(x) - y).square().sum(1).mean()).backward()
    torch.testing.assert_close(grad, torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    assert not value.requires_grad and not grad.requires_grad and not w0.requires_grad


def test_a_shared_weight_counts_once():
    layer = nn.Linear(3, 3, bias=False)
    f, w0 = functional.flatten(nn.Sequential(layer, layer))
    assert len(w0) == 9
    W = torch.arange(9.0).view(3, 3)
    torch.testing.assert_close(f(W.reshape(-1), torch.eye(3)), (W @ W).T)


def test_flatten_refuses_what_has_no_weights_and_weights_of_another_length():
    with pytest.raises(ValueError, match="no parameters|none"):
        functional.flatten(nn.Tanh())
    f, w0 = functional.flatten(small_net())
    with pytest.raises(ValueError, match="26 weights"):
        f(w0[:-1], torch.zeros(1, 3, dtype=torch.float64))


# ---- empirical_risk

def outputs(rows, columns, seed=2):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_losses_written_out_example_by_example():
    out, y = outputs(6, 3), outputs(6, 3, seed=3)
    labels, sign = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([[1.0], [-1], [1], [-1], [-1], [1]])

    def risk(targets, loss, columns=3):
        return functional.empirical_risk(lambda w, x: w * x[:, :columns], out, targets, loss=loss)(
            torch.ones(1, dtype=torch.float64)).item()

    square = sum(0.5 * sum((out[i, j] - y[i, j]).item() ** 2 for j in range(3)) for i in range(6)) / 6
    entropy = sum(math.log(sum(math.exp(out[i, j]) for j in range(3))) - out[i, labels[i]].item()
                  for i in range(6)) / 6
    logistic = sum(math.log1p(math.exp(-sign[i].item() * out[i, 0].item())) for i in range(6)) / 6
    assert risk(y, "square") == pytest.approx(square, rel=1e-13)
    assert risk(y, "square") == pytest.approx(1.5 * nn.functional.mse_loss(out, y).item(), rel=1e-13)
    assert risk(labels, "cross_entropy") == pytest.approx(entropy, rel=1e-13)
    assert risk(sign, "logistic", columns=1) == pytest.approx(logistic, rel=1e-13)


@pytest.mark.parametrize("loss", functional.LOSSES)
def test_the_order_of_the_examples_does_not_matter(loss):
    f, w = functional.flatten(small_net())
    x, y = outputs(6, 3), outputs(6, 2, seed=3).sign()
    y = y.argmax(1) if loss == "cross_entropy" else y
    there = functional.value_and_grad(functional.empirical_risk(f, x, y, loss=loss), w)
    back = functional.value_and_grad(functional.empirical_risk(f, x.flip(0), y.flip(0), loss=loss), w)
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_chunks_change_neither_the_value_nor_two_derivatives(chunk):
    f, w = functional.flatten(small_net())
    x, y = outputs(20, 3), outputs(20, 2, seed=3)
    whole = functional.derivatives(functional.empirical_risk(f, x, y), w)
    parts = functional.derivatives(functional.empirical_risk(f, x, y, chunk=chunk), w)
    (v,) = directions(len(w), 1)
    for a, b in ((parts.value, whole.value), (parts.grad, whole.grad), (parts.hvp(v), whole.hvp(v))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("x", "y", "loss", "words"), [
    (torch.zeros(3, 2), torch.zeros(3), "square", "differ in shape"),
    (torch.zeros(3, 2), torch.zeros(2, 2), "square", "as many targets"),
    (torch.zeros(0, 2), torch.zeros(0, 2), "square", "at least one"),
    (torch.zeros(3, 2), torch.zeros(3, 2), "hinge", "unknown loss 'hinge'"),
])
def test_risk_says_what_is_wrong_with_its_data(x, y, loss, words):
    with pytest.raises(ValueError, match=words):
        functional.empirical_risk(lambda w, x: w * x, x, y, loss=loss)(torch.ones(1))


# ---- first and second derivatives

def test_derivatives_agree_with_the_dense_ones(problem):
    d = functional.derivatives(problem.loss, problem.w)
    H = torch.func.hessian(problem.loss)(problem.w)  # forward over reverse: another route through autograd
    V = directions(len(problem.w), 3).T  # [p, 3]
    assert d.value == problem.loss(problem.w)
    torch.testing.assert_close(d.grad, torch.func.grad(problem.loss)(problem.w))
    torch.testing.assert_close(d.hvp(V[:, 0]), H @ V[:, 0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(d.hvp(V), H @ V, rtol=1e-9, atol=1e-11)


def test_the_hessian_is_symmetric_and_linear(problem):
    hvp = functional.derivatives(problem.loss, problem.w).hvp
    u, v = directions(len(problem.w))
    assert (u @ hvp(v)).item() == pytest.approx((v @ hvp(u)).item(), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(hvp(2 * u - 3 * v), 2 * hvp(u) - 3 * hvp(v), rtol=1e-9, atol=1e-11)


def test_the_product_is_the_limit_of_differences_of_gradients(problem):
    (v,) = directions(len(problem.w), 1)
    product = functional.derivatives(problem.loss, problem.w).hvp(v)
    errors = []
    for h in (1e-2, 1e-3):
        g = [functional.value_and_grad(problem.loss, problem.w + s * h * v)[1] for s in (1, -1)]
        errors.append(relative((g[0] - g[1]) / (2 * h), product))
    assert errors[1] < 1e-5 and errors[1] < errors[0] / 50  # order h²


def test_derivatives_of_a_linear_and_of_a_constant_slope():
    d = functional.derivatives(lambda w: 3 * w[0], torch.tensor([1.0, 2.0]))
    assert d.grad.tolist() == [3, 0] and d.hvp(torch.ones(2)).tolist() == [0, 0]
    assert d.hvp(torch.ones(2, 3)).shape == (2, 3)


def test_derivatives_work_inside_no_grad_and_leave_the_weights_alone():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    with torch.no_grad():
        d = functional.derivatives(lambda w: (w ** 3).sum(), w)
        assert d.hvp(torch.ones(2)).tolist() == [6, 12]
    assert w.grad is None and not d.grad.requires_grad and not d.value.requires_grad


# ---- third derivatives

@pytest.mark.parametrize("mixed", [False, True])
def test_third_derivative_difference_against_autograd(problem, mixed):
    u, v = directions(len(problem.w))
    pair = (u, v) if mixed else (u,)
    exact = functional.third_derivative(problem.loss, problem.w, *pair, method="autograd")
    assert relative(functional.third_derivative(problem.loss, problem.w, *pair), exact) < 3e-6


def test_third_derivative_against_differences_of_the_dense_hessian(problem):
    u, v = directions(len(problem.w))
    h, axis = 1e-4, torch.zeros_like(problem.w)
    axis[3] = h
    H = [torch.func.hessian(problem.loss)(problem.w + s * axis) for s in (1, -1)]
    third = functional.third_derivative(problem.loss, problem.w, u, v, method="autograd")
    assert third[3].item() == pytest.approx((u @ (H[0] - H[1]) @ v).item() / (2 * h), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("method", ["difference", "autograd"])
def test_third_derivative_is_symmetric_bilinear_and_right_on_a_cubic(method):
    w = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    u, v = directions(3)

    def third(*pair):
        return functional.third_derivative(lambda w: w[0] * w[1] * w[2] + w[0] ** 3, w, *pair, method=method)

    cubic = torch.stack([u[1] * v[2] + u[2] * v[1] + 6 * u[0] * v[0], u[0] * v[2] + u[2] * v[0],
                         u[0] * v[1] + u[1] * v[0]])
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(third(u, v), cubic, **close)
    torch.testing.assert_close(third(v, u), third(u, v), **close)
    torch.testing.assert_close(third(u, u), third(u), **close)
    torch.testing.assert_close(third(300 * u, 0.01 * v), 3 * third(u, v), **close)
    torch.testing.assert_close(third(300 * u), 9e4 * third(u), rtol=1e-6, atol=0.1)
    assert third(0 * u).tolist() == [0, 0, 0] and third(u, 0 * v).tolist() == [0, 0, 0]


def test_third_derivative_of_a_quadratic_is_zero():
    w, (u, v) = torch.ones(3, dtype=torch.float64), directions(3)
    for method in ("difference", "autograd"):
        third = functional.third_derivative(lambda w: w @ w + w[0], w, u, v, method=method)
        assert third.abs().max() < 1e-7


def test_a_known_gradient_is_used_and_saves_one_evaluation():
    calls = []

    def loss(w):
        calls.append(1)
        return (w ** 4).sum()

    w, (u,) = torch.ones(3, dtype=torch.float64), directions(3, 1)
    _, g = functional.value_and_grad(loss, w)
    counts = []
    for options in ({"grad": g}, {}, {"v": u}):
        calls.clear()
        torch.testing.assert_close(functional.third_derivative(loss, w, u, **options), 24 * u * u,
                                   rtol=1e-5, atol=1e-5)
        counts.append(len(calls))
    assert counts == [2, 3, 4]


def test_third_derivative_in_single_precision(problem):
    u, v = directions(len(problem.w))
    x, y = problem.x.float(), problem.y.float() if problem.y.is_floating_point() else problem.y
    kind = "square" if problem.y.is_floating_point() else "cross_entropy"
    exact = functional.third_derivative(functional.empirical_risk(problem.f, problem.x, problem.y, loss=kind),
                                        problem.w, u, v, method="autograd")
    single = functional.third_derivative(functional.empirical_risk(problem.f, x, y, loss=kind),
                                         problem.w.float(), u.float(), v.float())
    assert single.dtype == torch.float32 and relative(single.double(), exact) < 0.02


def test_differences_see_through_the_fused_layer_norm():
    """torch's fused layer_norm has wrong third derivatives under autograd, but right first ones."""
    def by_hand(z):
        z = z - z.mean(-1, keepdim=True)
        return z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def objective(norm):
        return lambda w: norm(torch.tanh(x @ w.view(3, 4))).square()[:, 0].sum()

    x, (u, w) = outputs(5, 3), directions(12)
    exact = functional.third_derivative(objective(by_hand), w, u, method="autograd")
    fused = functional.third_derivative(objective(lambda z: nn.functional.layer_norm(z, (4,))), w, u)
    assert relative(fused, exact) < 1e-6


def test_third_derivative_says_what_it_cannot_do():
    w = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="no default step"):
        functional.third_derivative(lambda w: w.sum(), w, w)
    with pytest.raises(ValueError, match="'difference' or 'autograd'"):
        functional.third_derivative(lambda w: w.sum(), w, w, method="magic")
