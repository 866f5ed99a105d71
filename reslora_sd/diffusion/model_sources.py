"""Where a base model's parts come from: a pipeline's folder, the Hub, or a single file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..training.command import first_words
from .single_file import CheckpointFile, is_single_file

if TYPE_CHECKING:
    import torch


class Source(Protocol):
    """Where a model's parts come from: a pipeline's folder, the Hub, or one file."""

    def index(self) -> dict[str, Any]:
        """What model_index.json says."""

    def load(self, part: str, kind: Any, dtype: torch.dtype | None = None) -> Any:
        """One part, read anew."""

    def assembled(self, pipeline: Any, parts: dict[str, Any]) -> Any:
        """A pipeline of these parts, with the model's own sampler."""

    def sampled_as(self) -> str:
        """The prediction type that diffusers alone samples the model with."""


@dataclass(frozen=True)
class FolderOrHub:
    """A folder that `save_pretrained` of a pipeline wrote, or a name on the Hub."""

    name: str
    revision: str | None = None
    variant: str | None = None
    cache_dir: str | None = None

    def _where(self) -> dict[str, Any]:
        return {"revision": self.revision, "cache_dir": self.cache_dir}

    def index(self) -> dict[str, Any]:
        """As `Source`.

        Raises:
            ValueError: there is none.
        """
        import diffusers

        what = "model_index.json"
        found = _load(what, self.name, lambda: diffusers.DiffusionPipeline.load_config(self.name, **self._where()))
        return dict(found)

    def load(self, part: str, kind: Any, dtype: torch.dtype | None = None) -> Any:
        """As `Source`.

        Raises:
            ValueError: it can't be read.
        """
        more = self._where()
        if not part.startswith(("tokenizer", "scheduler")):
            more |= {"variant": self.variant, **({"dtype": dtype} if dtype else {})}
        return _load(part, self.name, lambda: kind.from_pretrained(self.name, subfolder=part, **more))

    def assembled(self, pipeline: Any, parts: dict[str, Any]) -> Any:
        """As `Source`."""
        return pipeline.from_pretrained(self.name, variant=self.variant, **self._where(), **parts)

    def sampled_as(self) -> str:
        """As `Source`."""
        import diffusers

        return str(self.load("scheduler", diffusers.DDPMScheduler).config.prediction_type)


def source_of(
    name: str,
    revision: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    cache_dir: str | None = None,
    model_config: str | None = None,
    tokenizer_name: str | None = None,
) -> Source:
    """What a base model's name means.

    Raises:
        ValueError: it is a file that is none of ours, or a flag is for files alone.
    """
    if is_single_file(name):
        if revision or variant:
            raise ValueError(f"{name} is a file: --revision and --variant are for models of the Hub. Leave them out.")
        return CheckpointFile(name, prediction_type, model_config, tokenizer_name, cache_dir)
    if model_config:
        raise ValueError(f"--model_config is for a model in one file, and {name} is none. Leave it out.")
    return FolderOrHub(name, revision, variant, cache_dir)


def _load(part: str, name: str | Path, loader: Any) -> Any:
    try:
        return loader()
    except (OSError, ValueError, KeyError) as error:
        first = first_words(error)
        if part == "model_index.json" and not Path(name).is_dir():
            first = f"there is no such folder, and the Hub: {first}"
        raise ValueError(
            f"Cannot read {part} of {str(name)!r}: {first} "
            "Give a folder that StableDiffusionPipeline.save_pretrained wrote, or a name on the Hub, or leave "
            "--pretrained_model_name_or_path out to train the small model that is embedded here."
        ) from error
