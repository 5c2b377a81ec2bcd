"""Models: shapes, distributions at the start, and derivatives that are right to order three."""

import inspect
import math

import pytest
import torch
from conftest import IMAGES
from torch import nn

from dlt_helpers import functional, models
from dlt_helpers.models import layers

SMOOTH = ("tanh", "gelu", "silu", "softplus", "erf", "linear")
KINKED = ("relu", "leaky_relu")
NETWORKS = {  # every model offered, with every choice that changes a layer
    **{f"mlp-{a}": lambda a=a: models.mlp([16, 5, 4, 2], activation=a) for a in SMOOTH + KINKED},
    **{f"mlp-{p}": lambda p=p: models.mlp([16, 5, 2], parametrisation=p) for p in layers.PARAMETRISATIONS},
    "deep_linear": lambda: models.deep_linear([16, 5, 4, 2]),
    "cnn-avg": lambda: models.cnn(IMAGES, (3, 4), 2),
    "cnn-max": lambda: models.cnn(IMAGES, (3,), 2, pool="max", activation="gelu", parametrisation="ntk"),
    "vit-mean": lambda: models.vit(IMAGES, 2, patch=2, dim=4, depth=2),
    "vit-class": lambda: models.vit(IMAGES, 2, patch=2, dim=4, readout="class", activation="tanh"),
    "transformer": lambda: models.transformer(5, context=4, dim=4, depth=1, mlp_ratio=1),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def smooth_risk(model, generator):
    """Return the square loss of a float64 model on 6 Gaussian images (or rows of tokens), and a point w."""
    f, w = functional.flatten(model.double())
    x = torch.randn(6, *IMAGES, generator=generator, dtype=torch.float64)
    if isinstance(model, type(models.transformer(5))):
        x = torch.randint(5, (6, 4), generator=generator)
    y = torch.randn(f(w, x).shape, generator=generator, dtype=torch.float64)
    w = w + 0.3 * torch.randn(w.shape, generator=generator, dtype=torch.float64)  # away from zero biases
    return (lambda w: 0.5 * (f(w, x) - y).square().sum() / 6), w


def contract(loss, u):
    """Return w ↦ ⟨∇L(w), u⟩."""
    return lambda w: torch.func.grad(loss)(w) @ u


def by_autograd(loss, w, directions, *, last="reverse"):
    """Return ∇^{k+1} L(w) contracted with k directions, [p]; the last of them in reverse or forward mode."""
    for u in directions[:-1]:
        loss = contract(loss, u)
    if last == "forward":  # ∂/∂ε ∇(…)(w + ε u) at ε = 0
        return torch.func.jvp(torch.func.grad(loss), (w,), (directions[-1],))[1]
    return torch.func.grad(contract(loss, directions[-1]) if directions else loss)(w)


def by_differences(function, w, u, h=2e-3):
    """Return d/dε function(w + ε u) at ε = 0, by central differences extrapolated to order six."""
    def slope(h):
        return (function(w + h * u) - function(w - h * u)) / (2 * h)

    first, second, third = slope(h), slope(h / 2), slope(h / 4)
    a, b = (4 * second - first) / 3, (4 * third - second) / 3
    return (16 * b - a) / 15


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode calls it
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_to_order_three_agree_with_finite_differences(name, generator):
    """∇L, ∇²L[u] and ∇³L[u, v] in float64, each against differences of the order below."""
    loss, w = smooth_risk(NETWORKS[name](), generator)
    u, v = torch.nn.functional.normalize(torch.randn(2, len(w), generator=generator, dtype=torch.float64))
    kinked = any(kink in name for kink in (*KINKED, "max"))  # then take steps that cross no kink
    h, tolerance = (1e-6, 1e-4) if kinked else (2e-3, 1e-8)
    gradient = by_autograd(loss, w, ())
    assert abs(gradient @ u - by_differences(loss, w, u, h)) <= tolerance * gradient.norm()
    for directions in ((u,), (u, v)):
        *lower, last_one = directions
        numeric = by_differences(lambda w, lower=lower: by_autograd(loss, w, lower), w, last_one, h)
        for last in ("reverse", "forward"):
            error = by_autograd(loss, w, directions, last=last) - numeric
            assert error.norm() <= tolerance * numeric.norm().clamp(min=1e-3), (len(directions) + 1, last)


def test_the_fused_layer_norm_would_fail_this_test(generator):
    """The reason for our own LayerNorm; if this fails, torch has mended its own."""
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(16, 4), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.norm(self.first(x.flatten(1))))

    loss, w = smooth_risk(Fused(), generator)
    u, v = torch.nn.functional.normalize(torch.randn(2, len(w), generator=generator, dtype=torch.float64))
    exact = by_autograd(loss, w, (u, v))
    numeric = by_differences(lambda w: by_autograd(loss, w, (u,)), w, v)
    assert (exact - numeric).norm() > 0.05 * numeric.norm()


def test_layer_norm_has_torchs_values(generator):
    x = torch.randn(3, 5, 8, generator=generator)
    assert torch.allclose(models.LayerNorm(8)(x), nn.LayerNorm(8)(x), atol=1e-6)


def test_attention_is_softmax_of_products(generator):
    """Against one head and one token at a time, by loops."""
    attention = layers.Attention(6, 2, generator=generator, causal=True)
    x = torch.randn(2, 4, 6, generator=generator)
    q, k, v = attention.qkv(x).reshape(2, 4, 3, 2, 3).unbind(2)
    mixed = torch.zeros(2, 4, 2, 3)
    for n in range(2):
        for t in range(4):
            for h in range(2):
                scores = [q[n, t, h] @ k[n, s, h] / math.sqrt(3) for s in range(t + 1)]
                weights = torch.stack(scores).softmax(0)
                mixed[n, t, h] = sum(weights[s] * v[n, s, h] for s in range(t + 1))
    assert torch.allclose(attention(x), attention.out(mixed.reshape(2, 4, 6)), atol=1e-6)


# ------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_have_their_shape_and_weights_are_float32(name):
    model = NETWORKS[name]()
    if name == "transformer":
        assert model(torch.zeros(7, 3, dtype=torch.int64)).shape == (7, 3, 5)
    else:
        assert model(torch.zeros(7, *IMAGES)).shape == (7, 2)
    assert all(p.dtype == torch.float32 for p in model.parameters()) and not list(model.buffers())
    assert models.num_params(model) == sum(p.numel() for p in model.parameters())


def test_known_numbers_of_weights():
    assert models.num_params(models.mlp([3, 4, 2])) == 3 * 4 + 4 + 4 * 2 + 2
    assert models.num_params(models.mlp([3, 2], bias=False)) == 6
    assert models.num_params(models.cnn((3, 9, 8), (2,), 5)) == 3 * 9 * 2 + 2 + 2 * 4 * 4 * 5 + 5
    d = 16
    block = 2 * 2 * d + (3 * d * d + 3 * d) + (d * d + d) + 2 * (2 * d * d) + 3 * d
    assert models.num_params(models.vit((1, 8, 8), 1)) == (16 * d + d) + 4 * d + block + 2 * d + d + 1


def test_the_transformer_does_not_look_ahead(generator):
    model = models.transformer(9, context=6, dim=8)
    tokens = torch.randint(9, (1, 6), generator=generator)
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 9
    assert torch.equal(model(tokens)[:, :4], model(changed)[:, :4])
    assert not torch.allclose(model(tokens)[:, 4:], model(changed)[:, 4:])
    with pytest.raises(ValueError, match="7 tokens, more than the context of 6"):
        model(torch.zeros(1, 7, dtype=torch.int64))


def test_the_vision_transformer_sees_where_patches_are(generator):
    model, x = models.vit((1, 4, 4), 1, patch=2, dim=8), torch.randn(1, 1, 4, 4, generator=generator)
    swapped = torch.cat([x[:, :, 2:], x[:, :, :2]], dim=2)
    assert not torch.allclose(model(x), model(swapped))
    nn.init.zeros_(model.position)  # without positions the mean over tokens is symmetric
    assert torch.allclose(model(x), model(swapped), atol=1e-6)


# -------------------------------------------------------------------------------------- the choices offered


@pytest.mark.parametrize(("call", "says"), [
    (lambda: models.mlp([4, 3, 2], activation="swish"), "'swish'; the choices are tanh, relu, .*linear"),
    (lambda: models.mlp([4, 3, 2], parametrisation="nkt"), "'nkt'; the choices are standard, ntk, mean"),
    (lambda: models.mlp([4, 3, 3, 2], parametrisation="mean_field"), "one hidden layer"),
    (lambda: models.mlp([4]), "inputs and outputs"),
    (lambda: models.cnn((1, 4, 4), (2,), 1, pool="sum"), "pool is 'sum'; the choices are avg, max"),
    (lambda: models.cnn((1, 4, 4), (2,), 1, kernel=2), "kernel 2 must be odd"),
    (lambda: models.cnn((1, 4, 4), (2, 2, 2), 1), "allow 3 halvings"),
    (lambda: models.vit((1, 8, 8), 1, patch=3), "patch is 3; it must divide"),
    (lambda: models.vit((1, 8, 8), 1, heads=3), "heads is 3; it must divide dim = 16"),
    (lambda: models.vit((1, 8, 8), 1, readout="max"), "readout is 'max'; the choices are mean, class"),
    (lambda: models.vit((1, 8, 8), 1, activation="swish"), "the choices are tanh")])
def test_wrong_choices_are_errors_that_name_the_right_ones(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_every_activation_is_in_the_table_of_derivatives():
    assert set(SMOOTH + KINKED) == set(models.ACTIVATIONS)
    assert all(name in inspect.getdoc(models.mlp) for name in (*models.ACTIVATIONS, *models.PARAMETRISATIONS))


def test_activations_have_torchs_values():
    z = torch.linspace(-3, 3, 101, dtype=torch.float64)
    known = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "gelu": nn.GELU(),
             "silu": nn.SiLU(), "softplus": nn.Softplus(), "linear": nn.Identity()}
    for name, module in known.items():
        assert torch.equal(models.ACTIVATIONS[name](z), module(z))


# ------------------------------------------------------------------------------------------ where they start


def test_the_same_seed_gives_the_same_weights_and_nothing_draws_globally():
    state = torch.random.get_rng_state()
    for make in NETWORKS.values():
        one, two = functional.flatten(make())[1], functional.flatten(make())[1]
        assert torch.equal(one, two)
    a, b, c = (functional.flatten(models.mlp([4, 3, 2], generator=seeded(s)))[1] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.random.get_rng_state())


def test_standard_weights_are_distributed_as_torchs():
    """Two-sample Kolmogorov–Smirnov distances of 16 independent layers, weights and biases, at level 1e-3."""
    torch.manual_seed(0)
    ours = [models.mlp([40, 30], generator=seeded(s)).layers[0] for s in range(16)]
    theirs = [nn.Linear(40, 30) for _ in range(16)]
    for part in ("weight", "bias"):
        a, b = (torch.cat([getattr(m, part).detach().flatten() for m in layer]) for layer in (ours, theirs))
        at = torch.cat([a, b]).sort().values
        share = [torch.searchsorted(t.sort().values, at, right=True) / len(t) for t in (a, b)]
        assert (share[0] - share[1]).abs().max() < 1.95 * math.sqrt(2 / len(a)), part
        assert a.abs().max() <= 40**-0.5 and a.abs().max() > 0.98 * 40**-0.5
    conv = models.cnn((4, 8, 8), (64,), 1).convolutions[0]
    assert abs(conv.weight.abs().max() * math.sqrt(4 * 9) - 1) < 1e-3  # as nn.Conv2d: fan-in c · k²


def outputs(width, parametrisation, *, depth=1, n=200):
    """Return the outputs at one input of `n` networks that differ in their seed, float64 [n]."""
    x = torch.ones(1, 10)
    sizes = [10] + [width] * depth + [1]
    nets = (models.mlp(sizes, parametrisation=parametrisation, generator=seeded(s)) for s in range(n))
    return torch.stack([net(x).detach().squeeze() for net in nets]).double()


@pytest.mark.parametrize(("parametrisation", "depth", "slope"), [
    ("standard", 1, 0), ("ntk", 1, 0), ("ntk", 2, 0), ("mean_field", 1, -1), ("mup", 1, -1),
    ("mup", 2, -1), ("mup_adam", 2, -1)])
def test_variance_of_the_output_scales_with_width_as_stated(parametrisation, depth, slope):
    """Var f ∝ N^slope from N = 16 to 256; allowing 4 standard errors of the two variances."""
    narrow, wide = (outputs(width, parametrisation, depth=depth).var() for width in (16, 256))
    assert abs(math.log(wide / narrow) - slope * math.log(16)) < 4 * math.sqrt(2 * 2 / 199)


@pytest.mark.parametrize("parametrisation", ["ntk", "mup", "mup_adam"])
def test_hidden_pre_activations_start_at_order_one_at_every_width(parametrisation):
    """E z² = E φ(z')² in the second layer without biases, z' ~ N(0, 1), within 4 standard errors."""
    z = torch.randn(200_000, generator=seeded(1))
    for width in (32, 256):
        sizes, options = [10, width, width, 1], {"parametrisation": parametrisation, "bias": False}
        nets = [models.mlp(sizes, generator=seeded(s), **options) for s in range(64)]
        second = torch.stack([net.layers[1](net.layers[0](torch.ones(1, 10)).tanh()) for net in nets])
        assert abs(second.square().mean() / z.tanh().square().mean() - 1) < 4 * 0.30 * (32 / width) ** 0.5 / 8


def test_ntk_network_has_the_gaussian_process_variance():
    """Var f = σ_w² E[φ(z)²] + σ_b² with z ~ N(0, σ_w² |x|²/d + σ_b²), within 4 standard errors."""
    z = torch.randn(200_000, generator=seeded(1)) * math.sqrt(2)  # |x|²/d = 1, σ_w = σ_b = 1
    expected = z.tanh().square().mean() + 1
    assert abs(outputs(256, "ntk").var() / expected - 1) < 4 * math.sqrt(2 / 199)


def test_weight_std_and_bias_std_are_factors():
    one, two = (models.mlp([4, 3, 2], weight_std=s, bias_std=3 * s).layers for s in (1.0, 2.0))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(2 * a.weight, b.weight) and torch.equal(2 * a.bias, b.bias)
    assert models.mlp([4, 3, 2], bias_std=0.0).layers[0].bias.abs().max() == 0
    assert models.mlp([4, 3, 2], bias=False).layers[0].bias is None


def feature_change(width, parametrisation, optimiser, lr, *, n=16):
    """Return how far the last hidden layer moves in one step, root mean square over units and `n` seeds."""
    x, y = torch.randn(8, 10, generator=seeded(2)), torch.randn(8, 1, generator=seeded(3))
    total = 0.0
    for seed in range(n):
        model = models.mlp([10, width, width, 1], parametrisation=parametrisation, generator=seeded(seed))
        hidden = nn.Sequential(*[f for layer in model.layers[:-1] for f in (layer, nn.Tanh())])
        before, step = hidden(x).detach(), optimiser(model.parameters(), lr=lr)
        (0.5 * (model(x) - y).square().mean()).backward()
        step.step()
        total += (hidden(x).detach() - before).square().mean().item() / n
    return math.sqrt(total)


@pytest.mark.parametrize(("parametrisation", "optimiser", "lr", "slope"), [
    ("mup", torch.optim.SGD, 0.1, 0), ("mup_adam", torch.optim.Adam, 0.01, 0),
    ("ntk", torch.optim.SGD, 0.1, -0.5), ("standard", torch.optim.SGD, 0.1, 0.5),
    ("standard", torch.optim.Adam, 0.001, 1)])
def test_features_move_as_far_as_the_parametrisation_says(parametrisation, optimiser, lr, slope):
    """Change ∝ N^slope from N = 128 to 1024; only the maximal updates are flat."""
    narrow, wide = (feature_change(width, parametrisation, optimiser, lr) for width in (128, 1024))
    assert abs(math.log(wide / narrow) / math.log(8) - slope) < 0.15
