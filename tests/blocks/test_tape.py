import inspect

import pytest
import torch
from diffusers import UNet2DConditionModel

from reslora_sd.blocks.tape import Tape


def test_the_first_value_stays_and_goes_with_its_last_reader():
    tape = Tape()
    first, second = torch.ones(1), torch.zeros(1)
    tape.write("x", first, readers=2)
    tape.write("x", second, readers=0)
    assert tape.read("x", "a") is first and tape.read("x", "b") is first
    with pytest.raises(RuntimeError, match=r"c needs what x leaves on the tape"):
        tape.read("x", "c")


def test_recomputation_finds_the_values_without_their_graph():
    tape = Tape(keep=True)
    tape.write("x", torch.ones(1, requires_grad=True) * 2, readers=1)
    assert tape.read("x", "a").grad_fn is not None
    tape.close()
    kept = tape.read("x", "a")
    assert kept.grad_fn is None and kept.requires_grad and float(kept.detach()) == 2


def test_diffusers_still_takes_cross_attention_kwargs_in_the_seventh_place():
    """The pre-hook counts on it where somebody passes everything by position."""
    names = list(inspect.signature(UNet2DConditionModel.forward).parameters)
    assert names[7] == "cross_attention_kwargs"  # after self
