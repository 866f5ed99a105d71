"""The flags of the base model. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from ..assets import DEFAULT_MODEL
from ..training.options import check_choices, option


@dataclass(frozen=True)
class ModelSettings:
    """The model that is fine-tuned."""

    _argument_group_name: ClassVar[str] = "model"

    pretrained_model_name_or_path: str = option(
        str(DEFAULT_MODEL), "Pipeline folder, Hub name, or single .safetensors checkpoint."
    )
    model_config: str | None = option(
        None, "For a single file with sizes of its own: a pipeline's folder, whose weights aren't needed."
    )
    tokenizer_name: str | None = option(None, "Tokenizer's folder or Hub name, if it isn't the model's own.")
    pretrained_vae_model_name_or_path: str | None = option(None, "VAE in the place of the model's: folder or Hub name.")
    revision: str | None = option(None, "Revision of the model on the Hub.")
    variant: str | None = option(None, "Variant of the model files, for example fp16.")
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(None, "Instead of what the scheduler says.")
    cache_dir: str | None = option(None, "Where Hub models and data sets are kept, and encoded pictures and captions.")

    def __post_init__(self) -> None:
        check_choices(self)

    def to_load(self) -> dict[str, str | None]:
        """The arguments of `load_parts` but the name, which run.json also has apart."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "pretrained_model_name_or_path"
        }
