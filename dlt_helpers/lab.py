"""The lab: device, preset, seeds and figure style of one run of a chapter."""

import os
import platform
from dataclasses import dataclass

import torch

import dlt_helpers

PRESETS = {
    "ci": "two CPU cores, one thread per kernel, no GPU, no network",
    "gpu": "the scale of the papers, as far as a free Colab T4 carries it",
}


@dataclass(frozen=True)
class Lab:
    """Where and at which scale a chapter runs; made by :func:`start`."""

    preset: str
    device: torch.device
    dtype: torch.dtype
    seed: int

    def generator(self, i=0):
        """Return the ``i``-th random generator of this run: always on the CPU, so that every device draws the same."""
        return torch.Generator("cpu").manual_seed(1_000_003 * self.seed + i)

    def choose(self, *, ci, gpu):
        """Return the value that belongs to the preset, so that both scales stand side by side on the page.

        >>> Lab("ci", torch.device("cpu"), torch.float32, 0).choose(ci=600, gpu=20_000)
        600
        """
        return {"ci": ci, "gpu": gpu}[self.preset]


def start(seed=0):
    """Return the :class:`Lab` of this run, load the figure style and print one line of provenance.

    The preset is ``gpu`` where CUDA is present and ``ci`` elsewhere; the environment variable ``DLT_PRESET``
    overrides it. The choice is written back to ``DLT_PRESET``, so that claims and child processes see the same.

    Raises:
        ValueError: if ``DLT_PRESET`` names no preset.
    """
    preset = os.environ.get("DLT_PRESET") or ("gpu" if torch.cuda.is_available() else "ci")
    if preset not in PRESETS:
        raise ValueError(f"DLT_PRESET={preset!r} is not a preset; set it to 'ci' or 'gpu', or unset it")
    os.environ["DLT_PRESET"] = preset
    on_gpu = preset == "gpu" and torch.cuda.is_available()
    run = Lab(preset, torch.device("cuda" if on_gpu else "cpu"), torch.float32, seed)
    if preset == "ci":
        torch.set_num_threads(1)
    _style()
    print(f"preset {preset} ⟨{provenance(run.device)}⟩")
    return run


def provenance(device):
    """Return device, Python, torch and dlt_helpers versions in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"device {name} · python {platform.python_version()} · torch {torch.__version__} · "
        f"dlt_helpers {dlt_helpers.__version__}"
    )


def _style():
    import matplotlib.pyplot as plt

    plt.style.use("dlt_helpers.book")
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("retina")
