"""What a U-Net is told beside noisy latents and timesteps: the only place where SDXL differs from SD 1.x and 2.x."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..modes import evaluating

if TYPE_CHECKING:
    from .models import Parts

logger = logging.getLogger(__name__)
_BATCH = 64
_MOST_CHUNKS = 8


class Words(NamedTuple):
    """One caption, encoded."""

    tokens: Tensor
    """(tokens, dim); of SDXL, both encoders' side by side."""
    pooled: Tensor | None = None
    """(dim of the second encoder,); SDXL's alone."""

    def cpu(self) -> Words:
        """The same there."""
        return Words(self.tokens.cpu(), None if self.pooled is None else self.pooled.cpu())


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


@dataclass(frozen=True)
class LateConditioning:
    """Of a batch whose text encoders are trained: captions are encoded when they're used, by the encoders of then.

    With gradients where these are on; without, the encoders are in eval mode for the time.
    """

    parts: Parts
    captions: tuple[str, ...]
    time_ids: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> LateConditioning:
        """Moves the time ids; the rest is made on the encoders' device."""
        return replace(self, time_ids=None if self.time_ids is None else self.time_ids.to(device))

    def arguments(self) -> dict[str, Any]:
        """For the U-Net's forward."""
        with ExitStack() as stack:
            if not torch.is_grad_enabled():
                for encoder in self.parts.text_encoders.values():
                    stack.enter_context(evaluating(encoder))
            words = _encode(self.parts, list(self.captions))
        return conditioning_of(words, self.time_ids).arguments()


def conditioning_of(words: Sequence[Words], time_ids: Tensor | None = None) -> Conditioning:
    """Of a batch's captions, in their order, and of its frames."""
    pooled = [one.pooled for one in words if one.pooled is not None]
    return Conditioning(torch.stack([one.tokens for one in words]), torch.stack(pooled) if pooled else None, time_ids)


def chunks_of(parts: Parts, tokens: int | None) -> int:
    """How many chunks a caption of so many tokens has, those that begin and end every text aside.

    Raises:
        ValueError: it is no multiple of what the model reads at once.
    """
    once = _words_of(parts.tokenizer)
    if tokens is None:
        return 1
    if tokens % once or tokens > _MOST_CHUNKS * once:
        raise ValueError(
            f"--max_token_length is {tokens}. It must be a multiple of {once} for this model, up to "
            f"{_MOST_CHUNKS * once}."
        )
    return tokens // once


def bytes_of_words(parts: Parts) -> int:
    """What the embeddings of a caption take, in the precision of the run."""
    encoders = [parts.text_encoder, *([parts.text_encoder_2] if parts.text_encoder_2 is not None else [])]
    width = sum(int(encoder.config.hidden_size) for encoder in encoders)
    return parts.chunks * int(parts.tokenizer.model_max_length) * width * parts.dtype.itemsize


def warn_of_long(parts: Parts, captions: Sequence[str]) -> None:
    """Counts the captions over the length that is read, which are cut."""
    limit = parts.chunks * _words_of(parts.tokenizer)
    texts = parts.tokenizer(list(captions), truncation=False, verbose=False).input_ids if captions else []
    too_long = [caption for caption, ids in zip(captions, texts, strict=True) if len(ids) - 2 > limit]
    if too_long:
        logger.warning(
            "%d captions are longer than the text encoder's %d tokens and are cut, for example: %r. "
            "--max_token_length reads more.",
            len(too_long),
            limit + 2,
            too_long[0][:100],
        )


@torch.no_grad()
def encode_captions(parts: Parts, captions: Sequence[str], quiet: bool = False) -> dict[str, Words]:
    """Each caption as the U-Net takes it, on the CPU.

    With several chunks, each is a text of its own for the encoder, with its own beginning and end, and the U-Net reads
    their tokens one after the other, as in A1111 and ComfyUI. SDXL's pooled vector is the first chunk's.
    """
    found: dict[str, Words] = {}
    for start in tqdm(range(0, len(captions), _BATCH), desc="Encoding captions", disable=quiet or not captions):
        batch = list(captions[start : start + _BATCH])
        found.update(zip(batch, (words.cpu() for words in _encode(parts, batch)), strict=True))
    return found


def _encode(parts: Parts, captions: list[str]) -> list[Words]:
    chunks = parts.chunks
    if parts.text_encoder_2 is None or parts.tokenizer_2 is None:
        states = parts.text_encoder(_ids(parts.tokenizer, captions, parts.text_encoder, chunks))[0]
        return [Words(tokens) for tokens in _joined(states, chunks)]
    # diffusers, StableDiffusionXLPipeline.encode_prompt: the last layer but one of both, and the second's projection
    both = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
    outputs = [encoder(_ids(words, captions, encoder, chunks), output_hidden_states=True) for words, encoder in both]
    states = torch.cat([_joined(output.hidden_states[-2], chunks) for output in outputs], dim=-1)
    return [Words(*pair) for pair in zip(states, outputs[1].text_embeds[::chunks], strict=True)]


def _ids(tokenizer: Any, captions: list[str], encoder: Any, chunks: int) -> Tensor:
    """(captions * chunks, tokens): the chunks of each caption one after the other."""
    limit = tokenizer.model_max_length
    given = {"padding": "max_length", "max_length": limit, "truncation": True, "return_tensors": "pt"}
    if chunks == 1:
        ids = tokenizer(captions, **given).input_ids
    else:
        once, rows = _words_of(tokenizer), []
        for words in tokenizer(captions, add_special_tokens=False, truncation=False, verbose=False).input_ids:
            parts = [words[at * once : (at + 1) * once] for at in range(chunks)]
            rows += [[tokenizer.bos_token_id, *part, tokenizer.eos_token_id] for part in parts]
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (limit - len(row)) for row in rows])
    found: Tensor = ids.to(encoder.device)
    return found


def _joined(states: Tensor, chunks: int) -> Tensor:
    """(captions * chunks, tokens, dim) -> (captions, chunks * tokens, dim)"""
    return states.reshape(-1, chunks * states.shape[1], states.shape[2])


def _words_of(tokenizer: Any) -> int:
    """How many tokens of a text the encoder reads at once, beginning and end aside: CLIP's 75."""
    return int(tokenizer.model_max_length) - 2
