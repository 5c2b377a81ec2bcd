"""What is drawn is what was given: plots draw, and compute nothing."""

import ast
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from dlt_helpers import plots  # noqa: E402

X = np.array([1.0, 2.0, 3.0])
ROWS = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 0.5]])
BLUE = plots.COLORS["gd"]


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    fig.canvas.draw()  # a text or transform that cannot be drawn fails here
    plt.close(fig)


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("draw", [plots.seed_lines, plots.loss])
def test_one_line_a_seed_with_the_data_as_given(ax, draw):
    assert draw(ax, X, ROWS, color=BLUE, text="GD") is ax
    assert len(ax.lines) == len(ROWS)
    for line, row in zip(ax.lines, ROWS, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([X, row], 1))
        assert line.get_color() == BLUE
    assert texts(ax) == ["GD"]
    assert ax.texts[0].xy == (X[-1], ROWS[0, -1]) and ax.texts[0].get_color() == BLUE


def test_seeds_may_differ_in_length_and_be_tensors(ax):
    xs, rows = [torch.arange(3), torch.arange(2)], [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])]
    plots.seed_lines(ax, xs, rows, color=BLUE)
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 2]
    assert ax.lines[1].get_ydata().tolist() == [4.0, 5.0]


def test_a_gap_stays_a_gap(ax):
    plots.seed_lines(ax, X, [[1.0, np.nan, 3.0]], color=BLUE)
    assert np.isnan(ax.lines[0].get_ydata()[1])


def test_loss_is_logarithmic(ax):
    assert plots.loss(ax, X, ROWS, color=BLUE).get_yscale() == "log"


def test_sharpness_draws_two_over_lr(ax):
    plots.sharpness(ax, X, ROWS, color=BLUE, lr=0.1)
    assert ax.lines[0].get_ydata() == pytest.approx([20, 20])
    assert texts(ax) == ["2/η, η = 0.1"]
    assert len(ax.lines) == 1 + len(ROWS)


def test_sharpness_without_a_rate_draws_no_threshold(ax):
    assert len(plots.sharpness(ax, X, ROWS, color=BLUE).lines) == len(ROWS)


def test_normalised_sharpness_has_its_line_at_one(ax):
    assert plots.normalised_sharpness(ax, X, ROWS, color=BLUE).lines[0].get_ydata() == pytest.approx([1, 1])


@pytest.mark.parametrize(("at", "x"), [("right", 1.0), ("left", 0.0)])
def test_threshold_is_named_at_its_end(ax, at, x):
    assert plots.threshold(ax, torch.tensor(3.0), "theory", at=at) is ax
    assert ax.texts[0].xy == (x, 3.0) and texts(ax) == ["theory"]


def test_band_spans_least_to_greatest_around_the_mean(ax):
    plots.seed_band(ax, X, ROWS, color=BLUE, text="mean")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2.0, 2.0, 2.25])
    corners = ax.collections[0].get_paths()[0].vertices
    for x, low, high in zip(X, ROWS.min(0), ROWS.max(0), strict=True):
        ys = corners[corners[:, 0] == x, 1]
        assert ys.min() == low and ys.max() == high


def test_band_skips_what_was_not_measured(ax):
    plots.seed_band(ax, X, [[1.0, np.nan, 1.0], [3.0, 5.0, 3.0]], color=BLUE)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2.0, 5.0, 2.0])


def test_colours_differ_in_lightness_from_white_enough_to_read():
    def luminance(color):
        c = np.array(matplotlib.colors.to_rgb(color))
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for name, color in plots.COLORS.items():
        assert 1.05 / (luminance(color) + 0.05) >= 3, name  # WCAG: graphics need 3 to 1


def test_the_drawing_room_calls_no_instrument():
    tree = ast.parse(Path(plots.__file__).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.split(".")[0] in ("torch", "scipy", "dlt_helpers")}
