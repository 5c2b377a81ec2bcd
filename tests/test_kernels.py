"""kernels: closed forms against Monte Carlo, the structured kernel against torch.func's Jacobian, predictions against
gradient descent on linear models."""

import math

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from dlt_helpers import functional, kernels, models, train

PARAMETRISATIONS = ("standard", "ntk", "mup", "mup_adam")
MODES = ("full", "trace", 0, 2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(sizes=(5, 7, 6, 3), **options):
    return models.mlp(sizes, generator=torch.Generator().manual_seed(1), **options).double()


def jacobian(model, x):
    """Return J [n, k, p] by reverse mode, one example at a time."""
    parameters = dict(model.named_parameters())
    rows = vmap(jacrev(lambda p, one: functional_call(model, p, (one[None],))[0]), (None, 0))(parameters, x)
    return torch.cat([row.flatten(2) for row in rows.values()], dim=2)


def selected(full, outputs):
    """Return what `outputs` asks for, from the full kernel [n, k, m, k]."""
    if outputs == "full":
        return full
    return full.diagonal(dim1=1, dim2=3).mean(-1) if outputs == "trace" else full[:, outputs, :, outputs]


# ---- the empirical kernel

@pytest.mark.parametrize("outputs", MODES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_the_structured_kernel_is_the_one_of_the_jacobian(parametrisation, bias, outputs):
    model = network(parametrisation=parametrisation, activation="gelu", bias=bias)
    x1, x2 = drawn(9, 5), drawn(4, 5, seed=1)
    J1, J2 = jacobian(model, x1), jacobian(model, x2)
    exact = selected(torch.einsum("nap,mbp->namb", J1, J1), outputs)
    cross = selected(torch.einsum("nap,mbp->namb", J1, J2), outputs)
    scale = exact.abs().max()
    assert (kernels.empirical_ntk(model, x1, outputs=outputs, block=4) - exact).abs().max() < 1e-10 * scale
    assert (kernels.empirical_ntk(model, x1, x2, outputs=outputs, block=4) - cross).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("sizes", [(5, 3), (5, 8, 3), (5, 4, 4, 4, 3)])
@pytest.mark.parametrize("activation", ["relu", "erf", "tanh"])
def test_any_depth_and_activation(sizes, activation):
    model, x = network(sizes, activation=activation, parametrisation="ntk"), drawn(6, 5)
    J = jacobian(model, x)
    torch.testing.assert_close(kernels.empirical_ntk(model, x), torch.einsum("nap,mbp->namb", J, J),
                               rtol=1e-10, atol=1e-11)


def test_mean_field_and_images():
    model, x = network((16, 7, 1), parametrisation="mean_field"), drawn(3, 1, 4, 4)
    J = jacobian(model, x)[:, 0]
    torch.testing.assert_close(kernels.empirical_ntk(model, x, outputs=0), J @ J.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("outputs", MODES)
@pytest.mark.parametrize("block", [1, 3, 10, 99])
def test_blocks_change_nothing(block, outputs):
    model, x = network(), drawn(10, 5)
    whole = kernels.empirical_ntk(model, x, x, outputs=outputs, block=10)
    torch.testing.assert_close(kernels.empirical_ntk(model, x, outputs=outputs, block=block), whole,
                               rtol=1e-13, atol=1e-13)


def test_the_kernel_is_symmetric_to_the_last_bit_and_positive_semidefinite():
    full = kernels.empirical_ntk(network((5, 4, 3)), drawn(12, 5), block=12).reshape(36, 36)
    blocks = kernels.empirical_ntk(network((5, 4, 3)), drawn(12, 5), block=5).reshape(36, 36)
    assert torch.linalg.eigvalsh(full)[0] > -1e-12 * full.norm()
    torch.testing.assert_close(blocks, blocks.T, rtol=1e-13, atol=1e-13)


def test_other_weights_than_the_models_own():
    model, x = network(), drawn(6, 5)
    f, w0 = functional.flatten(model)
    w = w0 + 0.1 * drawn(len(w0), seed=7)
    J = torch.func.jacrev(lambda w: f(w, x))(w)
    torch.testing.assert_close(kernels.empirical_ntk(model, x, w=w), torch.einsum("nap,mbp->namb", J, J),
                               rtol=1e-10, atol=1e-11)


def test_memory_stays_far_below_a_jacobian():
    """784-512-512-10, 20 images: J alone has 20 · 10 · 669,706 numbers; result 200², D 20 · 10 · 1,024."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    model = models.mlp([784, 512, 512, 10])
    with Largest() as largest:
        kernels.empirical_ntk(model, torch.zeros(20, 784), block=5)
    assert largest.size <= 784 * 512


@pytest.mark.parametrize(("call", "says"), [
    (lambda: kernels.empirical_ntk(torch.nn.Linear(2, 2), torch.ones(1, 2)), "models.mlp; got Linear"),
    (lambda: kernels.empirical_ntk(models.cnn((1, 4, 4), (2,), 1), torch.ones(1, 1, 4, 4)), "got CNN"),
    (lambda: kernels.empirical_ntk(models.mlp([2, 2]), torch.ones(1, 2), outputs=2), "0 … 1.*got 2"),
    (lambda: kernels.empirical_ntk(models.mlp([2, 2]), torch.ones(1, 2), outputs="all"), "got 'all'"),
    (lambda: kernels.empirical_ntk(models.mlp([2, 2]), torch.ones(1, 2), block=0), "block ≥ 1"),
    (lambda: kernels.empirical_ntk(models.mlp([2, 2]), torch.ones(1, 2), w=torch.ones(3)), "has 6 weights"),
    (lambda: kernels.ntk(torch.ones(1, 2), depth=1, activation="tanh"), "no closed form for 'tanh'"),
    (lambda: kernels.ntk(torch.ones(1, 2), depth=-1), "depth ≥ 0"),
    (lambda: kernels.ntk(torch.ones(1, 2), torch.ones(1, 3), depth=1), "2 and 3 entries"),
    (lambda: kernels.kernel_ridge(torch.ones(2, 2), torch.ones(2), torch.ones(1, 2)), "not positive definite"),
    (lambda: kernels.kernel_ridge(torch.eye(2), torch.ones(2), torch.ones(1, 2), ridge=-1), "ridge is -1"),
    (lambda: kernels.predict_at_time(torch.eye(2), torch.ones(2), -1.0), "t is -1"),
])
def test_bad_input_is_explained(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---- the limits

@pytest.mark.parametrize("weight_var", [0.7, 2.0])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_moments_are_those_of_a_million_gaussians(activation, weight_var):
    """Five standard errors; two layers, so that the second layer's covariance is a general one."""
    x = drawn(2, 4)
    k = kernels.nngp(x, depth=1, activation=activation, weight_var=weight_var, bias_var=0.3)
    u = drawn(1_000_000, 2) @ torch.linalg.cholesky(k).T
    phi = models.ACTIVATIONS[activation](u)
    slope = (u > 0).double() if activation == "relu" else 2 / math.sqrt(math.pi) * torch.exp(-u * u)
    kernel = kernels.analytic(x, depth=2, activation=activation, weight_var=weight_var, bias_var=0.3)
    before = kernels.ntk(x, depth=1, activation=activation, weight_var=weight_var, bias_var=0.3)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        second = phi[:, i] * phi[:, j]
        tangent = second + 1 + weight_var * before[i, j] * slope[:, i] * slope[:, j]
        for sample, found in ((weight_var * second + 0.3, kernel.nngp), (tangent, kernel.ntk)):
            assert abs(sample.mean() - found[i, j]) < 5 * sample.std() / 1000


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_wide_networks_have_these_kernels(activation, bias):
    """The mean over 200 networks of width 500, within five standard errors plus 1 % for the finite width."""
    x, options = drawn(3, 4), {"weight_std": 1.3, "bias_std": 0.6, "bias": bias}
    tangents, outputs = [], []
    for seed in range(200):
        model = models.mlp([4, 500, 500, 1], activation=activation, parametrisation="ntk",
                           generator=torch.Generator().manual_seed(seed), **options).double()
        tangents.append(kernels.empirical_ntk(model, x, outputs=0))
        outputs.append(model(x).detach())
    limit = kernels.analytic(x, depth=2, activation=activation, weight_var=1.69, bias_var=0.36 if bias else None)
    for sample, exact in ((torch.stack(tangents), limit.ntk),
                          (torch.stack([f @ f.T for f in outputs]), limit.nngp)):
        error = sample.std(0) / math.sqrt(200)
        assert ((sample.mean(0) - exact).abs() < 5 * error + 0.01 * exact.abs()).all()


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_the_diagonal_is_that_of_the_cross_kernel_and_exact_in_float32(activation):
    x = drawn(30, 6)
    options = {"depth": 4, "activation": activation, "bias_var": 0.2}
    cross, same = (kernels.analytic(x, *other, **options) for other in ((x.clone(),), ()))
    single = kernels.analytic(x.float(), **options)
    for one, two, low in ((cross.nngp, same.nngp, single.nngp), (cross.ntk, same.ntk, single.ntk)):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=0)  # arccos near 1 has half the digits
        torch.testing.assert_close(low.diagonal().double(), two.diagonal(), rtol=1e-6, atol=0)
        off = ~torch.eye(30, dtype=torch.bool)
        torch.testing.assert_close(one[off], two[off], rtol=1e-12, atol=0)


def test_kernels_are_symmetric_positive_definite_and_homogeneous():
    x = drawn(20, 6)
    for kernel in vars(kernels.analytic(x, depth=3)).values():
        torch.testing.assert_close(kernel, kernel.T, rtol=1e-14, atol=0)
        assert torch.linalg.eigvalsh(kernel)[0] > 0
    torch.testing.assert_close(kernels.nngp(3 * x, depth=3), 9 * kernels.nngp(x, depth=3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_relu_diagonal_without_biases(depth):
    """σ_w² = 2 keeps the variance 2 |x|²/d, and every layer adds |x|²/d to the tangent kernel."""
    x = drawn(5, 3)
    kernel, size = kernels.analytic(x, depth=depth), x.square().mean(1)
    torch.testing.assert_close(kernel.nngp.diagonal(), 2 * size)
    torch.testing.assert_close(kernel.ntk.diagonal(), (depth + 1) * size)


def test_relu_at_a_zero_input_and_linear_activation():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    assert kernels.ntk(x, depth=2)[0].abs().max() == 0
    x = drawn(4, 3)
    linear = kernels.analytic(x, depth=2, activation="linear", weight_var=1.5)
    torch.testing.assert_close(linear.nngp, 1.5**3 * x @ x.T / 3)
    torch.testing.assert_close(linear.ntk, 3 * 1.5**2 * x @ x.T / 3)


# ---- predictions

def linear_problem(n=6, p=9, k=None):
    A, y = drawn(n, p), drawn(n, *([k] if k else []), seed=2)
    return A, y


@pytest.mark.parametrize("steps", [0, 1, 17])
def test_gradient_descent_on_a_linear_model_is_predicted(steps):
    A, y = linear_problem()
    star, w0 = drawn(4, 9, seed=3), drawn(9, seed=4)
    loss = functional.empirical_risk(lambda w, x: x @ w, A, y)
    w = train.gradient_descent(loss, w0, lr=0.2, steps=steps).w if steps else w0
    f = kernels.predict_at_time(A @ A.T, y, steps, k_test_train=star @ A.T, f0_train=A @ w0, f0_test=star @ w0,
                                lr=0.2)
    torch.testing.assert_close(f, star @ w, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kernels.predict_at_time(A @ A.T, y, steps, f0_train=A @ w0, lr=0.2), A @ w,
                               rtol=1e-10, atol=1e-10)


def test_the_flow_is_a_matrix_exponential_and_ends_at_the_minimum_norm():
    A, y = linear_problem(k=2)
    decay = torch.linalg.matrix_exp(-1.7 * A @ A.T / 6)
    torch.testing.assert_close(kernels.predict_at_time(A @ A.T, y, 1.7), y - decay @ y)
    star, w0 = drawn(4, 9, seed=3), drawn(9, 2, seed=4)
    end = kernels.predict_at_time(A @ A.T, y, math.inf, k_test_train=star @ A.T, f0_train=A @ w0, f0_test=star @ w0)
    torch.testing.assert_close(end, star @ (w0 + torch.linalg.pinv(A) @ (y - A @ w0)), rtol=1e-9, atol=1e-9)


def test_more_examples_than_weights_leave_what_cannot_be_fitted():
    A, y = drawn(9, 4), drawn(9, seed=2)
    best = A @ torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    torch.testing.assert_close(kernels.predict_at_time(A @ A.T, y, math.inf), best)
    torch.testing.assert_close(kernels.predict_at_time(A @ A.T, y, 1e6, lr=0.1), best)


def test_outputs_that_interact():
    K = drawn(10, 10)
    K, y = (K @ K.T).reshape(5, 2, 5, 2), drawn(5, 2, seed=2)
    flat = kernels.predict_at_time(K.reshape(10, 10), y.reshape(10), 0.6)  # n is 10 there, 5 here
    torch.testing.assert_close(kernels.predict_at_time(K, y, 0.3).reshape(10), flat)


def test_ridge_is_the_normal_equation():
    A, y = linear_problem(n=9, p=4, k=2)
    star = drawn(3, 4, seed=5)
    w = torch.linalg.solve(A.T @ A + 0.3 * torch.eye(4), A.T @ y)
    torch.testing.assert_close(kernels.kernel_ridge(A @ A.T, y, star @ A.T, ridge=0.3), star @ w)
    assert kernels.kernel_ridge(A @ A.T, y[:, 0], star @ A.T, ridge=0.3).shape == (3,)
    wide = drawn(4, 9)
    end = kernels.predict_at_time(wide @ wide.T, y[:4], math.inf, k_test_train=drawn(3, 9, seed=5) @ wide.T)
    torch.testing.assert_close(kernels.kernel_ridge(wide @ wide.T, y[:4], drawn(3, 9, seed=5) @ wide.T), end)
