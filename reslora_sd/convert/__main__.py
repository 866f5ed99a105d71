"""LoRA files from one form to another: reslora-convert IN OUT --to diffusers|peft|kohya|sai

    reslora-convert style.safetensors converted --to diffusers
    reslora-convert runs/rex rex.safetensors --merge weights --to kohya --precision fp16
    reslora-convert style.safetensors styled --fuse stable-diffusion-v1-5/stable-diffusion-v1-5
    reslora-convert inspect style.safetensors

Also as `python -m reslora_sd.convert`. docs/files.md says which forms there are, and which program takes which.
"""

from __future__ import annotations

import json

from ..training.command import run_command
from .settings import Conversion, Inspection, parse


def main(command: Conversion | Inspection) -> None:
    """Converts or inspects, and prints what came of it."""
    if isinstance(command, Inspection):
        from .inspecting import as_table, inspect

        found = inspect(command.source)
        print(json.dumps(found, indent=2, allow_nan=False) if command.settings.json else as_table(found))
        return
    from .converting import convert

    print("\n".join(convert(command)))


def cli() -> None:
    """The command reslora-convert."""
    run_command(lambda: main(parse()))


if __name__ == "__main__":
    cli()
