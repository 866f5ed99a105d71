from __future__ import annotations

import pytest

from reslora_sd.diffusion.captions import tag_frequency, trigger_phrase


def test_tags_are_counted_as_kohya_counts_them():
    captions = [["Rex, a dog , on a beach"], ["rex,", "A DOG, asleep"]]
    assert tag_frequency(captions) == {"rex": 2, "a dog": 2, "on a beach": 1, "asleep": 1}
    many = tag_frequency([[f"picture {i} {'x' * 999}, rex"] for i in range(2000)])
    assert len(many) == 500 and many["rex"] == 2000 and max(map(len, many)) == 200


@pytest.mark.parametrize(
    ("captions", "phrase"),
    [
        (["a photo of Rex on a beach", "a painting of Rex", "Rex, asleep"], "Rex"),
        (["rex the dog, running", "asleep: Rex the dog"], "Rex the dog"),
        (["a photo of a cat", "a photo of a house"], None),
        (["cat", "concatenate"], None),
        (["sks dog", "sks dog"], "sks dog"),
        (["a cat"], None),
        (["кот Рыжик спит", "Рыжик"], "Рыжик"),
    ],
)
def test_words_of_every_caption_that_name_something_are_the_trigger(captions, phrase):
    assert trigger_phrase([[caption] for caption in captions]) == phrase
