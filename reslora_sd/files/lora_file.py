"""What a LoRA file holds, whatever its form, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..blocks.plain import PlainBlock
from ..config import ResLoRAConfig

UNET, TEXT_ENCODER, TEXT_ENCODER_2 = "unet", "text_encoder", "text_encoder_2"
TRANSFORMER = "transformer"
"""What stands in the place of a U-Net in the pipelines of Stable Diffusion 3 and FLUX; such files are only written."""
COMPONENTS = (UNET, TEXT_ENCODER, TEXT_ENCODER_2)
"""Parts of a pipeline that a LoRA can belong to, as diffusers names them."""
MODEL = "model"
"""What a PEFT folder of another model, such as a language model, is for."""

PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
"""The files of a PEFT folder."""
PEFT_PREFIX = "base_model.model."
"""Of every key in its file."""
DIFFUSERS_METADATA = "lora_adapter_metadata"
"""The entry of a diffusers file that holds PEFT's settings."""

FORMS = ("diffusers", "peft", "kohya", "sai")
"""`kohya` names a U-Net's modules as diffusers does, `sai` as the original SDXL code does."""

Blocks = Mapping[str, PlainBlock]
"""A LoRA's pairs by the path of their layer in the model."""


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA as it was read: delta W = scaling * lora_B @ lora_A for every layer that it names."""

    components: Mapping[str, Blocks]
    """By `COMPONENTS`, or `MODEL` alone; parts without a block are left out."""
    metadata: Mapping[str, str]
    """The safetensors file's own."""
    form: str
    """One of `FORMS`."""
    base_model: str = ""
    """What a PEFT folder of one model names for PEFT to load that model from."""
    task_type: str | None = None
    """PEFT's, of such a folder."""

    def blocks(self, component: str = UNET) -> Blocks:
        """Those of one component; empty where the file has none."""
        return self.components.get(component, {})

    @property
    def origin(self) -> Origin:
        """What the metadata say of the adapter that was merged."""
        return Origin.from_metadata(self.metadata)


@dataclass(frozen=True)
class Origin:
    """Where a LoRA comes from, as its file's metadata tell."""

    config: ResLoRAConfig | None = None
    """Settings of the adapter that was merged; `None` for a LoRA of others."""
    approach: str = "none"
    """How it was merged."""

    def to_metadata(self) -> dict[str, str]:
        """Entries for the file."""
        settings = {"reslora_config": self.config.to_json()} if self.config else {}
        return {"format": "pt", "reslora_merge_approach": self.approach, **settings}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Origin:
        """The reverse of `to_metadata`."""
        settings = metadata.get("reslora_config")
        config = ResLoRAConfig.from_json(settings) if settings else None
        return cls(config, metadata.get("reslora_merge_approach", "none"))
