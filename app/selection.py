"""What is chosen above the pictures, and what can be: runs, A and B, prompt, seed, and which pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reslora_sd.runs.names import METHODS
from reslora_sd.runs.run import Run

from . import pictures

MOST_CHOICES = 500
"""Of a menu: an index can name hundreds of thousands of prompts, and a browser would stand still."""


@dataclass(frozen=True)
class Asked:
    """What somebody chose, or an address says. Whatever isn't there (any more) gives way to the nearest that is."""

    runs: tuple[str, ...] = ()
    a: str | None = None
    b: str | None = None
    prompt: str | None = None
    seed: int | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Selection:
    """What is shown, and the choices beside it."""

    runs: tuple[str, ...]
    """Keys of the library, as are `a` and `b`."""
    a: str | None
    b: str | None
    prompts: tuple[str, ...]
    prompt: str | None
    seeds: tuple[int, ...]
    seed: int | None
    variants: tuple[str, ...]
    variant: str
    left_out: int
    """Prompts that are not among the choices."""


def select(runs: Mapping[str, Run], asked: Asked) -> Selection:
    """What is shown of what was asked.

    Args:
        runs: the chosen ones by their keys.
    """
    a, b = pair_of(runs, asked.a, asked.b)
    all_prompts = tuple(dict.fromkeys(prompt for run in runs.values() for prompt in run.prompts()))
    prompts = all_prompts[:MOST_CHOICES]
    prompt = asked.prompt if asked.prompt in prompts else next(iter(prompts), None)
    seeds = tuple(pictures.seeds_of(runs, prompt))[:MOST_CHOICES] if prompt is not None else ()
    seed = asked.seed if asked.seed in seeds else next(iter(seeds), None)
    variants = tuple(pictures.variants(runs))[:MOST_CHOICES]
    variant = asked.variant if asked.variant in variants else variants[0]
    return Selection(
        tuple(runs),
        a,
        b,
        prompts,
        prompt,
        seeds,
        seed,
        variants,
        variant,
        len(all_prompts) - len(prompts),
    )


def pair_of(runs: Mapping[str, Run], first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """A and B: as before where both are still chosen, else LoRA against the first other."""
    names = list(runs)
    a = first if first in names else next((name for name in names if METHODS.get(runs[name].method) == "none"), None)
    a = a or (names[0] if names else None)
    b = second if second in names and second != a else next((name for name in names if name != a), a)
    return a, b
