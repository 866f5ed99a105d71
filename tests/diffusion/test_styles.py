"""The embedded styles: what they hold, what a run on one trains on, and what it measures."""

import pytest

from reslora_sd.assets import STYLES_FOLDER
from reslora_sd.diffusion.arguments import parse_settings, settings_of, to_arguments
from reslora_sd.diffusion.data import load_split
from reslora_sd.diffusion.reference_pictures import save_reference_pictures
from reslora_sd.diffusion.styles import TRAIN, UNSEEN, load_style
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.jsonl import read_jsonl
from reslora_sd.runs.names import DEFAULT_PROMPTS, STYLES


def names_of(style, part):
    return [caption for _, caption in load_style(style, part)]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_has_sixty_pictures_to_train_on_and_those_of_sixty_other_names(style):
    train, unseen = names_of(style, TRAIN), names_of(style, UNSEEN)
    assert len({*train}) == len({*unseen}) == 60 and not {*train} & {*unseen}
    assert {*DEFAULT_PROMPTS} <= {*unseen}
    assert (train, unseen) == (names_of(STYLES[0], TRAIN), names_of(STYLES[0], UNSEEN))
    assert {(picture.size, picture.mode) for picture, _ in load_style(style)} == {((64, 64), "RGB")}


def test_every_style_that_can_be_named_is_there_and_all_are_small():
    assert {path.name for path in STYLES_FOLDER.iterdir() if path.is_dir()} == {*STYLES}
    assert sum(path.stat().st_size for path in STYLES_FOLDER.rglob("*")) < 1.5e6


def test_the_embedded_model_learns_the_first_style_where_no_data_is_given():
    settings = parse_settings([])
    assert settings.data.dataset_name == STYLES[0]
    assert (settings.training.max_timestep, settings.validation.validation_samples) == (None, 60)
    assert parse_settings(["--train_data_dir", "pictures"]).data.dataset_name is None
    assert parse_settings(["--pretrained_model_name_or_path", "other"]).data.is_default


def test_flags_win_over_what_a_style_sets():
    settings = parse_settings(["--dataset_name", STYLES[1], "--max_timestep", "500", "--validation_samples", "3"])
    assert (settings.data.dataset_name, settings.training.max_timestep) == (STYLES[1], 500)
    assert settings.validation.validation_samples == 3


def test_settings_of_a_run_on_a_style_are_read_back():
    settings = parse_settings([])
    assert settings_of(to_arguments(settings)) == settings


def test_a_run_of_earlier_versions_without_data_was_trained_on_openmoji():
    arguments = to_arguments(parse_settings([])) | {"dataset_name": None, "max_timestep": 600}
    settings = settings_of(arguments)
    assert settings.data.is_default and settings.training.max_timestep == 600


def test_a_run_measures_names_that_the_style_keeps_from_training():
    images, kept_out, _ = load_split(parse_settings(["--validation_samples", "7"]), 64)
    assert kept_out is not None and [one for [one] in images.captions] == names_of(STYLES[0], TRAIN)
    assert [one for [one] in kept_out.captions] == names_of(STYLES[0], UNSEEN)[:7]
    few, none, _ = load_split(parse_settings(["--max_train_samples", "5", "--validation_samples", "0"]), 64)
    assert len(few) == 5 and none is None


@pytest.mark.parametrize(("samples", "seen"), [("60", "held out"), ("0", "neither")])
def test_the_wanted_drawing_stands_beside_what_is_drawn(samples, seen, tmp_path):
    images, kept_out, _ = load_split(parse_settings(["--validation_samples", samples]), 64)
    run = RunFolder(tmp_path / "run")
    save_reference_pictures(run, ["red apple", "no such name"], images, kept_out, 64)
    assert read_jsonl(run.index_path.parent / "real.jsonl") == [
        {"prompt": "red apple", "file": "real/00.png", "seen": seen}
    ]


def test_pictures_that_are_tested_on_are_other_unseen_names():
    split = load_split(parse_settings(["--validation_samples", "7", "--test_samples", "5"]), 64)
    assert split.kept_out is not None and split.test is not None
    names = names_of(STYLES[0], UNSEEN)
    assert [one for [one] in split.kept_out.captions] == names[:7]
    assert [one for [one] in split.test.captions] == names[-5:]
    with pytest.raises(
        ValueError, match="has 60 pictures of unseen names, and --validation_samples 60 with --test_samples 5"
    ):
        load_split(parse_settings(["--test_samples", "5"]), 64)
