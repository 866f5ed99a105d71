"""The method settings that all scripts share."""

from typing import get_args

import pytest

from reslora_sd import ResLoRAConfig
from reslora_sd.runs.names import BASELINES, METHODS
from reslora_sd.training.method import AnyMethod, MethodSettings, OurMethod


def test_the_types_have_the_names_that_scripts_and_page_share():
    assert get_args(OurMethod) == tuple(METHODS)
    assert get_args(AnyMethod) == (*METHODS, *BASELINES)


def test_every_setting_reaches_the_adapter():
    settings = MethodSettings("reslora_ms", 3, 5.0, 0.25, 2, "none", ["q", "v"])
    assert settings.lora_config(link="same_size") == ResLoRAConfig(
        "middle", 3, 5.0, 0.25, ("q", "v"), 2, "none", "same_size"
    )
    assert settings.lora_config(["k"]).target_modules == ("k",)


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_is_not_ours(method):
    assert not MethodSettings(method).is_ours and MethodSettings("lora").is_ours


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 0}, "--rank is 0"),
        ({"rank": 0, "method": "loha"}, "--rank is 0"),
        ({"calibration_samples": 0}, "--calibration_samples is 0"),
        ({"method": "reslora_frozen", "path_samples": 0}, "--path_samples is 0"),
        ({"path_samples": 8}, "--path_samples is for reslora_frozen, and --method is reslora_is"),
        ({"lora_alpha": 0.0}, "--lora_alpha is 0.0. It must be above 0"),
        ({"lora_dropout": 1.0}, "--lora_dropout is 1.0. It must be at least 0 and below 1"),
        ({"lora_dropout": -0.1, "method": "full"}, "--lora_dropout is -0.1"),
        ({"first_block": "first"}, "--first_block is 'first'. It must be one of self, none"),
        ({"method": "reslora_is", "pre_num": 3}, "pre_num is 3"),
        ({"method": "reslora_bs", "pre_num": 0}, "pre_num is 0"),
        ({"target_modules": []}, "target_modules is empty"),
    ],
)
def test_what_cannot_be_meant_is_told_before_a_model_is_loaded(changed, message):
    with pytest.raises(ValueError, match=message):
        MethodSettings(**changed)
