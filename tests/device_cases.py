"""One case for every public function that computes: on the device it is handed, it must stay."""

import dataclasses
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlt_helpers import (
    bounds,
    complementarity,
    curves,
    data,
    flows,
    functional,
    hessian,
    kernels,
    matrix,
    mean_field,
    models,
    posterior,
    random_features,
    scaling,
    train,
)

ROOMS = {
    "data": data, "models": models, "functional": functional, "train": train, "hessian": hessian,
    "complementarity": complementarity, "bounds": bounds, "kernels": kernels, "flows": flows,
    "random_features": random_features, "mean_field": mean_field, "curves": curves, "matrix": matrix,
    "posterior": posterior, "scaling": scaling,
}
NO_DEVICE = {  # public, and nothing that a device could be wrong in
    "data.cifar10": "reads files", "data.digits": "reads files", "data.fashion_mnist": "reads files",
    "data.mnist": "reads files", "data.plays": "reads a file", "data.vocabulary": "text to text",
    "data.decode": "tensor to text", "models.num_params": "a number"}
NO_DEVICE |= dict.fromkeys((f"bounds.{name}" for name in (
    "examples_needed", "finite_class", "from_growth", "growth_sauer", "log_growth_sauer", "massart",
    "relu_network_log2_growth", "relu_network_vc", "symmetrisation", "vc")), "numbers to a number")
NO_DEVICE |= dict.fromkeys((f"random_features.{name}" for name in (
    "isotropic", "marchenko_pastur", "mei_montanari", "moments", "two_ridge", "finite_d", "sphere_spectrum")),
    "numbers to numbers")
NO_DEVICE |= {
    "matrix.sensing": "always made where the generator is", "matrix.completion": "always made where the generator is",
    "matrix.random_factors": "always made where the generator is", "posterior.gram_limit": "a small table, on the CPU",
    "posterior.combine": "numbers", "scaling.character_flops": "numbers", "scaling.transformer_flops": "numbers"}


@dataclasses.dataclass(frozen=True)
class Case:
    """`run(device)` makes inputs on `device` and returns what the function makes of them.

    Attributes:
        without_values: no branch depends on values, so that it also runs on tensors that have none.
    """

    run: Callable[[str], object]
    without_values: bool = True


def public_functions():
    """Return "room.function" for every public function that is defined in a room of ROOMS."""
    return [f"{name}.{key}" for name, room in ROOMS.items() for key, value in vars(room).items()
            if inspect.isfunction(value) and key[0] != "_" and value.__module__.startswith(room.__name__)]


def tensors(result):
    """Yield every tensor in `result`, in modules, dataclasses, mappings and sequences alike."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, nn.Module):
        yield from result.parameters()
    elif dataclasses.is_dataclass(result):
        yield from tensors([getattr(result, field.name) for field in dataclasses.fields(result)])
    elif isinstance(result, dict):
        yield from tensors(list(result.values()))
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from tensors(part)


def seeded():
    return torch.Generator(device="cpu").manual_seed(0)


def drawn(device, *shape):
    return torch.randn(shape, generator=seeded(), device="cpu").to(device)


def images(device):
    y = torch.arange(6, device=device) % 3
    x = drawn(device, 6, 1, 4, 4)
    return data.Images(x=x, y=y, x_test=x[:3], y_test=y[:3], name="toy", n_classes=3)


def network(device, make=None):
    """Return f, w on `device`, and inputs and targets for it there."""
    f, w = functional.flatten(make() if make else models.mlp([4, 3, 1], generator=seeded()))
    return f, w.to(device), drawn(device, 10, 4), drawn(device, 10, 1)


def risk(device, **options):
    """Return a loss, a point w on `device`, and a direction there."""
    f, w, x, y = network(device)
    return functional.empirical_risk(f, x, y, **options), w, torch.ones_like(w)


def forward(make, x):
    """Return a case: the outputs of a network whose weights were moved to the device."""
    def run(device):
        f, w = functional.flatten(make())
        return f(w.to(device), x(device))
    return Case(run)


def batch_loss(device):
    """Return batch_loss(w, indices) and w."""
    f, w, x, y = network(device)
    return (lambda w, batch: functional.empirical_risk(f, x[batch], y[batch])(w)), w


def image_batch(device):
    return drawn(device, 5, 1, 4, 4)


def quadratic(device):
    """Return H = diag(1, 2), so that 2/η = 1.9 is crossed, and w."""
    h = torch.arange(1.0, 3.0, device=device)
    return (lambda w: 0.5 * (h * w * w).sum() + 0.05 * (w**4).sum()), torch.full((2,), 0.1, device=device)


def cloud(device):
    """Return four particles in three dimensions."""
    return mean_field.Particles(drawn(device, 4), drawn(device, 4, 3))
def characters(device):
    """Return the weights of two character models on `device`, and 8 windows of 3 + 1 characters."""
    weights = scaling.character_weights(4, 5, context=3, embedding=2, generators=[seeded(), seeded()])
    return [w.to(device) for w in weights], torch.arange(32, device=device).reshape(8, 4) % 5


def runs(device):
    """Return N, D and losses of 16 runs that lie on a surface."""
    N, D = (10.0 ** torch.arange(3.0, 7.0, device=device)[None].expand(4, 4) * (1 + z) for z in (0, 1))
    N = N.T
    return N.flatten(), D.flatten(), (1 + N**-0.4 + D**-0.3).flatten()


RECORD = {"every": 1, "keep": True, "record": {"norm": lambda w: w.norm()}}
RECORD_P = {"every": 1, "keep": True, "record": {"norm": lambda w, P: (P * w).norm()}}

def recovery(device):
    """Return a problem of 6 numbers of a 3 × 3 matrix, and two factors, on `device`."""
    problem = matrix.sensing((3, 3), rank=1, n=6, generator=seeded(), dtype=torch.float32).to(device)
    return problem, [drawn(device, 4, 3), drawn(device, 3, 4)]


def small_prior(**options):
    return posterior.Prior((3, 3), width=4, **options)


CASES = {
    "data.pool": Case(lambda d: data.pool(images(d), 2)),
    "data.subset": Case(
        lambda d: data.subset(images(d), per_class=1, classes=[2, 0], generator=seeded()), False),
    "data.standardise": Case(lambda d: data.standardise(images(d)), False),
    "data.shuffle_pixels": Case(lambda d: data.shuffle_pixels(images(d), generator=seeded())),
    "data.random_pixels": Case(lambda d: data.random_pixels(images(d), generator=seeded())),
    "data.gaussian_pixels": Case(lambda d: data.gaussian_pixels(images(d), generator=seeded())),
    "data.parity": Case(lambda d: data.parity(images(d).y)),
    "data.one_hot": Case(lambda d: data.one_hot(images(d).y, 3)),
    "data.corrupt_labels": Case(lambda d: data.corrupt_labels(images(d).y, 0.5, 3, generator=seeded())),
    "data.encode": Case(lambda d: data.encode("to be", " beot").to(d)),  # always made on the CPU
    "data.split_blocks": Case(lambda d: data.split_blocks(torch.arange(20, device=d), block=2, every=2,
                                                          generator=seeded()), False),
    "data.hermite": Case(lambda d: data.hermite(3)(drawn(d, 4))),
    "data.linear_teacher": Case(lambda d: data.linear_teacher(16, generator=seeded())(image_batch(d))),
    "data.single_index_teacher": Case(
        lambda d: data.single_index_teacher(16, torch.tanh, generator=seeded())(image_batch(d))),
    "data.two_layer_teacher": Case(
        lambda d: data.two_layer_teacher(16, 3, generator=seeded())(image_batch(d))),
    "models.mlp": forward(lambda: models.mlp([16, 4, 2], parametrisation="mup"), image_batch),
    "models.deep_linear": forward(lambda: models.deep_linear([16, 4, 2]), image_batch),
    "models.cnn": forward(lambda: models.cnn((1, 4, 4), (3, 3), 2), image_batch),
    "models.vit": forward(lambda: models.vit((1, 4, 4), 2, patch=2, readout="class"), image_batch),
    "models.transformer": forward(lambda: models.transformer(7, context=5),
                                  lambda d: torch.arange(10, device=d).reshape(2, 5) % 7),
    "functional.flatten": Case(lambda d: network(d)[0](*network(d)[1:3])),
    "functional.empirical_risk": Case(
        lambda d: [risk(d, loss=loss)[0](risk(d)[1]) for loss in ("square", "logistic")]),
    "functional.value_and_grad": Case(lambda d: functional.value_and_grad(*risk(d)[:2])),
    "functional.derivatives": Case(
        lambda d: (lambda loss, w, v: functional.derivatives(loss, w).hvp(torch.stack([v, w], 1)))(*risk(d))),
    "functional.third_derivative": Case(
        lambda d: (lambda loss, w, v: [functional.third_derivative(loss, w, v, w, method="autograd"),
                                       functional.third_derivative(loss, w, v)])(*risk(d)), False),
    "hessian.hvp": Case(lambda d: hessian.hvp(*risk(d))),
    "hessian.dense": Case(lambda d: hessian.dense(*risk(d)[:2])),
    "hessian.top_eigs": Case(lambda d: hessian.top_eigs(*risk(d)[:2], 2, preconditioner=1 + risk(d)[2],
                                                        generator=seeded()), False),
    "hessian.sharpness": Case(lambda d: hessian.sharpness(*risk(d)[:2]), False),
    "hessian.tracker": Case(lambda d: hessian.tracker(risk(d)[0], k=2)(risk(d)[1]), False),
    "hessian.spectral_density": Case(
        lambda d: hessian.spectral_density(*risk(d)[:2], steps=3, n_vectors=2, generator=seeded()), False),
    "train.midpoints": Case(lambda d: train.midpoints(drawn(d, 5, 3))),
    "train.gradient_descent": Case(
        lambda d: train.gradient_descent(*risk(d)[:2], lr=0.1, steps=4, momentum=0.5, noise=1e-6,
                                         generator=seeded(), **RECORD), False),
    "train.sgd": Case(lambda d: train.sgd(*batch_loss(d), n=10, batch_size=3, lr=0.1, steps=5,
                                          generator=seeded(), **RECORD), False),
    "train.adam": Case(lambda d: train.adam(*risk(d)[:2], lr=0.01, steps=4, **RECORD_P), False),
    "train.run": Case(lambda d: train.run(
        lambda t, w, state: (w @ w, 0.9 * w, state, None), lambda w: w @ w, drawn(d, 3), {"m": drawn(d, 3)},
        lr=0.1, steps=4, **RECORD), False),
    "train.rmsprop": Case(lambda d: train.rmsprop(*risk(d)[:2], lr=0.01, steps=4, **RECORD_P), False),
    "train.ensemble": Case(lambda d: train.ensemble(
        [16, 4, 3], image_batch(d), torch.arange(5, device=d) % 3, generators=[seeded(), seeded()], lr=[0.1, 0.2],
        epochs=2, batch_size=2, dropout=0.5, generator=seeded(), x_test=image_batch(d).expand(2, 5, 1, 4, 4),
        y_test=torch.arange(5, device=d) % 3).weights, False),
    "train.stack": Case(lambda d: train.stack([models.mlp([4, 3], generator=seeded()).to(d)] * 2), False),
    "complementarity.solve_complementarity": Case(
        lambda d: complementarity.solve_complementarity(
            -torch.eye(2, device=d, dtype=torch.float64),
            torch.eye(4, device=d, dtype=torch.float64).reshape(2, 2, 2, 2)), False),
    "bounds.sup_deviation": Case(
        lambda d: bounds.sup_deviation(drawn(d, 3, 5), 4, n_draws=2, generator=seeded())),
    "bounds.signs": Case(lambda d: bounds.signs(2, 3, generator=seeded(), like=drawn(d, 1))),
    "bounds.rademacher_draws": Case(
        lambda d: [bounds.rademacher_draws(drawn(d, 3, 5), n=n, n_draws=2, generator=seeded()) for n in (None, 4)]),
    "bounds.rademacher_linear": Case(lambda d: bounds.rademacher_linear(image_batch(d), 1.0), False),
    "bounds.rademacher_linear_draws": Case(
        lambda d: bounds.rademacher_linear_draws(image_batch(d), 1.0, n_draws=2, generator=seeded())),
    "bounds.two_layer": Case(lambda d: bounds.two_layer(1.0, image_batch(d)), False),
    "bounds.two_layer_draws": Case(
        lambda d: bounds.two_layer_draws(1.0, image_batch(d), n_draws=2, starts=2, steps=2, generator=seeded())),
    "bounds.margin": Case(lambda d: bounds.margin(drawn(d, 5), 0.5, 1.0, 0.1), False),
    "bounds.margin_uniform": Case(lambda d: bounds.margin_uniform(drawn(d, 5), 1.0, 0.1), False),
    "random_features.fourier": Case(
        lambda d: random_features.fourier(drawn(d, 5, 3), 4, bandwidth=1.0, generator=seeded())(drawn(d, 2, 3))),
    "random_features.relu": Case(
        lambda d: random_features.relu(image_batch(d), 4, generator=seeded())(image_batch(d))),
    "random_features.relu_gram": Case(lambda d: random_features.relu_gram(drawn(d, 4, 3))),
    "random_features.sphere": Case(
        lambda d: random_features.sphere(4, 3, generator=seeded()).to(d)),  # always made where the generator is
    "random_features.fit_path": Case(
        lambda d: random_features.fit_path(drawn(d, 4, 6), drawn(d, 4, 2), [2, 5], ridge=0.1), False),
    "flows.gradient_flow": Case(lambda d: flows.gradient_flow(*risk(d)[:2], lr=0.1, steps=3), False),
    "flows.central_flow": Case(
        lambda d: flows.central_flow(*quadratic(d), lr=2 / 1.9, steps=4, generator=seeded()), False),
    "flows.rmsprop_flow": Case(
        lambda d: flows.rmsprop_flow(*quadratic(d), torch.full((2,), 0.01, device=d), lr=0.2, beta2=0.9,
                                     steps=4, generator=seeded()), False),
    "flows.contractions": Case(
        lambda d: (lambda loss, w, v: flows.contractions(
            loss, w, torch.stack([v, w], 1), functional.value_and_grad(loss, w)[1]))(*risk(d)), False),
    "flows.oscillation": Case(lambda d: flows.oscillation(drawn(d, 9, 3))),
    "flows.oscillation_trace": Case(lambda d: flows.oscillation_trace(drawn(d, 9, 3), window=4)),
    "flows.oscillation_covariance": Case(
        lambda d: flows.oscillation_covariance(drawn(d, 9, 3), drawn(d, 3, 2), t=4, window=4), False),
    "flows.time_average": Case(lambda d: flows.time_average(drawn(d, 9), window=4)),
    "kernels.analytic": Case(lambda d: kernels.analytic(drawn(d, 4, 3), drawn(d, 2, 3), depth=2, bias_var=0.1)),
    "kernels.nngp": Case(lambda d: kernels.nngp(drawn(d, 4, 3), depth=2)),
    "kernels.ntk": Case(lambda d: kernels.ntk(drawn(d, 4, 3), depth=2, activation="erf")),
    "kernels.empirical_ntk": Case(lambda d: [kernels.empirical_ntk(
        models.mlp([3, 4, 2], generator=seeded()), drawn(d, 5, 3), w=network(d, lambda: models.mlp([3, 4, 2]))[1],
        outputs=outputs, block=2) for outputs in ("full", "trace", 1)]),
    "kernels.kernel_ridge": Case(
        lambda d: kernels.kernel_ridge(torch.eye(4, device=d), drawn(d, 4, 2), drawn(d, 3, 4), ridge=0.1), False),
    "kernels.predict_at_time": Case(lambda d: kernels.predict_at_time(
        torch.eye(4, device=d), drawn(d, 4, 2), 3, k_test_train=drawn(d, 3, 4), lr=0.1)),
    "mean_field.particles": Case(lambda d: mean_field.particles(4, 3, generator=seeded()).w.to(d)),
    "mean_field.outputs": Case(lambda d: mean_field.outputs(cloud(d), drawn(d, 5, 3), activation="erf")),
    "mean_field.tangent_kernel": Case(lambda d: mean_field.tangent_kernel(cloud(d), drawn(d, 5, 3))),
    "mean_field.train_two_layer": Case(lambda d: mean_field.train_two_layer(
        cloud(d), drawn(d, 5, 3), drawn(d, 5), times=[0.0, 1.0], x_test=drawn(d, 2, 3), y_test=drawn(d, 2),
        direction=drawn(d, 3), keep=True), False),
    "curves.segment": Case(lambda d: curves.segment(*drawn(d, 2, 3))(torch.linspace(0, 1, 4, device=d))),
    "curves.connect": Case(
        lambda d: curves.connect(batch_loss(d)[0], batch_loss(d)[1], -batch_loss(d)[1], n=10, batch_size=3,
                                 lr=0.01, steps=3, generator=seeded()), False),
    "curves.profile": Case(lambda d: curves.profile(risk(d)[0], curves.segment(*[risk(d)[1]] * 2), points=3)),
    "curves.barrier": Case(lambda d: curves.barrier(drawn(d, 5))),
    "matrix.train_loss": Case(lambda d: matrix.train_loss(recovery(d)[0], drawn(d, 3, 3)), False),
    "matrix.unseen_loss": Case(lambda d: matrix.unseen_loss(recovery(d)[0], drawn(d, 3, 3)), False),
    "matrix.recovery_gradient": Case(lambda d: matrix.recovery_gradient(recovery(d)[0], drawn(d, 3, 3)), False),
    "matrix.network": Case(lambda d: matrix.network([drawn(d, 4, 3), drawn(d, 3, 4)], torch.tanh, normalise=True)),
    "matrix.product": Case(lambda d: matrix.product([drawn(d, 4, 3), drawn(d, 3, 4)])),
    "matrix.imbalance": Case(lambda d: matrix.imbalance([drawn(d, 4, 3), drawn(d, 3, 4)])),
    "matrix.balanced_factors": Case(lambda d: matrix.balanced_factors(drawn(d, 3, 3), 3, width=4)),
    "matrix.effective_rank": Case(lambda d: matrix.effective_rank(drawn(d, 4).abs())),
    "matrix.factor_velocities": Case(
        lambda d: matrix.factor_velocities(drawn(d, 3, 3), [drawn(d, 4, 3), drawn(d, 3, 4)])),
    "matrix.gradient_flow": Case(
        lambda d: matrix.gradient_flow(lambda W: W - 1, [drawn(d, 4, 3), drawn(d, 3, 4)], [0.0, 0.1]), False),
    "matrix.singular_value_velocity": Case(
        lambda d: matrix.singular_value_velocity(drawn(d, 3, 3), drawn(d, 3, 3), 3)),
    "matrix.singular_value_ode": Case(lambda d: matrix.singular_value_ode(
        drawn(d, 2).abs(), drawn(d, 3, 2), torch.arange(3.0, device=d), 3)),
    "matrix.descend": Case(lambda d: [matrix.descend(*recovery(d), lr=0.1, steps=3, method=m, momentum=0.5)
                                      for m in ("gd", "normalised", "adam")], False),
    "posterior.prior_loss": Case(
        lambda d: posterior.prior_loss(small_prior(), recovery(d)[0], 20, generator=seeded()), False),
    "posterior.guess_and_check": Case(
        lambda d: posterior.guess_and_check(small_prior(), recovery(d)[0], 0.5, 20, generator=seeded()), False),
    "posterior.conditioned": Case(
        lambda d: posterior.conditioned(small_prior(), recovery(d)[0], 0.5, 5, generator=seeded()), False),
    "posterior.all_pairs": Case(
        lambda d: posterior.all_pairs(small_prior(), recovery(d)[0], 0.5, 9, 9, generator=seeded()), False),
    "posterior.splitting": Case(
        lambda d: posterior.splitting(small_prior(), recovery(d)[0], 0.5, 9, generator=seeded()), False),
    "scaling.surface": Case(lambda d: scaling.surface(E=1, A=1, B=1, alpha=1, beta=1, device=d)(*runs(d)[:2])),
    "scaling.huber": Case(lambda d: scaling.huber(drawn(d, 4), 1.0)),
    "scaling.objective": Case(lambda d: scaling.objective(
        scaling.surface(E=1, A=1, B=1, alpha=1, beta=1, device=d), *(z.double() for z in runs(d)))),
    "scaling.fit_chinchilla": Case(lambda d: scaling.fit_chinchilla(
        *runs(d), n_bootstrap=2, generator=seeded(), steps=5), False),
    "scaling.resamples": Case(lambda d: scaling.resamples(4, 2, generator=seeded()), False),
    "scaling.power_law": Case(lambda d: scaling.power_law(*runs(d)[::2])(3.0), False),
    "scaling.isoflop": Case(lambda d: scaling.isoflop(runs(d)[0][:5], drawn(d, 3, 5).exp())),
    "scaling.at_compute": Case(lambda d: scaling.at_compute(
        10, torch.arange(1, 5, device=d), drawn(d, 2, 4).exp(), torch.full((2,), 150.0, device=d))),
    "scaling.batch_law": Case(lambda d: scaling.batch_law(torch.arange(1.0, 5.0, device=d), 1 + drawn(d, 4).exp()),
                              False),
    "scaling.gradient_noise_scale": Case(lambda d: scaling.gradient_noise_scale(drawn(d, 4, 3)), False),
    "scaling.character_weights": Case(lambda d: characters(d)[0]),  # made on the generators' device
    "scaling.character_logits": Case(lambda d: scaling.character_logits(characters(d)[0], characters(d)[1][:, :3])),
    "scaling.character_gradient": Case(lambda d: scaling.character_gradient(
        characters(d)[0], characters(d)[1].view(2, 4, 4))),
    "scaling.character_losses": Case(lambda d: scaling.character_losses(*characters(d)), False),
    "scaling.train_characters": Case(lambda d: scaling.train_characters(
        4, torch.arange(60, device=d) % 5, torch.arange(60, device=d) % 5, n_tokens=5, context=3, embedding=2,
        batch=8, at=[8, 16], generators=[seeded()]), False),
}
