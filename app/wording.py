"""What things are called on the page, in exports and on sheets: methods, merges, pictures; and names from disks.

Files, flags and addresses keep the technical names, which a tooltip or a card says too.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable

from reslora_sd.runs.names import BASE, UNMERGED

_METHODS = {
    "lora": "LoRA",
    "reslora_is": "ResLoRA (input)",
    "reslora_bs": "ResLoRA (block)",
    "reslora_ms": "ResLoRA (middle)",
    "reslora_frozen": "ResLoRA (frozen)",
    "adalora": "AdaLoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "full": "full fine-tuning",
}
MERGED = "merged, as exported"
"""Choice of pictures: the approach that each run's own export has."""
_MERGES = {
    "exact": "merged exactly",
    "least_squares": "merged by least squares",
    "input": "merged by input norms",
    "weights": "merged by weight norms",
    "none": "paths dropped",
}
_VARIANTS = {UNMERGED: "as trained", BASE: "base model", **_MERGES}
OF_RESULTS = "merged: "
"""Before a merge's name in a text run's results."""


def method_name(method: str) -> str:
    """A method in plain words; one that isn't ours as it is."""
    return _METHODS.get(method, method)


def variant_name(variant: str) -> str:
    """Of a picture, an answer or a merge: what the model was then. One that isn't ours is as it is."""
    return _VARIANTS.get(variant.removeprefix(OF_RESULTS), variant)


def labelled(variants: Iterable[str]) -> list[tuple[str, str]]:
    """Choices of a menu: plain names, and the technical ones as values."""
    return [(variant_name(variant), variant) for variant in variants]


def with_tip(plain: str, technical: str) -> str:
    """HTML of a plain name with the technical one as its tooltip."""
    if plain == technical or not technical:
        return html.escape(plain)
    return f'<span title="{html.escape(technical, quote=True)}">{html.escape(plain)}</span>'


def numbered(names: Iterable[str]) -> list[str]:
    """The names, of which no two are equal: the later ones of the same get a number."""
    taken: dict[str, None] = {}
    for name in names:
        free = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        taken[next(one for one in free if one not in taken)] = None
    return list(taken)


def is_utf8(name: object) -> bool:
    """Whether a name can be sent. On Linux a file can have any bytes as its name."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(name: object) -> str:
    """A name with what is no UTF-8 in it written out."""
    return str(name).encode(errors="backslashreplace").decode()
