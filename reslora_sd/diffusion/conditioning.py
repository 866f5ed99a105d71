"""What a U-Net is told beside noisy latents and timesteps: the only place where SDXL differs from SD 1.x and 2.x."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from .models import Parts

logger = logging.getLogger(__name__)
_BATCH = 64


class Words(NamedTuple):
    """One caption, encoded."""

    tokens: Tensor
    """(tokens, dim); of SDXL, both encoders' side by side."""
    pooled: Tensor | None = None
    """(dim of the second encoder,); SDXL's alone."""


@dataclass(frozen=True)
class Conditioning:
    """Of a batch."""

    embeddings: Tensor
    """(batch, tokens, dim)"""
    pooled: Tensor | None = None
    """(batch, dim), for SDXL, which also takes `time_ids`; other models have no place for either."""
    time_ids: Tensor | None = None
    """(batch, 6): what was done to each picture (`Frame.time_ids`)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Moves all, and casts what the text encoders made."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        time_ids = None if self.time_ids is None else self.time_ids.to(device)
        return Conditioning(self.embeddings.to(device, dtype), pooled, time_ids)

    def arguments(self) -> dict[str, Any]:
        """For the U-Net's forward."""
        if self.pooled is None:
            return {"encoder_hidden_states": self.embeddings}
        added = {"text_embeds": self.pooled, "time_ids": self.time_ids}
        return {"encoder_hidden_states": self.embeddings, "added_cond_kwargs": added}


def conditioning_of(words: Sequence[Words], time_ids: Tensor | None = None) -> Conditioning:
    """Of a batch's captions, in their order, and of its frames."""
    pooled = [one.pooled for one in words if one.pooled is not None]
    return Conditioning(torch.stack([one.tokens for one in words]), torch.stack(pooled) if pooled else None, time_ids)


def warn_of_long(parts: Parts, captions: Sequence[str]) -> None:
    """Counts the captions over the model's limit, which are cut."""
    limit = parts.tokenizer.model_max_length
    too_long = [one for one in captions if len(parts.tokenizer(one, truncation=False, verbose=False).input_ids) > limit]
    if too_long:
        logger.warning(
            "%d captions are longer than the text encoder's %d tokens and are cut, for example: %r",
            len(too_long),
            limit,
            too_long[0][:100],
        )


@torch.no_grad()
def encode_captions(parts: Parts, captions: Sequence[str], quiet: bool = False) -> dict[str, Words]:
    """Each caption as the U-Net takes it, on the CPU. Unless `quiet`, those over the model's limit are counted."""
    if not quiet:
        warn_of_long(parts, captions)
    found: dict[str, Words] = {}
    for start in tqdm(range(0, len(captions), _BATCH), desc="Encoding captions", disable=quiet):
        batch = list(captions[start : start + _BATCH])
        found.update(zip(batch, _encode(parts, batch), strict=True))
    return found


def _encode(parts: Parts, captions: list[str]) -> list[Words]:
    if parts.text_encoder_2 is None or parts.tokenizer_2 is None:
        states = parts.text_encoder(_ids(parts.tokenizer, captions, parts.text_encoder))[0]
        return [Words(tokens) for tokens in states.cpu()]
    # diffusers, StableDiffusionXLPipeline.encode_prompt: the last layer but one of both, and the second's projection
    both = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
    outputs = [encoder(_ids(words, captions, encoder), output_hidden_states=True) for words, encoder in both]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return [Words(*pair) for pair in zip(states.cpu(), outputs[1].text_embeds.cpu(), strict=True)]


def _ids(tokenizer: Any, captions: list[str], encoder: Any) -> Tensor:
    limit = tokenizer.model_max_length
    ids = tokenizer(captions, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
    found: Tensor = ids.to(encoder.device)
    return found
