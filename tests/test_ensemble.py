"""train.ensemble: each member against torch.optim on its own nn.Module, and what members must not share."""

import math

import pytest
import torch
from torch.nn import functional as F

from dlt_helpers import models, train

SIZES, N, S = [6, 5, 4, 3], 20, 4


def seeded(i=0):
    return torch.Generator().manual_seed(i)


def drawn(*shape, seed=7):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def labels(*shape, seed=8):
    return torch.randint(3, shape, generator=seeded(seed))


def networks(activation="relu", sizes=SIZES):
    return [models.mlp(sizes, activation=activation, generator=seeded(i)).double() for i in range(S)]


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "square": lambda out, y: 0.5 * (out - y).square().sum(1).mean(),
    "logistic": lambda out, y: F.softplus(-y * out).sum(1).mean(),
}


def alone(model, x, y, *, epochs, lr, batch_size=None, seed=0, loss="cross_entropy", method="sgd",
          weight_decay=0.0, **options):
    """Train one module with torch.optim on the batches of the generator `seed`; return its losses and errors."""
    n, generator, history = len(x), seeded(seed), []
    size = batch_size or n
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[method]
    optimiser = make(model.parameters(), lr=float(lr), weight_decay=float(weight_decay), foreach=False, **options)
    for epoch in range(epochs + 1):
        with torch.no_grad():
            out = model(x)
            right = out.argmax(1) == (y if y.ndim == 1 else y.argmax(1)) if out.shape[1] > 1 else out * y > 0
            history.append((LOSSES[loss](out, y).item(), 1 - right.double().mean().item()))
        order = torch.randperm(n, generator=generator) if size < n else torch.arange(n)
        for start in range(0, n - size + 1, size) if epoch < epochs else ():
            batch = order[start:start + size]
            optimiser.zero_grad()
            LOSSES[loss](model(x[batch]), y[batch]).backward()
            optimiser.step()
    return torch.tensor(history, dtype=torch.float64).T  # [2, epochs + 1]


def assert_equal_to_each_alone(result, starts, x, y, tol=1e-11, each=None, **options):
    """x, y, and the options in `each` are per member where they are lists."""
    for i, model in enumerate(starts):
        own = {k: v[i] for k, v in (each or {}).items()}
        losses, errors = alone(model, x[i] if isinstance(x, list) else x, y[i] if isinstance(y, list) else y,
                               **options, **own)
        torch.testing.assert_close(result.losses[i], losses, rtol=tol, atol=tol)
        torch.testing.assert_close(result.errors[i], errors, rtol=0, atol=1e-12)
        for mine, theirs in zip(result.member(i).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=tol, atol=tol)


# ---- equal to training each alone

METHODS = {
    "gd": {"lr": 0.3},
    "sgd": {"lr": 0.1, "batch_size": 6},
    "momentum": {"lr": 0.05, "batch_size": 8, "momentum": 0.9},
    "weight-decay": {"lr": 0.05, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.1},
    "adam": {"lr": 0.02, "batch_size": 8, "method": "adam"},
    "adam-decay": {"lr": 0.02, "method": "adam", "weight_decay": 0.1, "betas": (0.8, 0.95)},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_member_is_what_it_would_be_alone(name):
    x, y, starts = drawn(N, 6), labels(N), networks()
    result = train.ensemble(SIZES, x, y, init=train.stack(starts), epochs=15, generator=seeded(), **METHODS[name])
    assert_equal_to_each_alone(result, starts, x, y, epochs=15, **METHODS[name])


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
def test_every_activation(activation):
    x, y, starts = drawn(N, 6), labels(N), networks(activation)
    result = train.ensemble(SIZES, x, y, init=train.stack(starts), epochs=5, lr=0.2, activation=activation)
    assert_equal_to_each_alone(result, starts, x, y, epochs=5, lr=0.2)


@pytest.mark.parametrize(("loss", "k"), [("square", 3), ("square", 1), ("logistic", 1), ("logistic", 3)])
def test_every_loss(loss, k):
    x, y = drawn(N, 6), drawn(N, k, seed=9).sign()
    starts = networks("tanh", [6, 5, k])
    result = train.ensemble([6, 5, k], x, y, init=train.stack(starts), epochs=9, lr=0.2, activation="tanh",
                            loss=loss)
    if loss == "logistic" and k == 3:  # several ±1 at once: a decision is the greatest output
        result.errors[:] = math.nan
        for i, model in enumerate(starts):
            torch.testing.assert_close(result.losses[i], alone(model, x, y, epochs=9, lr=0.2, loss=loss)[0])
    else:
        assert_equal_to_each_alone(result, starts, x, y, epochs=9, lr=0.2, loss=loss)


@pytest.mark.parametrize("method", ["sgd", "adam"])
def test_rates_labels_and_inputs_of_their_own(method):
    x, y, starts = drawn(S, N, 6), labels(S, N), networks()
    lr, decay = [0.02, 0.05, 0.05, 0.01], [0.1, 0.0, 0.0, 0.3]
    options = {"epochs": 7, "batch_size": 6, "method": method}
    result = train.ensemble(SIZES, x, y, init=train.stack(starts), lr=torch.tensor(lr, dtype=torch.float64),
                            weight_decay=decay, generator=seeded(), **options)
    assert_equal_to_each_alone(result, starts, list(x), list(y), each={"lr": lr, "weight_decay": decay}, **options)


def test_images_are_flattened_and_float32_is_kept():
    x, y = drawn(N, 1, 2, 3).float(), labels(N)
    flat, shaped, own = (train.ensemble(SIZES, inputs, y, generators=[seeded(i) for i in range(S)], lr=0.1,
                                        epochs=5) for inputs in (x.flatten(1), x, x.expand(S, N, 1, 2, 3)))
    assert flat.weights[0].dtype == torch.float32 and flat.losses.dtype == torch.float64
    torch.testing.assert_close(shaped.losses, flat.losses, rtol=0, atol=0)
    torch.testing.assert_close(own.losses, flat.losses, rtol=1e-5, atol=1e-6)


def test_generators_draw_what_mlp_draws():
    result = train.ensemble(SIZES, drawn(N, 6), labels(N), generators=[seeded(i) for i in range(S)], lr=1.0,
                            epochs=0, weight_std=2.0)
    for i in range(S):
        theirs = models.mlp(SIZES, generator=seeded(i), weight_std=2.0).double()
        for mine, other in zip(result.member(i).parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)


# ---- members share nothing

def test_changing_one_member_leaves_the_others():
    x, y, init = drawn(N, 6), labels(S, N), train.stack(networks())
    options = {"lr": 0.1, "epochs": 12, "batch_size": 5, "momentum": 0.9}
    first = train.ensemble(SIZES, x, y, init=init, generator=seeded(), **options)
    y[2] = labels(N, seed=99)
    second = train.ensemble(SIZES, x, y, init=init, generator=seeded(), **options)
    others = [0, 1, 3]
    for a, b in zip((*first.weights, first.losses), (*second.weights, second.losses), strict=True):
        assert torch.equal(a[others], b[others]) and not torch.equal(a[2], b[2])


def test_a_divergence_stays_where_it_is():
    x, y, init = drawn(N, 6), F.one_hot(labels(N), 3).double(), train.stack(networks())
    options = {"loss": "square", "activation": "linear", "epochs": 40, "init": init}
    calm = train.ensemble(SIZES, x, y, lr=0.1, **options)
    wild = train.ensemble(SIZES, x, y, lr=[0.1, 1e30, 0.1, 0.1], **options)
    assert wild.losses[1, -1].isnan() and wild.errors[1, -1].isnan() and wild.fitted[1].isnan()
    torch.testing.assert_close(wild.losses[[0, 2, 3]], calm.losses[[0, 2, 3]], rtol=1e-12, atol=1e-12)


# ---- measurements

def test_test_set_errors_and_outputs():
    x, y, x_test, y_test = drawn(N, 6), labels(N), drawn(9, 6, seed=1), labels(S, 9, seed=2)
    result = train.ensemble(SIZES, x, y, generators=[seeded(i) for i in range(S)], lr=0.1, epochs=7, every=3,
                            x_test=x_test, y_test=y_test)
    assert result.times.tolist() == [0, 3, 6, 7]
    for i in range(S):
        out = result.member(i)(x_test)
        torch.testing.assert_close(result.outputs(x_test)[i], out.detach())
        assert result.test_losses[i, -1].item() == pytest.approx(F.cross_entropy(out, y_test[i]).item())
        assert result.test_errors[i, -1].item() == pytest.approx((out.argmax(1) != y_test[i]).double().mean().item())
    none = train.ensemble(SIZES, x, y, init=result.weights, lr=0.1, epochs=0)
    assert none.test_errors.isnan().all() and none.losses.shape == (S, 1)


def test_chunks_do_not_change_what_is_measured(monkeypatch):
    x, y = drawn(100, 6), labels(100)
    options = {"generators": [seeded(i) for i in range(S)], "lr": 0.1, "epochs": 2, "x_test": x, "y_test": y}
    whole = train.ensemble(SIZES, x, y, **options)
    monkeypatch.setattr("dlt_helpers.train.stacked.CHUNK", 1)  # 32 at a time
    parts = train.ensemble(SIZES, x, y, **{**options, "generators": [seeded(i) for i in range(S)]})
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.outputs(x), whole.outputs(x), rtol=1e-12, atol=1e-14)
    assert torch.equal(parts.test_errors, whole.test_errors) and parts.outputs(x).shape == (S, 100, 3)


def test_error_rates_are_not_truncated():
    x, y = torch.eye(6, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 0, 1])
    zero = tuple(torch.zeros(1, *shape, dtype=torch.float64) for shape in ((2, 6), (2,)))
    assert train.ensemble([6, 2], x, y, init=zero, lr=0.1, epochs=0).errors.item() == 1 / 6


def test_fitted_is_the_first_measured_epoch_without_error_and_stops_the_run():
    x, y = drawn(N, 6), labels(S, N)
    y[3] = torch.arange(N) % 3  # and member 3 sees every input twice with two labels: it cannot fit
    x_own = x.expand(S, N, 6).clone()
    x_own[3, 1::2] = x_own[3, ::2]
    options = {"generators": [seeded(i) for i in range(S)], "lr": 0.02, "method": "adam", "epochs": 400}
    result = train.ensemble([6, 40, 3], x_own, y, **options, until_fitted=True)
    assert result.fitted[3].isnan() and len(result.times) == 401
    for i in range(3):
        zero = (result.errors[i] == 0).nonzero()[0, 0]
        assert result.fitted[i].item() == result.times[zero] > 0
    options["generators"] = [seeded(i) for i in range(3)]
    stopped = train.ensemble([6, 40, 3], x_own[:3], y[:3], **options, until_fitted=True)
    assert stopped.times[-1] == stopped.fitted.max() == result.fitted[:3].max()
    torch.testing.assert_close(stopped.losses, result.losses[:3, : len(stopped.times)], rtol=1e-9, atol=1e-12)


def test_a_diverged_member_does_not_keep_the_others_waiting():
    x, y = torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    starts = train.stack([models.mlp([6, 6], generator=seeded(i)) for i in range(2)])
    run = train.ensemble([6, 6], x, y, init=starts, lr=[1.0, 1e3], epochs=2000, loss="square", until_fitted=True)
    assert run.fitted[0].isfinite() and run.fitted[1].isnan() and run.losses[1, -1].isnan()
    assert run.times[-1] < 2000


# ---- dropout and augmentation

def test_dropout_silences_its_share_and_keeps_the_mean():
    """One linear hidden layer of ones: outputs in training are means of masks, seen through the gradient."""
    n_hidden, rate = 4000, 0.3
    init = tuple(torch.ones(2, *shape, dtype=torch.float64) for shape in ((n_hidden, 1), (n_hidden,), (1, n_hidden)))
    init = (init[0], init[1] * 0, init[2] / n_hidden, torch.zeros(2, 1, dtype=torch.float64))
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    run = train.ensemble([1, n_hidden, 1], x, y, init=init, lr=1.0, epochs=1, loss="square", activation="linear",
                         dropout=rate, generator=seeded())
    out = -run.weights[3][:, 0]  # one step on ½ out²: the new output bias is −out
    error = math.sqrt(rate / (1 - rate) / n_hidden)
    assert (out - 1).abs().max() < 5 * error and out[0] != out[1]  # five standard errors
    moved = (run.weights[2] != init[2])[:, 0].double().mean(1)  # read-out of units that were kept
    assert (moved - (1 - rate)).abs().max() < 5 * math.sqrt(rate * (1 - rate) / n_hidden)


def test_dropout_is_off_when_measuring_and_zero_changes_nothing():
    x, y = drawn(N, 6), labels(N)
    options = {"lr": 0.1, "epochs": 3, "init": train.stack(networks())}
    plain = train.ensemble(SIZES, x, y, **options)
    off = train.ensemble(SIZES, x, y, **options, dropout=0.0, generator=seeded())
    on = train.ensemble(SIZES, x, y, **options, dropout=0.5, generator=seeded())
    assert torch.equal(plain.losses, off.losses) and not torch.equal(plain.losses, on.losses)
    assert torch.equal(plain.losses[:, 0], on.losses[:, 0])


def test_augmentation_sees_batches_in_their_shape():
    x, y, seen = drawn(N, 1, 2, 3), labels(N), []

    def twice(batch, generator):
        seen.append((tuple(batch.shape), generator))
        return 2 * batch

    options = {"lr": 0.1, "epochs": 4, "batch_size": 5, "init": train.stack(networks())}
    generator = seeded()
    augmented = train.ensemble(SIZES, x, y, **options, generator=generator, augment=twice)
    doubled = train.ensemble(SIZES, 2 * x, y, **options, generator=seeded())
    assert seen == [((5, 1, 2, 3), generator)] * 16
    for a, b in zip(augmented.weights, doubled.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ---- edges

def test_the_start_is_not_changed_and_a_run_can_be_continued():
    x, y, init = drawn(N, 6), labels(N), train.stack(networks())
    copies = [w.clone() for w in init]
    half = train.ensemble(SIZES, x, y, init=init, lr=0.2, epochs=6)
    whole = train.ensemble(SIZES, x, y, init=init, lr=0.2, epochs=12)
    rest = train.ensemble(SIZES, x, y, init=half.weights, lr=0.2, epochs=6)
    assert all(torch.equal(a, b) for a, b in zip(init, copies, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(rest.weights, whole.weights, strict=True))
    assert not any(w.requires_grad for w in half.weights)


def test_one_member_one_example_no_hidden_layer():
    run = train.ensemble([6, 3], drawn(1, 6), labels(1), generators=[seeded()], lr=0.5, epochs=20)
    assert run.errors[0, -1] == 0 and run.outputs(drawn(2, 6)).shape == (1, 2, 3)


X, Y = drawn(N, 6), labels(N)
GENERATORS = [seeded(i) for i in range(S)]


@pytest.mark.parametrize(("change", "words"), [
    ({"lr": 0.0}, "lr > 0"),
    ({"lr": [0.1, 0.1, math.nan, 0.1]}, "lr > 0"),
    ({"lr": [0.1, 0.1]}, "lr must be a number or one for each of 4 members; got 2"),
    ({"weight_decay": -0.1}, "weight_decay ≥ 0"),
    ({"momentum": 1.0}, "momentum < 1"),
    ({"method": "lion"}, "method is 'lion'; the choices are sgd, adam"),
    ({"activation": "sine"}, "activation"),
    ({"loss": "hinge"}, "unknown loss 'hinge': use one of cross_entropy, square"),
    ({"batch_size": 21}, "batch_size ≤ 20"),
    ({"batch_size": 5}, "need a generator"),
    ({"dropout": 0.5}, "need a generator"),
    ({"dropout": 1.0}, "dropout < 1"),
    ({"epochs": -1}, "epochs ≥ 0"),
    ({"every": 0}, "every ≥ 1"),
    ({"generators": None}, "pass either generators"),
    ({"init": train.stack(networks())}, "pass either generators"),
    ({"generators": []}, "at least one network"),
    ({"generators": None, "init": train.stack(networks())[:4]}, "have shapes"),
    ({"x": drawn(N, 7)}, "must be"),
    ({"x": drawn(N)}, "must be"),
    ({"x": drawn(3, N, 6)}, "inputs for 3 members; there are 4"),
    ({"y": labels(N - 1)}, r"y of shape \(20,\)"),
    ({"y": labels(3, N)}, r"y of shape \(20,\) or \(4, 20\)"),
    ({"y": labels(N) + 1}, "labels must be int64 from 0 to 2"),
    ({"y": labels(N).int()}, "int64"),
    ({"loss": "square", "y": drawn(N, 2)}, r"\(20, 3\)"),
    ({"loss": "square", "y": drawn(N, 3).float()}, "dtype of x"),
    ({"x_test": drawn(0, 6), "y_test": labels(0)}, "at least one"),
    ({"x_test": drawn(N, 6)}, "got None"),
])
def test_what_does_not_fit_is_refused(change, words):
    options = {"x": X, "y": Y, "generators": GENERATORS, "lr": 0.1, "epochs": 1} | change
    with pytest.raises(ValueError, match=words):
        train.ensemble(SIZES, options.pop("x"), options.pop("y"), **options)


@pytest.mark.parametrize("networks", [
    [], [models.mlp([3, 2]), models.mlp([4, 2])], [torch.nn.Linear(3, 2)], [models.mlp([3, 2], bias=False)],
    [models.mlp([3, 2], parametrisation="ntk")]])
def test_only_mlps_of_one_shape_can_be_stacked(networks):
    with pytest.raises(ValueError, match="one shape|models.mlp"):
        train.stack(networks)
