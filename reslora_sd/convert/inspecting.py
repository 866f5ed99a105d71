"""What a LoRA file is, as a table or as JSON: `reslora-convert inspect FILE`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..adapter.training_form import TRAINING_FORM, read_training_form
from ..blocks.plain import PlainBlock
from ..files.lora_file import UNET, Blocks
from ..files.lora_metadata import guess_family
from ..files.reading import files_of, read_lora
from .sources import topology_of_file

_LONGEST = 100
_KINDS = {
    "self-attention": r"\.attn1\.|\.self_attn\.",
    "cross-attention": r"\.attn2\.",
    "feed-forward": r"\.ff\.|\.mlp\.",
    "projection": r"\.proj_(in|out)$",
    "residual block": r"\.resnets\.",
    "sampler": r"samplers\.",
}
"""Kinds of layers, by what their paths hold."""


def inspect(path: Path) -> dict[str, Any]:
    """All that is known of a file, as plain values.

    Raises:
        FileNotFoundError, ValueError: it is damaged, or no LoRA; what it is then is told, where it is known.
    """
    if path.is_file() and TRAINING_FORM in _metadata(path):
        return _training_form(path)
    file, files = read_lora(path), files_of(path)
    stored = _dtypes(files)
    return {
        "file": str(path),
        "kind": "LoRA",
        "form": file.form,
        "names": {"sai": "SDXL's original", "kohya": "diffusers', with underscores"}.get(file.form, "diffusers'"),
        "bytes": sum(one.stat().st_size for one in files),
        "precision": sorted(stored),
        "model": _model(file.metadata, file.components, topology_of_file(file).sdxl),
        "merged": file.origin.approach,
        "method": file.origin.config.method if file.origin.config else None,
        "components": {name: _component(name, blocks) for name, blocks in file.components.items()},
        "metadata": dict(file.metadata),
    }


def as_table(found: Mapping[str, Any]) -> str:
    """The same for people. Texts of the file can't do more than stand there: control characters are escaped."""
    size = f"{found['bytes'] / 1e6:.2f} MB, {', '.join(found['precision'])}"
    if found["kind"] != "LoRA":
        about = [f"{name}: {value}" for name, value in found["settings"].items()]
        return "\n".join(
            [f"{found['file']}: {found['kind']}, {found['modules']} modules, {size}", *map(_printable, about)]
        )
    made = f"{found['method']}, merged: {found['merged']}" if found["method"] else "not made by this package"
    lines = [
        f"{found['file']}: a LoRA in {found['form']} form, {size}",
        f"for: {_printable(found['model'])}; {made}",
        "",
        f"{'':24}{'modules':>8}  {'rank':16}{'alpha':20}{'norm':>10}",
    ]
    for name, part in found["components"].items():
        lines.append(_row(name, part))
        lines += [_row(f"  {group}", values) for group, values in part["groups"].items()]
        lines.append("  " + ", ".join(f"{kind}: {count}" for kind, count in part["kinds"].items()))
    if found["metadata"]:
        lines += ["", "metadata", *(_entry(name, value) for name, value in sorted(found["metadata"].items()))]
    return "\n".join(lines)


def _metadata(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception:  # whatever it is, reading it whole tells it in its own words
        return {}


def _training_form(path: Path) -> dict[str, Any]:
    state, config = read_training_form(path)
    return {
        "file": str(path),
        "kind": "ResLoRA training form (merge it with --merge)",
        "bytes": path.stat().st_size,
        "precision": sorted(_dtypes([path])),
        "modules": len({name.rpartition(".")[0] for name in state}),
        "settings": {"method": config.method, **config.to_dict()},
        "metadata": dict(_metadata(path)),
    }


def _dtypes(files: Iterable[Path]) -> set[str]:
    found = set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            found |= {str(file.get_slice(name).get_dtype()) for name in file.keys() if ".alpha" not in name}  # noqa: SIM118
    return {{"F16": "fp16", "BF16": "bf16", "F32": "float32", "F64": "float64"}.get(name, name) for name in found}


def _model(metadata: Mapping[str, str], components: Mapping[str, Blocks], sdxl: bool) -> str:
    said = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    if said:
        return said
    if UNET not in components:
        return "not said"
    family = guess_family(components)
    guessed = "stable-diffusion-xl" if sdxl and family.version == "custom" else family.architecture
    return f"{guessed} (by its layers)"


def _component(name: str, blocks: Blocks) -> dict[str, Any]:
    groups: dict[str, list[PlainBlock]] = {}
    for path, block in blocks.items():
        groups.setdefault(_group(name, path), []).append(block)
    kinds = Counter(_kind(path) for path in blocks)
    return {
        **_summary(blocks.values()),
        "kinds": dict(sorted(kinds.items())),
        "groups": {group: _summary(groups[group]) for group in sorted(groups, key=_numbers_by_value)},
    }


def _group(component: str, path: str) -> str:
    """The part of the model that a module is in: a level of a U-Net; four layers of a text encoder."""
    parts = path.split(".")
    if component == UNET:
        return ".".join(parts[: 2 if parts[0] in ("down_blocks", "up_blocks") else 1])
    number = next((int(part) for part in parts if part.isdecimal()), None)
    return parts[0] if number is None else f"layers {number // 4 * 4} to {number // 4 * 4 + 3}"


def _numbers_by_value(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _kind(path: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, path)), "other")


def _summary(blocks: Iterable[PlainBlock]) -> dict[str, Any]:
    found = list(blocks)
    ranks, alphas = Counter(block.r for block in found), Counter(round(block.scaling * block.r, 6) for block in found)
    return {
        "modules": len(found),
        "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
        "alphas": {f"{alpha:g}": count for alpha, count in sorted(alphas.items())},
        "norm": math.sqrt(sum(block.norm() ** 2 for block in found)),
    }


def _row(name: str, part: Mapping[str, Any]) -> str:
    return f"{name:24}{part['modules']:8}  {_few(part['ranks']):16}{_few(part['alphas']):20}{part['norm']:10.4g}"


def _few(counts: Mapping[str, int]) -> str:
    """The values, or where there are many the first and the last."""
    values = list(counts)
    return ", ".join(values) if len(values) <= 3 else f"{values[0]} ... {values[-1]}"


def _entry(name: str, value: str) -> str:
    text = _printable(value)
    more = f" ... ({len(value)} characters)" if len(text) > _LONGEST else ""
    return f"  {_printable(name)[:_LONGEST]}: {text[:_LONGEST]}{more}"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
