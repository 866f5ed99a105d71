"""What somebody asks to be trained, checked, and the script's flags for it; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from reslora_sd.diffusion.defaults import EMBEDDED_DEFAULTS, OWN_DEFAULTS, OWN_INTERVAL, OWN_STEPS, STYLE_DEFAULTS
from reslora_sd.diffusion.optimizer_settings import Schedule
from reslora_sd.diffusion.settings import TrainingSettings, UnetMethod
from reslora_sd.runs.names import DEFAULT_PROMPTS, METHODS

EMBEDDED = "embedded"
"""What the page calls the base model that comes with the package, which the script takes where none is named."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_MOST_PROMPTS, _LONGEST_PROMPT = 16, 1000


SCHEDULES: tuple[str, ...] = get_args(Schedule)
EXTRAS: dict[str, tuple[str, float, float]] = {
    "resolution": ("Resolution", 8, 2048),
    "lora_alpha": ("Alpha", 1e-3, 1024),
    "lr_warmup_steps": ("Warm-up steps", 0, 100_000),
    "gradient_accumulation_steps": ("Accumulation", 1, 1024),
    "min_timestep": ("From timestep", 0, 10_000),
    "max_timestep": ("Below timestep", 1, 10_000),
    "snr_gamma": ("Min-SNR gamma", 1e-3, 100),
    "validation_guidance_scale": ("Guidance of pictures", 1, 30),
    "validation_inference_steps": ("Sampler steps of pictures", 1, 150),
}
"""Flags that are left to the script where nobody sets them: what the page calls them, and their bounds."""


@dataclass(frozen=True)
class Suggestion:
    """What the page's fields show for the embedded model until somebody types something else."""

    prompts: str
    """One a line."""
    steps: int
    learning_rate: float
    validation_steps: int


BUILT_IN = Suggestion("\n".join(DEFAULT_PROMPTS), 100, STYLE_DEFAULTS["learning_rate"], 10)
OWN = Suggestion("", OWN_STEPS, OWN_DEFAULTS["learning_rate"], OWN_INTERVAL)
"""On somebody's own pictures: the script's own defaults, which draw some of their captions."""


@dataclass(frozen=True)
class TrainingRequest:
    """Equal settings for all methods. The page's fields show these defaults, too.

    Raises:
        ValueError: a value is out of range.
    """

    name: str
    """Of the folder that the runs come into."""
    methods: tuple[str, ...] = ("lora", "reslora_is")
    pictures: Path | None = None
    """Folder of pictures with metadata.jsonl; `None` for the embedded drawings."""
    prompts: tuple[str, ...] = ()
    """Validation prompts; none for the script's own, with the embedded model: names of drawings, or captions."""
    model: str = EMBEDDED
    steps: int = BUILT_IN.steps
    batch: int = EMBEDDED_DEFAULTS["train_batch_size"]
    learning_rate: float = BUILT_IN.learning_rate
    rank: int = UnetMethod.rank
    seed: int = TrainingSettings.seed
    validation_steps: int = BUILT_IN.validation_steps
    """Steps between validation pictures."""
    checkpointing_steps: int = 20
    """Steps between checkpoints."""
    resolution: int | None = None
    """This and those below are flags of the script, which has its own defaults for them."""
    lora_alpha: float | None = None
    lr_scheduler: str | None = None
    lr_warmup_steps: int | None = None
    gradient_accumulation_steps: int | None = None
    min_timestep: int | None = None
    max_timestep: int | None = None
    snr_gamma: float | None = None
    validation_guidance_scale: float | None = None
    validation_inference_steps: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.methods or not set(self.methods) <= set(METHODS) or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"The methods are {list(self.methods)}. Choose at least one of {', '.join(METHODS)}, each once."
            )
        if len(self.prompts) > _MOST_PROMPTS or any(
            prompt.endswith(".txt") or len(prompt) > _LONGEST_PROMPT for prompt in self.prompts
        ):
            raise ValueError(
                f"Validation prompts are at most {_MOST_PROMPTS} lines of at most {_LONGEST_PROMPT} letters, none of "
                "them a file name."
            )
        if self.model.startswith("-"):
            raise ValueError(
                f"The base model is {self.model!r}. It must be {EMBEDDED!r}, a folder, or a name on the Hub."
            )
        if self.lr_scheduler is not None and self.lr_scheduler not in SCHEDULES:
            raise ValueError(f"The schedule is {self.lr_scheduler!r:.80}. It must be one of {', '.join(SCHEDULES)}.")
        self._check_bounds()

    def _check_bounds(self) -> None:
        extras = [(EXTRAS[name][0], value, *EXTRAS[name][1:]) for name, value in self._extras().items()]
        for what, value, low, high in (
            ("number of steps", self.steps, 1, 100_000),
            ("batch size", self.batch, 1, 64),
            ("learning rate", self.learning_rate, 1e-7, 1.0),
            ("rank", self.rank, 1, 256),
            ("seed", self.seed, 0, 2**31),
            ("distance of validation pictures", self.validation_steps, 1, 100_000),
            ("distance of checkpoints", self.checkpointing_steps, 1, 100_000),
            *extras,
        ):
            if not low <= value <= high:
                raise ValueError(f"The {what} is {value}. It must be from {low} to {high}.")

    def _extras(self) -> dict[str, float]:
        """Those that somebody set, by their flag."""
        return {name: value for name in EXTRAS if (value := getattr(self, name)) is not None}

    def flags(self, home: Path, method: str) -> list[str]:
        """The script's flags for one method, whose run comes into `home`.

        Writes the prompts into a file there: one that looks like a flag stays a prompt.
        """
        flags = ["--method", method, "--output_dir", str(home / method), "--max_train_steps", str(self.steps)]
        flags += ["--train_batch_size", str(self.batch), "--learning_rate", str(self.learning_rate)]
        flags += ["--rank", str(self.rank), "--seed", str(self.seed), "--center_crop"]
        flags += ["--checkpointing_steps", str(self.checkpointing_steps)]
        words = {"lr_scheduler": self.lr_scheduler} if self.lr_scheduler is not None else {}
        for name, value in {**words, **self._extras()}.items():
            flags += [f"--{name}", str(value)]
        if self.model != EMBEDDED:
            flags += ["--pretrained_model_name_or_path", self.model]
        if self.pictures is not None:
            flags += ["--train_data_dir", str(self.pictures.resolve())]
        if self.prompts or self.model == EMBEDDED:  # the embedded model has prompts of its own
            flags += ["--validation_steps", str(self.validation_steps)]
        if self.prompts:
            home.mkdir(parents=True, exist_ok=True)
            file = home / "prompts.txt"
            file.write_text("\n".join(" ".join(prompt.split()) for prompt in self.prompts) + "\n", encoding="utf-8")
            flags += ["--validation_prompts", str(file)]
        return flags

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        pictures = str(self.pictures.resolve()) if self.pictures is not None else None
        return {**asdict(self), "methods": list(self.methods), "prompts": list(self.prompts), "pictures": pictures}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TrainingRequest:
        """Settings of a file that anybody may have written.

        Raises:
            ValueError: an entry is missing, unknown, of another kind or out of range.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        later = {"lr_scheduler", *EXTRAS}  # files of before don't have them
        odd = sorted((found.keys() ^ kinds.keys()) - (later - found.keys()))
        if odd:
            raise ValueError(f"The settings differ from a training's in {', '.join(odd)[:200]}.")
        for name, value in found.items():
            if not _is(kinds[name], value):
                raise ValueError(f"The setting {name} is {value!r:.80}, which is no value of it.")
        folder = found["pictures"]
        return cls(
            **{
                **found,
                "methods": tuple(found["methods"]),
                "prompts": tuple(found["prompts"]),
                "pictures": None if folder is None else Path(folder),
            }
        )


def _is(kind: Any, value: Any) -> bool:
    """Whether a value of JSON can be that of a field, by the field's annotation."""
    if isinstance(value, bool):
        return False
    if kind == "tuple[str, ...]":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == "Path | None":
        return value is None or (isinstance(value, str) and "\0" not in value)
    if str(kind).endswith(" | None"):
        return value is None or _is(str(kind).removesuffix(" | None"), value)
    return isinstance(value, {"str": (str,), "int": (int,), "float": (int, float)}[kind])


def check_name(name: str) -> None:
    """Raises `ValueError` for what can't be the name of a folder of trainings."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"The name is {name!r}. It must be 1 to 48 letters, digits, - or _, a letter or digit first.")
