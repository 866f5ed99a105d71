"""Defaults that depend on other flags: on the model, and on whether the pictures are the user's own. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..assets import DEFAULT_MODEL
from ..runs.names import DEFAULT_PROMPTS

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-4,
    "train_batch_size": 4,
    "max_timestep": 600,
    "validation_guidance_scale": 4.0,
    "validation_inference_steps": 20,
}
"""Defaults of the embedded model, where they differ from diffusers'."""
DEFAULT_STEPS, DEFAULT_INTERVAL, DEFAULT_EPOCHS = 200, 20, 100
"""Steps of the embedded model's run and between its pictures; epochs of another's."""


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on other flags. No default stands against a flag that is given.

    Args:
        given: flags of the command line and the config file, by name.
    """
    defaults: dict[str, Any] = {}
    if Path(given.get("pretrained_model_name_or_path", DEFAULT_MODEL)) == DEFAULT_MODEL:
        defaults |= EMBEDDED_DEFAULTS
        if "num_train_epochs" not in given:
            defaults["max_train_steps"] = DEFAULT_STEPS
        if "validation_prompt" not in given:
            defaults["validation_prompts"] = list(DEFAULT_PROMPTS)
        if "validation_epochs" not in given:
            defaults["validation_steps"] = DEFAULT_INTERVAL
    elif "max_train_steps" not in given:
        defaults["num_train_epochs"] = DEFAULT_EPOCHS
    if given.get("dataset_name") is None and given.get("train_data_dir") is None:  # nobody's own pictures are left out
        defaults |= {"max_train_samples": 576, "validation_samples": 64}
    return defaults
