"""Drawing: each function draws given results on given axes, returns the axes, and computes nothing.

Colour carries meaning (`COLORS`), and a label at the line carries the same meaning again, so that neither
colour vision nor a legend is needed. The style is in `book.mplstyle`.
"""

from __future__ import annotations

import base64
import html
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

COLORS = {
    "gd": "#0072B2",  # the discrete method, at the larger rate where there are two
    "small": "#D55E00",  # the same at the smaller rate
    "gradient_flow": "#444444",
    "central_flow": "#007F5F",
    "sgd": "#B0578D",
    "adaptive": "#8A6D00",
    "control": "#8C8C8C",  # a setting in which the statement is not to hold
    "threshold": "#444444",  # predictions: thin and dashed
}


def label_line(ax, x, y, text, *, color="#444444", dx=4, dy=0, **style):
    """Write `text` beside the data point (x, y) in the colour of its line, dx and dy points away; return ax.

    Args:
        x, y: numbers in data coordinates. dx, dy: in points. style: as for `Axes.annotate` (ha, rotation).
    """
    style = {"va": "center", "annotation_clip": False, "fontsize": 10} | style
    ax.annotate(text, (float(x), float(y)), (dx, dy), textcoords="offset points", color=color, **style)
    return ax


def threshold(ax, value, text="", *, color=COLORS["threshold"], at="right"):
    """Draw a prediction as a thin dashed line at height `value`, named at one end of it; return ax."""
    ax.axhline(float(value), color=color, lw=0.9, ls=(0, (5, 3)), zorder=1)
    x, ha = (1.0, "right") if at == "right" else (0.0, "left")
    if text:
        ax.annotate(text, (x, float(value)), (0, 3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha=ha, va="bottom", color=color, fontsize=10)
    return ax


def seed_lines(ax, x, rows, *, color, text="", **style):
    """Draw one thin line a seed, and name the first at its end; return ax.

    Args:
        x: [m], or one such array a seed.
        rows: [n_seeds, m], or a list of arrays, one a seed; nan leaves a gap.
    """
    rows = [_array(row) for row in rows]
    xs = [_array(each) for each in x] if _ragged(x) else [_array(x)] * len(rows)
    for each, row in zip(xs, rows, strict=True):
        ax.plot(each, row, color=color, **({"lw": 0.9, "alpha": 0.75} | style))
    if text and rows:
        label_line(ax, xs[0][-1], rows[0][-1], text, color=color)
    return ax


def seed_band(ax, x, rows, *, color, text="", **style):
    """Draw the mean over seeds as a line inside the band from the least to the greatest seed; return ax.

    Args:
        x: [m]. rows: [n_seeds, m]; nan where a seed was not measured.
    """
    x, rows = _array(x), np.stack([_array(row) for row in rows])  # [n_seeds, m]
    low, mean, high = np.nanmin(rows, axis=0), np.nanmean(rows, axis=0), np.nanmax(rows, axis=0)
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    ax.plot(x, mean, color=color, **style)
    return label_line(ax, x[-1], mean[-1], text, color=color) if text else ax


def loss(ax, x, rows, *, color, text="", **style):
    """Draw training losses as `seed_lines` on a logarithmic axis; return ax."""
    ax.set(yscale="log", ylabel="training loss")
    return seed_lines(ax, x, rows, color=color, text=text, **({"lw": 0.7} | style))


def sharpness(ax, x, rows, *, color, lr=None, text="", **style):
    """Draw sharpness as `seed_lines`, with its threshold 2/lr where `lr` is given; return ax."""
    if lr is not None:
        threshold(ax, 2 / lr, f"2/η, η = {lr:g}", color=color)
    ax.set(ylabel="sharpness")
    return seed_lines(ax, x, rows, color=color, text=text, **style)


def normalised_sharpness(ax, x, rows, *, color, text="", **style):
    """Draw sharpness as a share of its threshold as `seed_lines`, with the prediction 1; return ax."""
    threshold(ax, 1.0)
    return seed_lines(ax, x, rows, color=color, text=text, **style)


def _array(values):
    """Return numbers or a tensor on any device as a float array."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=float)


def _ragged(x):
    """Whether x holds one array a seed rather than the numbers themselves."""
    return len(x) > 0 and np.ndim(x[0]) == 1


# ---- flows, and pictures that move


@dataclass(frozen=True)
class Video:
    """A film of a figure for a notebook: `html` is the player with the film in it, `data` the film (mp4)."""

    label: str
    html: str = field(repr=False)
    data: bytes = field(repr=False, default=b"")

    def _repr_html_(self):
        return self.html


def video(fig, draw, frames, *, label, fps=12):
    """Call draw(frame) for each of `frames` and return the film of `fig`, H.264, which the reader starts.

    The bytes depend on the frames and on the version of ffmpeg alone: one thread, no time stamps.
    Without ffmpeg (the package imageio-ffmpeg) the film is a sentence that says so.

    Args:
        draw: changes the artists of `fig` for one frame.
        label: what the film shows, for those who cannot see it.
        fps: frames a second.
    """
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return Video(label, "<p>The film was left out: it needs the package imageio-ffmpeg.</p>")
    pictures = [_picture(fig, draw, frame) for frame in frames]
    height, width = pictures[0].shape[:2]
    data = _encode(program, b"".join(p.tobytes() for p in pictures), width, height, fps)
    source = "data:video/mp4;base64," + base64.b64encode(data).decode()
    player = (
        f'<video controls muted playsinline preload="metadata" width="{width}" height="{height}" '
        f'style="max-width: 100%; height: auto" aria-label="{html.escape(label)}" src="{source}"></video>'
    )
    return Video(label, player, data)


def _picture(fig, draw, frame):
    """Return the figure after draw(frame) as [height, width, 3] bytes, cut to even sizes as H.264 asks."""
    draw(frame)
    fig.canvas.draw()
    fig.set_layout_engine("none")  # the first picture fixes the layout of all
    pixels = np.asarray(fig.canvas.buffer_rgba())
    return pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2, :3]


def _encode(program, pixels, width, height, fps):
    """Return raw rgb frames as the bytes of an mp4 file."""
    into = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    out = ["-an", "-c:v", "libx264", "-crf", "24", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    same = ["-threads", "1", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        command = [program, "-v", "error", *into, *out, *same, str(path)]
        done = subprocess.run(command, input=pixels, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"ffmpeg could not write the film: {done.stderr.decode(errors='replace')}")
        return path.read_bytes()
