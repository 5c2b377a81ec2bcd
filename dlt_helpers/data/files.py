"""Files and arrays that are checked before they are believed."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


class DataError(RuntimeError):
    """A data set is missing, truncated, altered or not what its name says; the message says what to do."""


def read_embedded(name, *, folder=FOLDER):
    """Return the bytes of the file `name` that the package carries, after checking its length and SHA-256.

    Args:
        name: file name, listed in `checksums.json` beside it.
        folder: where the file and `checksums.json` lie.

    Raises:
        DataError: the file is missing, truncated or altered; the message says how to restore it.
    """
    expected = json.loads((FOLDER / "checksums.json").read_text())[name]
    remedy = f"Restore it with `git checkout -- dlt_helpers/data/{name}`, or install dlt_helpers again."
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    content = path.read_bytes()
    if len(content) < expected["bytes"]:
        raise DataError(f"{path} is truncated: {len(content)} of {expected['bytes']} bytes. {remedy}")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DataError(f"{path} was altered: its SHA-256 is not the one in checksums.json. {remedy}")
    return content


def write_embedded(name, content, *, folder=FOLDER):
    """Write `content` to the file `name` and its length and SHA-256 to `checksums.json` (for the makers)."""
    folder = Path(folder)
    listing = folder / "checksums.json"
    known = json.loads(listing.read_text()) if listing.exists() else {}
    known[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / name).write_bytes(content)
    listing.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def check_content(name, x, y, *, sha256, remedy):
    """Raise `DataError` unless the bytes of the uint8 arrays `x` and `y`, in this order, hash to `sha256`.

    For data that other packages carry: their files may be packed anew, the pixels may not change.
    """
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(y).tobytes())
    if digest.hexdigest() != sha256:
        raise DataError(f"{name} was altered: pixels and labels do not have the known SHA-256. {remedy}")


def check_images(name, x, y, *, shape, top, counts, remedy):
    """Raise `DataError` unless `x` has `shape`, fills 0 … `top`, and class k occurs counts[k] times."""
    if x.shape != shape or y.shape != shape[:1]:
        raise DataError(f"{name}: shapes {x.shape}, {y.shape} instead of {shape}, {shape[:1]}. {remedy}")
    if x.min() < 0 or x.max() != top:
        raise DataError(f"{name}: pixels reach from {x.min()} to {x.max()} instead of 0 to {top}. {remedy}")
    found = np.bincount(y, minlength=len(counts)).tolist()
    if found != list(counts):
        raise DataError(f"{name}: {found} images a class instead of {list(counts)}. {remedy}")


def read_idx(path):
    """Return the uint8 array stored in a gzipped IDX file, the format MNIST and Fashion-MNIST come in.

    Raises:
        DataError: the file is missing, is not gzipped IDX of bytes, or is shorter than its header says.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the folder of the four idx*.gz files of Fashion-MNIST.")
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, OSError) as error:
        raise DataError(f"{path} is truncated or not gzip ({error}): fetch it again.") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of unsigned bytes: fetch it again.")
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if values.size != shape.prod():
        raise DataError(f"{path} is truncated: {values.size} values where its header says {shape.prod()}.")
    return values.reshape(shape)
