"""Device code without a device: tensors are made where the inputs are.

Each case of `device_cases` runs twice: on CPU inputs while the default device is "meta", so that a tensor
made without a device has no values, and fails or shows; and, where no branch depends on values, with fake
tensors on a stand-in for CUDA, so that mixing devices fails as it would there.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_cases import CASES, NO_DEVICE, public_functions, tensors
from rehearsal import PEAKS

T4 = 15e9  # bytes


@pytest.fixture(scope="session")
def rehearsed():
    """What `rehearsal.py` reports; in a process of its own, since it registers a device."""
    call = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("rehearsal.py"))]
    run = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def test_every_public_function_has_a_case():
    missing = set(public_functions()) - set(CASES) - set(NO_DEVICE)
    assert not missing, f"add a case to tests/device_cases.py for {sorted(missing)}"


def test_no_case_is_of_the_past():
    assert set(CASES) | set(NO_DEVICE) == set(public_functions())
    assert not set(CASES) & set(NO_DEVICE)


@pytest.mark.parametrize("name", CASES)
def test_results_stay_on_the_inputs_device(name):
    with torch.device("meta"):
        result = list(tensors(CASES[name].run("cpu")))
    assert {t.device.type for t in result} <= {"cpu"}


def test_a_tensor_without_a_device_would_be_found():
    with torch.device("meta"):
        found = tensors([{"a": torch.ones(3)}, torch.ones(3, device="cpu")])
        assert {t.device.type for t in found} == {"cpu", "meta"}
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            (torch.ones(3, device="cpu") + torch.ones(3)).to("cpu")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.without_values])
def test_devices_are_not_mixed(name, rehearsed):
    assert rehearsed["cases"][name] is None


def test_mixed_devices_would_be_found(rehearsed):
    assert "same device" in rehearsed["planted"]["mixed devices"]
    assert rehearsed["planted"]["left behind"] == "1 results are on cpu"


def test_peak_bytes_are_right_where_they_are_known(rehearsed):
    """In units of one matrix; a sum adds a few bytes."""
    known = rehearsed["known"]
    expected = {"matmul": 3, "a stray": 0, "one after the other": 1, "all at once": 5, "views": 2}
    assert {name: round(known[name], 4) for name in expected} == expected
    assert 4 < known["saved for backward"] <= 6.0001


@pytest.mark.parametrize("name", PEAKS)
def test_the_gpu_preset_fits_a_t4(name, rehearsed):
    assert 1e6 < rehearsed["peaks"][name] < T4
