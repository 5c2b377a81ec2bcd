"""train: paths and thresholds in closed form on quadratics, torch.optim step by step, and the records."""

import math

import pytest
import torch

from dlt_helpers import functional, train


def quadratic(p=4):
    """Return (loss, H) of ½ wᵀHw with a random positive definite H [p, p]."""
    A = torch.randn(p, p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    H = A @ A.T / p + torch.eye(p)
    return (lambda w: 0.5 * w @ H @ w), H


def start(p=4):
    return torch.linspace(1, 2, p, dtype=torch.float64)


# ---- closed forms

def test_gradient_descent_on_a_quadratic_is_a_matrix_power():
    loss, H = quadratic()
    run = train.gradient_descent(loss, start(), lr=0.1, steps=30, keep=True)
    for t in (0, 1, 17, 30):
        power = torch.linalg.matrix_power(torch.eye(4) - 0.1 * H, t)
        torch.testing.assert_close(run.weights[t], power @ start(), rtol=1e-12, atol=1e-13)


def test_small_steps_follow_the_gradient_flow_to_first_order():
    loss, H = quadratic()
    exact = torch.linalg.matrix_exp(-0.5 * H) @ start()
    errors = [(train.gradient_descent(loss, start(), lr=0.5 / n, steps=n).w - exact).norm().item()
              for n in (200, 400)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


LR, BETA, DECAY = 0.13, 0.9, 0.7
THRESHOLDS = {  # method on L = h w²/2, curvature above which it diverges
    "gd": ({"method": "gd"}, 2 / LR),
    "gd-weight-decay": ({"method": "gd", "weight_decay": DECAY}, 2 / LR - DECAY),
    "heavy-ball": ({"method": "gd", "momentum": BETA}, (2 + 2 * BETA) / LR),
    "nesterov": ({"method": "gd", "momentum": BETA, "nesterov": True},
                 (2 + 2 * BETA) / (LR * (1 + 2 * BETA))),
    "adam-0.9": ({"method": "adam", "betas": (0.9, 0.99)}, 38 / LR),
    "adam-0.5": ({"method": "adam", "betas": (0.5, 0.99)}, 6 / LR),
    "rmsprop": ({"method": "rmsprop"}, 2 / LR),
}
METHODS = {"gd": train.gradient_descent, "adam": train.adam, "rmsprop": train.rmsprop}


def grows(h, method, **options):
    """Whether the packaged optimiser grows on each curvature h [m]; w near 1e-100 and ε = 1 freeze P."""
    options |= {} if method == "gd" else {"eps": 1.0}
    run = METHODS[method](lambda w: 0.5 * (h * w * w).sum(), torch.full_like(h, 1e-100), lr=LR, steps=300,
                          keep=True, **options)
    return run.weights[280:].abs().amax(0) > run.weights[200:220].abs().amax(0)  # [m]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_stability_threshold_to_six_digits(name):
    options, predicted = THRESHOLDS[name]
    low, high = 0.9 * predicted, 1.1 * predicted
    while high - low > 1e-7 * predicted:
        h = torch.linspace(low, high, 65, dtype=torch.float64)
        unstable = grows(h, **options)
        assert not unstable[0] and unstable[-1] and unstable.int().diff().sum() == 1
        low, high = h[~unstable][-1].item(), h[unstable][0].item()
    assert low == pytest.approx(predicted, rel=1e-6)


# ---- torch.optim, step by step

def torch_path(make, loss, w0, steps, **options):
    w = w0.clone().requires_grad_(True)
    optimiser, path = make([w], **options), [w0.clone()]
    for _ in range(steps):
        optimiser.zero_grad()
        loss(w).backward()
        optimiser.step()
        path.append(w.detach().clone())
    return torch.stack(path)


TWINS = {
    "gd": (train.gradient_descent, {}, torch.optim.SGD, {}),
    "momentum": (train.gradient_descent, {"momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
    "weight-decay": (train.gradient_descent, {"momentum": 0.8, "weight_decay": 0.3},
                     torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.3}),
    "adam": (train.adam, {"betas": (0.8, 0.95), "eps": 1e-3},
             torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "adam-default": (train.adam, {}, torch.optim.Adam, {}),
    "rmsprop": (train.rmsprop, {"beta2": 0.9, "eps": 1e-3}, torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}),
}


@pytest.mark.parametrize("twin", TWINS)
def test_same_path_as_torch_optim(problem, twin):
    ours, mine, theirs, yours = TWINS[twin]
    run = ours(problem.loss, problem.w, lr=0.02, steps=12, keep=True, **mine)
    path = torch_path(theirs, problem.loss, problem.w, 12, lr=0.02, **yours)
    torch.testing.assert_close(run.weights, path, rtol=1e-9, atol=1e-10)


def test_nesterov_is_torchs_up_to_its_change_of_variables(problem):
    """torch stores y_t = w_t + β (w_t − w_{t−1}), the point at which the gradient is taken."""
    options = {"lr": 0.02, "momentum": 0.8, "nesterov": True}
    run = train.gradient_descent(problem.loss, problem.w, steps=12, keep=True, **options)
    path = torch_path(torch.optim.SGD, problem.loss, problem.w, 12, **options)
    w = run.weights
    torch.testing.assert_close(w[1:] + 0.8 * (w[1:] - w[:-1]), path[1:], rtol=1e-9, atol=1e-10)


# ---- sgd

def mean_square(x):
    return lambda w, batch: 0.5 * ((w - x[batch]) ** 2).mean()


def test_whole_batches_are_gradient_descent(generator):
    x, w0 = torch.arange(6, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    options = {"lr": 0.1, "steps": 9, "momentum": 0.5, "keep": True}
    full = train.gradient_descent(lambda w: mean_square(x)(w, torch.arange(6)), w0, **options)
    batches = train.sgd(mean_square(x), w0, n=6, batch_size=6, generator=generator, **options)
    torch.testing.assert_close(batches.weights, full.weights)
    torch.testing.assert_close(batches.losses[:-1], full.losses[:-1])


def test_an_epoch_takes_every_example_once_and_drops_the_rest(generator):
    seen = []

    def batch_loss(w, batch):
        seen.append(batch.tolist())
        return (w * 0).sum()

    train.sgd(batch_loss, torch.zeros(1), n=7, batch_size=3, lr=0.1, steps=6, generator=generator)
    assert [len(b) for b in seen] == [3] * 6
    epochs = [sum(seen[i:i + 2], []) for i in (0, 2, 4)]
    assert all(len(set(e)) == 6 for e in epochs) and len({tuple(e) for e in epochs}) == 3


def test_sgd_measures_the_full_loss_only_where_asked(generator):
    x = torch.arange(6, dtype=torch.float64)
    options = {"n": 6, "batch_size": 2, "lr": 0.1, "steps": 10, "every": 4, "keep": True}

    def full(w):
        return mean_square(x)(w, torch.arange(6))

    run = train.sgd(mean_square(x), torch.zeros(1).double(), generator=generator, loss=full, **options)
    assert run.losses.isfinite().nonzero()[:, 0].tolist() == [0, 4, 8, 10]
    measured = torch.stack([full(w) for w in run.weights[[0, 4, 8, 10]]])
    torch.testing.assert_close(run.losses[[0, 4, 8, 10]], measured)
    batch_only = train.sgd(mean_square(x), torch.zeros(1).double(), generator=generator, **options)
    assert batch_only.losses[:-1].isfinite().all() and batch_only.losses[-1].isnan()


# ---- what is recorded

def test_midpoints_remove_an_oscillation_of_period_two():
    t = torch.arange(50, dtype=torch.float64)[:, None]
    smooth, sign = 0.3 * t + 1, (-1.0) ** t
    torch.testing.assert_close(train.midpoints(smooth + 5 * sign), smooth[1:-1])
    rates = [train.midpoints(torch.exp(r * t) * sign)[0].abs().item() for r in (0.02, 0.01)]
    assert rates[0] / rates[1] == pytest.approx(4, rel=0.05)  # what is left is of second order


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_the_iterates(problem, method):
    run = METHODS[method](problem.loss, problem.w, lr=0.01, steps=5, keep=True)
    torch.testing.assert_close(run.losses, torch.stack([problem.loss(w) for w in run.weights]).detach())
    torch.testing.assert_close(run.w, run.weights[-1])


def test_nesterov_losses_are_those_of_the_iterates_too():
    loss, _ = quadratic()
    run = train.gradient_descent(loss, start(), lr=0.1, steps=5, momentum=0.9, nesterov=True, keep=True)
    torch.testing.assert_close(run.losses, torch.stack([loss(w) for w in run.weights]))


def test_records_are_taken_at_midpoints_every_so_often():
    loss, _ = quadratic()
    record = {"norm": lambda w: w.norm().item(), "two": lambda w: w[:2]}
    run = train.gradient_descent(loss, start(), lr=0.1, steps=10, every=3, record=record, keep=True)
    assert run.times.tolist() == [3, 6, 9]
    middle = train.midpoints(run.weights)[run.times - 1]
    torch.testing.assert_close(run.records["norm"], middle.norm(dim=1))
    torch.testing.assert_close(run.records["two"], middle[:, :2])
    iterate = train.gradient_descent(loss, start(), lr=0.1, steps=10, every=3, record=record, at="iterate")
    assert iterate.times.tolist() == [0, 3, 6, 9] and iterate.weights is None
    torch.testing.assert_close(iterate.records["two"], run.weights[[0, 3, 6, 9], :2])


@pytest.mark.parametrize("method", ["adam", "rmsprop"])
def test_recorded_preconditioner_is_the_one_of_the_step(problem, method):
    """w_{t+1} − w_t = −lr P⁻¹ m_t with the recorded P, m rebuilt from the gradients along the path."""
    beta1 = 0.8 if method == "adam" else 0.0
    options = {"betas": (0.8, 0.95)} if method == "adam" else {"beta2": 0.95}
    run = METHODS[method](problem.loss, problem.w, lr=0.01, steps=6, eps=1e-3, keep=True, at="iterate",
                          record={"P": lambda w, P: P}, **options)
    m = torch.zeros_like(problem.w)
    for t in range(6):
        m = beta1 * m + (1 - beta1) * functional.value_and_grad(problem.loss, run.weights[t])[1]
        update = run.weights[t + 1] - run.weights[t]
        torch.testing.assert_close(update, -0.01 * m / run.records["P"][t], rtol=1e-9, atol=1e-12)


def test_states_are_returned_and_a_run_can_start_from_them():
    loss, _ = quadratic()
    whole = train.rmsprop(loss, start(), lr=0.01, steps=20)
    half = train.rmsprop(loss, start(), lr=0.01, steps=10)
    rest = train.rmsprop(loss, half.w, lr=0.01, steps=10, nu0=half.state["nu"])
    torch.testing.assert_close(rest.w, whole.w, rtol=0, atol=0)
    assert set(train.adam(loss, start(), lr=0.01, steps=2).state) == {"m", "nu"}
    assert set(train.gradient_descent(loss, start(), lr=0.01, steps=2).state) == {"velocity"}


def test_noise_has_the_stated_size_and_is_reproducible(generator):
    def noisy(seed):
        return train.gradient_descent(lambda w: 0 * w.sum(), torch.zeros(20_000, dtype=torch.float64), lr=0.1,
                                      steps=4, noise=0.3, generator=generator.manual_seed(seed))
    w = noisy(0).w
    assert w.std().item() == pytest.approx(0.6, abs=5 * 0.6 / math.sqrt(40_000))  # √4 · 0.3 ± 5 s.e.
    assert torch.equal(w, noisy(0).w) and not torch.equal(w, noisy(1).w)


# ---- edges

@pytest.mark.parametrize("method", METHODS)
def test_divergence_ends_the_run_and_leaves_nan(method):
    run = METHODS[method](lambda w: (w ** 4).sum() * 1e30, torch.full((2,), 1e3), lr=1e10, steps=50,
                          keep=True, record={"w": lambda w, P=None: w}, at="iterate")
    assert run.diverged and run.losses[-1].isnan() and run.weights[-1].isnan().all()
    assert run.records["w"].isfinite().all() and run.w.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_no_steps_and_untouched_start(method):
    w0 = start()
    run = METHODS[method](quadratic()[0], w0, lr=0.1, steps=0, record={"w": lambda w, P=None: w}, keep=True)
    assert torch.equal(run.w, w0) and run.losses.shape == (1,) and len(run.times) == 0 and not run.diverged
    assert run.records["w"].shape == (0,) and run.weights.shape == (1, 4)
    METHODS[method](quadratic()[0], w0, lr=0.1, steps=3)
    assert torch.equal(w0, start())


@pytest.mark.parametrize(("call", "words"), [
    (lambda loss: train.gradient_descent(loss, start(), lr=0.0, steps=1), "lr must be positive"),
    (lambda loss: train.gradient_descent(loss, start(), lr=math.nan, steps=1), "lr must be positive"),
    (lambda loss: train.gradient_descent(loss, start(), lr=1, steps=1, momentum=1.0), "momentum"),
    (lambda loss: train.gradient_descent(loss, start(), lr=1, steps=1, noise=0.1), "generator"),
    (lambda loss: train.gradient_descent(loss, start(), lr=1, steps=1, at="middle"), "'midpoint' or"),
    (lambda loss: train.gradient_descent(loss, start(), lr=1, steps=-1), "steps"),
    (lambda loss: train.gradient_descent(loss, start(), lr=1, steps=1, every=0), "every"),
    (lambda loss: train.adam(loss, start(), lr=1, steps=1, betas=(1.0, 0.9)), "betas"),
    (lambda loss: train.adam(loss, start(), lr=1, steps=1, eps=0.0), "eps must be positive"),
    (lambda loss: train.rmsprop(loss, start(), lr=1, steps=1, beta2=1.0), "beta2"),
    (lambda loss: train.sgd(loss, start(), n=3, batch_size=4, lr=1, steps=1, generator=None), "batch_size"),
])
def test_parameters_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(quadratic()[0])
