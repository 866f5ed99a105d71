"""What captions have in common: how often each tag is there, and the words that call for what was trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_MOST_TAGS, _LONGEST_TAG = 500, 200
_COMMON = frozenset(
    """
    a an the of in on at with and or by for to is are as this that one my your image images picture pictures photo
    photos photograph drawing drawings painting paintings sketch illustration portrait closeup close up style art
    """.split()
)
"""Words that captions share without naming anything."""


def tag_frequency(captions: Iterable[Sequence[str]]) -> dict[str, int]:
    """How often each tag is in the captions of the pictures, the commonest first, as kohya counts.

    A tag is what stands between commas, in small letters; a caption without commas is one. Of very many tags, the
    commonest are kept.
    """
    tags = (tag.strip().lower()[:_LONGEST_TAG] for texts in captions for text in texts for tag in text.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common(_MOST_TAGS))


def trigger_phrase(captions: Sequence[Sequence[str]]) -> str | None:
    """The longest run of words that is in every caption, if there are several and it names something, else `None`."""
    texts = list(dict.fromkeys(text for several in captions for text in several))
    if len(texts) < 2:
        return texts[0].strip() if texts and len(captions) > 1 else None
    spaced = [f" {' '.join(_words(text.lower()))} " for text in texts]
    first = _words(min(texts, key=len))
    best: list[str] = []
    for start in range(len(first)):
        for stop in range(len(first), start + len(best), -1):
            run = f" {' '.join(first[start:stop]).lower()} "
            if all(run in text for text in spaced):
                best = first[start:stop]
                break
    names = any(word.lower() not in _COMMON for word in best)
    return " ".join(best) if names else None


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)
