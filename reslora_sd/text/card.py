"""How to load the adapter that a text run wrote: the line that the run ends with, and README.md in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.atomic import replacing
from .models import MINILM, SMOLLM2, base_reference

_ON_THE_HUB = {SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct", MINILM: "sentence-transformers/all-MiniLM-L6-v2"}
"""What the packages' weights are copies of: smollm2's were rounded to 4 bits in between."""
_CLASSES = {"CAUSAL_LM": "AutoPeftModelForCausalLM", "SEQ_CLS": "AutoPeftModelForSequenceClassification"}


def loading_call(folder: str, base_model: str, task_type: str, labels: int | None) -> str:
    """The Python that loads an adapter folder: no more than its path, and `num_labels` where the base lacks it."""
    from transformers import AutoConfig

    more = ""
    if labels is not None and AutoConfig.from_pretrained(base_reference(base_model)).num_labels != labels:
        more = f", num_labels={labels}"
    return f"{_CLASSES[task_type]}.from_pretrained({folder!r}{more})"


def write_card(
    folder: Path, base_model: str, task_type: str, about: Mapping[str, Any], classes: Sequence[str] | None
) -> str:
    """Writes README.md into an adapter folder; gives the call that loads it.

    Args:
        base_model: as the run's `--model`.
        about: run.json's words: `method`, `dataset`.
        classes: of a classifier: the names of its outputs in their order; one for a score.
    """
    labels = None if classes is None else len(classes)
    call = loading_call(folder.name, base_model, task_type, labels)
    hub = _ON_THE_HUB.get(base_model) or (None if Path(base_model).is_dir() else base_model)
    head = ["---", "library_name: peft", *([f"base_model: {json.dumps(hub)}"] if hub else []), "---", ""]
    lines = [
        f"# {about['method']} on {about['dataset']['name']}",
        "",
        f"An adapter of `{hub or base_reference(base_model)}`, trained with reslora-sd. It loads with PEFT:",
        "",
        "```python",
        f"from peft import {_CLASSES[task_type]}",
        "",
        f"model = {call}",
        "```",
    ]
    if classes is not None and len(classes) > 1:
        named = ", ".join(f"{place} {name}" for place, name in enumerate(classes))
        lines += ["", f"It has {len(classes)} classes, in this order: {named}."]
    elif classes is not None:
        lines += ["", "It has one output: a score (`num_labels` 1)."]
    if base_model in _ON_THE_HUB:
        copy = " (whose weights are a little different: these were rounded to 4 bits)" if base_model == SMOLLM2 else ""
        lines += [
            "",
            f"`adapter_config.json` names the base model's folder on the machine that trained it. On another one, load "
            f"`{hub}`{copy} and then `PeftModel.from_pretrained(base, {str(folder.name)!r})`.",
        ]
    with replacing(folder / "README.md") as temporary:
        temporary.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    return loading_call(str(folder), base_model, task_type, labels)
