"""Defaults that depend on other flags: on the model, and on whether the pictures are the user's own. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..assets import DEFAULT_MODEL
from ..runs.names import BUNDLED, DEFAULT_PROMPTS, STYLES

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-4,
    "train_batch_size": 4,
    "max_timestep": 600,
    "validation_guidance_scale": 4.0,
    "validation_inference_steps": 20,
}
"""Defaults of the embedded model, where they differ from diffusers'."""
STYLE_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "max_timestep": None,
    "validation_samples": 60,
    "validation_guidance_scale": 2.5,
    "validation_inference_steps": 10,
}
"""Defaults of the embedded model on an embedded style, where they differ from these: a style is in all timesteps."""
DEFAULT_STEPS, DEFAULT_INTERVAL, DEFAULT_EPOCHS = 200, 20, 100
"""Steps of the embedded model's run and between its pictures; epochs of another's."""

OWN_DEFAULTS: dict[str, Any] = {
    **EMBEDDED_DEFAULTS,
    "center_crop": True,  # in another place in every epoch, a dozen pictures blur into each other
    "learning_rate": 2e-3,
    "lr_scheduler": "cosine",
    "max_timestep": None,  # the highest decide what is where and in which colour, which own pictures are there to teach
    "validation_guidance_scale": 1.25,  # more makes colours stronger than the pictures have them
}
"""Defaults of the embedded model on somebody's own pictures; `evaluate_own` measures them."""
OWN_STEPS, OWN_INTERVAL, OWN_CAPTIONS = 240, 40, 4
"""Steps of a run on own pictures, between its pictures, and how many captions are drawn."""
_MOST_DRAWINGS = 10
"""Times that a run draws pictures unless asked, so that drawing a long one doesn't take longer than training it."""


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on other flags. No default stands against a flag that is given.

    Args:
        given: flags of the command line and the config file, by name.
    """
    defaults: dict[str, Any] = {}
    embedded = Path(given.get("pretrained_model_name_or_path", DEFAULT_MODEL)) == DEFAULT_MODEL
    own = has_own_pictures(given)
    if embedded:
        defaults |= _embedded_defaults(given, own)
    elif "max_train_steps" not in given:
        defaults["num_train_epochs"] = DEFAULT_EPOCHS
    name = given.get("dataset_name")
    if embedded and not own and (name is None or name in STYLES):
        defaults |= {"dataset_name": STYLES[0], **STYLE_DEFAULTS}
    elif not own and name is None:
        defaults |= {"max_train_samples": 576, "validation_samples": 64}
    return defaults


def has_own_pictures(given: Mapping[str, Any]) -> bool:
    """Whether the flags name pictures that this package doesn't bring."""
    name = given.get("dataset_name")
    if given.get("dataset_config") is not None:
        return True
    return given.get("train_data_dir") is not None if name is None else name not in BUNDLED


def _embedded_defaults(given: Mapping[str, Any], own: bool) -> dict[str, Any]:
    """Those of the embedded model, on own pictures or on others."""
    defaults = dict(OWN_DEFAULTS if own else EMBEDDED_DEFAULTS)
    steps, interval = (OWN_STEPS, OWN_INTERVAL) if own else (DEFAULT_STEPS, DEFAULT_INTERVAL)
    if "num_train_epochs" not in given:
        defaults["max_train_steps"] = steps
    prompts = "validation_prompt" in given or "validation_prompts" in given
    if not prompts:
        defaults |= {"validation_captions": OWN_CAPTIONS} if own else {"validation_prompts": list(DEFAULT_PROMPTS)}
    drawn = prompts or not own or given.get("validation_captions", OWN_CAPTIONS)
    if drawn and "validation_epochs" not in given:
        defaults["validation_steps"] = max(interval, (given.get("max_train_steps") or steps) // _MOST_DRAWINGS)
    return defaults
