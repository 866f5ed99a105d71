"""Plain LoRA from the files of diffusers, PEFT and kohya's sd-scripts (ComfyUI, A1111).

What isn't understood is refused: no key is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..blocks.plain import PlainBlock
from ..runs.names import DIFFUSERS_FILE
from .foreign import refuse_foreign
from .key_names import Part, counterpart, parse_key
from .lora_file import (
    COMPONENTS,
    DIFFUSERS_METADATA,
    MODEL,
    PEFT_FILE,
    PEFT_PREFIX,
    PEFT_SETTINGS,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    LoRAFile,
    Origin,
)
from .peft_settings import PeftSettings
from .storage import load_tensors, reason

_PEFT_KINDS = {"LOHA": "LoHa", "LOKR": "LoKr", "ADALORA": "AdaLoRA"}


def read_lora(path: str | os.PathLike[str]) -> LoRAFile:
    """A LoRA in any of the forms: a file, or a folder with one; PEFT's folders also one for each component.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds other keys too, or is no LoRA.
    """
    source, sources = Path(path), files_of(path)
    if len(sources) == 1 and sources[0].parent in (source, source.parent):
        is_second = sources[0].name == PEFT_FILE and sources[0].absolute().parent.name == TEXT_ENCODER_2
        return _read_file(sources[0], TEXT_ENCODER_2 if is_second else None)
    files = {file.parent.name: _read_file(file, file.parent.name) for file in sources}
    metadata = next(iter(files.values())).metadata
    return LoRAFile({name: file.blocks(name) for name, file in files.items()}, metadata, "peft")


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files that `read_lora` reads for a path: one, or that of each component.

    Raises:
        FileNotFoundError: a folder holds none, or several LoRAs.
    """
    source = Path(path)
    if not source.is_dir():
        return [source]
    whole = [source / name for name in (DIFFUSERS_FILE, PEFT_FILE) if (source / name).is_file()]
    parts = [source / name / PEFT_FILE for name in COMPONENTS if (source / name / PEFT_FILE).is_file()]
    if len(whole) + bool(parts) != 1:
        found = " and ".join(str(file.relative_to(source)) for file in [*whole, *parts])
        raise FileNotFoundError(
            f"{path} holds {found or f'neither {DIFFUSERS_FILE} nor {PEFT_FILE}'}. Name the file itself."
        )
    return whole or parts


def _read_file(source: Path, component: str | None = None) -> LoRAFile:
    """One file; `component` says which one a PEFT folder is of."""
    tensors, metadata = load_tensors(source)
    refuse_foreign(tensors, source)
    pairs = _pairs(tensors, source, component)
    forms = {pair.part.form for pair in pairs.values()}
    if len(forms - {"sai"}) > 1 or ("sai" in forms and not forms <= {"sai", "kohya"}):
        raise ValueError(f"{source} mixes the names of {' and '.join(sorted(forms))} files. Export it again.")
    form = "sai" if "sai" in forms else forms.pop()
    fields = _fields_beside(source) if form == "peft" else {}
    base, task = fields.get("base_model_name_or_path"), fields.get("task_type")
    try:
        settings = {PEFT_PREFIX: PeftSettings.of(fields)} if form == "peft" else _settings_inside(metadata, pairs)
        components: dict[str, dict[str, PlainBlock]] = {}
        for (owner, path), pair in pairs.items():
            components.setdefault(owner, {})[path] = _block(pair, settings.get(pair.part.prefix))
        ordered = {owner: components[owner] for owner in (*COMPONENTS, MODEL) if owner in components}
        Origin.from_metadata(metadata)  # refuses damaged settings of the adapter that was merged
    except ValueError as error:
        and_settings = f" and {PEFT_SETTINGS}" if form == "peft" else ""
        raise ValueError(f"{source}{and_settings}: no whole LoRA ({error}). Export it again.") from error
    named, kind = base if isinstance(base, str) else "", task if isinstance(task, str) else None
    return LoRAFile(ordered, metadata, form, named, kind)


@dataclass
class _Pair:
    """Tensors of one module, by their roles."""

    part: Part
    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def _pairs(tensors: Mapping[str, Tensor], source: Path, component: str | None) -> dict[tuple[str, str], _Pair]:
    """The file's tensors by component and path, each with both of its matrices."""
    pairs: dict[tuple[str, str], _Pair] = {}
    for key, tensor in tensors.items():
        part = parse_key(key)
        if part is None or (component and _component_for(part, component) is None):
            raise ValueError(
                f"{source} is no LoRA of a Stable Diffusion U-Net or text encoder alone: it has {key!r:.200}, which is "
                "no part of a plain LoRA that is known here. See docs/files.md for what is read."
            )
        if component:
            part = replace(part, component=component)
        pair = pairs.setdefault((part.component, part.path), _Pair(part))
        if part.role in pair.tensors:
            raise ValueError(f"{source} names {part.path} twice: {pair.keys[part.role]} and {key}. Export it again.")
        pair.tensors[part.role], pair.keys[part.role] = tensor, key
    if not pairs:
        raise ValueError(f"{source} is no LoRA of a U-Net: it holds no tensor. Export it again.")
    parts = [pair.part for pair in pairs.values()]
    if len({part.component for part in parts}) > 1 and all(part.form == "peft" for part in parts):
        pairs = {(MODEL, pair.part.named): replace(pair, part=_of_a_model(pair.part)) for pair in pairs.values()}
    for pair in pairs.values():
        if not {"A", "B"} <= pair.tensors.keys():
            missing = counterpart(next(pair.keys[role] for role in ("A", "B", "alpha") if role in pair.keys))
            raise ValueError(f"{source} lacks {missing}. It is cut off or no plain LoRA.")
        _check_shapes(pair, source)
    return pairs


def _component_for(part: Part, folder: str) -> str | None:
    """`folder` if a PEFT folder of that component can hold the part."""
    kind = TEXT_ENCODER if folder.startswith(TEXT_ENCODER) else folder
    return folder if part.form == "peft" and part.component == kind else None


def _of_a_model(part: Part) -> Part:
    """A PEFT folder is of one model: one whose names only partly look like a text encoder's is of neither kind."""
    return replace(part, component=MODEL, path=part.named)


def _check_shapes(pair: _Pair, source: Path) -> None:
    A, B = pair.tensors["A"], pair.tensors["B"]
    fits = A.ndim in (2, 4) and B.ndim in (2, A.ndim) and A.shape[0] == B.shape[1] and B.shape[2:].numel() == 1
    if not (fits and A.numel() and B.numel() and A.is_floating_point() and B.is_floating_point()):
        raise ValueError(
            f"{source} is no plain LoRA of linears and convolutions: {pair.keys['A']} is {A.dtype} {tuple(A.shape)} "
            f"and {pair.keys['B']} {B.dtype} {tuple(B.shape)}. They must be (rank, in) and (out, rank), or (rank, in, "
            "height, width) and (out, rank, 1, 1)."
        )
    alpha = pair.tensors.get("alpha")
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex()):
        raise ValueError(f"{source} has {pair.keys['alpha']} of shape {tuple(alpha.shape)}. It must be one number.")


def _block(pair: _Pair, settings: PeftSettings | None) -> PlainBlock:
    """Its scale is that of the settings, or of its own alpha; without either it is 1."""
    A, B, alpha = pair.tensors["A"], pair.tensors["B"], pair.tensors.get("alpha")
    if settings is not None and alpha is not None:
        raise ValueError(f"it has {pair.keys['alpha']} beside {DIFFUSERS_METADATA}, so its scale is said twice")
    r = A.shape[0]
    if settings is not None:
        scaling = settings.scaling(pair.part.named, r)
    else:
        scaling = 1.0 if alpha is None else float(alpha) / r
    return PlainBlock(A.float(), B.float(), scaling)


def _settings_inside(
    metadata: Mapping[str, str], pairs: Mapping[tuple[str, str], _Pair]
) -> dict[str, PeftSettings | None]:
    """Those of each prefix in a diffusers file; none for a prefix that its metadata don't mention."""
    if DIFFUSERS_METADATA not in metadata:
        return {}
    try:
        fields = json.loads(metadata[DIFFUSERS_METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{DIFFUSERS_METADATA}: {reason(error)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{DIFFUSERS_METADATA} is {fields!r:.80}, which is no table")
    found = {}
    for prefix in {pair.part.prefix for pair in pairs.values()}:
        own = {name[len(prefix) :]: value for name, value in fields.items() if name.startswith(prefix)}
        own = {name: value for name, value in own.items() if "." not in name}  # not of another prefix
        found[prefix] = PeftSettings.of(own) if own else None
    return found


def _fields_beside(source: Path) -> dict[str, Any]:
    """A PEFT folder's settings. PEFT's own reader would ask the Hub for a missing file, and unpickle another."""
    config = source.parent / PEFT_SETTINGS
    if not config.is_file():
        raise FileNotFoundError(f"{source} has no {PEFT_SETTINGS} beside it, so its scale is unknown.")
    try:
        fields: Any = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config} can't be read ({reason(error)}). Export the LoRA again.") from error
    kind = fields.get("peft_type") if isinstance(fields, dict) else None
    if kind != "LORA" or not isinstance(fields, dict):
        name = _PEFT_KINDS.get(kind, kind) if isinstance(kind, str) else kind
        raise ValueError(f"{config} is a {name!s:.80} adapter of PEFT, no LoRA. Only LoRA is read here.")
    return fields
