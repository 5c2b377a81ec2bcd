"""Rehearse what needs a GPU on a machine without one: shapes, devices, peak bytes; nothing is computed.

Run as a program, because a stand-in device can be registered only once in a process and for good:

    python tests/rehearsal.py

prints one JSON object: what became of each case of `device_cases`, and the peak bytes of each of `PEAKS`.
"""

import contextlib
import functools
import json
import re
import sys
import weakref
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

sys.path.append(str(Path(__file__).parents[1]))  # as a program it finds the checkout

from dlt_helpers import functional, models  # noqa: E402

CHAPTERS = Path(__file__).parents[1] / "chapters"
CIFAR, TARGETS = (5000, 3, 32, 32), (5000, 10)
STEPS = {  # name: arguments of `training_step`, at a scale that a researcher would bring
    "mlp 3072-200-200-10": (lambda: models.mlp([3072, 200, 200, 10]), CIFAR, TARGETS, {"hvps": 2}),
    "cnn 32-32": (lambda: models.cnn((3, 32, 32), (32, 32), 10), CIFAR, TARGETS, {"hvps": 2}),
    "vit 32×2": (lambda: models.vit((3, 32, 32), 10, dim=32, depth=2), CIFAR, TARGETS, {"hvps": 2}),
}


@functools.cache
def stand_in_device():
    """Return "cuda" where there is one, else "gpu", a device that stands in for it.

    A torch without CUDA aborts when it differentiates fake tensors on "cuda", for want of a device guard; on
    a device registered from Python it does not.
    """
    if torch.cuda.is_available():
        return "cuda"
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(rename="gpu")
    return "gpu"


@contextlib.contextmanager
def without_values():
    """Within it tensors have shape, dtype and device, but no values; yields the stand-in device."""
    device = stand_in_device()
    with FakeTensorMode():
        yield device


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages on `device` that operations make, and how many were alive at once.

    Attributes:
        now, peak: bytes alive at the moment, and at most.
    """

    def __init__(self, device):
        super().__init__()
        self.device, self.now, self.peak, self._known = device, 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == self.device:
                self._track(leaf.untyped_storage())
        return result

    def _track(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:  # a view, or an operation in place, makes no storage
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key, size):
        self._known.discard(key)
        self.now -= size


def peak_bytes(fn):
    """Return the greatest number of bytes alive at once on the device while fn(device) runs without values.

    fn makes everything it needs on `device`, inputs and weights too. What a real GPU adds is not in it: the
    allocator's rounding, workspaces of libraries, about half a gigabyte of context.
    """
    with without_values() as device, LiveBytes(device) as live:
        fn(device)
    return live.peak


def training_step(make_model, x_shape, y_shape, *, loss="square", chunk=None, hvps=0):
    """Return a function of a device that takes one gradient step, then `hvps` Hessian-vector products.

    Args:
        make_model: () -> module, on the CPU.
        x_shape, y_shape: shapes of all inputs and targets (integer labels for cross_entropy).
        loss: as in `functional.empirical_risk`.
        chunk: examples at a time: the activations of one chunk are alive at once, all inputs are.
        hvps: products with the Hessian from one retained graph, all examples at once, as for a sharpness.
    """
    def step(device):
        f, w = functional.flatten(make_model())
        w, x = w.to(device), torch.zeros(x_shape, device=device)
        kind = torch.int64 if loss == "cross_entropy" else x.dtype
        y = torch.zeros(y_shape, device=device, dtype=kind)
        part = functional.empirical_risk(f, x[:chunk], y[:chunk], loss=loss)
        total = torch.zeros_like(w) if chunk else 0  # the gradient summed over chunks
        w = w - 0.1 * (total + functional.value_and_grad(part, w)[1])
        if hvps:
            curvature = functional.derivatives(functional.empirical_risk(f, x, y, loss=loss), w)
            v = torch.ones_like(w)
            for _ in range(hvps):
                v = curvature.hvp(v)

    return step


def gpu_size(chapter, name):
    """Return the number, or tuple of numbers, that the chapter chooses for `name` under the gpu preset."""
    line = rf"^[^\n]*\b{name}\b[^\n]*= run\.choose\(ci=.+?, gpu=(\([^)]*\)|[\d_]+)\)"
    return eval(re.search(line, (CHAPTERS / f"{chapter}.md").read_text("utf-8"), re.MULTILINE)[1])


def edge_of_stability(device):
    """What the chapter holds at once under the gpu preset: runs with every iterate kept, and a sharpness."""
    size = functools.partial(gpu_size, "edge_of_stability")
    (_, steps), (_, rms_steps), seeds = size("start, steps"), size("rms_steps"), 3
    n, width = 10 * size("per_class"), size("width")
    make = lambda: models.mlp([196, width, width, 1], activation="gelu")  # noqa: E731
    p = models.num_params(make())
    rows = 5 * steps + 3 * steps // 2 + 5 * rms_steps  # a seed: GD, midpoints, δ, two flows; again; RMSProp
    kept = torch.zeros(seeds * rows, p, device=device)
    training_step(make, (n, 1, 14, 14), (n, 1), hvps=4)(device)
    return kept


PEAKS = {name: training_step(*positional, **options) for name, (*positional, options) in STEPS.items()}
PEAKS["chapter edge_of_stability"] = edge_of_stability


def outcome(run):
    """Return None if run(device) succeeds and leaves all its tensors on the device, else what went wrong."""
    from device_cases import tensors

    try:
        with without_values() as device:
            strays = [t for t in tensors(run(device)) if t.device.type != device]
        return f"{len(strays)} results are on {strays[0].device}" if strays else None
    except Exception as error:  # whatever it is, it belongs to this case
        return f"{type(error).__name__}: {error}"


def main():
    from device_cases import CASES

    cases = {name: outcome(case.run) for name, case in CASES.items() if case.without_values}
    peaks = {name: peak_bytes(fn) for name, fn in PEAKS.items()}
    n = 1000
    known = {  # in units of n² floats
        "matmul": lambda device: torch.zeros(n, n, device=device) @ torch.zeros(n, n, device=device),
        "a stray": lambda device: torch.zeros(n, n) @ torch.zeros(n, n),
        "one after the other": lambda device: [torch.zeros(n, n, device=device).sum() for _ in range(5)],
        "all at once": lambda device: [torch.zeros(n, n, device=device) for _ in range(5)],
        "views": lambda device: [torch.zeros(n, n, device=device)[i:] for i in (0, 0)],
        "saved for backward": saved_for_backward(n)}
    known = {name: peak_bytes(fn) / 4 / n**2 for name, fn in known.items()}
    planted = {"mixed devices": outcome(lambda device: torch.zeros(3, device=device) + torch.zeros(3)),
               "left behind": outcome(lambda device: torch.zeros(3))}
    json.dump({"cases": cases, "peaks": peaks, "known": known, "planted": planted}, sys.stdout)


def saved_for_backward(n):
    """Three chained tanh keep x and three outputs; the backward pass adds two gradients at a time."""
    def fn(device):
        x = torch.zeros(n, n, device=device, requires_grad=True)
        torch.autograd.grad(x.tanh().tanh().tanh().sum(), x)
    return fn


if __name__ == "__main__":
    main()
