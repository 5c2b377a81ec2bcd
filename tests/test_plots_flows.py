"""The film of a figure: the same bytes twice, playable, described, and a sentence where ffmpeg is missing."""

import base64
import re
import subprocess
import sys

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from dlt_helpers import plots  # noqa: E402

ffmpeg = pytest.importorskip("imageio_ffmpeg")


@pytest.fixture
def film():
    """Return a function that films a dot moving to the right over `n` frames."""

    def make(n=6, label="a dot moves to the right", **options):
        fig, ax = plt.subplots(figsize=(2.01, 1.01))
        (dot,) = ax.plot([0], [0], "o")
        ax.set(xlim=(-1, n), ylim=(-1, 1))
        result = plots.video(fig, lambda i: dot.set_data([i], [0]), range(n), label=label, **options)
        plt.close(fig)
        return result

    return make


def test_twice_the_same_bytes(film):
    assert film().data == film().data


def test_other_frames_give_other_bytes(film):
    assert film(n=6).data != film(n=7).data


def test_every_frame_is_in_the_film_and_sizes_are_even(film, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(film(n=9).data)
    count, _ = ffmpeg.count_frames_and_secs(str(path))
    assert count == 9
    said = subprocess.run([ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True).stderr
    width, height = map(int, re.search(r"Video: h264.*? (\d{2,})x(\d+)[ ,]", said).groups())
    assert (width % 2, height % 2) == (0, 0)
    assert abs(width - 201) <= 1 and abs(height - 101) <= 1


def test_the_reader_starts_it_and_its_content_is_described(film):
    html = film(label='a "dot" moves')._repr_html_()
    assert 'preload="metadata"' in html and " controls " in html and "autoplay" not in html
    assert 'aria-label="a &quot;dot&quot; moves"' in html
    assert "http" not in html
    source = re.search(r'src="data:video/mp4;base64,([^"]+)"', html)[1]
    assert base64.b64decode(source) == film(label='a "dot" moves').data


def test_text_form_names_the_label_and_no_bytes(film):
    assert repr(film()) == "Video(label='a dot moves to the right')"


def test_without_ffmpeg_a_sentence(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    result = film()
    assert "imageio-ffmpeg" in result.html and "<video" not in result.html and result.data == b""


def test_a_failing_ffmpeg_says_what_it_said(film, monkeypatch):
    with pytest.raises(RuntimeError, match="could not write the film: .+"):
        film(fps=0)
