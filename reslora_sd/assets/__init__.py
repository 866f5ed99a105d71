"""What comes with the package: the embedded model, and styles to teach it."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = Path(__file__).resolve().parent / "tiny-sd"
"""The embedded model: a whole Stable Diffusion folder."""

STYLES_FOLDER = Path(__file__).resolve().parent / "styles"
"""The embedded styles, a folder each."""

MODEL_CONFIGS = Path(__file__).resolve().parent / "model_configs"
"""Configs of Stable Diffusion's families without weights, a folder each: for single-file checkpoints."""
