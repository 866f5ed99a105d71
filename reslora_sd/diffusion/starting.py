"""How a run's adapter starts: frozen paths are measured, `--init_lora` is taken up; and what the run says of it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..files.lora_file import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from ..merging.applied import applied
from ..merging.plain_lora import PlainLoRA
from ..merging.start import BlockStart, Match, match, start_from
from ..modes import evaluating
from ..runs.folder import RunFolder
from ..runs.jsonl import read_object
from ..runs.names import FROZEN_PATHS_KEY, RUN_FILE
from .adapters import TEXT_TARGETS, Adapters, path_in
from .batches import BatchMaker
from .calibration import predict
from .frozen_paths import measure_paths
from .models import Parts
from .other_texts import other_texts
from .progress import stage
from .settings import UnetSettings

logger = logging.getLogger("reslora_sd")

_KEY = "init_lora"
"""The entry of run.json."""
_CALIBRATION, _MEASURED = 64, 8
"""Noisy pictures: more of the first come hardly closer to the LoRA, fewer do much worse."""
_SHOWN = 3


@dataclass(frozen=True)
class Start:
    """How a run's adapter starts. `start_of` makes it."""

    lora: PlainLoRA | None = None
    """`None`: as a new adapter, or from a checkpoint."""
    path: Path = Path()
    partial: bool = False
    calibration: int = _CALIBRATION
    known: Mapping[str, Any] | None = None
    """What run.json said of the start before the run was resumed."""
    path_samples: int | None = None
    """Of `--path_samples`."""
    resumed: bool = False
    """Whether a checkpoint brings the adapter's values."""

    def check(self, adapters: Adapters) -> None:
        """Whether the LoRA fits, before anything costly happens.

        Raises:
            ValueError: it is of another model, or has blocks that the adapters have no place for.
        """
        self._match(adapters)

    def _match(self, adapters: Adapters) -> dict[str, Match]:
        """By component; nothing where the run starts from no LoRA."""
        if self.lora is None:
            return {}
        given = {UNET: replace(self.lora, text_encoders={}, text_reports={})}
        for component, adapter in adapters.text.items():
            blocks = self.lora.text_encoders.get(component, {})
            given[component] = PlainLoRA({path_in(adapter.model, path): block for path, block in blocks.items()})
        try:
            found = {name: match(adapters.by_component[name], plain) for name, plain in given.items()}
        except ValueError as error:
            raise ValueError(f"--init_lora {self.path}: {error}") from error
        untrained = [
            f"{component}.{name}"
            for component, blocks in self.lora.text_encoders.items()
            if component not in adapters.text
            for name in blocks
        ]
        self._check_left_out(adapters, found, untrained)
        found[UNET] = replace(found[UNET], left_out=(*untrained, *found[UNET].left_out))
        return found

    def _check_left_out(self, adapters: Adapters, found: Mapping[str, Match], untrained: list[str]) -> None:
        """Refuses what would be lost; what the model itself doesn't read is no loss."""
        unet, ending = found[UNET].left_out, "or leave them out with --init_lora_partial."
        text = [
            f"{component}.{name}"
            for component in adapters.text
            for name in found[component].left_out
            if not _never_read(adapters, component, name)
        ]
        beside = "They are of a text encoder that this model lacks" if adapters.text else "Add --train_text_encoder"
        named = "Name them in --target_modules if they are layers of transformers"
        attention = f"Of text encoders, {', '.join(TEXT_TARGETS)} alone are trained: choose another LoRA"
        for names, advice in (
            (unet, f"{named}, {ending}"),
            (untrained, f"{beside}, {ending}"),
            (text, f"{attention}, {ending}"),
        ):
            if names and not self.partial:
                raise ValueError(
                    f"--init_lora {self.path}: there is no block for {len(names)} layers of this LoRA: "
                    f"{_some(names)}. {advice}"
                )
        if not any(one.taken.blocks for one in found.values()):
            shown = _some([*unet, *untrained, *text]) or "no layer that is read"
            raise ValueError(
                f"--init_lora {self.path}: the adapter has no block for anything in this LoRA, which has {shown}."
            )

    def into(self, adapters: Adapters, parts: Parts, batches: BatchMaker, first: int) -> dict[str, Any]:
        """Starts the adapters, and tells what was taken.

        Args:
            batches: of the training data, where a path can only be approximated.
            first: the first batch that training doesn't see.

        Returns:
            for run.json.
        """
        if self.resumed:
            return dict(self.known or {})
        measured_paths = measure_paths(adapters, parts, batches, self.path_samples)
        matched = self._match(adapters)
        if not matched:
            adapters.share_start()
            return measured_paths
        size = batches.batch_size

        def some(pictures: int, start: int) -> Any:
            return batches.between(start, start + max(1, pictures // size))

        with stage("starting from the LoRA"):
            blocks = _start(adapters, parts, matched, lambda: some(self.calibration, first))
            adapters.share_start()
            measured = list(some(_MEASURED, first + max(1, self.calibration // size)))
            drift = _drift(adapters, matched, parts, measured)
        about = _describe(self.path, blocks, matched, drift)
        _tell(about, adapters)
        return {_KEY: about, **measured_paths}


def _start(
    adapters: Adapters, parts: Parts, matched: Mapping[str, Match], batches: Callable[[], Any]
) -> dict[str, BlockStart]:
    """Text encoders first: what the U-Net reads is theirs, as the LoRA has it."""
    blocks: dict[str, BlockStart] = {}
    with ExitStack() as stack:
        for component, found in matched.items():
            if component == UNET or not found.taken.blocks:
                continue
            adapter = adapters.text[component]

            def texts() -> list[Any]:
                return [*other_texts(parts), *(batch.conditioning for batch in batches())]

            started = start_from(adapter, found.taken, texts, lambda text: text.arguments())
            blocks |= {f"{component}.{name}": one for name, one in started.items()}
            stack.enter_context(applied(found.taken, adapter.model))
        unet = matched[UNET].taken
        if not unet.blocks:
            return blocks
        return start_from(adapters.unet, unet, batches, lambda batch: predict(parts.unet, parts, batch)) | blocks


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _never_read(adapters: Adapters, component: str, name: str) -> bool:
    """Whether it is in the last layer of SDXL's first text encoder, which other tools train for nothing."""
    if component != TEXT_ENCODER or TEXT_ENCODER_2 not in adapters.text:
        return False
    encoder: Any = adapters.text[component].model
    last = encoder.config.num_hidden_layers - 1
    return f".layers.{last}." in f".{name}"


def start_of(settings: UnetSettings, run: RunFolder, checkpoint: Path | None) -> Start:
    """Reads the LoRA that the run starts from, if any. A resumed run doesn't need it again.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it is damaged or none, or a checkpoint of another run says where to start, too.
    """
    named = settings.method.init_lora
    if checkpoint is not None:
        if not run.owns(checkpoint):
            if named is not None:
                raise ValueError(
                    f"--init_lora {named} and --resume_from_checkpoint {checkpoint} both say where the adapter starts. "
                    "Leave one out."
                )
            return Start(resumed=True)
        said = read_object(run.path / RUN_FILE, logger.warning)
        known = {key: said[key] for key in (_KEY, FROZEN_PATHS_KEY) if isinstance(said.get(key), dict)}
        return Start(known=known, resumed=True)
    samples = settings.method.path_samples
    if named is None:
        return Start(path_samples=samples)
    path = Path(named)
    calibration = settings.method.calibration_samples or _CALIBRATION
    return Start(PlainLoRA.load(path), path, settings.method.init_lora_partial, calibration, path_samples=samples)


@torch.no_grad()
def _drift(adapters: Adapters, matched: Mapping[str, Match], parts: Parts, batches: list[Any]) -> float:
    """||started - LoRA|| / ||LoRA - base|| of the U-Net's predictions."""
    missed = whole = 0.0
    with evaluating(parts.unet):
        for batch in batches:
            started = predict(parts.unet, parts, batch).double()
            with adapters.unet.disabled():
                base = predict(parts.unet, parts, batch).double()
            with ExitStack() as stack:
                for component, found in matched.items():
                    stack.enter_context(
                        applied(replace(found.taken, text_encoders={}), adapters.by_component[component].model)
                    )
                wanted = predict(parts.unet, parts, batch).double()
            missed += float((started - wanted).square().sum())
            whole += float((wanted - base).square().sum())
    return math.sqrt(missed / whole) if whole else 0.0


def _describe(
    path: Path, blocks: Mapping[str, BlockStart], matched: Mapping[str, Match], drift: float
) -> dict[str, Any]:
    def named(kind: str) -> list[str]:
        return [
            name if component == UNET else f"{component}.{name}"
            for component, found in matched.items()
            for name in getattr(found, kind)
        ]

    return {
        "file": str(path),
        **({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}),
        "blocks": {name: {"rank": one.rank, "cut": one.cut, "error": one.error} for name, one in blocks.items()},
        "left_out": named("left_out"),
        "missing": named("missing"),
        "drift": drift,
        "drift_is": "||started - LoRA|| / ||LoRA - base|| of the U-Net's predictions",
    }


def _tell(about: Mapping[str, Any], adapters: Adapters) -> None:
    blocks, r = about["blocks"].values(), adapters.unet.config.r
    count = sum(len(adapter.blocks) for adapter in adapters.by_component.values())
    cuts = [one["cut"] for one in blocks if one["rank"] > r]
    lower = sum(one["rank"] < r for one in blocks)
    near = [one["error"] for one in blocks if one["error"]]
    logger.info("Starting from %s: %d of %d blocks.", about["file"], len(blocks), count)
    if cuts:
        logger.info("  %d are cut to rank %d by SVD; that changes one by %s at most.", len(cuts), r, _share(max(cuts)))
    if lower:
        logger.info("  %d have a rank below %d; what is added to them changes nothing yet.", lower, r)
    if near:
        logger.info(
            "  %d can only come close, as their paths add to them: by %s at worst. The others are exact.",
            len(near),
            _share(max(near)),
        )
    for names, what in ((about["missing"], "aren't in it and start anew"), (about["left_out"], "are left out")):
        if names:
            logger.info("  %d %s: %s%s.", len(names), what, ", ".join(names[:_SHOWN]), " ..." * (len(names) > _SHOWN))
    logger.info("  The model's predictions differ from the LoRA's by %s of what it changes.", _share(about["drift"]))


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"
