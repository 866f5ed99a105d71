"""Writes a run's merged LoRA for other programs, with metadata of how it was trained."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Precision
from ..files.lora_file import Origin
from ..files.lora_metadata import SD1, Family, describe, family_of, prediction_of
from ..files.unet_names import Topology, topology_of
from ..files.writing import Written, write_diffusers, write_kohya
from ..merging.plain_lora import PlainLoRA
from ..runs.names import DIFFUSERS_FILE, kohya_name
from ..runs.paths import public_name
from .captions import tag_frequency, trigger_phrase
from .data import CaptionedImages
from .framing import Framing, framing_of, shapes_of
from .models import Parts
from .settings import UnetSettings
from .wording import WORDING_FLAGS


@dataclass(frozen=True)
class Exported:
    """The two files of one LoRA."""

    diffusers: Written
    kohya: Written

    def to_report(self) -> dict[str, Any]:
        """What merge_report.json says of them."""
        return {
            "diffusers": Path(self.diffusers.path).name,
            "kohya": Path(self.kohya.path).name,
            "precision": self.diffusers.precision,
            "rounding_error": self.diffusers.error,
            "rounding_error_is": "||delta W in the file - delta W|| / ||delta W|| over all blocks",
        }


@dataclass(frozen=True)
class Exporter:
    """Knows of a run what its files say, whichever step they are of."""

    family: Family
    topology: Topology
    precision: Precision
    about: Mapping[str, str]
    """Metadata that are the same at every step."""
    steps_of_epoch: int

    def __call__(self, plain: PlainLoRA, folder: Path, step: int, kohya_file: str | None = None) -> Exported:
        """Writes `pytorch_lora_weights.safetensors` and a file for ComfyUI and A1111 into a folder.

        Args:
            step: after which the LoRA was merged.
            kohya_file: the second one's name; left out, it is the folder's.
        """
        name = kohya_file or kohya_name(folder)
        title = name.removesuffix(".safetensors")
        details = {
            **self.about,
            "modelspec.title": title,
            "modelspec.description": f"{plain.config.method if plain.config else 'lora'}, merged: {plain.approach}",
            "ss_output_name": title,
            "ss_steps": str(step),
            "ss_epoch": str(math.ceil(step / self.steps_of_epoch)),
            "ss_training_finished_at": str(time.time()),
        }
        metadata = describe(plain.components, Origin(plain.config, plain.approach), details, self.family)
        return Exported(
            write_diffusers(folder / DIFFUSERS_FILE, plain.components, metadata, self.precision),
            write_kohya(folder / name, plain.components, metadata, self.precision, self.topology),
        )


def exporter_of(
    settings: UnetSettings, parts: Parts, images: CaptionedImages, steps: int, pictures_a_step: int, resolution: int
) -> Exporter:
    """The exporter of a run that begins now, or goes on.

    Args:
        steps: of the whole run.
        pictures_a_step: of all processes and accumulated batches.
        resolution: pixels of a side, as trained.
    """
    config = dict(parts.unet.config)
    steps_of_epoch = math.ceil(sum(images.repeats) / pictures_a_step)
    kind = parts.scheduler.config.prediction_type
    family = family_of(config, kind)
    about = {
        **prediction_of(kind),
        **_of_the_model(parts, family, resolution),
        **_of_the_data(images, framing_of(settings.data, resolution, images, parts)),
        **_of_the_training(settings, steps, steps_of_epoch, pictures_a_step),
    }
    return Exporter(family, topology_of(config), settings.output.save_precision, about, steps_of_epoch)


def _of_the_model(parts: Parts, family: Family, resolution: int) -> dict[str, str]:
    name = public_name(parts.name)
    return {
        "base_model": Path(name).name,
        "ss_sd_model_name": name,
        "ss_resolution": f"({resolution}, {resolution})",  # kohya's way to write it
        "modelspec.resolution": f"{resolution}x{resolution}",
        # SD 2's text encoder ends at another layer than A1111 counts from
        "ss_clip_skip": "1" if family == SD1 else "None",
    }


def _of_the_data(images: CaptionedImages, framing: Framing) -> dict[str, str]:
    name, shapes = public_name(images.name), shapes_of(images, framing)
    buckets = {str(at): {"resolution": list(shape), "count": shapes[shape]} for at, shape in enumerate(shapes)}
    subjects = images.subjects()
    phrase = trigger_phrase(subjects.captions)
    return {
        "ss_num_train_images": str(sum(subjects.repeats)),
        "ss_num_reg_images": str(sum(images.repeats) - sum(subjects.repeats)),
        "ss_dataset_dirs": _json(_folders(name, subjects)),
        "ss_bucket_info": _json({"buckets": buckets}),
        "ss_enable_bucket": str(framing.buckets is not None),
        "ss_random_crop": str(not framing.is_centred),
        "ss_tag_frequency": _json({name: tag_frequency(subjects.captions)}),
        **({"modelspec.trigger_phrase": phrase} if phrase else {}),
    }


def _folders(name: str, images: CaptionedImages) -> dict[str, dict[str, int]]:
    """Pictures by their repeats, named as kohya's folders where there are several."""
    counts = Counter(images.repeats)
    names = {repeats: f"{repeats}_{name}" if len(counts) > 1 else name for repeats in counts}
    return {names[repeats]: {"n_repeats": repeats, "img_count": count} for repeats, count in counts.items()}


def _of_the_training(settings: UnetSettings, steps: int, steps_of_epoch: int, pictures_a_step: int) -> dict[str, str]:
    training, optimizer, data = settings.training, settings.optimizer, settings.data
    kind = "bitsandbytes.optim.adamw.AdamW8bit" if optimizer.use_8bit_adam else "torch.optim.adamw.AdamW"
    found = {
        "ss_training_started_at": time.time(),
        "ss_max_train_steps": steps,
        "ss_num_epochs": math.ceil(steps / steps_of_epoch),
        "ss_num_batches_per_epoch": steps_of_epoch * training.gradient_accumulation_steps,
        "ss_batch_size_per_device": training.train_batch_size,
        "ss_total_batch_size": pictures_a_step,
        "ss_gradient_accumulation_steps": training.gradient_accumulation_steps,
        "ss_gradient_checkpointing": training.gradient_checkpointing,
        "ss_mixed_precision": training.mixed_precision,
        "ss_seed": training.seed,
        "ss_noise_offset": training.noise_offset or None,
        "ss_min_snr_gamma": training.snr_gamma,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": (optimizer.text_encoder_lr or optimizer.learning_rate)
        if settings.method.train_text_encoder
        else None,
        "ss_lr_scheduler": optimizer.lr_scheduler,
        "ss_lr_warmup_steps": optimizer.lr_warmup_steps,
        "ss_optimizer": kind,
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_network_dropout": settings.method.lora_dropout or None,
        "ss_flip_aug": data.random_flip,
        **{f"ss_{name}": getattr(data, name) for name in WORDING_FLAGS},
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
