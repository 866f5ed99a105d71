"""Everything that a run folder holds but for clocks, so that two runs can be compared to the last byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

_CLOCKS = (
    *("seconds", "waiting", "memory", "seconds_per_step", "peak_memory_mb"),
    *("modelspec.date", "ss_training_started_at", "ss_training_finished_at", "sshs_legacy_hash"),
)
_COMMAND = ("output_dir", "resume_from_checkpoint", "overwrite_output_dir")
"""How a run was started, and not what it is."""


def snapshot(folder: Path) -> dict[str, Any]:
    """What each file says, by its path; trackers' logs are left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): _content(path)
        for path in files
        if not path.name.startswith("events.out.tfevents") and path.name != "hparams.yml"
    }


def differences(one: Path, two: Path) -> list[str]:
    """Files that only one of two runs has, or that differ."""
    first, second = snapshot(one), snapshot(two)
    alone = [f"{name} is only in {one}" for name in first.keys() - second.keys()]
    alone += [f"{name} is only in {two}" for name in second.keys() - first.keys()]
    return sorted(alone) + [f"{name} differs" for name in first if name in second and first[name] != second[name]]


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [_without(json.loads(line), _CLOCKS) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name == "run.json":
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {**settings, "arguments": _without(settings["arguments"], _COMMAND)}
    if path.name == "checkpoint.json":
        manifest = json.loads(path.read_text(encoding="utf-8"))
        # safetensors writes metadata in any order; what these files hold is compared below
        files = {name: "" if name.endswith(".safetensors") else noted for name, noted in manifest["files"].items()}
        return {**_without(manifest, ("sha256",)), "files": files}
    if path.name == "results.json":
        return _without(json.loads(path.read_text(encoding="utf-8")), _CLOCKS)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
            return tensors, _without(file.metadata() or {}, _CLOCKS)
    return path.read_bytes()


def _without(table: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in names}
