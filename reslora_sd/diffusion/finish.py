"""After the last step: statistics, merges, the report, the exported LoRA, and its proof in a fresh pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..merging.plain_lora import PlainLoRA
from ..runs.folder import RunFolder
from ..runs.names import BASE, DIFFUSERS_FILE, REPORT_FILE, UNMERGED, alpha_from_of
from ..training.checks import check_trained
from .adapters import Adapters, applied_to
from .batches import Batch, BatchMaker, KeptOut
from .calibration import predict
from .effort import Effort
from .export import Exported, Exporter
from .loss import squared_errors, target_of
from .models import Parts
from .other_texts import other_texts
from .precision import use_own_forward
from .progress import stage
from .validation import Validation, save_sheets


@dataclass
class Finished:
    """What `finish` found."""

    approach: str
    drift: dict[str, float]
    """By approach: how far the merged model's prediction is from the unmerged one's, as a share of what the whole
    adaptation changes: ||merged - unmerged|| / ||unmerged - base||, over noisy latents of the training data."""
    loss: dict[str, float]
    """Of the base model, the unmerged one and every measured approach, on the same noisy latents."""
    largest_difference: float
    """Between the exported file in a fresh pipeline and the unmerged model, of any number of a prediction."""
    active_linears: int
    """Linears of the fresh pipeline that carry the loaded LoRA."""
    exported: Exported


def finish(
    adapters: Adapters,
    parts: Parts,
    batches: BatchMaker,
    kept_out: KeptOut,
    run: RunFolder,
    approach: str,
    validation: Validation | None,
    effort: Effort,
    exporter: Exporter,
    *,
    step: int,
    drawn: int,
    rank: int | None = None,
) -> Finished:
    """Saves the training form, merges, measures, exports one merge, and loads it as a user would.

    The adapters are taken out of the models; base weights stay as they were.

    Args:
        batches: of the training data; calibration uses draws of noise and timesteps that training didn't.
        kept_out: of pictures that training didn't see, to measure on: `test` if there are any, else `validation`, else
            the training data, with other draws again.
        effort: how much of it.
        exporter: writes the files for other programs.
        step: the last optimizer step, under which pictures are saved.
        drawn: how many batches training has used (more than steps, with accumulation).
        rank: cuts the exact merge of `block`.

    Raises:
        RuntimeError: the exported file doesn't act in the fresh pipeline.
        DivergedError: the loss of the pictures kept out isn't finite.
    """
    unet = parts.unet.eval()
    use_own_forward(unet)
    adapters.save(run.path)
    last = drawn + max(1, effort.calibration // batches.batch_size)
    apart = _apart(parts, kept_out, run.path)
    measured = list(_measured(batches, kept_out, last, effort.measured))
    plains = _merge_all(adapters, parts, batches, range(drawn, last), approach, rank, effort)
    validation = validation if effort.draw else None
    base_pictures = validation.drawn_at_first(run) if validation else None
    with stage("measuring", len(measured) * (2 + len(plains))) as bar:
        unmerged = _predict(unet, parts, measured, bar)
        with adapters.unet.disabled():  # of this whole thread
            base = _predict(unet, parts, measured, bar)
            if validation and base_pictures is None:
                base_pictures = validation.draw(parts.pipeline())
        adapters.remove()
        drift, loss = _measure(plains, parts, measured, unmerged, base, bar)
    drawn_by = _draw_others(plains, approach, parts, validation) if validation and effort.draw_others else {}
    exported = exporter(plains[approach], run.path, step)
    largest, active, pictures = _prove(parts, run.path, measured, unmerged, base, plains[approach], validation)
    finished = Finished(approach, drift, loss, largest, active, exported)
    _save_pictures(validation, run, step, approach, {BASE: base_pictures or [], **drawn_by, approach: pictures})
    run.finish(REPORT_FILE, {**_report(finished, plains), **apart})
    return finished


def _save_pictures(
    validation: Validation | None, run: RunFolder, step: int, approach: str, pictures: dict[str, list[Any]]
) -> None:
    """Pictures by what drew them, and the sheets of the run; nothing for a run without any."""
    if validation is None:
        return
    for name, found in pictures.items():
        validation.save(found, run, step, name)
    save_sheets(run, approach)


def _measure(
    plains: dict[str, PlainLoRA],
    parts: Parts,
    batches: Sequence[Batch],
    unmerged: Sequence[Tensor],
    base: Sequence[Tensor],
    bar: Any,
) -> tuple[dict[str, float], dict[str, float]]:
    """Drift of every approach, and losses of all models on the same batches."""
    drift, loss = {}, {BASE: _loss(base, parts, batches), UNMERGED: _loss(unmerged, parts, batches)}
    for name, plain in plains.items():
        with applied_to(plain, parts):
            merged = _predict(parts.unet, parts, batches, bar)
        drift[name] = _distance(merged, unmerged) / max(_distance(unmerged, base), 1e-30)
        loss[name] = _loss(merged, parts, batches)
    return drift, loss


def _draw_others(
    plains: dict[str, PlainLoRA], approach: str, parts: Parts, validation: Validation
) -> dict[str, list[Any]]:
    """Pictures by every merge but the exported one."""
    found = {}
    for name, plain in plains.items():
        if name != approach:
            with applied_to(plain, parts), stage(f"drawing with merge {name}"):
                found[name] = validation.draw(parts.pipeline())
    return found


def _apart(parts: Parts, kept_out: KeptOut, folder: Path) -> dict[str, Any]:
    """What `--test_samples` adds to the report: how many pictures were measured on, and the loss that chooses."""
    if kept_out.test is None:
        return {}
    found: dict[str, Any] = {"test": {"pictures": len(kept_out.test.encoded.images)}}
    if kept_out.validation is not None:
        batches = list(kept_out.validation.every_picture())
        with stage("measuring what chooses", len(batches)) as bar:
            loss = _loss(_predict(parts.unet, parts, batches, bar), parts, batches)
        pictures = len(kept_out.validation.encoded.images)
        found["validation"] = {"pictures": pictures, "loss": check_trained(loss, "the pictures kept out", folder)}
    return found


def _measured(batches: BatchMaker, kept_out: KeptOut, start: int, pictures: int) -> Iterator[Batch]:
    if kept_out.test is not None:
        return kept_out.test.every_picture(pictures)
    if kept_out.validation is not None:
        return kept_out.validation.between(0, max(1, pictures // kept_out.validation.batch_size))
    return batches.between(start, start + max(1, pictures // batches.batch_size))


def _merge_all(
    adapters: Adapters,
    parts: Parts,
    batches: BatchMaker,
    calibration: range,
    approach: str,
    rank: int | None,
    effort: Effort,
) -> dict[str, PlainLoRA]:
    """The chosen approach, cut to `rank`, and the residual's others where they are wanted; on the same statistics."""
    residual = adapters.unet.config.residual
    wanted = effort.merges(residual, approach)
    statistics = None
    if effort.takes_statistics(residual, approach):
        with stage("statistics", len(calibration)) as bar:
            statistics = adapters.statistics(
                batches.between(calibration.start, calibration.stop),
                lambda batch: _predict(parts.unet, parts, [batch], bar),
                other_texts(parts, effort.prompts),
            )
    cut = {approach: rank} if rank is not None else {}
    with stage("merging", len(wanted)) as bar:
        plains = {}
        for name in wanted:
            alpha_from = alpha_from_of(name, effort.alpha_from)
            plains[name] = adapters.merge(name, statistics, rank=cut.get(name), alpha_from=alpha_from)
            bar.update()
    return plains


@torch.no_grad()
def _predict(unet: nn.Module, parts: Parts, batches: Sequence[Batch], bar: Any) -> list[Tensor]:
    """The U-Net's predictions on noisy latents, float32 on the CPU; one step of the bar for each batch."""
    found = []
    for batch in batches:
        found.append(predict(unet, parts, batch).float().cpu())
        bar.update()
    return found


def _loss(predictions: Sequence[Tensor], parts: Parts, batches: Sequence[Batch]) -> float:
    errors = []
    for prediction, batch in zip(predictions, batches, strict=True):
        target = target_of(parts.scheduler, batch.latents, batch.noise, batch.timesteps)
        alike = batch.weights is None
        errors.append(
            (prediction - target).square().mean() if alike else squared_errors(prediction, target, batch.weights).mean()
        )
    return float(torch.stack(errors).mean())


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).double().square().sum()) for a, b in zip(first, second, strict=True)))


def _prove(
    parts: Parts,
    folder: Path,
    measured: Sequence[Batch],
    unmerged: Sequence[Tensor],
    base: Sequence[Tensor],
    exported: PlainLoRA,
    validation: Validation | None,
) -> tuple[float, int, list[Any]]:
    """Opens the model anew, loads the exported file with `load_lora_weights`, and compares.

    Returns:
        Largest difference to the unmerged predictions, active linears, validation pictures.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    device, expected = parts.unet.device, sum(map(len, exported.components.values()))
    parts.unet.to("cpu")  # the fresh U-Net takes its place on the device
    pipeline = parts.pipeline(fresh_unet=True).to(device)
    pipeline.load_lora_weights(str(folder), weight_name=DIFFUSERS_FILE)
    models = [pipeline.unet, *parts.text_encoders.values()]  # the pipeline's own encoders, base models again
    layers = [module for model in models for module in model.modules() if isinstance(module, BaseTunerLayer)]
    active = sum(bool(layer.active_adapters) and not layer.disable_adapters for layer in layers)
    with stage("proving", len(measured)) as bar:
        merged = _predict(pipeline.unet, parts, measured, bar)
    if active != expected or (_distance(unmerged, base) > 0 and _distance(merged, base) == 0):
        raise RuntimeError(
            f"{folder / DIFFUSERS_FILE} has {expected} blocks, but {active} act in a fresh pipeline, and its output "
            f"differs from the base model's by {_distance(merged, base)}. Please report this with the file."
        )
    largest = max(float((a - b).abs().max()) for a, b in zip(merged, unmerged, strict=True))
    if validation is None:
        return largest, active, []
    with stage("drawing with the exported file"):
        return largest, active, validation.draw(pipeline)


def _report(finished: Finished, plains: dict[str, PlainLoRA]) -> dict[str, Any]:
    summaries = {name: plain.summary()["blocks"] for name, plain in plains.items()}
    text = plains[finished.approach].summary().get("text_encoders")
    return {
        "approach": finished.approach,
        "exported": finished.exported.to_report(),
        "end_to_end": {
            "loss": finished.loss,
            "drift": finished.drift,
            "drift_is": "||merged - unmerged|| / ||unmerged - base|| of the U-Net's predictions",
            "largest_difference_of_exported_file": finished.largest_difference,
            "active_linears_in_fresh_pipeline": finished.active_linears,
        },
        "blocks": summaries[finished.approach],
        **({"text_encoders": text} if text else {}),
        "other_approaches": {name: blocks for name, blocks in summaries.items() if name != finished.approach},
    }
