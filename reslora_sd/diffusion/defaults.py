"""Defaults that depend on other flags: on the model, and on whether the pictures are the user's own. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..assets import DEFAULT_MODEL
from ..runs.names import DEFAULT_PROMPTS, STYLES

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-4,
    "train_batch_size": 4,
    "max_timestep": 600,
    "validation_guidance_scale": 4.0,
    "validation_inference_steps": 20,
}
"""Defaults of the embedded model, where they differ from diffusers'."""
STYLE_DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-3,
    "max_timestep": None,
    "validation_samples": 60,
    "validation_guidance_scale": 2.5,
    "validation_inference_steps": 10,
}
"""Defaults of the embedded model on an embedded style, where they differ from these: a style is in all timesteps."""
DEFAULT_STEPS, DEFAULT_INTERVAL, DEFAULT_EPOCHS = 200, 20, 100
"""Steps of the embedded model's run and between its pictures; epochs of another's."""


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on other flags. No default stands against a flag that is given.

    Args:
        given: flags of the command line and the config file, by name.
    """
    defaults: dict[str, Any] = {}
    embedded = Path(given.get("pretrained_model_name_or_path", DEFAULT_MODEL)) == DEFAULT_MODEL
    if embedded:
        defaults |= EMBEDDED_DEFAULTS
        if "num_train_epochs" not in given:
            defaults["max_train_steps"] = DEFAULT_STEPS
        if "validation_prompt" not in given:
            defaults["validation_prompts"] = list(DEFAULT_PROMPTS)
        if "validation_epochs" not in given:
            defaults["validation_steps"] = DEFAULT_INTERVAL
    elif "max_train_steps" not in given:
        defaults["num_train_epochs"] = DEFAULT_EPOCHS
    return defaults | _of_data(given, embedded)


def _of_data(given: Mapping[str, Any], embedded: bool) -> dict[str, Any]:
    """What follows from the data; nobody's own pictures are left out."""
    name = given.get("dataset_name")
    if name is None and given.get("train_data_dir") is None:
        if not embedded:
            return {"max_train_samples": 576, "validation_samples": 64}
        return {"dataset_name": STYLES[0], **STYLE_DEFAULTS}
    return STYLE_DEFAULTS if embedded and name in STYLES else {}
