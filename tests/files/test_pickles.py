"""Files of torch.save: plain values are read, what would execute something is refused, DeepSpeed's holders pass."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest
import torch

from reslora_sd.files.pickles import load_pickled
from tests.pickled import WritesMarker

SCALER = "deepspeed.runtime.fp16.loss_scaler"


@pytest.fixture
def deepspeed(monkeypatch):
    """A stand-in for the installed DeepSpeed: the module of its loss scalers."""
    module = ModuleType(SCALER)
    for name in ("LossScaler", "NotKnownToUs"):
        kind = type(name, (), {"__module__": SCALER})
        setattr(module, name, kind)
    parts = SCALER.split(".")
    for number in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:number]), ModuleType(".".join(parts[:number])))
    monkeypatch.setitem(sys.modules, SCALER, module)
    return module


def test_deepspeeds_loss_scaler_is_read(deepspeed, tmp_path):
    scaler = deepspeed.LossScaler()
    scaler.cur_scale = 2.0
    torch.save({"loss_scaler": scaler, "step": torch.ones(1)}, tmp_path / "optim_states.pt")
    assert load_pickled(tmp_path / "optim_states.pt")["loss_scaler"].cur_scale == 2.0


def test_other_classes_beside_it_are_refused(deepspeed, tmp_path):
    file, marker = tmp_path / "optim_states.pt", tmp_path / "marker"
    for stranger in (deepspeed.NotKnownToUs(), WritesMarker(marker)):
        torch.save({"loss_scaler": deepspeed.LossScaler(), "more": stranger}, file)
        with pytest.raises(ValueError, match=f"{file} holds more than tensors and plain values"):
            load_pickled(file)
        assert not marker.exists()


def test_without_deepspeed_its_files_are_refused_in_a_sentence(deepspeed, tmp_path, monkeypatch):
    file = tmp_path / "optim_states.pt"
    torch.save(deepspeed.LossScaler(), file)
    monkeypatch.setitem(sys.modules, SCALER, None)
    with pytest.raises(ValueError, match=r"optim_states.pt .*nothing in it was executed"):
        load_pickled(file)


def test_files_of_older_torch_and_plain_pickles_are_looked_at_too(tmp_path):
    torch.save({"step": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_pickled(tmp_path / "old.pt")["step"], torch.ones(1))
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(WritesMarker(tmp_path / "marker")))
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_pickled(tmp_path / "plain.pkl")
    assert not (tmp_path / "marker").exists()
