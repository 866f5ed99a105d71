"""Merges the adapter of a run without training again: `reslora-convert RUN OUT --merge`.

| approach                 | what it needs                                                                        |
| ------------------------ | ------------------------------------------------------------------------------------ |
| `none`, `exact`          | the base model, whose layers say which block follows which                           |
| `weights`                | the same; its weights are in the equation                                            |
| `input`, `least_squares` | the base model and pictures: `--calibrate` draws the run's batches anew from run.json |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter.adapter import load_reslora
from ..adapter.training_form import read_training_form
from ..assets import DEFAULT_MODEL
from ..files.lora_file import Origin
from ..files.lora_metadata import PREDICTION_TYPE, family_of, prediction_of
from ..files.storage import reason
from ..files.unet_names import topology_of
from ..merging.plain_lora import PlainLoRA
from ..merging.statistics import Statistics
from ..runs.names import (
    ADAPTER_FILE,
    APPROACHES,
    RUN_FILE,
    alpha_from_of,
    checkpoint_step,
    default_approach,
    kohya_name,
    looks_at_data,
)
from ..runs.paths import public_name
from ..runs.reader import read_run
from ..runs.run import Run
from .settings import ConvertSettings
from .sources import Source

if TYPE_CHECKING:
    from ..diffusion.adapters import Adapters
    from ..diffusion.models import Parts


@dataclass(frozen=True)
class Merged:
    """A merge, and how far its branches are from the unmerged ones."""

    source: Source
    plain: PlainLoRA

    @property
    def error(self) -> float | None:
        """The largest relative error of a branch; `None` where the approach can't say."""
        reports = [
            *self.plain.reports.values(),
            *(one for of in self.plain.text_reports.values() for one in of.values()),
        ]
        errors = [report.error for report in reports if report.error is not None]
        return max(errors, default=None)


def merge_adapter(path: Path, settings: ConvertSettings) -> Merged:
    """The merge that the settings ask for.

    Args:
        path: a run's folder, one of its checkpoints, or a training form itself.

    Raises:
        FileNotFoundError, ValueError: there is no training form, it is damaged, its model or data can't be had, or the
            approach doesn't fit.
    """
    file = _training_form(path)
    _, config = read_training_form(file)
    run = _run_of(file)
    asked = run.arguments.get("alpha_from") if run else None
    approach = _approach(settings, config.residual, asked, file)
    base = settings.base or _base_of(run, file)
    if settings.calibrate:
        if run is None:
            raise ValueError(f"There is no {RUN_FILE} beside {file}, so --calibrate can't know which pictures to take.")
        unet, adapters, statistics, details = _calibrated(file, run, base, settings)
    else:
        unet, adapters = _loaded(file, run, base, settings)
        statistics, details = None, {}
    plain = adapters.merge(approach, statistics, alpha_from=alpha_from_of(approach, asked))
    adapters.remove()
    details |= {"base_model": Path(public_name(base)).name, "ss_sd_model_name": public_name(base)}
    if run is not None:
        name = kohya_name(run.path).removesuffix(".safetensors")
        details |= {"modelspec.title": name, "ss_output_name": name}
    unet_config = dict(unet.config)
    family = family_of(unet_config, details.get(PREDICTION_TYPE))
    origin = Origin(plain.config, plain.approach)
    topology = topology_of(unet_config)
    return Merged(Source(plain.components, "diffusers", origin, details, topology, family, base), plain)


def _training_form(path: Path) -> Path:
    file = path / ADAPTER_FILE if path.is_dir() else path
    if not file.is_file():
        where = f"There is no {ADAPTER_FILE} in {path}" if path.is_dir() else f"There is no file {path}"
        raise FileNotFoundError(f"{where}. --merge takes a run, one of its checkpoints, or an {ADAPTER_FILE}.")
    return file


def _approach(settings: ConvertSettings, residual: str, asked: object, file: Path) -> str:
    chosen = settings.merge or "best"
    approach = default_approach(residual) if chosen == "best" else chosen
    if approach not in APPROACHES[residual]:
        raise ValueError(
            f"{file} has residual {residual!r}, which approach {approach!r} doesn't fit. Choose one of "
            f"{', '.join(APPROACHES[residual])}."
        )
    if looks_at_data(approach, asked) and not settings.calibrate:
        others = ", ".join(one for one in APPROACHES[residual] if not looks_at_data(one, asked))
        raise ValueError(
            f"Approach {approach!r} needs statistics of the model's inputs, which runs don't keep. Add --calibrate, "
            f"which runs the model on the run's own pictures, or choose one that needs no data: {others}."
        )
    return approach


def _run_of(file: Path) -> Run | None:
    """The run that a training form lies in, directly or in a checkpoint."""
    folder = file.absolute().parent
    for place in (folder, folder.parent) if checkpoint_step(folder.name) is not None else (folder,):
        if (place / RUN_FILE).is_file():
            return read_run(place)
    return None


def _base_of(run: Run | None, file: Path) -> str:
    base = run.settings.get("base_model") if run else None
    if not isinstance(base, str) or not base:
        beside = f"{run.path / RUN_FILE} names none" if run else f"there is no {RUN_FILE} beside {file}"
        raise ValueError(f"Which model the adapter is for isn't known: {beside}. Name it with --base.")
    embedded = Path(base).parts[-3:] == DEFAULT_MODEL.parts[-3:]  # wherever the package was installed then
    return str(DEFAULT_MODEL) if embedded else base


def _loaded(file: Path, run: Run | None, base: str, settings: ConvertSettings) -> tuple[Any, Adapters]:
    """The U-Net with its adapter; the whole model only where text encoders were trained, too."""
    from ..diffusion.adapters import Adapters, load_adapters, text_adapter_files
    from ..diffusion.models import load_parts

    if not text_adapter_files(file):
        unet = _unet(base, run, settings)
        return unet, Adapters(load_reslora(unet, file))
    arguments = run.arguments if run and settings.base is None else {}
    more = {name: arguments.get(name) for name in ("revision", "variant", "cache_dir", "tokenizer_name")}
    more["model_config"] = settings.model_config or arguments.get("model_config")
    with _readable("models", base):
        # the prediction type decides nothing about weights, and this one is possible for every schedule
        parts = load_parts(base, prediction_type="v_prediction", **more)
    return parts.unet, load_adapters(parts, file)


def _unet(base: str, run: Run | None, settings: ConvertSettings) -> Any:
    """The U-Net alone: SDXL's too."""
    from ..diffusion.models import load_unet

    arguments = run.arguments if run and settings.base is None else {}  # what the run says is of its own model
    more = {name: arguments.get(name) for name in ("revision", "variant", "cache_dir")}
    more["model_config"] = settings.model_config or arguments.get("model_config")
    with _readable("U-Net", base):
        return load_unet(base, **more)


@contextmanager
def _readable(part: str, base: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Cannot read the {part} of {base!r} ({reason(error)}). Give a pipeline's folder, a checkpoint file or a "
            "Hub name with --base. Adapters of language models are merged by their own scripts."
        ) from error


def _calibrated(
    file: Path, run: Run, base: str, settings: ConvertSettings
) -> tuple[Any, Adapters, dict[str, Statistics], dict[str, str]]:
    """The U-Net, the adapters, and statistics on the batches after those that the run used."""
    from ..diffusion.adapters import load_adapters
    from ..diffusion.calibration import calibration_batches, calibration_settings, predict
    from ..diffusion.effort import effort_of
    from ..diffusion.models import load_parts
    from ..diffusion.other_texts import other_texts
    from ..diffusion.progress import stage

    of_run = calibration_settings(run.arguments)
    training, asked = of_run.training, settings.model_config
    how = of_run.model.to_load()
    if settings.base is not None:
        how |= {"revision": None, "variant": None, "model_config": None}
        how |= {"prediction_type": settings.prediction_type} if settings.prediction_type else {}
    how |= {"model_config": asked} if asked else {}
    parts: Parts = load_parts(base, **how)
    steps = run.steps or run.last_step
    drawn = steps * training.gradient_accumulation_steps
    effort = effort_of(of_run, drawn)
    pictures = settings.calibration_samples or effort.calibration
    count = max(1, pictures // training.train_batch_size)
    adapters = load_adapters(parts, file)
    batches = calibration_batches(of_run, parts, drawn, count)
    with stage("statistics", count) as bar:

        def counted() -> Iterator[Any]:
            for batch in batches:
                yield batch
                bar.update()

        others = other_texts(parts, effort.prompts)
        statistics = adapters.statistics(counted(), lambda batch: predict(parts.unet, parts, batch), others)
    return parts.unet, adapters, statistics, prediction_of(parts.scheduler.config.prediction_type)
