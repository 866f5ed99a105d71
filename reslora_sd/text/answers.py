"""What an answer says: the number or the letter in it, and whether that is the right one."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_NUMBER = re.compile(
    r"""(?P<minus>(?<![\w)])[-\u2212]\s?)?   # a minus sign, but not the one of 5-3
        [$€£]?\s?
        (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)
        (?P<rest>\.\d+|/\d+)?""",
    re.VERBOSE,
)
_MARKS = ("####", "answer is", "=")
"""What announces the final number, the surest first."""


def number_in(text: str) -> float | None:
    """The final number of an answer: the first after its last mark (`####`, `answer is`, `=`), else the last at all.

    `$1,000.50` is 1000.5, `1/2` is 0.5; `None` where there is no number.
    """
    lowered = text.lower()
    for mark in _MARKS:
        place = lowered.rfind(mark)
        if place >= 0:
            found = _NUMBER.search(text, place + len(mark))
            if found:
                return _value(found)
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def same_number(text: str, truth: float) -> bool:
    """Whether the final number of an answer is `truth`: 5, 5.0 and $5.00 are one number."""
    number = number_in(text)
    return number is not None and math.isclose(number, truth, rel_tol=1e-6, abs_tol=1e-9)


def letter_in(text: str, letters: str) -> str | None:
    """The chosen option in lower case: the first after the last `####`, else the first that stands alone."""
    place = text.rfind("####")
    found = re.search(rf"(?<![a-z])[{letters}](?![a-z'])", text[place + 4 if place >= 0 else 0 :].lower())
    return found.group() if found else None


def _value(found: re.Match[str]) -> float | None:
    digits, rest = found["digits"].replace(",", ""), found["rest"] or ""
    try:
        value = float(Fraction(digits + rest))
    except ZeroDivisionError:
        return None
    return -value if found["minus"] else value
