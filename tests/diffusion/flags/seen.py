"""Runs of the picture script in this process, on a tiny pipeline and eight pictures, and all that could be seen."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from reslora_sd.diffusion import encoded_captions
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.files.storage import load_tensors
from reslora_sd.runs.jsonl import read_jsonl, read_object
from tests.scripts import load_script

DEFAULTS: dict[str, Any] = {
    "--pretrained_model_name_or_path": "@model",
    "--train_data_dir": "@pictures",
    "--train_batch_size": 2,
    "--max_train_steps": 2,
    "--learning_rate": 1e-2,
    "--rank": 4,
    "--calibration_samples": 8,
}
"""Flags of every run that doesn't give them. Words with an @ are folders that are made where they are needed."""


@dataclass
class Update:
    """One step of the optimizer."""

    kind: str
    gradients: Tensor
    before: Tensor
    after: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of all parameters of the adapter, one after the other."""


@dataclass
class Seen:
    """A run from outside, and what its libraries were given."""

    place: Path
    """The folder in which the command ran."""
    model: Path
    losses: list[dict[str, Any]] = field(default_factory=list)
    """What each call of the loss got, and the state in which it was called."""
    pixels: list[Tensor] = field(default_factory=list)
    """What the VAE encoded, batch by batch."""
    captions: set[str] = field(default_factory=set)
    drawn: list[dict[str, Any]] = field(default_factory=list)
    """What each call of the pipeline got."""
    updates: list[Update] = field(default_factory=list)
    sent: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """What the Hub got."""
    said: str = ""
    """Console and log."""

    @property
    def run(self) -> Path:
        """The run folder, wherever the run put it."""
        (file,) = self.place.rglob("run.json")
        return file.parent

    @property
    def log(self) -> list[dict[str, Any]]:
        """The rows of log.jsonl."""
        return read_jsonl(self.run / "log.jsonl")

    def column(self, name: str) -> list[float]:
        """A column of log.jsonl."""
        return [row[name] for row in self.log if name in row]

    def saved(self) -> dict[str, Tensor]:
        """The adapter of the last checkpoint."""
        last = max(self.run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        return load_tensors(last / "reslora_adapter.safetensors")[0]

    def about(self) -> dict[str, Any]:
        """run.json."""
        return read_object(self.run / "run.json", pytest.fail)

    def joined(self, name: str) -> Tensor:
        """A part of all batches of the loss."""
        return torch.cat([call[name] for call in self.losses])


class Runs:
    """Runs the script; the same command only once.

    Args:
        makers: by the words that mean them, what makes the folders and files that commands name, in a folder.
    """

    def __init__(self, folder: Path, makers: Mapping[str, Callable[[Path], Path]]) -> None:
        self._folder, self._makers = folder, makers
        self._made: dict[str, Path] = {}
        self._seen: dict[Any, Seen] = {}

    def __call__(
        self, words: tuple[Any, ...], whole: bool = False, setup: Callable[[pytest.MonkeyPatch], None] | None = None
    ) -> Seen:
        """What is to be seen of the run with these flags, over `DEFAULTS`; a flag with None is left out."""
        key = (words, whole, setup)
        if key not in self._seen:
            argv = [self._word(word) for word in _over_defaults(words)]
            place = Path(tempfile.mkdtemp(dir=self._folder))
            self._seen[key] = _run(argv, Seen(place, self._file("@model")), whole, setup)
        return self._seen[key]

    def _word(self, word: Any) -> str:
        return str(self._file(word) if str(word).startswith("@") else word)

    def _file(self, name: str) -> Path:
        if name not in self._made:
            self._made[name] = self._makers[name](self._folder / name[1:])
        return self._made[name]


def _over_defaults(words: tuple[Any, ...]) -> list[Any]:
    left_out = {place for place, word in enumerate(words) if word is None}
    given = [word for place, word in enumerate(words) if not {place, place + 1} & left_out]
    return [word for pair in DEFAULTS.items() if pair[0] not in words for word in pair] + given


def _run(argv: list[str], seen: Seen, whole: bool, setup: Callable[[pytest.MonkeyPatch], None] | None) -> Seen:
    script = load_script("train_text_to_image_reslora")
    console, log = io.StringIO(), logging.StreamHandler(text := io.StringIO())
    with pytest.MonkeyPatch.context() as patch, _watched(script, seen, patch):
        patch.chdir(seen.place)
        if not whole:
            patch.setattr(script, "finish", lambda *_, **__: None)
            patch.setattr(script, "print_result", lambda *_: None)
        if setup:
            setup(patch)
            patch.setattr("tests.diffusion.flags.seen.SENT", seen.sent)
        logging.getLogger().addHandler(log)
        gc.freeze()  # accelerate collects garbage at the end: of this run alone, or it takes as long as the run
        try:
            with contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
                script.main(parse_settings(argv))
        finally:
            gc.unfreeze()
            logging.getLogger().removeHandler(log)
    seen.said = console.getvalue() + text.getvalue()
    return seen


SENT: list[tuple[str, Mapping[str, Any]]] = []
"""Where stand-ins of the Hub note what they get: the list of the run that goes on."""


@contextlib.contextmanager
def _watched(script: Any, seen: Seen, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes what loss, VAE, text encoder, pipeline and optimizer get."""
    loss, encode, draw = script.diffusion_loss, AutoencoderKL.encode, StableDiffusionPipeline.__call__
    encode_captions = encoded_captions.encode_captions

    def note_loss(unet: Any, scheduler: Any, *tensors: Any) -> Tensor:
        names = ("latents", "conditioning", "noise", "timesteps", "snr_gamma", "weights")
        given = dict(zip(names, tensors, strict=True))
        seen.losses.append(
            given
            | {"embeddings": given["conditioning"].embeddings}
            | {"checkpointing": unet.is_gradient_checkpointing, "tf32": torch.backends.cuda.matmul.allow_tf32}
            | {"base": {name: unet.get_parameter(name).detach().mean() for name in ("conv_in.bias", "conv_out.bias")}}
        )
        found: Tensor = loss(unet, scheduler, *tensors)
        return found

    def note_pixels(vae: Any, x: Tensor, **more: Any) -> Any:
        seen.pixels.append(x.float())
        return encode(vae, x, **more)

    def note_captions(parts: Any, captions: Any, quiet: bool = False) -> Any:
        seen.captions.update(captions)
        return encode_captions(parts, captions, quiet)

    def note_drawing(pipeline: Any, **asked: Any) -> Any:
        seen.drawn.append({**asked, "seeds": [generator.initial_seed() for generator in asked["generator"]]})
        return draw(pipeline, **asked)

    patch.setattr(script, "diffusion_loss", note_loss)
    patch.setattr(AutoencoderKL, "encode", note_pixels)
    patch.setattr(encoded_captions, "encode_captions", note_captions)
    patch.setattr(StableDiffusionPipeline, "__call__", note_drawing)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with _watched_optimizer(seen):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextlib.contextmanager
def _watched_optimizer(seen: Seen) -> Iterator[None]:
    def parameters(optimizer: Any) -> list[Tensor]:
        return [one for group in optimizer.param_groups for one in group["params"]]

    def flat(tensors: Any) -> Tensor:
        return torch.cat([one.detach().double().flatten() for one in tensors])

    def before(optimizer: Any, *_: Any) -> None:
        mine = parameters(optimizer)
        seen.updates.append(Update(type(optimizer).__name__, flat(one.grad for one in mine), flat(mine)))

    def after(optimizer: Any, *_: Any) -> None:
        seen.updates[-1].after = flat(parameters(optimizer))

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
