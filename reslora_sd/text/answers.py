"""What an answer says: where it ends, the number or the letter in it, and whether that is the right one."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(
    r"""(?P<minus>(?<![\w)\]}])[-\u2212]\s?)?   # a minus sign, but not the one of 5-3
        (?:\\?[$€£]\s?)?
        (?P<inner>(?<=[$€£])[-\u2212])?
        (?:
            (?:(?P<whole>\d+)\s*)?\\[dt]?frac\s*\{?(?P<above>[-\u2212]?\d+)\}?\s*\{?(?P<below>\d+)\}?
          | (?P<and>\d+)\s(?P<over>\d+)/(?P<under>\d+)
          | (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\w.])\.\d+)
            (?:/(?P<by>\d+)|(?P<power>[eE][+-]?\d+)(?!\w))?
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
    """The final number of an answer: the first after its first `####`; else after the last `answer is` or `=`; else the
    last at all.

    What a model writes after its answer may hold more `####`: those are of questions that nobody asked.
    `$1,000.50` is 1000.5, `1/2` and `\\frac{1}{2}` are 0.5, `3 1/2` is 3.5, `1e3` is 1000; `None` where there is no
    number.
    """
    text = _LATEX_COMMAS.sub(",", text)
    lowered = text.lower()
    places = [(lowered.find("####"), 4), *((lowered.rfind(mark), len(mark)) for mark in _MARKS)]
    for place, length in places:
        if place >= 0:
            found = _NUMBER.search(text, place + length)
            if found:
                return _value(found)
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def same_number(text: str, truth: float) -> bool:
    """Whether the final number of an answer is `truth`: 5, 5.0 and $5.00 are one number."""
    number = number_in(text)
    return number is not None and math.isclose(number, truth, rel_tol=1e-6, abs_tol=1e-9)


def letter_in(text: str, letters: str) -> str | None:
    """The chosen option in lower case: after the first `####`; else the answer's start, what follows the last `answer`
    or `option`, or the last in parentheses. A letter within a sentence, such as the article "a", is no option.
    """
    lowered = text.lower()
    _, mark, rest = lowered.partition("####")
    begins = re.compile(rf"\W*(?:option\s+)?([{letters}])\s*(?:[).:,;\]]|$|\n)")
    if mark:
        found = begins.match(rest)
        return found[1] if found else None
    if found := begins.match(lowered):
        return found[1]
    # "answer is a number" chooses nothing; "answer is b because" does
    said = rf"\b(?:answer|ans|option|choice)\b\W*(?:is\b|:|=)?\W*(?:option\s+)?((?!a\s+[a-z])[{letters}])(?![\w'])"
    for pattern in (said, rf"\(([{letters}])\)"):
        if chosen := re.findall(pattern, lowered):
            return str(chosen[-1])
    return None


def _value(found: re.Match[str]) -> float | None:
    """Floats, not fractions: a power of ten that a text can name may be too long to be written out."""
    part = found.groupdict()
    if part["above"] or part["and"]:
        above, below = part["above"] or part["over"], part["below"] or part["under"]
        whole = float(part["whole"] or part["and"] or 0)
    else:
        above, below = part["digits"].replace(",", "") + (part["power"] or ""), part["by"] or "1"
        whole = 0.0
    divisor = float(below)
    value = whole + float(above.replace("\u2212", "-")) / divisor if divisor else math.nan
    if not math.isfinite(value):
        return None
    return -value if part["minus"] or part["inner"] else value
