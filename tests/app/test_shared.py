"""What all tabs share."""

from app.library import Library
from app.tabs import page as whole
from app.tabs.shared import Page


def test_no_choice_is_dropped_while_the_one_before_is_answered(made_up, tmp_path):
    blocks = whole.build(Page(Library([made_up]), tmp_path / "cache", tmp_path / "here"))
    follows = {"select", "input", "release", "change"}
    modes = {
        (event, function.name): function.trigger_mode
        for function in blocks.fns.values()
        for _, event in function.targets
        if event in follows
    }
    assert len(modes) > 10
    assert {key: mode for key, mode in modes.items() if mode != "always_last"} == {}
