"""Flags of what is drawn and measured on the way."""

from __future__ import annotations

from reslora_sd.runs.jsonl import read_jsonl
from tests.diffusion.flags.seen import Seen
from tests.diffusion.flags.table import elsewhere, row

DRAWN = (
    *("--validation_prompts", "colour 1", "colour 2", "--validation_prompt", "colour 3", "--validation_steps", 1),
    *("--num_validation_images", 2, "--validation_negative_prompt", "blue", "--validation_guidance_scale", 3),
    *("--validation_inference_steps", 1),
)
EACH_EPOCH = (
    *("--validation_prompts", "red", "--train_batch_size", 4, "--max_train_steps", 4),
    *("--validation_inference_steps", 1),
)

elsewhere(
    validation_captions="test_validation.py::test_captions_of_the_data_are_drawn_beside_the_prompts",
    validation_samples="test_train_script.py::test_pictures_kept_out_are_not_trained_on_and_have_a_loss",
    test_samples="test_train_script.py::test_test_pictures_are_measured_on_at_the_end_and_serve_nothing_else",
)


def pictures(it: Seen) -> list[tuple[str, int, int]]:
    """Prompt, seed and step of all pictures that are there."""
    rows = read_jsonl(it.run / "validation" / "index.jsonl")
    assert all((it.run / "validation" / row["file"]).is_file() for row in rows)
    assert len(rows) == len(list(it.run.glob("validation/step-*/*.png")))
    return [(row["prompt"], row["seed"], row["step"]) for row in rows]


def asked(it: Seen, name: str) -> list[object]:
    """What the pipeline was asked for, over all drawings."""
    return [call[name] for call in it.drawn]


@row("validation_prompts", *DRAWN)
def these_prompts_are_drawn(it: Seen, plain: Seen) -> None:
    assert {"colour 1", "colour 2"} <= {prompt for prompt, _, _ in pictures(it)}
    assert [call["prompt"][:4] for call in it.drawn] == [["colour 1"] * 2 + ["colour 2"] * 2] * 3


@row("validation_prompt", *DRAWN)
def this_prompt_is_drawn_too(it: Seen, plain: Seen) -> None:
    assert "colour 3" in {prompt for prompt, _, _ in pictures(it)}
    assert [call["prompt"][4:] for call in it.drawn] == [["colour 3"] * 2] * 3


@row("num_validation_images", *DRAWN)
def each_prompt_is_drawn_with_so_many_seeds(it: Seen, plain: Seen) -> None:
    assert {seed for _, seed, _ in pictures(it)} == {42, 43}
    assert asked(it, "seeds") == [[42, 43] * 3] * 3


@row("validation_steps", *DRAWN)
def pictures_are_drawn_every_so_many_steps(it: Seen, plain: Seen) -> None:
    assert {step for _, _, step in pictures(it)} == {0, 1, 2}


@row("validation_negative_prompt", *DRAWN)
def pictures_are_guided_away_from_it(it: Seen, plain: Seen) -> None:
    assert asked(it, "negative_prompt") == [["blue"] * 6] * 3


@row("validation_guidance_scale", *DRAWN)
def the_prompt_guides_so_strongly(it: Seen, plain: Seen) -> None:
    assert asked(it, "guidance_scale") == [3.0] * 3


@row("validation_inference_steps", *DRAWN)
def the_sampler_takes_so_many_steps(it: Seen, plain: Seen) -> None:
    assert asked(it, "num_inference_steps") == [1] * 3


@row("validation_epochs", *EACH_EPOCH, "--validation_epochs", 2, without=EACH_EPOCH)
def pictures_are_drawn_every_so_many_epochs_and_every_one_without_it(it: Seen, plain: Seen) -> None:
    assert {step for _, _, step in pictures(it)} == {0, 4}  # 8 pictures: 2 steps an epoch
    assert {step for _, _, step in pictures(plain)} == {0, 2, 4}
