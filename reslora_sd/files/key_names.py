"""What a key of a LoRA file names: the module, and which part of its pair; in every naming that is read.

Namings, read in huggingface/diffusers `utils/state_dict_utils.py` and `loaders/lora_base.py`, huggingface/peft
`utils/save_and_load.py` and kohya-ss/sd-scripts `networks/lora.py`:
- diffusers: `unet.<path>.lora_A.weight`; before, `.lora.down.weight` (text encoders: `.lora_linear_layer.down.weight`),
  and `unet.<attention>.processor.to_q_lora.down.weight`; files of one U-Net alone also without `unet.`;
- PEFT: `base_model.model.<path>.lora_A.weight`;
- kohya: `lora_unet_<path with underscores>.lora_down.weight`, `lora_te_...`, see `unet_names`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .lora_file import MODEL, PEFT_PREFIX, TEXT_ENCODER, TEXT_ENCODER_2, UNET
from .unet_names import module_of

_PAIRS = {
    ".lora_A.weight": ".lora_B.weight",
    ".lora.down.weight": ".lora.up.weight",
    ".lora_linear_layer.down.weight": ".lora_linear_layer.up.weight",
    "_lora.down.weight": "_lora.up.weight",
    ".lora_down.weight": ".lora_up.weight",
}
"""Ends of the keys of lora_A and of lora_B."""
_ROLES = {**dict.fromkeys(_PAIRS, "A"), **dict.fromkeys(_PAIRS.values(), "B"), ".alpha": "alpha"}
_PREFIXES = {"unet.": UNET, "text_encoder.": TEXT_ENCODER, "text_encoder_2.": TEXT_ENCODER_2}
_UNET_TOP = frozenset(
    "conv_in time_embedding add_embedding class_embedding encoder_hid_proj down_blocks mid_block up_blocks "
    "conv_out".split()
)
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_KEY = re.compile(r"\w+(\.\w+)*", re.ASCII)
_TEXT_TOP = re.compile(r"text_model\.|text_projection$|(encoder\.layers\.\d+\.(self_attn|mlp)\.)")


@dataclass(frozen=True)
class Part:
    """One tensor of a pair."""

    component: str
    path: str
    """Of the module in diffusers; of a text encoder with `text_model.`, also where transformers leaves it out."""
    role: str
    """`A`, `B` or `alpha`."""
    named: str
    """The path as the file has it, which patterns of its settings are made for."""
    prefix: str
    """What stands before the path."""
    form: str
    """One of `lora_file.FORMS`."""


def parse_key(key: str) -> Part | None:
    """The part that a key names; `None` for a key of anything else."""
    ending = next((ending for ending in _ROLES if key.endswith(ending)), None)
    if ending is None or _KEY.fullmatch(key) is None:
        return None
    stem, role = key.removesuffix(ending), _ROLES[ending]
    if key.startswith(("lora_unet_", "lora_te")):
        return _kohya(stem, role) if ending in (".lora_down.weight", ".lora_up.weight", ".alpha") else None
    if key.startswith(PEFT_PREFIX):
        path = stem.removeprefix(PEFT_PREFIX)
        component = component_of(path)
        return Part(component, _canonical(component, path), role, path, PEFT_PREFIX, "peft")
    prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
    component = _PREFIXES.get(prefix, UNET)
    path = _without_old_names(component, stem.removeprefix(prefix), ending.startswith("_lora"))
    if component_of(path) != (UNET if component == UNET else TEXT_ENCODER):
        return None
    return Part(component, _canonical(component, path), role, path, prefix, "diffusers")


def counterpart(key: str) -> str:
    """The key of the other matrix of a pair; for that of an alpha the key of its lora_A."""
    other = {**_PAIRS, **{up: down for down, up in _PAIRS.items()}}
    for ending, name in other.items():
        if key.endswith(ending):
            return key.removesuffix(ending) + name
    return key.removesuffix(".alpha") + (".lora_down.weight" if key.startswith("lora_") else ".lora_A.weight")


def component_of(path: str) -> str:
    """Which kind of model has such a path: a U-Net, a CLIP text encoder, or another (`MODEL`)."""
    if path.split(".", 1)[0] in _UNET_TOP:
        return UNET
    return TEXT_ENCODER if _TEXT_TOP.match(path) else MODEL


def _kohya(stem: str, role: str) -> Part | None:
    found = module_of(stem)
    if found is None:
        return None
    component, path = found
    as_path = component != UNET or stem == "lora_unet_" + path.replace(".", "_")
    return Part(component, path, role, path, f"{component}.", "kohya" if as_path else "sai")


def _without_old_names(component: str, path: str, old: bool) -> str:
    """diffusers before 0.22 named the attention processors' own linears."""
    path, old = path.replace(".processor.", "."), old or path.endswith("_lora")
    path = path.removesuffix("_lora")
    before, _, leaf = path.rpartition(".")
    if component == UNET:
        return f"{path}.0" if leaf == "to_out" else path
    return f"{before}.{_OLD_TEXT[leaf]}" if old and leaf in _OLD_TEXT else path


def _canonical(component: str, path: str) -> str:
    """transformers 5 has no `text_model.` in a CLIPTextModel; files keep it."""
    return f"text_model.{path}" if component in (TEXT_ENCODER, TEXT_ENCODER_2) and path.startswith("encoder.") else path
