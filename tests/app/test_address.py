"""What stands in the address bar, written and read."""

import html
import re

import pytest

from app.selection import Asked
from app.tabs.address import Place, element, read, write


def test_what_is_written_is_read_again():
    said = element(write(["lora", "a & b"], "lora", None, 'a <b>"cat"', 42, "unmerged"), "f<")
    found = re.fullmatch(r'<i data-address="(.*)" data-state="f&lt;"></i>', said)
    assert found is not None and "<b>" not in said
    assert read("?" + html.unescape(found[1]) + "&step=7&tab=curves") == Place(
        Asked(("lora", "a & b"), "lora", None, 'a <b>"cat"', 42, "unmerged"), 7, "curves"
    )


def test_an_empty_prompt_hundreds_of_runs_and_the_largest_seed_are_read_again():
    runs = [f"sweeps of last week/run {place}" for place in range(900)]
    found = read("?" + write(runs, runs[0], runs[-1], "", 2**53, "merged") + "&step=7&tab=curves")
    assert found == Place(Asked(tuple(runs), runs[0], runs[-1], "", 2**53, "merged"), 7, "curves")


@pytest.mark.parametrize(
    "search",
    [None, "", "?", "?seed=-1&step=1e3", "?seed=9" + "9" * 30, "&".join("a" * 200), "?run=&a=&step=&tab", "&a" * 9999],
)
def test_an_address_that_is_not_ours_says_nothing(search):
    assert read(search) == Place()
