"""The order of pictures: a function of seed and step; every picture as often as it is to be met."""

from collections import Counter

import pytest

from reslora_sd.diffusion.order import BucketOrder

BUCKETS = [list(range(7)), [7], list(range(8, 20)), [20, 20, 20, 21]]
"""The last one has a picture that is met three times in an epoch."""


def met(order, steps):
    return Counter(row for step in range(steps) for row in order.rows(step))


def test_a_batch_is_full_and_of_one_bucket():
    order = BucketOrder(BUCKETS, 4, seed=1)
    for step in range(60):
        rows = order.rows(step)
        assert len(rows) == 4 and any(set(rows) <= set(bucket) for bucket in BUCKETS)


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_every_picture_is_met_as_often_as_its_repeats_say(size):
    order = BucketOrder(BUCKETS, size, seed=1)
    for epochs in (1, 2, 5, 40):
        found = met(order, -(-epochs * 24 // size))
        for bucket in BUCKETS:
            for row, repeats in Counter(bucket).items():
                rest = size / len(bucket)  # of a batch that reaches into the next epochs
                assert (epochs - rest - 1) * repeats <= found[row] <= (epochs + rest + 1) * repeats
    assert order.pictures == 24
    assert order.batches(100) * size <= 100 * 24 + len(BUCKETS) * size  # nothing is lost to the rests


@pytest.mark.parametrize("size", [1, 4, 16])
def test_however_short_a_run_is_a_rare_bucket_has_its_share(size):
    """Batches of every bucket, after each step: two pictures of 200 aren't met in every epoch with batches of 16."""
    buckets = [list(range(150)), list(range(150, 198)), [198, 199]]
    for seed in range(3):
        order, counts = BucketOrder(buckets, size, seed), Counter[int]()
        for step in range(3 * 200 // size):
            row = order.rows(step)[0]
            counts[0 if row < 150 else 1 if row < 198 else 2] += 1
            for bucket, rows in enumerate(buckets):
                assert abs(counts[bucket] - (step + 1) * len(rows) / 200) < 2.5
    alone = sum(BucketOrder(buckets, 16, seed).rows(step)[0] >= 198 for seed in range(80) for step in range(13))
    assert 3 <= alone <= 20  # 80 runs of one epoch: 160 pictures, which are 10 batches


def test_the_order_depends_on_seed_and_step_alone():
    first, again, other = (BucketOrder(BUCKETS, 3, seed) for seed in (1, 1, 2))
    straight = [first.rows(step) for step in range(50)]
    assert [again.rows(step) for step in reversed(range(50))] == straight[::-1]
    assert [other.rows(step) for step in range(50)] != straight


def test_epochs_mix_the_buckets():
    order = BucketOrder([list(range(40)), list(range(40, 80))], 4, seed=0)
    kinds = [order.rows(step)[0] // 40 for step in range(20)]
    assert sorted(kinds) == [0] * 10 + [1] * 10 and kinds != sorted(kinds)


def test_one_bucket_is_a_permutation_an_epoch_without_a_rest():
    order = BucketOrder([list(range(6))], 4, seed=3)
    rows = [row for step in range(6) for row in order.rows(step)]
    assert all(sorted(rows[start : start + 6]) == list(range(6)) for start in range(0, 24, 6))
