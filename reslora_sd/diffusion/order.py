"""The order in which training meets its pictures: a function of the seed and the step alone. No torch."""

from __future__ import annotations

import bisect
import random
from collections.abc import Collection, Sequence


class BucketOrder:
    """Batches of pictures of one bucket, each full, and each picture as often as the others.

    Every bucket is a stream without end: a new permutation of its pictures in each epoch. A bucket's batches follow its
    stream without a rest, so that the last of an epoch may reach into the bucket's next one. Each batch comes at a time
    that is drawn from those that its pictures stand for: of a bucket that fills three batches, one is in each third of
    an epoch; one with half as many pictures as a batch has a batch in two epochs. However short a run is, a bucket is
    met by its share, to within one batch.

    Args:
        buckets: for each bucket, the rows of its pictures; one stands there as often as it is met in an epoch.
        batch_size: of all processes together.
        known: rows of pictures of the class. Between the others of their bucket they stand evenly, so that each batch
            has as many of both as the bucket has, but for one.
    """

    def __init__(
        self, buckets: Sequence[Sequence[int]], batch_size: int, seed: int, known: Collection[int] = frozenset()
    ) -> None:
        self._known = known
        self._buckets, self._size, self._seed = [list(rows) for rows in buckets], batch_size, seed
        self._orders: dict[tuple[int, int], list[int]] = {}
        self._planned: tuple[int, list[tuple[int, int]]] = (0, [])
        """Of one epoch: its first batch, and bucket and number of all."""

    @property
    def pictures(self) -> int:
        """How many pictures are met in an epoch."""
        return sum(map(len, self._buckets))

    def batches(self, epochs: int) -> int:
        """How many batches it takes until every picture was met so many times, where buckets are met in turn."""
        return sum(-(-epochs * len(rows) // self._size) for rows in self._buckets)

    def _before(self, epoch: int) -> int:
        """How many batches come before an epoch."""
        return sum(self._begun(bucket, epoch) for bucket in range(len(self._buckets)))

    def _begun(self, bucket: int, epoch: int) -> int:
        """How many of a bucket's do: all that are over, and the one that is under way, if its time is before."""
        number, rest = divmod(epoch * len(self._buckets[bucket]), self._size)
        return number + (self._time(bucket, number) < epoch if rest else 0)

    def _time(self, bucket: int, number: int) -> float:
        """When a batch of a bucket comes, in epochs."""
        drawn = random.Random(f"{self._seed}/time/{bucket}/{number}").random()
        return (number + drawn) * self._size / len(self._buckets[bucket])

    def rows(self, step: int) -> list[int]:
        """The rows of a batch, counted from 0."""
        bucket, number = (0, step) if len(self._buckets) == 1 else self._batch(step)
        return [self._row(bucket, place) for place in range(number * self._size, (number + 1) * self._size)]

    def _batch(self, step: int) -> tuple[int, int]:
        """The bucket of a batch, and its number there."""
        first, planned = self._planned
        if not first <= step < first + len(planned):
            most = (step + len(self._buckets)) * self._size // self.pictures
            epoch = bisect.bisect_right(range(most + 2), step, key=self._before) - 1
            first, planned = self._planned = (self._before(epoch), self._schedule(epoch))
        return planned[step - first]

    def _schedule(self, epoch: int) -> list[tuple[int, int]]:
        """Buckets of an epoch's batches, and the number of each batch in its bucket."""
        found = []
        for bucket in range(len(self._buckets)):
            numbers = range(self._begun(bucket, epoch), self._begun(bucket, epoch + 1))
            found += [(self._time(bucket, number), bucket, number) for number in numbers]
        return [(bucket, number) for _, bucket, number in sorted(found)]

    def _row(self, bucket: int, place: int) -> int:
        rows = self._buckets[bucket]
        epoch, index = divmod(place, len(rows))
        if (bucket, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != bucket}
            order = list(rows)
            random.Random(self._order_seed(bucket, epoch)).shuffle(order)
            self._orders[bucket, epoch] = self._mixed(order) if self._known else order
        return self._orders[bucket, epoch][index]

    def _mixed(self, rows: Sequence[int]) -> list[int]:
        """The rows with those of the class evenly between the others; both kinds keep their order."""
        kinds = [[row for row in rows if (row in self._known) == known] for known in (False, True)]
        total, known = len(rows), len(kinds[1])
        turns = [(place + 1) * known // total > place * known // total for place in range(total)]
        streams = [iter(kind) for kind in kinds]
        return [next(streams[turn]) for turn in turns]

    def _order_seed(self, bucket: int, epoch: int) -> int | str:
        return mix(self._seed, -1 - epoch) if len(self._buckets) == 1 else f"{self._seed}/{bucket}/{epoch}"


def mix(seed: int, number: int) -> int:
    """One seed from two numbers; a different one for each pair that a run meets."""
    return random.Random(f"{seed}/{number}").getrandbits(62)
