"""What comparisons share."""

from pathlib import Path

import pytest

from reslora_sd.training.comparison import ComparisonSettings, over_seeds


@pytest.fixture
def settings():
    return ComparisonSettings("sweep", ["lora"], [1e-3, 2e-3], [1, 2], jobs=2)


def test_a_run_has_a_folder_of_its_own_and_the_flags_that_make_it(settings):
    run = settings.training(Path("train.py"), "lora", 2e-3, 7, ["--rank", "4"], lambda folder: folder.name == "done")
    assert run.folder == Path("sweep/lora-lr0.002-seed7") == settings.run_folder("lora", 2e-3, 7)
    assert (run.script, list(run.flags)) == (
        Path("train.py"),
        ["--method", "lora", "--learning_rate", "0.002", "--seed", "7", "--rank", "4"],
    )
    assert run.is_done(Path("done")) and not run.is_done(run.folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": []}, "--methods is empty"),
        ({"learning_rates": []}, "--learning_rates is empty"),
        ({"seeds": []}, "--seeds is empty"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"learning_rates": [1e-3, 0.0]}, "--learning_rates has 0. It must be above 0"),
        ({"learning_rates": [float("nan")]}, "--learning_rates has nan"),
    ],
)
def test_nothing_to_compare_is_told(changed, message):
    given = {"methods": ["lora"], "learning_rates": [1e-3], "seeds": [1], "jobs": 1, **changed}
    with pytest.raises(ValueError, match=message):
        ComparisonSettings("sweep", **given)


def test_mean_and_deviation_by_hand():
    mean, deviation = over_seeds([1.0, 3.0])
    assert mean == 2.0 and deviation == pytest.approx(2**0.5)
    assert over_seeds([0.5]) == (0.5, 0.0)
