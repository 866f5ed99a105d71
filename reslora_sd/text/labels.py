"""Which output of a classifier is which class: by the names in its config, never by place.

Label orders differ between models: `roberta-large-mnli` has contradiction first, GLUE's MNLI entailment. A head whose
names say nothing (`LABEL_0`) may be in any order, and one with other names is another task's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

logger = logging.getLogger("reslora_sd")

Names = Sequence[Sequence[str]]
"""Of every class in the task's order: its name, and others that models use for it."""
_SAYS_NOTHING = re.compile(r"(label|class)?_?\d+")


def class_order(names: Names, id2label: Mapping[Any, Any]) -> tuple[int, ...] | None:
    """For every class of the task its output, or `None` where the model's names aren't the task's."""
    places = {_normal(label): int(place) for place, label in id2label.items()}
    order = [next((places[one] for one in map(_normal, own) if one in places), None) for own in names]
    found = tuple(place for place in order if place is not None)
    return found if len(id2label) == len(names) and sorted(found) == list(range(len(names))) else None


def take_head(
    model: Any, name: str, stored: Any, names: Names, head: Sequence[str], has_head: bool, wants_new: bool
) -> None:
    """Decides whether a loaded head goes on or a new one trains, and writes classes and problem into the config.

    Args:
        name: of the model, for messages.
        stored: the config as its folder has it.
        names: the task's classes; none for a score.
        head: children of the model.
        has_head: whether the folder's weights fill the head.
        wants_new: whether a head that is there is replaced anyway.

    Raises:
        ValueError: its order can't be known.
    """
    config = model.config
    # transformers computes the loss by what the head's last task was
    config.problem_type = "single_label_classification" if names else "regression"
    known = has_head and not wants_new and (not names or _goes_on(name, stored, names))
    if known:
        return
    if has_head:
        logger.warning("The head of %s is not taken over: a new one trains.", name)
        _renew(model, head)
    if names:
        config.id2label = {place: own[0] for place, own in enumerate(names)}
        config.label2id = {own[0]: place for place, own in enumerate(names)}


def _goes_on(name: str, stored: Any, names: Names) -> bool:
    """Whether a head with as many outputs as the task has classes is the task's own."""
    if class_order(names, stored.id2label) is not None:
        return True
    if all(_SAYS_NOTHING.fullmatch(_normal(label)) for label in stored.id2label.values()):
        classes, theirs = ", ".join(own[0] for own in names), ", ".join(map(str, stored.id2label.values()))
        raise ValueError(
            f"{name} has a head with {len(names)} outputs, named {theirs}: which of them is which class ({classes}) "
            "can't be known. Write these names into id2label and label2id of its config.json, in the head's own order, "
            "or train a new head with --new_head."
        )
    theirs = ", ".join(map(str, stored.id2label.values()))
    logger.warning("%s tells %s apart, which is another task.", name, theirs)
    return False


def _renew(model: Any, head: Sequence[str]) -> None:
    """Draws a head as models of BERT's kind draw theirs: normal weights, zero biases."""
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    for child in head:
        for module in model.get_submodule(child).modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviation)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()


def _normal(label: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(label).lower()).strip("_")
