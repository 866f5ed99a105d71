"""The maps of `reslora_frozen` in a text model, measured on the base model before training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..merging.frozen import freeze_paths
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import FROZEN_PATHS_KEY, RUN_FILE
from .encode import batches_of
from .evaluate import run_model
from .finish import calibration_rows
from .methods import Attached

logger = logging.getLogger("reslora_sd")


def paths_of(
    run: RunFolder,
    training: TrainingArguments,
    attached: Attached,
    examples: Sequence[Mapping[str, Any]],
    collator: Callable[[Sequence[Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """What run.json says of the paths, which are measured where the run starts; a resumed one has them already."""
    checkpoint = training.resume_from_checkpoint
    if checkpoint is not None:
        return _known(run, Path(str(checkpoint)))
    return measure_paths(attached, examples, collator, training.per_device_train_batch_size)


def measure_paths(
    attached: Attached,
    examples: Sequence[Mapping[str, Any]],
    collator: Callable[[Sequence[Any]], Mapping[str, Any]],
    batch_size: int,
) -> dict[str, Any]:
    """Measures the maps of a new adapter on the first training rows; nothing is done for other methods.

    Returns:
        for run.json: how many rows were seen, and what share of each x_{n-1} its x_n explains.
    """
    if attached.adapter is None or attached.adapter.config.residual != "frozen":
        return {}
    model, rows = attached.adapter.model, calibration_rows(attached, examples, attached.path_samples)
    batches = (collator(list(part)) for part in batches_of(rows, batch_size))
    explained = freeze_paths(
        attached.adapter,
        batches,
        lambda batch: run_model(model, batch),
        token_mask=lambda batch: batch["attention_mask"].bool(),
    )
    return {FROZEN_PATHS_KEY: {"rows": len(rows), "explained": explained}}


def _known(run: RunFolder, checkpoint: Path) -> dict[str, Any]:
    """What run.json said of the paths before the run was resumed, whose checkpoint brings the maps."""
    found = read_object(run.path / RUN_FILE, logger.warning).get(FROZEN_PATHS_KEY) if run.owns(checkpoint) else None
    return {FROZEN_PATHS_KEY: found} if isinstance(found, dict) else {}
