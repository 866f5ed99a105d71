"""Defaults that depend on the model and the data: whose they are, and that no flag loses against one."""

import pytest

from reslora_sd.diffusion.arguments import parse_settings, settings_of, to_arguments
from reslora_sd.diffusion.defaults import EMBEDDED_DEFAULTS, OWN_CAPTIONS, OWN_DEFAULTS, OWN_INTERVAL, OWN_STEPS

OWN = {**OWN_DEFAULTS, "max_train_steps": OWN_STEPS, "validation_steps": OWN_INTERVAL}


def defaults(*argv):
    return to_arguments(parse_settings(list(argv)))


def differing(found, wanted):
    return {name: found[name] for name, value in wanted.items() if found[name] != value}


@pytest.mark.parametrize("argv", [("--train_data_dir", "pictures"), ("--dataset_name", "somebody/pictures")])
def test_own_pictures_on_the_embedded_model_have_defaults_of_their_own(argv):
    found = defaults(*argv)
    assert differing(found, OWN) == {}
    assert found["max_timestep"] is None  # low ones alone teach no colour
    assert (found["validation_captions"], found["validation_prompts"]) == (OWN_CAPTIONS, [])


@pytest.mark.parametrize(
    "argv", [("--dataset_name", "openmoji"), ("--dataset_name", "openmoji", "--train_data_dir", "x")]
)
def test_openmoji_is_nobodys_own(argv):
    found = defaults(*argv)
    assert differing(found, EMBEDDED_DEFAULTS) == {} and found["validation_captions"] == 0
    assert "cat face" in found["validation_prompts"]


def test_own_pictures_change_nothing_for_another_model():
    found = defaults("--pretrained_model_name_or_path", "other/model", "--train_data_dir", "pictures")
    none = defaults("--pretrained_model_name_or_path", "other/model")
    data = {"train_data_dir", "max_train_samples", "validation_samples"}
    assert {name for name in found if found[name] != none[name]} == data
    assert found["validation_captions"] == 0


@pytest.mark.parametrize("name", OWN)
def test_no_default_for_own_pictures_stands_against_a_flag(name):
    others = {"center_crop": False, "learning_rate": 3e-4, "lr_scheduler": "linear", "validation_guidance_scale": 5.5}
    given = others.get(name, 7)
    assert defaults("--train_data_dir", "pictures", f"--{name}", str(given))[name] == given


def test_epochs_and_prompts_that_are_given_count_with_own_pictures_too():
    found = defaults("--train_data_dir", "pictures", "--num_train_epochs", "3", "--validation_epochs", "2")
    assert (found["max_train_steps"], found["num_train_epochs"]) == (None, 3)
    assert (found["validation_steps"], found["validation_epochs"]) == (None, 2)
    for flag in ("--validation_prompt", "--validation_prompts"):
        asked = defaults("--train_data_dir", "pictures", flag, "a red fish")
        assert (asked["validation_prompts"], asked["validation_captions"]) == (["a red fish"], 0)


def test_whoever_wants_no_captions_gets_no_pictures_and_no_error():
    found = defaults("--train_data_dir", "pictures", "--validation_captions", "0")
    assert (found["validation_captions"], found["validation_steps"], found["validation_epochs"]) == (0, None, None)


def test_settings_of_a_run_on_own_pictures_come_back_from_its_file():
    found = parse_settings(["--train_data_dir", "pictures"])
    assert settings_of(to_arguments(found)) == found


@pytest.mark.parametrize(("steps", "interval"), [("50", 20), ("200", 20), ("1000", 100)])
def test_long_runs_draw_ten_times_unless_asked(steps, interval):
    assert defaults("--max_train_steps", steps)["validation_steps"] == interval
    assert defaults("--max_train_steps", steps, "--validation_steps", "7")["validation_steps"] == 7
