"""Rooms import downwards only: the table here is the one of CONTRIBUTING, and this is where it is kept."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dlt_helpers"
LAYERS = (  # rooms may stand here before they are built
    ("data", "models", "claims", "lab"),
    ("functional", "sweep"),
    ("train", "hessian", "complementarity", "kernels", "bounds"),
    ("flows", "random_features", "mean_field", "matrix", "posterior", "scaling", "curves"),
    ("plots",),
)
LAYER = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
NOT_BELOW = ("book_tools", "tests", "conftest")  # what the package must never import
HEAVY = ("torchvision", "mlxtend", "sklearn", "pandas")  # imported when a reader asks for them, not before


def imported(source, module):
    """Return the absolute names of all modules, and names in modules, that `source` of `module` may import.

    `module` is dotted and ends with `.__init__` for a package, so that relative imports resolve alike.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "dlt_helpers":
            names.add(f"dlt_helpers.{node.attr}")  # import dlt_helpers; dlt_helpers.flows…
    return names


def faults(source, module):
    """Return a sentence for each import of `source` that does not point downwards."""
    room, found = module.split(".")[1], []
    if room == "__init__":
        return [f"{module} imports {n}; it holds the version only" for n in imported(source, module)]
    if room not in LAYER:
        return [f"{module}: the room {room} has no layer; add it to LAYERS in tests/test_layers.py"]
    for name in sorted(imported(source, module)):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top in NOT_BELOW:
            found.append(f"{module} imports {name}, which is built on top of the package")
        if top == "dlt_helpers" and other in LAYER and other != room and LAYER[other] >= LAYER[room]:
            way = "sideways" if LAYER[other] == LAYER[room] else "upwards"
            found.append(f"{module} (layer {LAYER[room]}) imports {way} from {other} ({LAYER[other]})")
    return found


def modules():
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module):
    assert faults(modules()[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(("source", "module", "says"), [
    ("from dlt_helpers import flows", "dlt_helpers.hessian", "hessian .layer 2. imports upwards from flows"),
    ("import dlt_helpers.train", "dlt_helpers.hessian", "sideways from train"),
    ("import dlt_helpers\ndlt_helpers.plots.loss", "dlt_helpers.flows", "upwards from plots"),
    ("def f():\n    from .. import train", "dlt_helpers.data.images", "upwards from train"),
    ("from ..models import mlp", "dlt_helpers.data.__init__", "sideways from models"),
    ("from .models import mlp", "dlt_helpers.claims", "sideways from models"),
    ("from book_tools import chapters", "dlt_helpers.claims", "built on top"),
    ("", "dlt_helpers.utils", "utils has no layer; add it to LAYERS"),
    ("from . import data", "dlt_helpers.__init__", "holds the version only")])
def test_a_wrong_import_is_found(source, module, says):
    with pytest.raises(AssertionError, match=says):
        assert not (found := faults(source, module)), found


@pytest.mark.parametrize(("source", "module"), [
    ("from dlt_helpers import hessian\nfrom dlt_helpers.complementarity import x", "dlt_helpers.flows"),
    ("from .files import DataError\nfrom . import images\nimport torch", "dlt_helpers.data.__init__"),
    ("import dlt_helpers\ndlt_helpers.__version__", "dlt_helpers.lab")])
def test_a_right_import_is_not(source, module):
    assert faults(source, module) == []


def test_every_room_has_one_layer():
    assert len(LAYER) == sum(map(len, LAYERS))


def test_importing_the_package_imports_nothing_heavy():
    rooms = sorted({name.split(".")[1] for name in modules()} - {"__init__"})
    code = (f"import importlib, sys\nfor room in {rooms}: importlib.import_module('dlt_helpers.' + room)\n"
            f"print(*sorted(set({HEAVY}) & set(sys.modules)))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.split() == []
