"""The lab: preset and device chosen or refused, seeds that repeat, one line of provenance."""

import dataclasses

import pytest
import torch

import dlt_helpers
from dlt_helpers import claims, lab


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No preset set, no GPU, and the number of threads as it was."""
    monkeypatch.setenv("DLT_PRESET", "")  # so that monkeypatch restores what start() writes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_without_gpu_the_preset_is_ci():
    run = lab.start()
    assert (run.preset, run.device, run.dtype) == ("ci", torch.device("cpu"), torch.float32)
    assert torch.get_num_threads() == 1


def test_with_gpu_the_preset_is_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    run = lab.start()
    assert (run.preset, run.device.type) == ("gpu", "cuda")


def test_the_environment_overrides_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DLT_PRESET", "ci")
    assert lab.start().device == torch.device("cpu")
    assert capsys.readouterr().out.startswith("preset ci ")


def test_the_environment_overrides_a_missing_gpu(monkeypatch):
    monkeypatch.setenv("DLT_PRESET", "gpu")
    run = lab.start()
    assert (run.preset, run.device) == ("gpu", torch.device("cpu"))


def test_unknown_preset(monkeypatch):
    monkeypatch.setenv("DLT_PRESET", "laptop")
    with pytest.raises(ValueError, match="DLT_PRESET='laptop'.*'ci' or 'gpu'"):
        lab.start()


def test_claims_see_the_preset():
    lab.start()
    claim = claims.evaluate("demo/x", "x", measured=1, between=(0, 2), kind="observation", source="here")
    assert claim.preset == "ci"


@pytest.mark.parametrize("preset, value", [("ci", 600), ("gpu", 20_000)])
def test_choose(preset, value):
    assert lab.Lab(preset, torch.device("cpu"), torch.float32, 0).choose(ci=600, gpu=20_000) == value


def test_generators_repeat_and_differ():
    run, again, other = lab.start(seed=1), lab.start(seed=1), lab.start(seed=2)
    draws = [torch.rand(4, generator=r.generator(i)) for r, i in ((run, 3), (again, 3), (run, 4), (other, 3))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_generators_leave_the_global_seed_alone():
    state = torch.get_rng_state()
    torch.rand(4, generator=lab.start().generator())
    assert torch.equal(state, torch.get_rng_state())


def test_provenance_in_one_line(capsys):
    lab.start()
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.startswith("preset ci ⟨") and line.endswith("⟩\n")
    assert all(version in line for version in (torch.__version__, dlt_helpers.__version__, "device cpu"))


def test_lab_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        lab.start().preset = "gpu"
