"""What comes with the package: the embedded model."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = Path(__file__).resolve().parent / "tiny-sd"
"""The embedded model: a whole Stable Diffusion folder."""
