"""The scale of a pair by the settings of PEFT's LoraConfig: of adapter_config.json, or of a diffusers file's metadata.

Rules, read in huggingface/peft `tuners/lora/model.py` (which pattern is a module's), `utils/other.py`
(`get_pattern_key`) and `tuners/lora/layer.py` (the scale, and which initializations change the base weights).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHANGES_MORE = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "biases",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "LoRA of bare parameters",
}
"""Settings under which there is more than delta W = scaling * lora_B @ lora_A."""
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "lora_only")
"""Values of `init_lora_weights` that leave the base model's weights as they are. PiSSA, OLoRA and others don't."""
_LONGEST_PATTERN = 1000


@dataclass(frozen=True)
class PeftSettings:
    """What decides the scale of each pair.

    Raises:
        ValueError: a field is of the wrong kind, or says that this is more than a plain LoRA.
    """

    r: int
    lora_alpha: float
    ranks: tuple[tuple[re.Pattern[str], int], ...] = ()
    alphas: tuple[tuple[re.Pattern[str], float], ...] = ()
    use_rslora: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> PeftSettings:
        """From a table in PEFT's names; fields that change nothing about the result are passed over."""
        for name, what in _CHANGES_MORE.items():
            if fields.get(name):
                raise ValueError(f"{name} is {fields[name]!r:.80}: {what}, which isn't supported")
        start = fields.get("init_lora_weights")
        if not any(start is one or (isinstance(one, str) and start == one) for one in _PLAIN_STARTS):
            raise ValueError(
                f"init_lora_weights is {start!r:.80}, which changes the base model too, which isn't supported; PEFT's "
                "save_pretrained with path_initial_model_for_weight_conversion makes a plain LoRA of it"
            )
        use_rslora = fields.get("use_rslora") or False
        if not isinstance(use_rslora, bool):
            raise ValueError(f"use_rslora is {use_rslora!r:.80}, which is neither true nor false")
        return cls(
            _rank("r", fields.get("r", 8)),  # PEFT's own defaults
            _number("lora_alpha", fields.get("lora_alpha", 8)),
            _patterns("rank_pattern", fields.get("rank_pattern"), _rank),
            _patterns("alpha_pattern", fields.get("alpha_pattern"), _number),
            use_rslora,
        )

    def scaling(self, name: str, r: int) -> float:
        """Of one module's pair.

        Args:
            name: the module's path as PEFT sees it.
            r: the rank that its matrices have.

        Raises:
            ValueError: the settings give it another rank, so that PEFT itself would refuse it.
        """
        told = _match(self.ranks, name, self.r)
        if told != r:
            raise ValueError(f"the settings give {name} rank {told}, but its matrices have {r}")
        alpha: float = _match(self.alphas, name, self.lora_alpha)
        return alpha / (math.sqrt(r) if self.use_rslora else r)


def _match(patterns: tuple[tuple[re.Pattern[str], Any], ...], name: str, default: Any) -> Any:
    """The value of the first pattern that fits a whole name, or its end from a dot on."""
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def _patterns(field: str, table: Any, convert: Any) -> tuple[tuple[re.Pattern[str], Any], ...]:
    if table is None:
        return ()
    if not isinstance(table, dict):
        raise ValueError(f"{field} is {table!r:.80}, which is no table")
    found = []
    for key, value in table.items():
        if len(key) > _LONGEST_PATTERN:
            raise ValueError(f"{field} has a pattern of {len(key)} characters")
        try:
            found.append((re.compile(rf"(.*\.)?({key})$"), convert(f"{field} of {key!r:.80}", value)))
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{field} has {key!r:.80}, which is no pattern ({error})") from error
    return tuple(found)


def _rank(field: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{field} is {value!r:.80}, which is no rank")
    return value


def _number(field: str, value: Any) -> float:
    if type(value) not in (int, float) or not -1e30 < value < 1e30:
        raise ValueError(f"{field} is {value!r:.80}, which is no finite number")
    return float(value)
