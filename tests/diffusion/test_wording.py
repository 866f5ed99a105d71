"""Captions that change from one time to the next: what may change, and that seed and step alone decide it."""

import random
from collections import Counter

import pytest
import torch
from PIL import Image

from reslora_sd.diffusion import encoded, encoded_captions
from reslora_sd.diffusion.arguments import parse_settings
from reslora_sd.diffusion.batches import batches_kept_out, training_batches
from reslora_sd.diffusion.captioned import CaptionedImages
from reslora_sd.diffusion.data import load_split
from reslora_sd.diffusion.framing import Framing, framing_of
from reslora_sd.diffusion.models import load_parts
from reslora_sd.diffusion.wording import Wording

TAGS = "rex, dog, on a beach, blue sky, ball"


def forms(wording, caption=TAGS, times=400):
    return Counter(wording(caption, random.Random(time)) for time in range(times))


def test_without_flags_a_caption_stays_as_it_is_to_the_last_blank():
    assert forms(Wording(), " a,b ,  c") == {" a,b ,  c": 400}
    assert not Wording(caption_dropout_rate=0.5, keep_tokens=3).is_varied


def test_tags_are_shuffled_behind_those_that_are_kept():
    found = forms(Wording(shuffle_caption=True, keep_tokens=2))
    assert len(found) == 6 and all(form.startswith("rex, dog, ") for form in found)
    assert all(sorted(form.split(", ")) == sorted(TAGS.split(", ")) for form in found)
    assert min(found.values()) > 40
    assert forms(Wording(shuffle_caption=True, keep_tokens=9)) == {TAGS: 400}


def test_tags_are_left_out_at_their_rate_but_never_those_kept_nor_the_trigger_word():
    wording = Wording(caption_tag_dropout_rate=0.25, keep_tokens=1, trigger_word="Ball")
    counts = Counter(tag for form, times in forms(wording).items() for tag in form.split(", ") * times)
    assert counts["rex"] == counts["ball"] == 400
    assert all(270 < counts[tag] < 330 for tag in ("dog", "on a beach", "blue sky"))
    assert forms(Wording(caption_tag_dropout_rate=1.0)) == {"": 400}


def test_captions_are_left_out_at_their_rate():
    found = forms(Wording(caption_dropout_rate=0.1))
    assert found.keys() == {"", TAGS} and 20 < found[""] < 60


@pytest.mark.parametrize("flag", ["--caption_dropout_rate", "--caption_tag_dropout_rate"])
def test_rates_are_shares(flag):
    with pytest.raises(ValueError, match=rf"{flag} is 10.0. It must be from 0 to 1"):
        parse_settings([flag, "10"])


@pytest.fixture
def tagged(tmp_path):
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"number {number}, dog, red, ball")
    return tmp_path


@pytest.fixture(scope="module")
def parts(tiny_pipeline_folder):
    return load_parts(str(tiny_pipeline_folder))


def maker(folder, parts, *flags, processes=1, rank=0):
    size = str(4 // processes)
    given = ["--train_data_dir", str(folder), "--train_batch_size", size, "--trigger_word", "rex", *flags]
    settings = parse_settings(given)
    images = load_split(settings, 16).training
    framing = framing_of(settings.data, 16, images, parts)
    return training_batches(settings, parts, images, framing, processes, rank, quiet=True)


VARIED = (
    "--shuffle_caption",
    "--keep_tokens",
    "1",
    "--caption_tag_dropout_rate",
    "0.3",
    "--caption_dropout_rate",
    "0.2",
)


def met(batches, steps, monkeypatch):
    """Captions that were met in each step."""
    found = []
    conditioning = encoded.EncodedImages.conditioning

    def note(self, captions, frames):
        found.append(list(captions))
        return conditioning(self, captions, frames)

    with monkeypatch.context() as patch:
        patch.setattr(encoded.EncodedImages, "conditioning", note)
        made = [batches(step) for step in steps]
    return found, made


def test_words_depend_on_seed_and_step_and_nothing_else_changes_with_them(tagged, parts, monkeypatch):
    words, batches = met(maker(tagged, parts, *VARIED), range(8), monkeypatch)
    again, _ = met(maker(tagged, parts, *VARIED), reversed(range(8)), monkeypatch)
    other, _ = met(maker(tagged, parts, *VARIED, "--seed", "7"), range(8), monkeypatch)
    plain, unchanged = met(maker(tagged, parts), range(8), monkeypatch)
    assert again[::-1] == words != other
    flat = [caption for step in words for caption in step]
    assert "" in flat and len(set(flat)) > 15 and all(one in ("", "rex") or one.startswith("rex, ") for one in flat)
    assert {caption for step in plain for caption in step} == {f"rex, number {i}, dog, red, ball" for i in range(6)}
    for varied, same in zip(batches, unchanged, strict=True):
        assert all(
            torch.equal(getattr(varied, name), getattr(same, name)) for name in ("latents", "noise", "timesteps")
        )


def test_processes_share_the_words_of_one_with_the_joined_batch(tagged, parts, monkeypatch):
    whole, _ = met(maker(tagged, parts, *VARIED), range(5), monkeypatch)
    halves = [met(maker(tagged, parts, *VARIED, processes=2, rank=rank), range(5), monkeypatch)[0] for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_what_a_caption_has_been_encoded_as_is_the_same_in_the_batch_and_in_the_cache(tagged, parts, monkeypatch):
    words, batches = met(maker(tagged, parts, *VARIED), range(3), monkeypatch)
    for captions, batch in zip(words, batches, strict=True):
        alone = encoded_captions.encode_captions(parts, captions, quiet=True)
        wanted = torch.stack([alone[caption].tokens for caption in captions])
        torch.testing.assert_close(batch.conditioning.embeddings, wanted, rtol=1e-5, atol=1e-5)


def test_only_captions_of_one_form_are_encoded_beforehand(tagged, parts, monkeypatch):
    seen = []
    encode = encoded_captions.encode_captions

    def note(parts, captions, quiet):
        seen.append(captions)
        return encode(parts, captions, quiet)

    monkeypatch.setattr(encoded_captions, "encode_captions", note)
    maker(tagged, parts, *VARIED)
    maker(tagged, parts, "--caption_dropout_rate", "0.5")
    assert [len(captions) for captions in seen] == [1, 7]


def test_folders_say_it_for_themselves_and_pictures_kept_out_keep_their_captions(tagged, parts, tmp_path, monkeypatch):
    (tmp_path / "set.toml").write_text(f'[[folders]]\npath = "{tagged}"\ncaption_dropout_rate = 1.0\n')
    settings = parse_settings(["--dataset_config", str(tmp_path / "set.toml"), "--validation_samples", "2"])
    split = load_split(settings, 16)
    framing = framing_of(settings.data, 16, split.training, parts)
    batches = training_batches(settings, parts, split.training, framing, quiet=True)
    assert {caption for step in met(batches, range(3), monkeypatch)[0] for caption in step} == {""}
    held = batches_kept_out(settings.training, parts, split, framing).validation
    assert held is not None and all("ball" in caption for caption in met(held, range(1), monkeypatch)[0][0])


def test_one_of_several_captions_is_met_each_time(parts, monkeypatch):
    images = CaptionedImages([["one", "two", "three"]], lambda _: Image.new("RGB", (16, 16)), "made up")
    batches = training_batches(parse_settings(["--train_batch_size", "4"]), parts, images, Framing(16), quiet=True)
    assert {caption for step in met(batches, range(6), monkeypatch)[0] for caption in step} == {"one", "two", "three"}
