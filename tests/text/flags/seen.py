"""Runs of the text scripts in this process, on small random models, and all that could be seen."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.text import evaluate
from reslora_sd.text.arguments import CommandLine
from tests.texts import byte_tokenizer

DEFAULTS: dict[str, Any] = {
    "--max_steps": 3,
    "--per_device_train_batch_size": 4,
    "--learning_rate": 0.02,
    "--calibration_samples": 8,
    "--evaluate": "loss",
}
"""Flags of every run that doesn't give them."""


@dataclass
class Seen:
    """A run from outside, and what its libraries were given."""

    place: Path
    """The folder in which the command ran."""
    result: dict[str, Any] = field(default_factory=dict)
    batches: list[dict[str, Tensor]] = field(default_factory=list)
    """Those of training."""
    dtypes: set[torch.dtype] = field(default_factory=set)
    """Of the frozen weights in training."""
    evaluated: list[int] = field(default_factory=list)
    """How many rows each forward pass after training had."""
    own_arguments: bool = False
    """Whether the Trainer has the very TrainingArguments that the command line made."""
    said: str = ""

    @property
    def run(self) -> Path:
        """The run folder, wherever the run put it."""
        (file,) = self.place.rglob("run.json")
        return file.parent

    def column(self, name: str) -> list[float]:
        """A column of log.jsonl."""
        return [row[name] for row in read_jsonl(self.run / "log.jsonl")]

    def saved(self) -> dict[str, Tensor]:
        """The adapter."""
        return load_tensors(self.run / "reslora_adapter.safetensors")[0]

    def texts(self) -> set[str]:
        """The rows that were trained on."""
        tokenizer = byte_tokenizer()
        rows = [row for batch in self.batches for row in batch["input_ids"]]
        return {tokenizer.decode(row, skip_special_tokens=True) for row in rows}


@dataclass
class Runs:
    """Runs one script; the same command only once.

    Args:
        makers: by the words that mean them, what makes the folders and files that commands name, in a folder.
    """

    main: Callable[[Any], dict[str, Any] | None]
    line: CommandLine[Any]
    inputs: Mapping[str, str]
    """Flags of its model and data, which every run has that doesn't give them."""
    folder: Path
    makers: Mapping[str, Callable[[Path], Path]]
    seen: dict[Any, Seen] = field(default_factory=dict)
    made: dict[str, Path] = field(default_factory=dict)

    def __call__(self, words: tuple[Any, ...]) -> Seen:
        """What is to be seen of the run with these flags; a flag with None is left out."""
        if words not in self.seen:
            left_out = {place for place, word in enumerate(words) if word is None}
            given = [word for place, word in enumerate(words) if not {place, place + 1} & left_out]
            defaults = [word for pair in {**self.inputs, **DEFAULTS}.items() if pair[0] not in words for word in pair]
            argv = [self._word(word) for word in [*defaults, *given, "--use_cpu"]]
            self.seen[words] = self._run(argv, Seen(Path(tempfile.mkdtemp(dir=self.folder))))
        return self.seen[words]

    def _word(self, word: Any) -> str:
        name = str(word)
        if not name.startswith("@"):
            return name
        if name not in self.made:
            self.made[name] = self.makers[name](self.folder / name[1:])
        return str(self.made[name])

    def _run(self, argv: list[str], seen: Seen) -> Seen:
        compute, predict, init = Trainer.compute_loss, evaluate.run_model, Trainer.__init__
        notes = _Notes()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(seen.place)
            settings = self.line.parse(argv)

            def note_arguments(trainer: Any, *args: Any, **more: Any) -> None:
                seen.own_arguments = more["args"] is settings.training
                init(trainer, *args, **more)

            def note_batch(trainer: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
                seen.batches.append({name: value.clone() for name, value in inputs.items()})
                seen.dtypes.update(one.dtype for one in model.parameters() if not one.requires_grad)
                return compute(trainer, model, inputs, *args, **more)

            def note_rows(model: Any, batch: Any) -> Tensor:
                seen.evaluated.append(len(batch["input_ids"]))
                return predict(model, batch)

            patch.setattr(Trainer, "__init__", note_arguments)
            patch.setattr(Trainer, "compute_loss", note_batch)
            patch.setattr(evaluate, "run_model", note_rows)
            logging.getLogger().addHandler(notes)
            try:
                seen.result = self.main(settings) or {}
            finally:
                logging.getLogger().removeHandler(notes)
        seen.said = "\n".join(notes.lines)
        return seen


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
