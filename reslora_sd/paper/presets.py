"""Presets: models, data, flags, rates and seeds of the trainings, as YAML. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..runs.names import BASELINES, METHODS
from .items import PICTURES, Need, all_items, family_of

FOLDER = Path(__file__).with_name("presets")
_TASKS = tuple(dict.fromkeys(need.task for item in all_items().values() for need in item.needs))
_METHODS = (*METHODS, *BASELINES)
_NUMBERS = frozenset(
    """
    max_steps max_train_steps num_train_epochs per_device_train_batch_size train_batch_size gradient_accumulation_steps
    max_train_samples validation_samples max_length
    """.split()
)
"""Flags that a plan counts with."""
_FAMILIES = ("nlg", "nlu", PICTURES)
_OURS = frozenset(("method", "seed", "learning_rate", "output_dir", "task", "train_file", "test_file", "evaluate"))
"""Flags that a run gets from elsewhere than from the preset's flags."""


@dataclass(frozen=True)
class Preset:
    """What all runs of an output folder have in common.

    Raises:
        ValueError: a part is missing, or has a wrong type; the message names it.
    """

    name: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if unknown := self.values.keys() - _PARTS.keys():
            raise ValueError(f"The preset {self.name} has {', '.join(sorted(unknown))}, which is no part of a preset.")
        for key, (kind, needed) in _PARTS.items():
            _check(self.name, key, self.values.get(key), kind, needed)
        for key in ("seeds", "choosing_seeds"):
            if not self.values[key] or not all(_is_whole(seed) for seed in self.values[key]):
                raise ValueError(f"The preset {self.name} has {key} {self.values[key]!r}: give whole numbers.")
        for key in ("families", "tasks", "ranks", "methods"):
            for part, found in (self.values.get(key) or {}).items():
                _check(self.name, f"{key}.{part}", found, dict, True)
        self._check_names("tasks", self.values["tasks"], _TASKS)
        self._check_names("methods", self.values.get("methods") or {}, _METHODS)
        for family, found in self.values["families"].items():
            if family not in _FAMILIES:
                raise ValueError(f"The preset {self.name} has a family {family!r}: {', '.join(_FAMILIES)} are known.")
            for key, (kind, needed) in _OF_FAMILY.items():
                _check(self.name, f"families.{family}.{key}", found.get(key), kind, needed)
            for name, value in {"parameters": None, **found["shape"]}.items():
                _check(self.name, f"families.{family}.shape.{name}", value, (int, float), True)
            self._check_flags(f"families.{family}", found)
        for task, found in self.values["tasks"].items():
            for key, (kind, needed) in _OF_TASK.items():
                _check(self.name, f"tasks.{task}.{key}", found.get(key), kind, needed)
            self._check_names(f"tasks.{task}.methods", found.get("methods") or (), _METHODS)
            self._check_flags(f"tasks.{task}", found)

    def _check_names(self, where: str, names: Iterable[object], known: Collection[object]) -> None:
        for name in names:
            if name not in known:
                raise ValueError(
                    f"The preset {self.name} has {name!r} in {where}. Known are {', '.join(map(str, known))}."
                )

    def _check_flags(self, where: str, found: Mapping[str, Any]) -> None:
        if own := _OURS & found.get("flags", {}).keys():
            raise ValueError(
                f"The preset {self.name}, {where}.flags has {', '.join(sorted(own))}, which each run sets."
            )
        for name in _NUMBERS & found.get("flags", {}).keys():
            _check(self.name, f"{where}.flags.{name}", found["flags"][name], (int, float), False)
        self._check_names(f"{where}.rates", found.get("rates", {}), ("any", *_METHODS))
        if "rates" in found and "any" not in found["rates"]:
            raise ValueError(f"The preset {self.name}, {where}.rates: there is none for `any` method.")
        for method, rates in found.get("rates", {}).items():
            if not isinstance(rates, list) or not rates or not all(_is_rate(rate) for rate in rates):
                raise ValueError(
                    f"The preset {self.name}, {where}.rates.{method} is {rates!r}. Give a list of numbers above 0."
                )

    @property
    def seeds(self) -> list[int]:
        """Of the runs that are reported."""
        return list(self.values["seeds"])

    @property
    def choosing_seeds(self) -> list[int]:
        """Of the runs that choose the rates."""
        return list(self.values["choosing_seeds"])

    @property
    def is_made(self) -> bool:
        """Whether models and rows are made up by this program."""
        return bool(self.values.get("made"))

    def has(self, need: Need) -> bool:
        """Whether the preset says what data the task has, and leaves the method in."""
        if need.task not in self.values["tasks"] or family_of(need.task) not in self.values["families"]:
            return False
        return need.method in self.task(need.task).get("methods", [need.method])

    def family(self, task: str) -> Mapping[str, Any]:
        """The part for the training script of a task."""
        found: Mapping[str, Any] = self.values["families"][family_of(task)]
        return found

    def task(self, task: str) -> Mapping[str, Any]:
        """The part for the task."""
        found: Mapping[str, Any] = self.values["tasks"][task]
        return found

    def rates(self, need: Need) -> list[float]:
        """The rates that are tried for a method on a task, sorted."""
        found = self.task(need.task).get("rates") or self.family(need.task)["rates"]
        return sorted(set(map(float, found.get(need.method, found["any"]))))

    def flags(self, need: Need) -> dict[str, Any]:
        """Flags of a training that matter for its results, but for rate and seed; `None` means left out."""
        family, task = self.family(need.task), self.task(need.task)
        ranks = {**self.values.get("ranks", {}), **family.get("ranks", {})}
        found = {**family["flags"], **task.get("flags", {}), **self.values.get("methods", {}).get(need.method, {})}
        if need.rank is not None:
            found |= {"rank": need.rank, **ranks.get(need.rank, {})}
        if need.pre_num is not None:
            found["pre_num"] = need.pre_num
        found["method"] = need.method
        if need.task != PICTURES:
            found["task"] = need.task
        return {name: value for name, value in found.items() if value is not None}

    def machine(self, task: str) -> dict[str, Any]:
        """Flags that only say where and how a training runs."""
        return dict(self.family(task).get("machine", {}))


_Kind = type | tuple[type, ...]
_PARTS: dict[str, tuple[_Kind, bool]] = {
    "about": (str, True),
    "seeds": (list, True),
    "choosing_seeds": (list, True),
    "families": (dict, True),
    "tasks": (dict, True),
    "ranks": (dict, False),
    "methods": (dict, False),
    "made": (bool, False),
}
_OF_FAMILY: dict[str, tuple[_Kind, bool]] = {
    "model": (str, True),
    "shape": (dict, True),
    "rates": (dict, True),
    "flags": (dict, True),
    "machine": (dict, False),
    "ranks": (dict, False),
    "licence": (str, False),
    "package": (str, False),
    "seconds_a_step": ((int, float), False),
}
_OF_TASK: dict[str, tuple[_Kind, bool]] = {
    "train_file": (str, False),
    "test_file": (str, False),
    "rows": (int, False),
    "flags": (dict, False),
    "rates": (dict, False),
    "methods": (list, False),
}


def _check(preset: str, where: str, value: Any, kind: _Kind, needed: bool) -> None:
    if value is None and not needed:
        return
    if not isinstance(value, kind):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"The preset {preset} has {value!r:.80} for {where}. It must be a {names}.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def preset_names() -> list[str]:
    """Those that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_preset(name: str, changes: Sequence[str] = ()) -> Preset:
    """A preset of the package, or a YAML file.

    Args:
        changes: such as `nlg.max_steps=50` or `pictures.train_data_dir=FOLDER`: flags of a family or of a task, over
            the preset's own; `seeds=42,43`.

    Raises:
        ValueError: there is none, it is damaged, or a change can't be made.
    """
    file = FOLDER / f"{name}.yaml" if name in preset_names() else Path(name)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"There is no preset {name!r}. Give one of {', '.join(preset_names())}, or a YAML file ({error.strerror})."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no table of a preset's parts.")
    Preset(name, values)
    for change in changes:
        _change(values, change)
    return Preset(name, values)


def _change(values: dict[str, Any], change: str) -> None:
    where, equals, text = change.partition("=")
    part, _, flag = where.partition(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if equals and where in ("seeds", "choosing_seeds"):
        values[where] = (
            value
            if isinstance(value, list)
            else [int(one) for one in text.replace(" ", "").split(",") if one.isdigit()]
        )
        return
    tables = {**values["tasks"], **values["families"]}
    if not equals or not flag or part not in tables:
        raise ValueError(
            f"--set {change}: give PART.FLAG=VALUE, where PART is one of {', '.join(tables)}; or seeds=42,43."
        )
    if flag == "model":
        tables[part]["model"] = value
    else:
        tables[part].setdefault("flags", {})[flag] = value
