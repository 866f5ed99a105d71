"""Declaring settings, and the checks of their values."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from reslora_sd.training.options import check_above_zero, check_at_least, check_choices, check_finite, option, switch


@dataclass(frozen=True)
class Settings:
    kind: Literal["a", "b"] = option("a", "A kind.")
    other: Literal["x"] | None = option(None, "Another.")
    kinds: list[Literal["a", "b"]] = option(["a"], "Kinds.")
    number: float | None = option(None, "A number.")
    flag: bool | None = switch("A switch.")


def test_fields_have_defaults_and_help_and_share_no_list():
    first, second = Settings(), Settings()
    assert first == second and first.kinds == ["a"] and first.kinds is not second.kinds and first.flag is None
    assert {field.name: field.metadata["help"] for field in dataclasses.fields(Settings)} == {
        "kind": "A kind.",
        "other": "Another.",
        "kinds": "Kinds.",
        "number": "A number.",
        "flag": "A switch.",
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "c"}, r"--kind is 'c'\. It must be one of a, b\."),
        ({"other": "y"}, r"--other is 'y'\. It must be one of x\."),
        ({"kinds": ["a", "c"]}, r"--kinds is 'c'\. It must be one of a, b\."),
    ],
)
def test_a_value_that_is_no_choice_is_named_with_the_choices(changed, message):
    with pytest.raises(ValueError, match=message):
        check_choices(Settings(**changed))


def test_choices_and_what_is_left_out_pass():
    check_choices(Settings())
    check_choices(Settings(kind="b", other="x", kinds=["b", "a"]))


@pytest.mark.parametrize("value", [0.99, -1, float("nan")])
def test_a_value_below_the_least_is_named(value):
    with pytest.raises(ValueError, match=rf"--number is {value}\. It must be 1 or more\."):
        check_at_least(Settings(number=value), 1, ["number"])


@pytest.mark.parametrize("value", [0, -0.5, float("nan")])
def test_a_value_that_is_not_above_zero_is_named(value):
    with pytest.raises(ValueError, match=rf"--number is {value}\. It must be above 0\."):
        check_above_zero(Settings(number=value), ["number"])


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_named_unless_it_may_be(value):
    with pytest.raises(ValueError, match=rf"--number is {value}\. It must be a finite number\."):
        check_finite(Settings(number=value))
    check_finite(Settings(number=value), but=["number"])
    check_finite(Settings(number=-1e300))


def test_bounds_themselves_and_what_is_left_out_pass():
    for value in (None, 1):
        check_at_least(Settings(number=value), 1, ["number"])
        check_above_zero(Settings(number=value), ["number"])
    check_above_zero(Settings(number=1e-30), ["number"])
