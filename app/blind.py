"""A blind test: two runs' pictures in hidden order, what somebody picks, and what so many picks can and cannot tell."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from reslora_sd.runs.names import BASE
from reslora_sd.runs.run import PictureKey, Run

from .pictures import PictureView, variant_of, variants, view

LEFT, RIGHT, NEITHER = "left", "right", "can't tell"
PICKS = (LEFT, RIGHT, NEITHER)
LEVEL = 0.95
MOST_TRIALS = 200
_LAST, _ALL = "the last step alone", "all steps"
WHICH_STEPS = (_LAST, _ALL)


@dataclass(frozen=True)
class Trial:
    """One pair of pictures: the same prompt, seed and step."""

    first: PictureKey
    second: PictureKey
    swapped: bool
    """Whether the first run's picture is on the right."""


@dataclass
class BlindTest:
    """One person's test of two runs."""

    names: tuple[str, str]
    runs: tuple[Run, Run]
    trials: list[Trial]
    alike: int
    """Pairs that were left out, as both runs' pictures are the same."""
    seed: int
    unreadable: int = 0
    """Pairs that were skipped, as a picture is missing or can't be read."""
    picks: list[str] = field(default_factory=list)

    @property
    def trial(self) -> Trial | None:
        """The pair to look at; `None` after the last one."""
        return self.trials[len(self.picks)] if len(self.picks) < len(self.trials) else None

    def pictures(self) -> tuple[PictureView, PictureView] | None:
        """Left and right of the next pair that can be shown; `None` after the last. Their texts name neither run."""
        while (trial := self.trial) is not None:
            two = (view("", run, *key) for run, key in zip(self.runs, (trial.first, trial.second), strict=True))
            first, second = (one.image for one in two)
            if first is not None and second is not None:
                left, right = (second, first) if trial.swapped else (first, second)
                text = f'picture, for the prompt "{trial.first.prompt}"'
                return PictureView("Left", f"Left {text}", left), PictureView("Right", f"Right {text}", right)
            del self.trials[len(self.picks)]  # to pick what is there would say nothing
            self.unreadable += 1
        return None

    def skipped(self) -> str:
        """How many pairs were skipped so far; empty for none."""
        return f"Pairs skipped, as a picture is missing or can't be read: {self.unreadable}." if self.unreadable else ""

    def pick(self, pick: str) -> None:
        """Takes an answer on the pair of now.

        Raises:
            ValueError: it is none of `PICKS`, or all pairs are done.
        """
        if pick not in PICKS:
            raise ValueError(f"The pick is {pick!r:.40}. It must be one of {', '.join(PICKS)}.")
        if self.trial is None:
            raise ValueError("All pairs are done. Start another test.")
        self.picks.append(pick)

    def score(self) -> Score:
        """How often each run was picked so far."""
        first = second = 0
        for trial, pick in zip(self.trials, self.picks, strict=False):
            if pick != NEITHER:
                is_first = (pick == LEFT) != trial.swapped
                first, second = first + is_first, second + (not is_first)
        return Score(first, second, len(self.picks) - first - second)


def make_test(
    runs: Mapping[str, Run], first: str, second: str, seed: int, variant: str | None = None, steps: str = _LAST
) -> BlindTest:
    """A test of two runs over the prompts, seeds and steps that both have; its order is the seed's.

    Pairs whose pictures are the same are left out: nobody can tell them apart.

    Args:
        variant: as in `pictures.variants`; the first that there is where left out.
        steps: one of `WHICH_STEPS`.

    Raises:
        ValueError: it is one run, or they share no picture that differs.
    """
    if first == second or first not in runs or second not in runs:
        raise ValueError("A blind test needs two runs. Choose them as A and B above.")
    two = runs[first], runs[second]
    chosen = variant if variant is not None else variants({first: two[0], second: two[1]})[0]
    one, other = (_by_place(run, variant_of(run, chosen)) for run in two)
    shared = sorted(one.keys() & other.keys())
    if steps == _LAST and shared:
        last = max(step for _, _, step in shared)
        shared = [place for place in shared if place[2] == last]
    alike = {place: _same(two, one[place], other[place]) for place in shared}
    different = [place for place in shared if alike[place] is False]
    unreadable = sum(found is None for found in alike.values())
    if not different:
        more = f" {unreadable} can't be read." if unreadable else ""
        raise ValueError(
            f"{first} and {second} share {len(shared)} pictures of the same prompt, seed and step, and none that "
            f"differs.{more} Choose other runs or other pictures."
        )
    order = random.Random(seed)
    order.shuffle(different)
    trials = [Trial(one[place], other[place], order.random() < 0.5) for place in different[:MOST_TRIALS]]
    return BlindTest((first, second), two, trials, sum(map(bool, alike.values())), seed, unreadable)


def _by_place(run: Run, variant: str) -> dict[tuple[str, int, int], PictureKey]:
    return {(key.prompt, key.seed, key.step): key for key in run.pictures if key.variant == variant and variant != BASE}


def _same(runs: tuple[Run, Run], one: PictureKey, other: PictureKey) -> bool | None:
    """By what the index says where it says it; else by the pixels. `None` where there is nothing to compare."""
    digests = [run.pictures[key].sha256 for run, key in zip(runs, (one, other), strict=True)]
    if all(digests):
        return digests[0] == digests[1]
    images = [view("", run, *key).image for run, key in zip(runs, (one, other), strict=True)]
    if images[0] is None or images[1] is None:
        return None
    return np.array_equal(np.asarray(images[0]), np.asarray(images[1]))


@dataclass(frozen=True)
class Score:
    """Picks of two things, and answers that neither was better."""

    first: int
    second: int
    neither: int

    def told(self, first: str, second: str) -> str:
        """What so many picks tell, and what they don't."""
        picked, most = self.first + self.second, max(self.first, self.second)
        answers = f"{self.neither} answers were" if self.neither > 1 else "One answer was"
        ties = f" {answers} that neither is better." if self.neither else ""
        if not picked:
            return f"Nothing was picked yet.{ties}"
        name, other = (first, second) if self.first >= self.second else (second, first)
        low, high = interval(most, picked)
        said = (
            f"{name} was picked in {most} of {picked} picks: {100 * most / picked:.0f} %, and by the exact binomial "
            f"interval from {100 * low:.0f} % to {100 * high:.0f} % ({100 * LEVEL:.0f} % sure).{ties} "
        )
        if low > 0.5:
            return said + f"That tells: {name} is picked more often than {other} in such pairs, by this person."
        need = needed(most / picked)
        more = f"At this share it would take about {need} picks." if need else "More picks may tell."
        return said + f"That can't tell yet which of the two is picked more often: chance alone can give it. {more}"


def interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a share: all shares that so many of `total` don't speak against."""
    tail = (1 - level) / 2
    low = _solve(lambda p: 1 - _at_most(count - 1, total, p) - tail) if count else 0.0
    high = _solve(lambda p: tail - _at_most(count, total, p)) if count < total else 1.0
    return low, high


def needed(share: float, most: int = 400) -> int | None:
    """How many picks tell where so large a share of them goes to one; `None` where more than `most` do."""
    counts = ((total, math.floor(share * total + 1e-9)) for total in range(1, most + 1))
    return next((total for total, count in counts if 1 - _at_most(count - 1, total, 0.5) < (1 - LEVEL) / 2), None)


def _at_most(count: int, total: int, p: float) -> float:
    """The chance of `count` or fewer of `total`."""
    return math.fsum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(count + 1))


def _solve(rising: Callable[[float], float]) -> float:
    """Where a rising function of a share crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def summary(test: BlindTest) -> str:
    """What to tell others, with both names."""
    first, second = test.names
    score = test.score()
    skipped = f"{test.skipped()}\n" if test.unreadable else ""
    return (
        f"Blind test of {first} and {second}: {len(test.picks)} of {len(test.trials)} pairs, in the order of seed "
        f"{test.seed}.\n"
        f"{first}: {score.first}, {second}: {score.second}, can't tell: {score.neither}.\n"
        f"{score.told(first, second)}\n{skipped}"
        "It holds for these trainings' pictures and this person. Decide on the number of picks beforehand: who stops "
        "when it tells, finds differences that aren't there more often than once in twenty.\n"
    )
