"""Texts beside a run's captions, on which trained text encoders are measured: people ask for more than was trained on.

Least squares and frozen paths know nothing of directions that no text showed them. A run whose pictures all have one
caption shows 77 tokens, fewer than an encoder's width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .conditioning import LateConditioning
from .models import Parts

_KINDS = ("a photo of", "an oil painting of", "a pencil drawing of", "an icon of", "the logo of", "")
_LOOKS = ("red", "small", "old", "shiny", "wooden", "smiling", "blue", "huge", "broken", "round", "white", "")
_THINGS = (
    *("a dog", "two cats", "a woman", "an old man", "children", "a horse", "a bird", "fish", "a flower", "trees"),
    *("a house", "a castle", "a city", "a street", "a bridge", "a car", "a train", "a ship", "an airplane", "a robot"),
    *("a chair", "a lamp", "a book", "a clock", "a guitar", "shoes", "a hat", "an apple", "bread", "a cup of coffee"),
    *("mountains", "the sea", "the moon", "a storm", "fire", "a dragon", "a knight", "a face", "hands", "words"),
)
_PLACES = (
    "on a beach",
    "in the snow",
    "at night",
    "in a forest, highly detailed",
    "on a white background",
    "in space",
    "",
)
_COUNT = 256
_BATCH, _MOST_PROMPTS = 16, 64


def varied_prompts() -> list[str]:
    """Short prompts that differ in words, length and order; the same ones in every run."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < _COUNT:
        kind, look, thing, place = (draw.choice(words) for words in (_KINDS, _LOOKS, _THINGS, _PLACES))
        words = [kind, thing, place] if draw.random() < 0.5 else [look, thing, place, kind.removesuffix(" of")]
        found[" ".join(word for word in words if word)] = None
    return list(found)


def other_texts(parts: Parts, prompts: Sequence[str] = ()) -> list[LateConditioning]:
    """What to run text encoders on beside the captions: no words, the run's own prompts, and `varied_prompts`.

    Args:
        prompts: those of the run's validation pictures; the first 64 are taken.
    """
    texts = list(dict.fromkeys(["", *prompts[:_MOST_PROMPTS], *varied_prompts()]))
    return [LateConditioning(parts, tuple(texts[at : at + _BATCH])) for at in range(0, len(texts), _BATCH)]
