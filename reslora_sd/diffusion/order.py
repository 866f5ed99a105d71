"""The order in which training meets its pictures: a function of the seed and the step alone. No torch."""

from __future__ import annotations

import bisect
import random
from collections.abc import Collection, Sequence


class BucketOrder:
    """Batches of pictures of one bucket, each full, and each picture as often as the others.

    Every bucket is a stream without end: a new permutation of its pictures in each epoch. A bucket's batches follow its
    stream without a rest, so that the last of an epoch may reach into the bucket's next one, and the next epoch has
    that much less to do. By the end of epoch e, every picture was met in e epochs or more. With one bucket, batches
    reach into the next epoch and nothing else.

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
        self._planned: tuple[int, list[tuple[int, int]]] = (-1, [])

    @property
    def pictures(self) -> int:
        """How many pictures are met in an epoch."""
        return sum(map(len, self._buckets))

    def batches(self, epochs: int) -> int:
        """How many batches it takes until every picture was met in so many epochs."""
        return sum(-(-epochs * len(rows) // self._size) for rows in self._buckets)

    def rows(self, step: int) -> list[int]:
        """The rows of a batch, counted from 0."""
        most = step * self._size // self.pictures
        epoch = bisect.bisect_right(range(most + 2), step, key=self.batches) - 1
        if self._planned[0] != epoch:
            self._planned = (epoch, self._schedule(epoch))
        bucket, number = self._planned[1][step - self.batches(epoch)]
        return [self._row(bucket, place) for place in range(number * self._size, (number + 1) * self._size)]

    def _schedule(self, epoch: int) -> list[tuple[int, int]]:
        """Buckets of an epoch's batches, and the number of each batch in its bucket."""
        found = []
        for bucket, rows in enumerate(self._buckets):
            first, last = (-(-count * len(rows) // self._size) for count in (epoch, epoch + 1))
            found += [(bucket, number) for number in range(first, last)]
        if len(self._buckets) > 1:
            random.Random(f"{self._seed}/buckets/{epoch}").shuffle(found)
        return found

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
