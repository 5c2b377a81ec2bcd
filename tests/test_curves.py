"""curves: Bézier points against de Casteljau, barriers of known profiles, a valley that is a circle."""

import math

import pytest
import torch

from dlt_helpers import curves

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def ring(w, batch=None):
    return (w[:2] @ w[:2] - 1) ** 2


ENDS = torch.tensor([1.0, 0.05], dtype=F64), torch.tensor([-1.0, 0.05], dtype=F64)
OPTIONS = {"n": 1, "batch_size": 1, "lr": 0.05, "steps": 400}


# ---- oracles

def test_points_are_those_of_de_casteljau():
    a, b, c = drawn(3, 5)
    for t in (0.0, 0.3, 0.77, 1.0):
        ab, bc = torch.lerp(a, b, t), torch.lerp(b, c, t)
        torch.testing.assert_close(curves.Curve(a, b, c)(t), torch.lerp(ab, bc, t))


def test_many_points_at_once_are_the_single_ones():
    curve, t = curves.Curve(*drawn(3, 5)), torch.tensor([0.0, 0.2, 0.9], dtype=F64)
    assert curve(t).shape == (3, 5)
    torch.testing.assert_close(curve(t), torch.stack([curve(s) for s in t]))


def test_the_segment_is_straight():
    a, b = drawn(2, 4)
    line = curves.segment(a, b)
    torch.testing.assert_close(line(0.3), 0.7 * a + 0.3 * b)
    torch.testing.assert_close(line.length(), (b - a).norm())


def test_length_of_a_bent_curve_against_the_integral_of_its_speed():
    curve = curves.Curve(*drawn(3, 4, seed=1))
    t = torch.linspace(0, 1, 20001, dtype=F64)[:, None]
    speed = (2 * (1 - t) * (curve.bend - curve.start) + 2 * t * (curve.end - curve.bend)).norm(dim=1)
    assert curve.length(pieces=2000).item() == pytest.approx(torch.trapezoid(speed, t[:, 0]).item(), rel=1e-6)


def test_profile_and_barrier_of_a_known_loss():
    line = curves.segment(torch.tensor([-1.0], dtype=F64), torch.tensor([1.0], dtype=F64))
    values = curves.profile(lambda w: (1 - w @ w) + w.sum(), line, points=101)
    t = torch.linspace(0, 1, 101, dtype=F64)
    torch.testing.assert_close(values, 1 - (2 * t - 1) ** 2 + 2 * t - 1)
    assert curves.barrier(values).item() == pytest.approx(1)  # the slanted chord is taken off


# ---- the fit

def test_a_curve_around_a_hill_has_almost_no_barrier():
    curve = curves.connect(ring, *ENDS, generator=seeded(), **OPTIONS)
    straight = curves.barrier(curves.profile(ring, curves.segment(*ENDS)))
    bent = curves.barrier(curves.profile(ring, curve))
    assert straight > 0.98 and bent < 0.05
    assert torch.equal(curve.start, ENDS[0]) and torch.equal(curve.end, ENDS[1])
    assert curve.length() > curves.segment(*ENDS).length()


def test_the_fit_is_repeatable_and_depends_on_the_generator():
    one, same, other = (curves.connect(ring, *ENDS, generator=seeded(s), **OPTIONS).bend for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_batches_reach_the_loss():
    seen = set()

    def loss(w, batch):
        seen.update(batch.tolist())
        return w @ w

    curves.connect(loss, *ENDS, n=4, batch_size=2, lr=0.01, steps=2, generator=seeded())
    assert seen == {0, 1, 2, 3}


def test_no_steps_leave_the_segment():
    curve = curves.connect(ring, *ENDS, generator=seeded(), **OPTIONS | {"steps": 0})
    assert torch.equal(curve.bend, curves.segment(*ENDS).bend)


# ---- limits and edges

def test_a_convex_profile_has_no_barrier():
    t = torch.linspace(0, 1, 11, dtype=F64)
    assert curves.barrier((t - 0.3) ** 2) == 0
    assert math.isnan(curves.barrier(torch.tensor([0.0, math.nan, 0.0])))


def test_numbers_serve_as_a_loss():
    assert curves.profile(lambda w: 0.5, curves.segment(*ENDS), points=2).tolist() == [0.5, 0.5]


def test_bad_input_says_what_is_right():
    with pytest.raises(ValueError, match="one shape"):
        curves.segment(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="at least the two ends"):
        curves.profile(ring, curves.segment(*ENDS), points=1)
    with pytest.raises(RuntimeError, match="smaller learning rate"):
        curves.connect(ring, 10 * ENDS[0], 10 * ENDS[1], generator=seeded(), **OPTIONS | {"lr": 50.0})
