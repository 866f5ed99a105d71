"""Pictures of the class beside those of the subject, so that a model which learns one dog still knows the others.

"Prior preservation" is DreamBooth's (https://arxiv.org/abs/2208.12242); flags as in diffusers' train_dreambooth.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .captioned import CaptionedImages, joined


def with_class(images: CaptionedImages, others: Sequence[CaptionedImages]) -> CaptionedImages:
    """The pictures to train on, and after them those of the class, which are met as often in an epoch, all together.

    Where there are more of the class, the subject's are repeated until they are as many.
    """
    if not others:
        return images
    known = joined(others, images.name)
    known.priors = [True] * len(known)
    subject, known.repeats = balanced(images.repeats, known.repeats)
    whole = joined([images, known], images.name)
    whole.repeats = [*subject, *known.repeats]
    return whole


def balanced(subject: Sequence[int], known: Sequence[int]) -> tuple[list[int], list[int]]:
    """Repeats of both kinds whose sums are equal: the subject's times a whole number, the class's in their proportions.

    Within rounding, each picture keeps its share of its own kind, and none is left out.
    """
    common = math.gcd(*known)
    known = [repeats // common for repeats in known]
    times = max(1, math.ceil(sum(known) / sum(subject)))
    total, whole, before, shares = times * sum(subject), sum(known), 0, []
    for repeats in known:
        shares.append((before + repeats) * total // whole - before * total // whole)
        before += repeats
    return [times * repeats for repeats in subject], shares
