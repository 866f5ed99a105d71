"""LoRA files made elsewhere: those below one folder that was named at the start, in any form that is read here."""

from __future__ import annotations

import os
from pathlib import Path

from reslora_sd.runs.names import DIFFUSERS_FILE
from reslora_sd.runs.paths import inside

from .wording import as_utf8, is_utf8

MOST_FILES, MOST_BYTES = 200, 4_000_000_000
_PEFT_SETTINGS = "adapter_config.json"
_ENDING = ".safetensors"


def lora_files(folder: Path | None, depth: int = 2) -> list[str]:
    """Names of the LoRAs, which are paths below the folder: files, and folders of diffusers and PEFT.

    Names that are no UTF-8 are left out, as `left_out` tells: no browser could be sent them.
    """
    return list(filter(is_utf8, _all_files(folder, depth)))


def left_out(folder: Path | None) -> str:
    """What `lora_files` leaves out, in words; empty for nothing."""
    names = [as_utf8(name) for name in _all_files(folder, 2) if not is_utf8(name)]
    return f"Left out, as their names are no UTF-8: {', '.join(names)[:300]}." if names else ""


def _all_files(folder: Path | None, depth: int) -> list[str]:
    found: list[str] = []
    if folder is not None:
        _collect(folder.resolve(), folder.resolve(), depth, found)
    return sorted(found)[:MOST_FILES]


def _collect(root: Path, folder: Path, depth: int, found: list[str]) -> None:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries if entry.name[0] != "."}
    except OSError:
        return  # one that may not be read is as good as empty
    if folder != root and (_PEFT_SETTINGS in names or DIFFUSERS_FILE in names):
        found.append(folder.relative_to(root).as_posix())
        return
    for name, is_folder in sorted(names.items()):
        if len(found) >= MOST_FILES:
            return
        if is_folder and depth:
            _collect(root, folder / name, depth - 1, found)
        elif not is_folder and name.endswith(_ENDING):
            found.append((folder / name).relative_to(root).as_posix())


def find_lora(folder: Path | None, name: str) -> Path:
    """The path of a LoRA that `lora_files` lists.

    Raises:
        ValueError: it lists none of that name, it leads elsewhere, or it is too large.
    """
    if folder is None or name not in lora_files(folder):
        raise ValueError(f"There is no LoRA {name!r:.80} in the folder of --loras.")
    try:
        path = inside(folder, name)
        files = [path] if path.is_file() else sorted(path.rglob(f"*{_ENDING}"))
        size = sum(inside(folder, str(file.relative_to(folder.resolve()))).stat().st_size for file in files)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} can't be read: it leads elsewhere, or is gone.") from error
    if size > MOST_BYTES:
        raise ValueError(f"{name} has {size / 1e9:.1f} GB. It may have {MOST_BYTES / 1e9:.0f}.")
    return path
