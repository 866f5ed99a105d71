import pytest

from reslora_sd import ResLoRAConfig


def test_settings_survive_json():
    config = ResLoRAConfig(residual="middle", r=4, lora_alpha=8, pre_num=-1, target_modules=("to_q", "to_v"))
    assert ResLoRAConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("residual", "expected"), [("none", 0), ("input", 1), ("block", 4), ("middle", 4), ("frozen", 1)]
)
def test_pre_num_is_the_papers_unless_given(residual, expected):
    assert ResLoRAConfig(residual=residual).pre_num == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, ["r (the rank) is 0", "from 1 to 65,536"]),
        ({"r": 2.5}, ["2.5"]),
        ({"r": True}, ["True"]),
        ({"residual": "skip"}, ["'skip'", "none, input, block, middle"]),
        ({"lora_alpha": 0}, ["lora_alpha is 0"]),
        ({"lora_alpha": float("nan")}, ["nan"]),
        ({"lora_dropout": 1.0}, ["lora_dropout is 1.0"]),
        ({"first_block": "zero"}, ["'zero'", "self, none"]),
        ({"link": "any"}, ["'any'", "same_size"]),
        ({"residual": "input", "pre_num": 2}, ["pre_num is 2", "always uses 1"]),
        ({"residual": "block", "pre_num": 0}, ["pre_num is 0", "-1"]),
        ({"residual": "block", "pre_num": -2}, ["pre_num is -2"]),
        ({"target_modules": ()}, ["target_modules is empty"]),
        ({"target_modules": 5}, ["target_modules is 5"]),
        ({"target_modules": ["to_q", 1]}, ["target_modules", "to_q", "1"]),
        ({"target_modules": "to_(q"}, ["'to_(q'", "no regular expression"]),
        ({"across_attention": "no"}, ["across_attention is 'no'"]),
        ({"lora_alpha": 10**400}, ["lora_alpha"]),
        ({"r": 10**31}, ["r (the rank)"]),
        ({"r": 65_537}, ["r (the rank)", "from 1 to 65,536"]),
    ],
)
def test_a_bad_setting_is_named_with_its_value(settings, words):
    with pytest.raises(ValueError) as error:
        ResLoRAConfig(**settings)
    assert all(word in str(error.value) for word in words)


def test_a_setting_of_a_newer_version_is_not_lost_in_silence():
    with pytest.raises(ValueError, match="newer"):
        ResLoRAConfig.from_json('{"r": 4, "gate": true}')


def test_broken_json_is_told():
    with pytest.raises(ValueError, match="damaged"):
        ResLoRAConfig.from_json("{r: 4")


def test_json_too_deep_to_read_is_told():
    with pytest.raises(ValueError, match="damaged"):
        ResLoRAConfig.from_json("[" * 100_000)
