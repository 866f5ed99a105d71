"""Files of each form, and pipelines, made once for all tests that read them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

import pytest

from reslora_sd import PlainLoRA
from reslora_sd.config import Precision
from reslora_sd.files import writing
from reslora_sd.files.lora_file import Origin
from reslora_sd.files.lora_metadata import describe, family_of
from reslora_sd.files.unet_names import topology_of
from tests.files.loras import lora_of
from tests.files.topologies import topology


class Save(Protocol):
    """Path of a family's LoRA of that kind in a form."""

    def __call__(self, family: str, kind: str, form: str, precision: Precision = "float32") -> Path: ...


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Writes each file once."""
    root = tmp_path_factory.mktemp("loras")

    @functools.cache
    def save(family: str, kind: str, form: str, precision: Precision = "float32") -> Path:
        return write(lora_of(family, kind), family, form, root / f"{family}-{kind}-{form}-{precision}", precision)

    return save


def write(plain: PlainLoRA, family: str, form: str, folder: Path, precision: Precision = "float32") -> Path:
    """The file of a form; PEFT's of the U-Net."""
    config = topology(family).config
    if form == "diffusers":
        return Path(plain.save_diffusers(folder, precision, config))
    if form == "peft":
        plain.save_peft(folder, precision=precision)
        return next(folder.rglob("unet/adapter_model.safetensors"), folder / "adapter_model.safetensors")
    metadata = describe(plain.components, Origin(plain.config, plain.approach), {}, family_of(config))
    place, sai = folder / "x.safetensors", form == "sai"
    return Path(writing.write_kohya(place, plain.components, metadata, precision, topology_of(config), sai).path)
