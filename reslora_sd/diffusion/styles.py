"""The embedded styles: drawings that the embedded model knows by name, in colours that it doesn't know. No torch.

Each has pictures to train on, and the wanted pictures of other names, which no training sees.
`reslora_sd.pretrain.make_styles` makes them; reslora_sd/assets/styles/README.md names their source and licence.
"""

from __future__ import annotations

from PIL import Image

from ..assets import STYLES_FOLDER
from .pictures import CAPTIONS_FILE, metadata_rows

TRAIN, UNSEEN = "train", "unseen"
"""The parts of a style."""


def load_style(name: str, part: str = TRAIN) -> list[tuple[Image.Image, str]]:
    """Pictures of a part of an embedded style, with their captions, in the order of its metadata.

    Args:
        name: one of `runs.names.STYLES`.
        part: `TRAIN`, or `UNSEEN`: the wanted pictures of names that aren't in `TRAIN`.
    """
    found = []
    for _, row in metadata_rows(STYLES_FOLDER / name / part / CAPTIONS_FILE):
        with Image.open(STYLES_FOLDER / name / part / row["file_name"]) as picture:
            found.append((picture.convert("RGB"), str(row["text"])))
    return found
