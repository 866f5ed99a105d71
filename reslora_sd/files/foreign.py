"""What is in a safetensors file that is no plain LoRA of a Stable Diffusion model, in words that its user knows.

Key names were read in LyCORIS (`lycoris/modules/`), kohya-ss/sd-scripts (`networks/`), ComfyUI (`comfy/lora.py`,
`comfy/weight_adapter/`), PEFT (`tuners/`) and diffusers (`loaders/lora_conversion_utils.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_KINDS = {
    r"^residual_blocks\.": "ResLoRA's training form, with its paths. Merge it first: reslora-convert IN OUT --merge",
    r"lora_magnitude_vector|dora_scale": "DoRA, whose magnitudes aren't supported",
    r"\.hada_[wt]\d": "LoHa, which isn't supported",
    r"\.lokr_[wt]\d": "LoKr, which isn't supported",
    r"\.(oft|boft)_(blocks|diag|[rsR])\b|\.oft_": "OFT, which isn't supported",
    r"\.ia3_l\b|\.on_input$": "IA3, which isn't supported",
    r"\.(a1|a2|b1|b2)\.weight$": "GLoRA, which isn't supported",
    r"\.lora_mid\.": "LoCon in Tucker form (lora_mid), which isn't supported",
    r"\.(diff|diff_b|set_weight|w_norm|b_norm)$": "whole differences of weights, which aren't supported",
    r"^bundle_emb\.": "an embedded textual inversion, which isn't supported",
    r"^(string_to_param|emb_params|clip_[lg]|string_to_token)\b": "a textual inversion, no LoRA",
    r"lora_embedding_[AB]": "a LoRA of an embedding, which isn't supported",
    r"lora_(B|up)\.bias$|\.lora_bias$": "a LoRA with biases, which aren't supported",
    r"reft_|\.vera_|\.bitfit|\.hra_|\.poly_|\.lora_(?!A|B|up|down|mid|linear_layer)[a-z]+": (
        "another kind of adapter, which isn't supported"
    ),
}
"""By what one of its keys holds; the first that fits is named."""

_MODELS = {
    r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]": "FLUX",
    r"(^|[._])joint_blocks[._]|\badd_q_proj\b|^lora_te3_|^text_encoder_3\.": "Stable Diffusion 3",
    r"^lora_prior_|^prior\.|^lora_te1_.*t5": "Stable Cascade or another model",
    r"^(model\.)?control_model\.|^controlnet\.|lora_controlnet": "a ControlNet",
    r"^(lora_)?transformer[._]|^diffusion_model\.|^lora_llm|^lora_t5": "a diffusion transformer (FLUX, SD 3, ...)",
    r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.": "a whole checkpoint",
}
"""Other models, likewise."""


def refuse_foreign(keys: Iterable[str], source: Path) -> None:
    """Refuses whole files by the name of what they are.

    Raises:
        ValueError: a key says that this is another kind of adapter, or of another model.
    """
    names = list(keys)
    for pattern, kind in _KINDS.items():
        if found := _first(pattern, names):
            raise ValueError(f"{source} is no plain LoRA: it has {found!r:.200}, which is {kind}.")
    for pattern, model in _MODELS.items():
        if found := _first(pattern, names):
            raise ValueError(
                f"{source} is no LoRA of a Stable Diffusion 1.x, 2.x or XL model: it has {found!r:.200}, which is of "
                f"{model}."
            )


def _first(pattern: str, names: Iterable[str]) -> str | None:
    expression = re.compile(pattern)
    return next((name for name in names if expression.search(name)), None)
