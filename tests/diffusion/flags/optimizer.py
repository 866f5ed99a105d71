"""Flags of AdamW and of its rate."""

from __future__ import annotations

import importlib.machinery
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

ADAM: dict[str, float] = {
    "learning_rate": 5e-3,
    "adam_beta1": 0.5,
    "adam_beta2": 0.6,
    "adam_weight_decay": 0.1,
    "adam_epsilon": 1e-4,
}
USUAL = {"learning_rate": 1e-2, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_weight_decay": 1e-2, "adam_epsilon": 1e-8}
"""The same without their flags; the rate is that of the tests' runs."""
STEPPED = (*(word for name, value in ADAM.items() for word in (f"--{name}", value)), "--max_grad_norm", 0.01)
SCHEDULED = (
    *("--lr_scheduler", "polynomial", "--lr_power", 3, "--lr_warmup_steps", 2, "--max_train_steps", 5),
    *("--scale_lr", "--gradient_accumulation_steps", 3, "--train_batch_size", 1, "--learning_rate", 1e-3),
)
CONSTANT = ("--max_train_steps", 5, "--learning_rate", 1e-3)
COSINES = ("--lr_scheduler", "cosine_with_restarts", "--max_train_steps", 4)


def adamw(it: Seen, how: dict[str, float]) -> Tensor:
    """The weights after the run's gradients, by AdamW as its paper writes it (arXiv 1711.05101, algorithm 2)."""
    x = it.updates[0].before
    m = v = torch.zeros_like(x)
    for t, update in enumerate(it.updates, start=1):
        g = update.gradients
        m = how["adam_beta1"] * m + (1 - how["adam_beta1"]) * g
        v = how["adam_beta2"] * v + (1 - how["adam_beta2"]) * g**2
        direction = m / (1 - how["adam_beta1"] ** t) / ((v / (1 - how["adam_beta2"] ** t)).sqrt() + how["adam_epsilon"])
        x = x - how["learning_rate"] * (direction + how["adam_weight_decay"] * x)
    return x


def is_what_adamw_does(it: Seen, flag: str) -> None:
    after = it.updates[-1].after
    torch.testing.assert_close(after, adamw(it, ADAM), rtol=1e-4, atol=1e-7)
    assert (after - adamw(it, ADAM | {flag: USUAL[flag]})).abs().max() > 1e-5


elsewhere(text_encoder_lr="test_text_encoders.py::test_a_resumed_run_is_the_straight_run")


@row("learning_rate", *STEPPED)
def it_is_the_length_of_the_steps(it: Seen, plain: Seen) -> None:
    is_what_adamw_does(it, "learning_rate")
    assert it.column("lr") == [5e-3, 5e-3]


@row("adam_beta1", *STEPPED)
def it_is_the_first_moments_decay(it: Seen, plain: Seen) -> None:
    is_what_adamw_does(it, "adam_beta1")


@row("adam_beta2", *STEPPED)
def it_is_the_second_moments_decay(it: Seen, plain: Seen) -> None:
    is_what_adamw_does(it, "adam_beta2")


@row("adam_weight_decay", *STEPPED)
def it_shrinks_the_weights(it: Seen, plain: Seen) -> None:
    is_what_adamw_does(it, "adam_weight_decay")


@row("adam_epsilon", *STEPPED)
def it_is_added_to_the_roots(it: Seen, plain: Seen) -> None:
    is_what_adamw_does(it, "adam_epsilon")


@row("max_grad_norm", *STEPPED)
def longer_gradients_are_cut_to_it_after_the_log_has_their_norm(it: Seen, plain: Seen) -> None:
    assert [float(update.gradients.norm()) for update in it.updates] == pytest.approx([0.01] * 2, rel=1e-3)
    assert min(it.column("grad_norm")) > 0.1


@row("scale_lr", *SCHEDULED, without=CONSTANT)
def the_rate_is_multiplied_by_the_pictures_of_a_step(it: Seen, plain: Seen) -> None:
    assert max(it.column("lr")) == pytest.approx(3e-3)


@row("lr_scheduler", *SCHEDULED, without=CONSTANT)
def the_rate_follows_it(it: Seen, plain: Seen) -> None:
    rates = it.column("lr")
    assert rates[2] == max(rates) and rates[4] < rates[3] < rates[2]


@row("lr_warmup_steps", *SCHEDULED, without=CONSTANT)
def the_rate_rises_from_zero_over_them(it: Seen, plain: Seen) -> None:
    assert it.column("lr")[:3] == pytest.approx([0, 1.5e-3, 3e-3])


@row("lr_power", *SCHEDULED, without=CONSTANT)
def it_is_the_polynomials(it: Seen, plain: Seen) -> None:
    end, top = 1e-7, max(it.column("lr"))  # diffusers' own end
    assert it.column("lr")[2:] == pytest.approx([(top - end) * (1 - step / 3) ** 3 + end for step in range(3)])


@row("lr_num_cycles", *COSINES, "--lr_num_cycles", 2, without=COSINES)
def the_cosine_starts_so_often(it: Seen, plain: Seen) -> None:
    assert it.column("lr") == pytest.approx([1e-2 * (1 + math.cos(math.pi * (step % 2) / 2)) / 2 for step in range(4)])


def with_bitsandbytes(patch: pytest.MonkeyPatch) -> None:
    """A stand-in of the package, which needs a GPU."""

    class AdamW8bit(torch.optim.AdamW):
        pass

    package: Any = types.ModuleType("bitsandbytes")
    package.__spec__ = importlib.machinery.ModuleSpec("bitsandbytes", None)
    package.optim = types.SimpleNamespace(AdamW8bit=AdamW8bit)
    patch.setitem(sys.modules, "bitsandbytes", package)


@row("use_8bit_adam", "--use_8bit_adam", setup=with_bitsandbytes)
def bitsandbytes_makes_the_steps(it: Seen, plain: Seen) -> None:
    assert {update.kind for update in it.updates} == {"AdamW8bit"}
