"""The settings of an adapter: one frozen dataclass, checked when it is made and stored inside the weights file."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from .runs.names import METHODS

Precision = Literal["fp16", "bf16", "float32"]
"""Of the numbers in a LoRA file."""
RESIDUALS = ("none", "input", "block", "middle", "frozen")

_MOST = 1e30
"""No scale is larger; whole numbers beyond a float's range can't be divided."""
_MOST_RANK = 65_536
"""Above the width of any layer that exists; a mistyped one would end in torch's own words."""

_DEFAULT_PRE_NUM = {"none": 0, "input": 1, "block": 4, "middle": 4, "frozen": 1}


@dataclass(frozen=True)
class ResLoRAConfig:
    """What an adapter is made of.

    Source: the ResLoRA paper, sections 3.1 and 3.2 and appendix C (text-to-image settings).

    Raises:
        ValueError: a setting is out of range; the message names it, its value and what it may be.
    """

    residual: str = "input"
    """Which path joins the blocks: `none` (LoRA, Eq. 1), `input` (Eq. 2), `block` (Eq. 3), `middle` (Eq. 4),
    `frozen` (Eq. 2 with a frozen linear map of x_n in the place of x_{n-1})."""

    r: int = 16
    """Rank of every block."""

    lora_alpha: float = 32.0
    """The branch is scaled by `lora_alpha / r`."""

    lora_dropout: float = 0.0
    """Probability of dropping an entry of a block's input while training."""

    target_modules: tuple[str, ...] | str = ("to_q", "to_k", "to_v", "to_out.0")
    """Last parts of module paths (`to_q` matches `attn1.to_q`, never `add_to_q`), or one regular expression
    that a whole path must match."""

    pre_num: int | None = None
    """How many predecessors Eqs. 3 and 4 use; -1 for all. `None` means 4, the paper's choice (Eq. 2, `frozen`: 1)."""

    first_block: str = "self"
    """What Eq. 2 (`input`, `frozen`) adds where a chain starts: `self` (x_n once more, section 3.2) or `none` (nothing,
    appendix C)."""

    link: str = "neighbour"
    """`neighbour`: a path only from the block directly before, if it has the same size (appendix C);
    `same_size`: from the latest earlier block of the same size."""

    across_attention: bool = False
    """One chain through self- and cross-attention in turn, instead of one chain for each."""

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, list):  # JSON has no tuples
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        _choice("residual", self.residual, RESIDUALS)
        _choice("first_block", self.first_block, ("self", "none"))
        _choice("link", self.link, ("neighbour", "same_size"))
        if not _is_int(self.r) or not 1 <= self.r <= _MOST_RANK:
            raise ValueError(f"r (the rank) is {self.r!r:.80}. It must be a whole number from 1 to {_MOST_RANK:,}.")
        if not _is_number(self.lora_alpha) or not 0 < self.lora_alpha < _MOST:
            raise ValueError(f"lora_alpha is {self.lora_alpha!r:.80}. It must be a number above 0.")
        if not _is_number(self.lora_dropout) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout!r:.80}. It must be at least 0 and below 1.")
        if not isinstance(self.across_attention, bool):
            raise ValueError(f"across_attention is {self.across_attention!r:.80}. It must be true or false.")
        self._check_target_modules()
        self._check_pre_num()

    def _check_target_modules(self) -> None:
        targets = self.target_modules
        if not targets:
            raise ValueError("target_modules is empty. Name at least one module, for example 'to_q'.")
        if not isinstance(targets, str) and not (
            isinstance(targets, tuple) and all(isinstance(name, str) and name for name in targets)
        ):
            raise ValueError(f"target_modules is {targets!r:.80}. It must be names, or one regular expression.")
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(
                    f"target_modules is {targets!r:.80}, which is no regular expression: {error}."
                ) from error

    def _check_pre_num(self) -> None:
        default = _DEFAULT_PRE_NUM[self.residual]
        if self.pre_num is None:
            object.__setattr__(self, "pre_num", default)
        elif not _is_int(self.pre_num):
            raise ValueError(f"pre_num is {self.pre_num!r:.80}. It must be a whole number, or -1 for all predecessors.")
        elif self.residual in ("none", "input", "frozen"):
            if self.pre_num != default:
                raise ValueError(
                    f"pre_num is {self.pre_num}, but residual {self.residual!r} always uses {default}. "
                    "Leave pre_num out, or choose residual 'block' or 'middle'."
                )
        elif self.pre_num != -1 and self.pre_num < 1:
            raise ValueError(f"pre_num is {self.pre_num}. It must be 1 or more, or -1 for all predecessors.")

    @property
    def scaling(self) -> float:
        """`lora_alpha / r`."""
        return self.lora_alpha / self.r

    @property
    def doubles_start(self) -> bool:
        """Whether a block that starts a chain is LoRA at twice the scale: Eq. 2 with x_{n-1} = x_n."""
        return self.residual in ("input", "frozen") and self.first_block == "self"

    @property
    def method(self) -> str:
        """The name on the command line, for example `reslora_is`."""
        return next(name for name, residual in METHODS.items() if residual == self.residual)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line, for the metadata of a safetensors file."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ResLoRAConfig:
        """The reverse of `to_json`. Unknown fields raise `ValueError`: a newer file must not lose a setting."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The adapter's settings are not JSON: {text[:80]!r}. The file is damaged.") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            extra = sorted(set(values) - known) if isinstance(values, dict) else f"{values!r:.80}"
            raise ValueError(
                f"The adapter has settings that this version does not know: {extra}. Install a newer reslora-sd."
            )
        return cls(**values)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r:.80}. It must be one of {', '.join(allowed)}.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
