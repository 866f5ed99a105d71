"""What is wrong or missing in a run that could be read, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from .names import LOG_FILE, RUN_FILE, UNMERGED
from .run import IndexedPicture, PictureKey, Run

_MOST_NOTES = 20


class Notes:
    """What was found missing or broken, each thing once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        """Adds a note; beyond twenty only their number."""
        if text in self.texts:
            return
        if len(self.texts) < _MOST_NOTES:
            self.texts.append(text)
            return
        self._more += 1
        last = f"... and {self._more} more."
        self.texts[_MOST_NOTES:] = [last]


def repeated_pictures(pictures: Mapping[PictureKey, IndexedPicture]) -> list[str]:
    """Warnings, one a variant, of pictures whose sha256 is that of the same prompt and seed at an earlier step."""
    first: dict[tuple[str, int, str, str], int] = {}
    count, total = Counter[str](), Counter[str]()
    example: dict[str, str] = {}
    for key in sorted(pictures, key=lambda key: key.step):
        digest = pictures[key].sha256
        if not digest:
            continue
        total[key.variant] += 1
        earlier = first.setdefault((key.prompt, key.seed, key.variant, digest), key.step)
        if earlier != key.step:
            count[key.variant] += 1
            example.setdefault(key.variant, f'"{key.prompt}", seed {key.seed}: step {key.step} is step {earlier}')
    return [
        f"{number} of {total[variant]} {variant} pictures repeat an earlier step byte for byte ({example[variant]}). "
        "The adapter is not active, or it does not learn."
        for variant, number in count.items()
    ]


def gaps(run: Run) -> list[str]:
    """Steps and pictures that a whole run would have."""
    found = [f"{RUN_FILE} names no method."] if run.settings and not run.method else []
    known = [row["step"] for row in run.log]
    missing = known[-1] - known[0] + 1 - len(known) if known else 0
    if missing:
        first = next(step + 1 for step, after in pairwise(known) if after > step + 1)
        found.append(f"{LOG_FILE} lacks {missing} steps between its first and last, such as step {first}.")
    if run.state == "finished" and known and run.steps and known[-1] < run.steps:
        found.append(f"{LOG_FILE} ends at step {known[-1]}, and the run has {run.steps}.")
    if run.state == "cut off":
        found.append(f"The run was cut off after step {run.last_step} of {run.steps or 'an unknown number'}.")
    drawn = {(key.prompt, key.seed) for key in run.pictures if key.variant == UNMERGED}
    by_step = Counter(key.step for key in run.pictures if key.variant == UNMERGED)
    short = sorted(step for step, count in by_step.items() if count < len(drawn))
    if short:
        found.append(f"{len(short)} steps lack some of their {len(drawn)} pictures: {_first(short)}.")
    return found


def _first(numbers: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, numbers[:most])) + (" ..." if len(numbers) > most else "")
