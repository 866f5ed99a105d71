"""What is chosen above the pictures."""

from dataclasses import replace
from pathlib import Path

from app.selection import MOST_CHOICES, Asked, pair_of, select
from reslora_sd.runs.run import IndexedPicture, PictureKey, Run


def run_of(method, *keys):
    return Run(
        Path(method), method=method, pictures={key: IndexedPicture(key, f"{n}.png") for n, key in enumerate(keys)}
    )


LORA = run_of("lora", PictureKey("cat", 1, "unmerged", 5), PictureKey("cat", 7, "unmerged", 5))
OTHER = run_of("reslora_is", PictureKey("", 7, "unmerged", 5), PictureKey("cat", 7, "exact", 5))
RUNS = {"other": OTHER, "lora": LORA}


def test_what_was_asked_is_shown_and_what_is_not_there_gives_way_to_the_nearest_that_is():
    asked = Asked(("other", "lora"), "other", "lora", "cat", 7, "exact")
    found = select(RUNS, asked)
    assert (found.runs, found.a, found.b) == (("other", "lora"), "other", "lora")
    assert (found.prompt, found.seed, found.variant) == ("cat", 7, "exact") and found.seeds == (1, 7)
    assert select(RUNS, replace(asked, prompt="")).prompt == ""  # an empty prompt is one
    gone = select(RUNS, Asked(("gone",), "gone", "gone", "gone", 3, "gone"))
    assert (gone.a, gone.b, gone.prompt, gone.seed, gone.variant) == ("lora", "other", "", 7, "unmerged")
    nothing = select({}, asked)
    assert (nothing.runs, nothing.a, nothing.b, nothing.prompt, nothing.seed) == ((), None, None, None, None)


def test_a_and_b_are_two_runs_where_there_are_two():
    assert pair_of(RUNS, "lora", "lora") == ("lora", "other")
    assert pair_of(RUNS, None, "lora") == ("lora", "other")
    assert pair_of({"other": OTHER}, "lora", None) == ("other", "other")
    assert pair_of({}, "lora", None) == (None, None)


def test_menus_have_no_more_than_a_browser_can_hold():
    keys = [PictureKey(f"prompt {number}", 1, "unmerged", 5) for number in range(MOST_CHOICES + 2)]
    found = select({"many": run_of("lora", *keys)}, Asked(prompt=keys[-1].prompt))
    assert len(found.prompts) == MOST_CHOICES and found.left_out == 2 and found.prompt == "prompt 0"
    seeds = [PictureKey("cat", number, "unmerged", 5) for number in range(MOST_CHOICES + 2)]
    assert len(select({"many": run_of("lora", *seeds)}, Asked()).seeds) == MOST_CHOICES
