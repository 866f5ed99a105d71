"""The disk cache of one model: under which keys its VAE's moments and its captions' embeddings are."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import diffusers
import PIL
import torch
import transformers
from torch import Tensor

from .captioned import CaptionedImages
from .conditioning import Words
from .disk_cache import FOLDER, DiskCache, fingerprint, key_of
from .framing import Frame
from .models import Parts


class Encodings:
    """What a model made of pictures and captions, in its precision, on its kind of device.

    Args:
        folder: `--cache_dir`.
        parts: on the device and in the precision of the run.
    """

    def __init__(self, folder: Path, parts: Parts) -> None:
        self.disk, self._parts = DiskCache(folder / FOLDER), parts
        device = parts.vae.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._made_by = [torch.__version__, kind, torch.backends.cuda.matmul.allow_tf32]
        self._vae = [diffusers.__version__, fingerprint(parts.vae)]  # now, as workers can't ask the device

    def of_picture(self, images: CaptionedImages, row: int, frame: Frame, interpolation: str, masked: bool) -> str:
        """The key of a picture's moments, and of its mask."""
        mask: str | None = None
        if masked:
            mask = self.disk.content(mask_file) if (mask_file := images.masks[row]) else "alpha"
        return key_of(self._made_by, PIL.__version__, self._vae, self._content(images, row), frame, interpolation, mask)

    def _content(self, images: CaptionedImages, row: int) -> str:
        file, member = images.files[row], images.members[row]
        if member:
            return self.disk.content_at(member.place, [member.shard.size, member.shard.changed], member.read)
        return self.disk.content(file) if file else images.content(row)

    def words(self, caption: str) -> Words | None:
        """A caption's embeddings, if they are there."""
        parts = self._parts
        tokens = parts.chunks * int(parts.tokenizer.model_max_length)
        both = (parts.text_encoder, parts.text_encoder_2)
        widths = [int(encoder.config.hidden_size) for encoder in both if encoder is not None]
        shapes: dict[str, tuple[int, ...]] = {"tokens": (tokens, sum(widths))}
        if parts.text_encoder_2 is not None:
            shapes["pooled"] = (int(parts.text_encoder_2.config.projection_dim),)
        found = self.disk.get(self._of_words(caption), shapes)
        if not found or "tokens" not in found or ("pooled" in found) != (parts.text_encoder_2 is not None):
            return None
        return Words(found["tokens"], found.get("pooled"))

    def has_words(self, caption: str) -> bool:
        """Whether they are there."""
        return self.disk.has(self._of_words(caption))

    def put_words(self, caption: str, words: Words) -> None:
        """Keeps them."""
        both: dict[str, Tensor] = {"tokens": words.tokens}
        self.disk.put(self._of_words(caption), both if words.pooled is None else {**both, "pooled": words.pooled})

    def _of_words(self, caption: str) -> str:
        return key_of(self._made_by, self._texts, self._parts.chunks, caption)

    @functools.cached_property
    def _texts(self) -> list[Any]:
        parts = self._parts
        models = [model for model in (parts.text_encoder, parts.text_encoder_2) if model is not None]
        tokenizers = [one for one in (parts.tokenizer, parts.tokenizer_2) if one is not None]
        words = [[key_of(json.dumps(_rules(one))), one.model_max_length] for one in tokenizers]
        return [transformers.__version__, [fingerprint(model) for model in models], words]


def _rules(tokenizer: Any) -> Any:
    """All that says which tokens a text has."""
    own = getattr(tokenizer, "backend_tokenizer", None)
    return own.to_str() if own is not None else tokenizer.get_vocab()


def encodings_of(cache_dir: str | None, parts: Parts) -> Encodings | None:
    """The cache that `--cache_dir` asks for."""
    return None if cache_dir is None else Encodings(Path(cache_dir).expanduser(), parts)
