"""Draws pictures with the adapter of a run, for one request at a time; each request has a U-Net of its own.

The only file here that needs torch. The U-Nets of requests share the frozen weights and nothing else, so that a request
that fails or is stopped leaves nothing behind.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from reslora_sd import PlainLoRA
from reslora_sd.blocks.tape import branch_strength
from reslora_sd.diffusion.adapters import Adapters, applied_to, load_adapters, with_own_encoders
from reslora_sd.diffusion.calibration import calibration_batches, calibration_settings, predict
from reslora_sd.diffusion.drawing import draw_pictures
from reslora_sd.diffusion.models import DEFAULT_MODEL, Parts, load_parts
from reslora_sd.diffusion.other_texts import other_texts
from reslora_sd.diffusion.resuming import DATA_PATHS, MODEL_PATHS, looked_for_copies
from reslora_sd.diffusion.sources import read_sources
from reslora_sd.runs.jsonl import is_whole
from reslora_sd.runs.names import (
    ADAPTER_FILE,
    BUNDLED,
    DIFFUSERS_FILE,
    UNMERGED,
    alpha_from_of,
    checkpoint_name,
    looks_at_data,
)
from reslora_sd.runs.run import Run
from reslora_sd.training.command import quiet_libraries

from .draw_request import DrawRequest, Stopped, fitting_approach
from .wording import method_name, variant_name

_HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_WORDS = ("revision", "variant", "prediction_type")
_PLACES = ("cache_dir", *MODEL_PATHS[1:])
"""What run.json says of how its model is loaded."""
_WORD = re.compile(r"\w[\w./-]*")
_CALIBRATION_PICTURES = 128
_LARGEST_SIDE, _LARGEST_BATCH = 2048, 256


@dataclass(frozen=True)
class DrawJob:
    """One picture on its way."""

    request: DrawRequest
    report: Callable[[str, float], None]
    """Is called with what is going on, and the share of it that is done."""
    stop: threading.Event
    """Set from outside when nobody wants the picture any more."""

    def raise_if_stopped(self) -> None:
        """Raises `Stopped` once nobody wants the picture any more."""
        if self.stop.is_set():
            raise Stopped


class PictureGenerator:
    """Draws with the adapters of runs; keeps one base model and the latest merged LoRAs.

    Args:
        allowed: folders that run.json may name for its base model and its data, beside the embedded ones and the Hub.
    """

    def __init__(self, allowed: Sequence[Path] = ()) -> None:
        self.allowed = [folder.resolve() for folder in allowed]
        self._lock = threading.Lock()
        self._parts: tuple[tuple[str, dict[str, Any]], Parts] | None = None
        self._merged: OrderedDict[tuple[Path, int, str, int], PlainLoRA] = OrderedDict()

    def draw_base(self, run: Run, job: DrawJob) -> Image.Image:
        """The picture of the run's base model.

        Raises:
            Stopped: `job.stop` was set.
            ValueError: the run's base model can't be used.
        """
        with self._lock:
            parts = self._load(run)
            return _draw(replace(parts, unet=_own_unet(parts)), run, job)

    def draw_adapted(self, run: Run, step: int, job: DrawJob) -> tuple[Image.Image, str]:
        """The picture of a run at a step that has a checkpoint, and how the adapter was used.

        Raises:
            Stopped: `job.stop` was set.
            ValueError: there is no such checkpoint, or something that run.json names can't be used.
        """
        request = job.request
        with self._lock:
            parts = self._load(run)
            own = with_own_encoders(replace(parts, unet=_own_unet(parts)))
            adapters = load_adapters(own, _adapter_file(run, step))
            if request.approach == UNMERGED:
                with branch_strength(request.strength):
                    return _draw(own, run, job), variant_name(UNMERGED)
            approach = fitting_approach(request.approach, adapters.unet.config.residual)
            plain = self._merge(run, step, approach, adapters, own, job)
            adapters.remove()
            with applied_to(_scaled(plain, request.strength), own):
                return _draw(own, run, job), variant_name(approach)

    def draw_file(self, run: Run, file: Path, job: DrawJob) -> Image.Image:
        """The picture of the run's base model with a LoRA file of others, in any form that is read here.

        Raises:
            Stopped: `job.stop` was set.
            ValueError: it is damaged, no LoRA, or of another model.
        """
        with self._lock:
            parts = self._load(run)
            own = with_own_encoders(replace(parts, unet=_own_unet(parts)))
            with applied_to(_scaled(PlainLoRA.load(file), job.request.strength), own):
                return _draw(own, run, job)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the text encoder of the model that is loaded doesn't read; empty where none is."""
        loaded = self._parts
        if loaded is None:
            return ""
        tokenizer: Any = loaded[1].tokenizer
        tokens = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return str(tokenizer.decode(tokens[tokenizer.model_max_length - 2 :])).strip()

    def _load(self, run: Run) -> Parts:
        arguments = run.arguments
        name = str(run.settings.get("base_model", ""))
        self._check_model(name)
        more = {key: arguments.get(key) for key in (*_WORDS, *_PLACES)}
        for key in _PLACES[1:]:
            if more[key] is not None:
                self._check_name(key, str(more[key]))
        for value in (more[key] for key in _WORDS):
            if value is not None and (not isinstance(value, str) or ".." in value or not _WORD.fullmatch(value)):
                raise ValueError(f"run.json names the revision or variant {value!r}, which is none.")
        if self._parts is None or self._parts[0] != (name, more):
            self._parts = None  # two large models don't fit beside each other
            quiet_libraries()
            parts = load_parts(name, **more)
            if torch.cuda.is_available():
                parts.to(torch.device("cuda"), torch.float16)
            self._parts = ((name, more), parts)
        return self._parts[1]

    def _merge(self, run: Run, step: int, approach: str, adapters: Adapters, own: Parts, job: DrawJob) -> PlainLoRA:
        file = _adapter_file(run, step)
        key = (run.path, step, approach, file.stat().st_mtime_ns)
        if key not in self._merged:
            if run.final(step) and run.exported == approach:
                self._merged[key] = PlainLoRA.load(run.path / DIFFUSERS_FILE)
            else:
                statistics, asked = None, run.arguments.get("alpha_from")
                if looks_at_data(approach, asked):
                    batches = _reporting(self._batches(run, own, step), job)
                    others = other_texts(own, calibration_settings(run.arguments).validation.validation_prompts or ())
                    statistics = adapters.statistics(batches, lambda batch: predict(own.unet, own, batch), others)
                self._merged[key] = adapters.merge(approach, statistics, alpha_from=alpha_from_of(approach, asked))
            while len(self._merged) > 8:
                self._merged.popitem(last=False)
        return self._merged[key]

    def _batches(self, run: Run, parts: Parts, step: int) -> list[Any]:
        """Calibration data, made before the adapter listens, so that what is missing is told at once."""
        arguments = run.arguments
        self._check_data(arguments)
        _side(arguments, parts)
        settings = calibration_settings(arguments)
        if settings.training.train_batch_size > _LARGEST_BATCH:
            raise ValueError(
                f"run.json says batches of {settings.training.train_batch_size} pictures, and this page makes at most "
                f"{_LARGEST_BATCH}. Choose a merge that needs no data."
            )
        start = (run.steps or step) * settings.training.gradient_accumulation_steps
        pictures = min(_CALIBRATION_PICTURES, settings.method.calibration_samples or _CALIBRATION_PICTURES)
        count = max(1, pictures // settings.training.train_batch_size)
        return list(calibration_batches(settings, parts, start, count, not looked_for_copies(run.settings)))

    def _check_model(self, name: str) -> None:
        if not name:
            raise ValueError("run.json names no base model, so nothing can be drawn.")
        if Path(name) != DEFAULT_MODEL:
            self._check_name("base model", name)

    def _check_data(self, arguments: dict[str, Any]) -> None:
        for key in (*DATA_PATHS, "dataset_name", "cache_dir"):
            value = arguments.get(key)
            if value is not None and not (key == "dataset_name" and value in BUNDLED):
                self._check_name(key, str(value))
        config = arguments.get("dataset_config")
        for source in [] if config is None else read_sources(Path(str(config))):
            for name in filter(None, (source.path or source.dataset_name, source.mask)):
                self._check_name(f"folder of {config}", name)

    def _check_name(self, what: str, name: str) -> None:
        """A file may name what is on the Hub, and folders that were allowed at the start; nothing else is opened."""
        path = Path(name)
        if path.exists() or path.is_absolute() or not _HUB_NAME.fullmatch(name) or ".." in name:
            if any(path.resolve().is_relative_to(folder) for folder in self.allowed):
                return
            raise ValueError(
                f"run.json names the {what} {name!r}, which is outside the folders of this page. If you trust it, "
                "start the page with --allow and its folder."
            )


def _adapter_file(run: Run, step: int) -> Path:
    folder = run.path / checkpoint_name(step)
    file = (run.path if run.final(step) else folder) / ADAPTER_FILE
    if not file.is_file():
        have = ", ".join(map(str, run.checkpoints)) or "none"
        raise ValueError(f"{method_name(run.method)} has no checkpoint of step {step}. Choose one of: {have}.")
    return file


def _own_unet(parts: Parts) -> Any:
    """A U-Net with modules of its own around the same frozen weights; it costs no memory."""
    with torch.device("meta"):
        twin: Any = type(parts.unet).from_config(parts.unet.config)
    twin.load_state_dict(parts.unet.state_dict(), assign=True)
    return twin.requires_grad_(False).eval()


def _scaled(plain: PlainLoRA, strength: float) -> PlainLoRA:
    scaled = {
        component: {name: replace(block, scaling=block.scaling * strength) for name, block in blocks.items()}
        for component, blocks in plain.components.items()
    }
    return replace(plain, blocks=scaled.pop(plain.component), text_encoders=scaled)


def _reporting(batches: list[Any], job: DrawJob) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        job.raise_if_stopped()
        job.report("statistics for the merge, once", number / len(batches))
        yield batch


def _side(arguments: dict[str, Any], parts: Parts) -> int:
    """Pixels of a picture's side, as run.json says, or the model's own.

    Raises:
        ValueError: it is none that a picture can have here.
    """
    side = arguments.get("resolution") or parts.resolution
    if not is_whole(side, _LARGEST_SIDE) or side % 8:
        raise ValueError(
            f"run.json says a resolution of {side!r:.40}. This page draws sides of 8 to {_LARGEST_SIDE} pixels, in "
            "steps of 8."
        )
    return int(side)


@torch.no_grad()
def _draw(parts: Parts, run: Run, job: DrawJob) -> Image.Image:
    request, side = job.request, _side(run.arguments, parts)

    def on_step(pipeline: Any, number: int, _timestep: object, values: dict[str, Any]) -> dict[str, Any]:
        job.report("drawing", (number + 1) / request.steps)
        if job.stop.is_set():
            pipeline._interrupt = True  # diffusers' own way to leave the loop
        return values

    job.raise_if_stopped()
    with _plain_errors():
        picture: Image.Image = draw_pictures(
            parts.pipeline(),
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or None,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            guidance_scale=request.guidance,
            num_inference_steps=request.steps,
            height=side,
            width=side,
            callback_on_step_end=on_step,
        )[0].convert("RGB")
    job.raise_if_stopped()
    return picture


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ValueError(
            "The graphics card has too little memory left. Stop a training, or draw on another."
        ) from error
