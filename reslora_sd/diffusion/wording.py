"""How the words of captions change from one time to the next: tags in another order, tags or whole captions left out.

The rule is that of kohya-ss/sd-scripts (library/train_util.py, `process_caption`). No torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .settings import DataSettings

WORDING_FLAGS = ("shuffle_caption", "keep_tokens", "caption_dropout_rate", "caption_tag_dropout_rate")
"""Names of the flags, and of the keys of a config file."""


@dataclass(frozen=True)
class Wording:
    """What is drawn for a caption each time that it is met. Tags are what stands between commas."""

    shuffle_caption: bool = False
    keep_tokens: int = 0
    """So many tags at the beginning stay where they are."""
    caption_dropout_rate: float = 0.0
    """Share of times without any caption."""
    caption_tag_dropout_rate: float = 0.0
    """Share of the tags that are left out, of those that aren't kept."""
    trigger_word: str = ""
    """A tag that is never left out."""

    @property
    def is_varied(self) -> bool:
        """Whether a caption has more forms than itself and none."""
        return self.shuffle_caption or self.caption_tag_dropout_rate > 0

    def __call__(self, caption: str, rng: random.Random) -> str:
        """The caption as it is met this time."""
        if self.caption_dropout_rate and rng.random() < self.caption_dropout_rate:
            return ""
        if not self.is_varied:
            return caption
        tags = [tag for tag in map(str.strip, caption.split(",")) if tag]
        kept, others = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if self.shuffle_caption:
            rng.shuffle(others)
        if self.caption_tag_dropout_rate:
            others = [tag for tag in others if self._stays(tag, rng.random())]
        return ", ".join([*kept, *others])

    def _stays(self, tag: str, drawn: float) -> bool:
        return drawn >= self.caption_tag_dropout_rate or tag.casefold() == self.trigger_word.strip().casefold()


def wording_of(data: DataSettings) -> Wording:
    """What the flags say."""
    return Wording(**{name: getattr(data, name) for name in WORDING_FLAGS}, trigger_word=data.trigger_word or "")
