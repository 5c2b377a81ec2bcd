"""Make fashion_mnist_14x14.npz from the four idx*.gz files of Fashion-MNIST.

    python -m dlt_helpers.data.make_fashion_mnist FOLDER

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz: Debian's package `dataset-fashion-mnist` puts them in
/usr/share/datasets/fashion-mnist, torchvision in ROOT/FashionMNIST/raw.
"""

import io
import sys
from pathlib import Path

import numpy as np

from .files import DataError, check_content, check_images, read_idx, write_embedded
from .images import FASHION_SHA256, cycle_classes

FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
         "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000)}


def read_full(folder):
    """Return x [60000,28,28], y, x_test [10000,28,28], y_test (uint8) from the four files in `folder`,
    checked."""
    arrays = []
    for part, (images, labels, n) in FILES.items():
        x, y = read_idx(Path(folder) / images), read_idx(Path(folder) / labels)
        remedy = "Fetch Debian's package dataset-fashion-mnist again."
        check_images(f"Fashion-MNIST ({part})", x, y, shape=(n, 28, 28), top=255, counts=[n // 10] * 10,
                     remedy=remedy)
        check_content(f"Fashion-MNIST ({part})", x, y, sha256=FASHION_SHA256[part], remedy=remedy)
        arrays += [x, y]
    return arrays


def shrink(x, y, per_class):
    """Return the first `per_class` images of each class, every 2×2 block replaced by its rounded mean.

    The mean of four pixels a, b, c, d is stored as ⌊(a + b + c + d + 2) / 4⌋; the classes cycle.
    """
    order = cycle_classes(y)[: per_class * (int(y.max()) + 1)]
    n, h, w = len(order), x.shape[1] // 2, x.shape[2] // 2
    blocks = x[order].astype(np.uint16).reshape(n, h, 2, w, 2)  # [n, h/2, 2, w/2, 2]
    return ((blocks.sum(axis=(2, 4)) + 2) // 4).astype(np.uint8), y[order]


def main(folder):
    x, y, x_test, y_test = read_full(folder)
    (x, y), (x_test, y_test) = shrink(x, y, 500), shrink(x_test, y_test, 100)
    packed = io.BytesIO()
    np.savez_compressed(packed, x=x, y=y, x_test=x_test, y_test=y_test)
    write_embedded("fashion_mnist_14x14.npz", packed.getvalue())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except DataError as error:
        sys.exit(str(error))
