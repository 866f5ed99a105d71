"""What a training and its launcher have to agree on."""

from types import SimpleNamespace

import pytest

from reslora_sd.training.distributed import check_accumulation, check_prepared_accumulation

VARIABLE = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


@pytest.mark.parametrize("launched", [None, "", "1", "auto", "4"])
def test_a_launcher_that_says_nothing_or_the_same_is_fine(monkeypatch, launched):
    monkeypatch.delenv(VARIABLE, raising=False)
    if launched is not None:
        monkeypatch.setenv(VARIABLE, launched)
    check_accumulation(4)


@pytest.mark.parametrize("launched", ["2", "four"])
def test_a_launcher_that_says_otherwise_is_named_with_the_flag(monkeypatch, launched):
    monkeypatch.setenv(VARIABLE, launched)
    with pytest.raises(
        ValueError, match=rf"--gradient_accumulation_steps is 4, and accelerate launch .* says {launched}"
    ):
        check_accumulation(4)


def test_a_deepspeed_config_that_won_is_named():
    check_prepared_accumulation(SimpleNamespace(gradient_accumulation_steps=4), 4)
    with pytest.raises(ValueError, match="--gradient_accumulation_steps is 4, and the DeepSpeed config says 2"):
        check_prepared_accumulation(SimpleNamespace(gradient_accumulation_steps=2), 4)
