"""A blind test: pictures of two runs, or of several in all pairs, in hidden order, and what so many picks can tell."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reslora_sd.runs.names import BASE
from reslora_sd.runs.run import PictureKey, Run

from .pictures import PictureView, variant_of, variants, view

LEFT, RIGHT, NEITHER = "left", "right", "can't tell"
PICKS = (LEFT, RIGHT, NEITHER)
LEVEL = 0.95
MOST_TRIALS, MOST_RUNS = 200, 6
_LAST, _ALL = "the last step alone", "all steps"
WHICH_STEPS = (_LAST, _ALL)


@dataclass(frozen=True)
class Trial:
    """One pair of pictures: the same prompt, seed and step."""

    first: PictureKey
    second: PictureKey
    swapped: bool
    """Whether the first run's picture is on the right."""
    pair: tuple[int, int] = (0, 1)
    """Places of both runs among those of the test."""


@dataclass
class BlindTest:
    """One person's test of two runs, or of all pairs of several."""

    names: tuple[str, ...]
    runs: tuple[Run, ...]
    trials: list[Trial]
    alike: int
    """Pairs that were left out, as both runs' pictures are the same."""
    seed: int
    unreadable: int = 0
    """Pairs that were skipped, as a picture is missing or can't be read."""
    picks: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Places of the runs that are set against each other."""
        return list(itertools.combinations(range(len(self.names)), 2))

    @property
    def trial(self) -> Trial | None:
        """The pair to look at; `None` after the last one."""
        return self.trials[len(self.picks)] if len(self.picks) < len(self.trials) else None

    def pictures(self) -> tuple[PictureView, PictureView] | None:
        """Left and right of the next pair that can be shown; `None` after the last. Their texts name neither run."""
        while (trial := self.trial) is not None:
            keys = zip(trial.pair, (trial.first, trial.second), strict=True)
            first, second = (view("", self.runs[place], *key).image for place, key in keys)
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

    def score(self, pair: tuple[int, int] = (0, 1)) -> Score:
        """How often each run of a pair was picked so far."""
        first = second = neither = 0
        for trial, pick in zip(self.trials, self.picks, strict=False):
            if trial.pair == pair:
                is_first = pick != NEITHER and (pick == LEFT) != trial.swapped
                is_second = pick != NEITHER and not is_first
                first, second, neither = first + is_first, second + is_second, neither + (pick == NEITHER)
        return Score(first, second, neither)

    def told(self) -> str:
        """What the picks tell of each pair, a line each."""
        pairs, names = self.pairs, self.names
        return "\n".join(self.score((a, b)).told(names[a], names[b], len(pairs)) for a, b in pairs)


def make_test(
    runs: Mapping[str, Run], names: Sequence[str], seed: int, variant: str | None = None, steps: str = _LAST
) -> BlindTest:
    """A test of two runs, or of all pairs of several, over the prompts, seeds and steps that both of a pair have; its
    order is the seed's.

    Pairs whose pictures are the same are left out: nobody can tell them apart.

    Args:
        names: of the runs to set against each other, each once.
        variant: as in `pictures.variants`; the first that there is where left out.
        steps: one of `WHICH_STEPS`.

    Raises:
        ValueError: it is one run, or too many, or they share no picture that differs.
    """
    names = [name for name in dict.fromkeys(names) if name in runs]
    if not 2 <= len(names) <= MOST_RUNS:
        raise ValueError(
            f"A blind test needs two runs, and takes {MOST_RUNS} at most. Choose two as A and B above, or tick some."
        )
    test = BlindTest(tuple(names), tuple(runs[name] for name in names), [], 0, seed)
    chosen = variant if variant is not None else variants({name: runs[name] for name in names})[0]
    shared = 0
    for pair in test.pairs:
        shared += _add_pair(test, pair, chosen, steps)
    if not test.trials:
        more = f" {test.unreadable} can't be read." if test.unreadable else ""
        raise ValueError(
            f"{' and '.join(names)} share {shared} pictures of the same prompt, seed and step, and none that "
            f"differs.{more} Choose other runs or other pictures."
        )
    order = random.Random(seed)
    order.shuffle(test.trials)
    test.trials = [replace(trial, swapped=order.random() < 0.5) for trial in test.trials[:MOST_TRIALS]]
    return test


def _add_pair(test: BlindTest, pair: tuple[int, int], variant: str, steps: str) -> int:
    """Adds what two runs share and differ in; gives how many they share."""
    two = test.runs[pair[0]], test.runs[pair[1]]
    one, other = (_by_place(run, variant_of(run, variant)) for run in two)
    shared = sorted(one.keys() & other.keys())
    if steps == _LAST and shared:
        last = max(step for _, _, step in shared)
        shared = [place for place in shared if place[2] == last]
    alike = {place: _same(two, one[place], other[place]) for place in shared}
    test.trials += [Trial(one[place], other[place], False, pair) for place in shared if alike[place] is False]
    test.alike += sum(map(bool, alike.values()))
    test.unreadable += sum(found is None for found in alike.values())
    return len(shared)


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

    def told(self, first: str, second: str, pairs: int = 1) -> str:
        """What so many picks tell, and what they don't.

        Args:
            pairs: that are looked at together. Of many, one would seem to tell by chance: each must be surer then.
        """
        picked, most = self.first + self.second, max(self.first, self.second)
        answers = f"{self.neither} answers were" if self.neither > 1 else "One answer was"
        ties = f" {answers} that neither is better." if self.neither else ""
        if not picked:
            which = f"{first} or {second}: nothing" if pairs > 1 else "Nothing"
            return f"{which} was picked yet.{ties}"
        name, other = (first, second) if self.first >= self.second else (second, first)
        low, high = interval(most, picked, 1 - (1 - LEVEL) / pairs)
        together = f" for all {pairs} pairs together" if pairs > 1 else ""
        said = (
            f"{name} was picked in {most} of {picked} picks: {100 * most / picked:.0f} %, and by the exact binomial "
            f"interval from {100 * low:.0f} % to {100 * high:.0f} % ({100 * LEVEL:.0f} % sure{together}).{ties} "
        )
        if low > 0.5:
            return said + f"That tells: {name} is picked more often than {other} in such pairs, by this person."
        need = needed(most / picked, pairs=pairs)
        more = f"At this share it would take about {need} picks." if need else "More picks may tell."
        return said + f"That can't tell yet which of the two is picked more often: chance alone can give it. {more}"


def interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a share: all shares that so many of `total` don't speak against."""
    tail = (1 - level) / 2
    low = _solve(lambda p: 1 - _at_most(count - 1, total, p) - tail) if count else 0.0
    high = _solve(lambda p: tail - _at_most(count, total, p)) if count < total else 1.0
    return low, high


def needed(share: float, most: int = 400, pairs: int = 1) -> int | None:
    """How many picks tell where so large a share of them goes to one; `None` where more than `most` do."""
    counts, tail = ((total, math.floor(share * total + 1e-9)) for total in range(1, most + 1)), (1 - LEVEL) / 2 / pairs
    return next((total for total, count in counts if 1 - _at_most(count - 1, total, 0.5) < tail), None)


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
    """What to tell others, with all names."""
    skipped = f"{test.skipped()}\n" if test.unreadable else ""
    counts = ""
    for pair in test.pairs:
        score, (first, second) = test.score(pair), (test.names[place] for place in pair)
        counts += f"{first}: {score.first}, {second}: {score.second}, can't tell: {score.neither}.\n"
    return (
        f"Blind test of {', '.join(test.names[:-1])} and {test.names[-1]}: {len(test.picks)} of {len(test.trials)} "
        f"pairs, in the order of seed {test.seed}.\n{counts}{test.told()}\n{skipped}"
        "It holds for these trainings' pictures and this person. Decide on the number of picks beforehand: who stops "
        "when it tells, finds differences that aren't there more often than once in twenty.\n"
    )
