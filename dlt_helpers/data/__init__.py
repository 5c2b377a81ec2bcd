"""Data that works offline: images, text, and labels made on purpose.

Every loader checks shape, range, class counts and a checksum, and raises `DataError`, which says what to
do, instead of handing out something else. Functions of images take `Images` and return `Images`; nothing
draws from a global seed.
"""

from .files import DataError
from .images import Images, cifar10, digits, fashion_mnist, mnist
from .labels import corrupt_labels, one_hot, parity
from .teachers import Teacher, hermite, linear_teacher, single_index_teacher, two_layer_teacher
from .text import decode, encode, plays, split_blocks, vocabulary
from .transforms import gaussian_pixels, pool, random_pixels, shuffle_pixels, standardise, subset

__all__ = [
    "DataError",
    "Images",
    "Teacher",
    "cifar10",
    "corrupt_labels",
    "decode",
    "digits",
    "encode",
    "fashion_mnist",
    "gaussian_pixels",
    "hermite",
    "linear_teacher",
    "mnist",
    "one_hot",
    "parity",
    "plays",
    "pool",
    "random_pixels",
    "shuffle_pixels",
    "single_index_teacher",
    "split_blocks",
    "standardise",
    "subset",
    "two_layer_teacher",
    "vocabulary",
]
