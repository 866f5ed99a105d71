"""What an answer says: where it ends, the number or the letter in it, and whether that is the right one."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(
    r"""(?P<minus>(?<![\w)\]}])[-\u2212][^\S\n]?)?   # a minus sign, but not the one of 5-3
        (?:\\?[$€£][^\S\n]?)?
        (?P<inner>(?<=[$€£])[-\u2212])?
        (?:
            (?:(?P<whole>\d+)[^\S\n]*)?\\[dt]?frac\s*
                (?:\{\s*(?P<above>[-\u2212]?[\d,]*\.?\d+)\s*\}|(?P<one>\d))\s*
                (?:\{\s*(?P<below>[-\u2212]?[\d,]*\.?\d+)\s*\}|(?P<other>\d))
          | (?P<and>\d{1,3}(?:,\d{3})+|\d+)[^\S\n](?P<over>\d+)/(?P<under>\d+)
          | (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\w.])\.\d+)
            (?:/(?P<by>\d+(?:\.\d+)?)|(?P<power>[eE][+-]?\d+)(?!\w))?
        )""",
    re.VERBOSE,
)
_MARKS = ("answer is", "=")
"""What announces the final number where there is no `####`, the surest first."""
_LATEX_COMMAS = re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3})")


def cut(text: str, stop: re.Pattern[str]) -> str:
    """The part of a text that is the answer: up to the end of what `stop` finds first; all where it finds nothing."""
    found = stop.search(text)
    return text[: found.end()] if found else text


def number_in(text: str) -> float | None:
    """The final number of an answer: the first in the line of its first `####`; else after the last `answer is` or
    `=`; else the last at all.

    What a model writes after its answer may hold more `####`: those are of questions that nobody asked.
    `$1,000.50` is 1000.5, `1/2` and `\\frac{1}{2}` are 0.5, `3 1/2` is 3.5, `1e3` is 1000; `None` where there is no
    number.
    """
    text = _LATEX_COMMAS.sub(",", text)
    lowered = text.lower()
    _, marked, rest = text.partition("####")
    if marked and (found := _NUMBER.search(rest.lstrip().split("\n", 1)[0])):
        return _value(found)
    for mark in _MARKS:
        place = lowered.rfind(mark)
        if place >= 0 and (found := _NUMBER.search(text, place + len(mark))):
            return _value(found)
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def same_number(text: str, truth: float) -> bool:
    """Whether the final number of an answer is `truth`: 5, 5.0 and $5.00 are one number."""
    number = number_in(text)
    return number is not None and math.isclose(number, truth, rel_tol=1e-6, abs_tol=1e-9)


def letter_in(text: str, letters: str) -> str | None:
    """The chosen option in lower case: in the line of the first `####`; else what follows the last `answer`, the
    answer's start, what follows the last `option` or `choice`, or the last in parentheses. A letter within a sentence,
    such as the article "a", is no option.
    """
    lowered = text.lower()
    _, mark, rest = lowered.partition("####")
    letter = rf"((?!a\s+[a-z])[{letters}])(?![\w'])(?!\.\w)"  # "a number" and "e.g." choose nothing, "b because" does
    if mark:
        found = re.search(rf"(?<!\w){letter}", rest.strip().split("\n", 1)[0])
        return found[1] if found else None
    after = rf"\W*(?:is\b|:|=)?\W*(?:option\s+)?{letter}"
    begins = rf"\A\W*(?:option\s+)?([{letters}])\s*(?:[).:,;\]]|$|\n)"
    for pattern in (rf"\bans(?:wer)?\b{after}", begins, rf"\b(?:option|choice)\b{after}", rf"\(([{letters}])\)"):
        if chosen := re.findall(pattern, lowered):
            return str(chosen[-1])
    return None


def _value(found: re.Match[str]) -> float | None:
    """Floats, not fractions: a power of ten that a text can name may be too long to be written out."""
    part = found.groupdict()
    if part["digits"]:
        above, below, whole = part["digits"] + (part["power"] or ""), part["by"] or "1", "0"
    else:
        above, below = part["above"] or part["one"] or part["over"], part["below"] or part["other"] or part["under"]
        whole = part["whole"] or part["and"] or "0"
    divisor = _plain(below)
    value = _plain(whole) + _plain(above) / divisor if divisor else math.nan
    if not math.isfinite(value):
        return None
    return -value if part["minus"] or part["inner"] else value


def _plain(number: str) -> float:
    return float(number.replace(",", "").replace("\u2212", "-"))
