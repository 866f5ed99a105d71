"""Single-file checkpoints, as Stability AI's code wrote them and most models are shared.

What a file is can be seen in its tensors' names; shapes and noise schedule come from small configs in this package, so
that nothing is fetched. Facts, read in diffusers `loaders/single_file_utils.py` (names), ComfyUI `supported_models.py`
(`v_pred`, `ztsnr`, `edm_mean`) and Stability-AI/ModelSpec (metadata).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..assets import MODEL_CONFIGS
from ..files.storage import reason
from .tokenizers import END, EXCLAMATION, clip_tokenizer, read_tokenizer

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_SUFFIX = ".safetensors"
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_FIRST = f"{_UNET}input_blocks.0.0.weight"
_UNET_INNER = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.", "output_blocks.", "out.")
_VAE_INNER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_SD1_TEXT, _SD2_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
_XL_TEXT = ("conditioner.embedders.0.", "conditioner.embedders.1.")
_ZERO_SNR = "ztsnr"
_V, _EPSILON = "v_prediction", "epsilon"
_PREDICTIONS = {_EPSILON: _EPSILON, "v": _V, _V: _V}
"""As modelspec names them, and as diffusers does."""
_OTHERS = {
    "lora_": "a LoRA. Start from it with --init_lora",
    "control_model.": "a ControlNet",
    "double_blocks.": "a FLUX model, which this version can't train",
    "joint_blocks.": "a Stable Diffusion 3 model, which this version can't train",
    "down_blocks.": "a part of a pipeline's folder. Give that folder",
    "decoder.": "a VAE. Give a whole model here, and the VAE as a folder by --pretrained_vae_model_name_or_path",
}


@dataclass(frozen=True)
class Family:
    """What a file can be."""

    title: str
    config: str
    """Folder in `MODEL_CONFIGS`."""
    text: Mapping[str, tuple[str, str]]
    """By text encoder: start of its tensors' names, and what fills a short prompt."""
    sampled_as: str = _EPSILON
    """The prediction type that diffusers' `from_single_file` takes for it."""


_SD2_PARTS = {"text_encoder": (_SD2_TEXT, EXCLAMATION)}
SD1 = Family("Stable Diffusion 1.x", "sd1", {"text_encoder": (_SD1_TEXT, END)})
SD2 = {
    _EPSILON: Family("Stable Diffusion 2.x at 512", "sd2-512", _SD2_PARTS, _V),
    _V: Family("Stable Diffusion 2.x at 768", "sd2-768-v", _SD2_PARTS, _V),
}
SDXL = Family("SDXL", "sdxl", {"text_encoder": (_XL_TEXT[0], END), "text_encoder_2": (_XL_TEXT[1], EXCLAMATION)})


def is_single_file(name: str) -> bool:
    """Whether a model's name means a file, there or not."""
    return Path(name).suffix.lower() in (_SUFFIX, *_PICKLES) or Path(name).is_file()


class CheckpointFile:
    """A model in one file. Only the parts that are asked for are read.

    Args:
        model_config: a pipeline's folder without weights, for a model whose sizes are not its family's.
        prediction_type: counts more than what the file says.

    Raises:
        ValueError: it is a pickle, no checkpoint of this kind, damaged, or doesn't say what it predicts.
    """

    def __init__(
        self,
        path: str,
        prediction_type: str | None = None,
        model_config: str | None = None,
        tokenizer_name: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._tokenizer_name, self._cache_dir, self._own_config = tokenizer_name, cache_dir, model_config
        self._shapes, self._metadata = _header(self.path)
        _check_kind(self.path, self._shapes)
        self.family = self._family(prediction_type)
        self.folder = Path(model_config) if model_config else MODEL_CONFIGS / self.family.config
        if not (self.folder / "model_index.json").is_file():
            raise ValueError(f"--model_config {self.folder}: there is no model_index.json in it.")

    @property
    def says(self) -> str | None:
        """The prediction type that the file itself names, if any."""
        spec = str(self._metadata.get("modelspec.prediction_type", "")).lower()
        architecture = str(self._metadata.get("modelspec.architecture", "")).lower()
        if "v_pred" in self._shapes or "v2-768-v" in architecture:
            return _V
        return _PREDICTIONS.get(spec) or (_EPSILON if "v2-512" in architecture else None)

    def _family(self, asked: str | None) -> Family:
        names = self._shapes
        if any(name.startswith(_XL_TEXT[1]) for name in names):
            return SDXL
        if any(name.startswith(_SD1_TEXT) for name in names):
            return SD1
        if not any(name.startswith(_SD2_TEXT) for name in names):
            refiner = any(name.startswith(_XL_TEXT[0]) for name in names)
            what = "is SDXL's refiner, which isn't trained" if refiner else "holds no text encoder of Stable Diffusion"
            raise ValueError(f"{self.path} {what}. Give a whole checkpoint of SD 1.x, SD 2.x or SDXL.")
        kind = asked or self.says
        if kind is None and self._own_config is None:
            raise ValueError(
                f"{self.path} is of Stable Diffusion 2.x and doesn't say what it predicts, which its weights don't "
                "show. Give --prediction_type v_prediction for a model of 768 pixels (2.0 and 2.1), or "
                "--prediction_type epsilon for one of 512 (the base models)."
            )
        return SD2[kind or _EPSILON]

    def index(self) -> dict[str, Any]:
        """What model_index.json of the config says."""
        from diffusers import DiffusionPipeline

        return dict(DiffusionPipeline.load_config(str(self.folder)))

    def assembled(self, pipeline: Any, parts: dict[str, Any]) -> Any:
        """A pipeline of these parts, with the sampler of the config; for zero terminal SNR, one that can."""
        from diffusers import DDIMScheduler

        found = pipeline.from_pretrained(str(self.folder), **parts)
        changes = self._scheduler_changes()
        kind = DDIMScheduler if _ZERO_SNR in self._shapes else type(found.scheduler)
        found.scheduler = kind.from_config(found.scheduler.config, **changes) if changes else found.scheduler
        return found

    def sampled_as(self) -> str:
        """The prediction type that diffusers' own `from_single_file` samples with."""
        if self._own_config is None:
            return self.family.sampled_as
        from diffusers import DDPMScheduler

        return str(DDPMScheduler.from_pretrained(str(self.folder), subfolder="scheduler").config.prediction_type)

    def _scheduler_changes(self) -> dict[str, Any]:
        """What the file says of its noise schedule, against its family's."""
        kind = {"prediction_type": self.says} if self.says else {}
        zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if _ZERO_SNR in self._shapes else {}
        return {**kind, **zero}

    def load(self, part: str, kind: Any, dtype: Any = None) -> Any:
        """One part of the pipeline: a model, a tokenizer or the scheduler.

        Raises:
            ValueError: it isn't in the file, or has other sizes than the config says; the message names the file.
        """
        if part.startswith("tokenizer"):
            return self._tokenizer(part)
        if part == "scheduler":
            return kind.from_pretrained(str(self.folder), subfolder=part, **self._scheduler_changes())
        tensors = self._tensors(part)
        if not tensors:
            more = " Give one with --pretrained_vae_model_name_or_path." if part == "vae" else ""
            raise ValueError(f"{self.path} holds no {part}.{more}")
        try:
            model = _converted(part, kind, tensors, str(self.folder))
        except NotImplementedError as error:  # of torch, for a tensor without data
            raise self._misfit(part, "some of its tensors are missing") from error
        except Exception as error:  # of diffusers and torch, many kinds; each is about this file and config
            raise self._misfit(part, reason(error)) from error
        lacking = [name for name, value in model.named_parameters() if value.is_meta]
        if lacking:
            raise self._misfit(part, f"{lacking[0]} and {len(lacking) - 1} more are missing")
        if part in ("unet", "vae") and len(tensors) != len(model.state_dict()):
            raise self._misfit(
                part, f"it has {len(tensors)} tensors, and the config asks for {len(model.state_dict())}"
            )
        return model if dtype is None else nn.Module.to(model, dtype)  # diffusers' own warns of nothing

    def _misfit(self, part: str, why: str) -> ValueError:
        return ValueError(
            f"The {part} in {self.path} doesn't fit the config {self.folder / part} ({why}). The file is damaged, or "
            "has sizes of its own: then give --model_config with the folder of a pipeline that has them. It needs no "
            "weights."
        )

    def _tokenizer(self, part: str) -> Any:
        if self._own_config and self._tokenizer_name is None and (self.folder / part).is_dir():
            return read_tokenizer(str(self.folder), subfolder=part)
        pad = self.family.text[part.replace("tokenizer", "text_encoder")][1]
        return clip_tokenizer(self._tokenizer_name, pad, self._cache_dir)

    def _tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, under their own names; not those of EMA, which training doesn't go on from."""
        if part == "unet":
            starts = tuple(_UNET + inner for inner in _UNET_INNER)
        elif part == "vae":
            starts = tuple(_VAE + inner for inner in _VAE_INNER)
        else:
            starts = (self.family.text[part][0],) if part in self.family.text else ()
        wanted = [name for name in self._shapes if starts and name.startswith(starts)]
        with safe_open(self.path, framework="pt") as file:
            tensors = {_renamed(name): file.get_tensor(name) for name in wanted if not name.endswith("position_ids")}
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise ValueError(f"{self.path} holds {tensor.dtype} numbers in {name}, and a model has fractions.")
        return tensors


def _header(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Shapes by name, and metadata; no weights are read."""
    if path.suffix.lower() in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which executes whatever it holds when it is opened. Take the .safetensors file of "
            "the same model, or convert it once where you trust it: torch.load(path, weights_only=True) and "
            "safetensors.torch.save_file."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Give the path of a .safetensors checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return shapes, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({reason(error)}). Copy or download it again."
        ) from error


def _check_kind(path: Path, shapes: Mapping[str, list[int]]) -> None:
    if _FIRST not in shapes:
        found = next((what for part, what in _OTHERS.items() if any(part in name for name in shapes)), None)
        raise ValueError(
            f"{path} is no checkpoint of Stable Diffusion: it has no {_FIRST}."
            + (f" It looks like {found}." if found else " Give one of SD 1.x, SD 2.x or SDXL.")
        )
    if any(name in shapes for name in ("edm_mean", "edm_vpred.sigma_max")):
        raise ValueError(f"{path} was trained with EDM's noise, which this version can't go on with.")
    shape = shapes[_FIRST]
    if len(shape) == 4 and shape[1] != 4:
        what = {9: "for inpainting", 8: "for editing pictures"}.get(shape[1], "with more inputs")
        raise ValueError(f"{path} is a model {what}: its U-Net reads {shape[1]} channels, and text to picture has 4.")


def _renamed(name: str) -> str:
    """Early checkpoints leave out `text_model.`"""
    inner = name.removeprefix(_SD1_TEXT)
    if inner != name and inner.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"{_SD1_TEXT}text_model.{inner}"
    return name


def _converted(part: str, kind: Any, tensors: dict[str, Tensor], folder: str) -> Any:
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    where = {"config": folder, "subfolder": part, "local_files_only": True}
    if part.startswith("text_encoder"):
        return create_diffusers_clip_model_from_ldm(kind, tensors, **where)
    return kind.from_single_file(tensors, **where)
