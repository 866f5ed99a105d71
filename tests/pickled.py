"""A harmless proof that a file's content was executed: a pickle that writes a marker, in a whole checkpoint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from reslora_sd.runs.checkpoints import publish, unfinished
from reslora_sd.runs.names import MANIFEST_FILE


class WritesMarker:
    """Loading it makes an empty file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.marker, "w")


def put_pickle(checkpoint: Path, name: str, marker: Path, with_torch: bool) -> None:
    """Puts it in the place of a file of a checkpoint, whose list of files is then made anew."""
    file = checkpoint / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if with_torch:
        torch.save({"state": WritesMarker(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(WritesMarker(marker)))
    publish_anew(checkpoint)


def publish_anew(checkpoint: Path) -> None:
    """Makes the list of files fit what a stranger changed."""
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    (checkpoint / MANIFEST_FILE).unlink()
    checkpoint.rename(unfinished(checkpoint))
    publish(unfinished(checkpoint), checkpoint, processes=manifest["processes"])
