"""What a LoRA file says of itself, so that other tools list it under the right model, and show how it was made.

Facts, read in kohya-ss/sd-scripts `library/sai_model_spec.py` (fields of modelspec, after Stability-AI/ModelSpec;
architectures), `train_network.py` (`ss_` fields) and `library/train_util.py` (hashes), and in
AUTOMATIC1111/stable-diffusion-webui `extensions-builtin/Lora/network.py`: a file with metadata is for SD 1 unless
`ss_v2` is "True" or `ss_base_model_version` starts with "sdxl_".
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save
from torch import Tensor

from .lora_file import TRANSFORMER, UNET, Blocks, Origin

PREDICTION_TYPE = "modelspec.prediction_type"
TRAINED_ALPHA = "reslora_lora_alpha"
"""What lora_alpha was in training, before the scale went into the weights."""
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""As diffusers calls them, and as modelspec does."""
_NEEDED = ("block_out_channels", "cross_attention_dim")
"""What a U-Net's config has, and that of no other model."""
_WIDTHS = (320, 640, 1280)
_LEGACY_PLACE, _LEGACY_BYTES = 0x100000, 0x10000


@dataclass(frozen=True)
class Family:
    """A kind of model, as files name it."""

    version: str
    """`ss_base_model_version`"""
    architecture: str
    """`modelspec.architecture`, before `/lora`"""
    resolution: int | None = None
    """Pixels of a side that it was made for."""
    implementation: str = "diffusers"
    v2: bool = False

    def to_metadata(self) -> dict[str, str]:
        """Entries for the file; those that aren't known are left out."""
        found = {"modelspec.implementation": self.implementation}
        if self.version:
            found["ss_base_model_version"] = self.version
        if self.architecture:
            found["modelspec.architecture"] = f"{self.architecture}/lora"
        if self not in (CUSTOM, UNNAMED):
            found["ss_v2"] = str(self.v2)
        if self.resolution:
            found["modelspec.resolution"] = f"{self.resolution}x{self.resolution}"
        return found


CUSTOM = Family("custom", "stable-diffusion")
"""A model of no known family, such as the embedded one: no other program has a place for its LoRA."""
UNNAMED = Family("", "")
"""A transformer: its blocks don't say whether it is Stable Diffusion 3 or FLUX, nor which one of these."""
SD1 = Family("sd_v1", "stable-diffusion-v1", 512)
SD2 = Family("sd_v2", "stable-diffusion-v2", None, v2=True)
"""Where the prediction type isn't known."""
SD2_512 = Family("sd_v2", "stable-diffusion-v2-512", 512, v2=True)
SD2_768_V = Family("sd_v2", "stable-diffusion-v2-768-v", 768, v2=True)
SDXL_BASE = Family(
    "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", 1024, "https://github.com/Stability-AI/generative-models"
)


def family_of(config: Mapping[str, Any], prediction_type: str | None = None) -> Family:
    """From a diffusers U-Net's own config.

    Args:
        prediction_type: of the scheduler, which tells the two of SD 2 apart; left out, the sample size does.

    Raises:
        ValueError: it is the config of another model.
    """
    lacking = [name for name in _NEEDED if name not in config]
    if lacking:
        kind = config.get("_class_name", "another model")
        raise ValueError(f"unet_config is of {kind} and lacks {', '.join(lacking)}. Give unet.config, or leave it out.")
    widths, text = tuple(config["block_out_channels"]), config["cross_attention_dim"]
    if config.get("addition_embed_type") == "text_time":
        is_base = text == 2048 and config.get("projection_class_embeddings_input_dim") == 2816 and widths == _WIDTHS
        return SDXL_BASE if is_base else CUSTOM
    if widths != (*_WIDTHS, _WIDTHS[-1]):
        return CUSTOM
    return _by_text_width(text, prediction_type or ("v" if config.get("sample_size") == 96 else "epsilon"))


def guess_family(components: Mapping[str, Blocks], prediction_type: str | None = None) -> Family:
    """From nothing but the blocks of a U-Net: by the width of the text that `attn2` reads, and of the layers."""
    if TRANSFORMER in components:
        return UNNAMED
    blocks = components.get(UNET, {})
    text = {block.shape[1] for name, block in blocks.items() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    widths = {block.shape[0] for name, block in blocks.items() if name.endswith(("to_q", "to_k", "to_v"))}
    if len(text) != 1 or not widths <= set(_WIDTHS):
        return CUSTOM
    return SDXL_BASE if text == {2048} else _by_text_width(text.pop(), prediction_type)


def _by_text_width(width: Any, prediction_type: str | None) -> Family:
    if width == 1024:
        return {"epsilon": SD2_512, "v_prediction": SD2_768_V, "v": SD2_768_V}.get(prediction_type or "", SD2)
    return SD1 if width == 768 else CUSTOM


def prediction_of(prediction_type: str | None) -> dict[str, str]:
    """The entry that names a scheduler's prediction type; none for one that modelspec has no name for."""
    name = _PREDICTIONS.get(prediction_type or "")
    return {PREDICTION_TYPE: name} if name else {}


def describe(
    components: Mapping[str, Blocks], origin: Origin, details: Mapping[str, str], family: Family | None = None
) -> dict[str, str]:
    """Metadata of a LoRA file, but for what depends on its form: see `writing.py`.

    Args:
        details: more entries, which win.
        family: of the base model; left out, it is guessed from the blocks.
    """
    alphas = {block.scaling * block.r for blocks in components.values() for block in blocks.values()}
    method = origin.config.method if origin.config else "lora"
    family = family or guess_family(components, details.get(PREDICTION_TYPE))
    return {
        **family.to_metadata(),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": f"LoRA ({method})",
        "modelspec.date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        TRAINED_ALPHA: f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        **origin.to_metadata(),
        **details,
    }


def with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata with the hashes by which tools recognize a file: of its numbers, and an old one of a part of them.

    As sd-scripts has it, `sshs_legacy_hash` is that of a file whose metadata are the `ss_` entries alone.
    """
    found = {key: _plain(value) for key, value in metadata.items()}
    training = {key: value for key, value in found.items() if key.startswith("ss_")}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, training)
    start = 8 + int.from_bytes(data[:8], "little")
    whole = hashlib.sha256(memoryview(data)[start:]).hexdigest()
    legacy = hashlib.sha256(memoryview(data)[_LEGACY_PLACE : _LEGACY_PLACE + _LEGACY_BYTES]).hexdigest()
    hashes = {"modelspec.hash_sha256": f"0x{whole}", "sshs_model_hash": whole, "sshs_legacy_hash": legacy[:8]}
    return {**found, **hashes}


def _plain(value: str) -> str:
    """Names of files may hold what is no Unicode, which no safetensors file takes."""
    return value.encode("utf-8", "replace").decode("utf-8")
