"""The protocol of comparisons, on runs that are written and not trained."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from reslora_sd.runs.failures import DIVERGED_STATUS
from reslora_sd.training.comparison import ComparisonSettings, Protocol, check_passed_on, choose, compare


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
    assert settings.run_folder("lora", 0.001234561, 7) != settings.run_folder("lora", 0.001234562, 7)
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
        ({"learning_rates": [float("inf")]}, "--learning_rates has inf"),
        ({"rates_for": [["lora", "0"]]}, "--rates_for has 0"),
        ({"seeds": [1, 2, 1]}, "--seeds has a value twice: 1 2 1"),
        ({"methods": ["lora", "lora"]}, "--methods has a value twice"),
    ],
)
def test_nothing_to_compare_is_told(changed, message):
    given = {"methods": ["lora"], "learning_rates": [1e-3], "seeds": [1], "jobs": 1, **changed}
    with pytest.raises(ValueError, match=message):
        ComparisonSettings("sweep", **given)


def test_rates_are_sorted_and_each_counts_once(settings):
    own = ComparisonSettings("sweep", ["lora", "full"], [2e-3, 1e-3, 2e-3], rates_for=[["full", "5e-4"]])
    assert own.rates == {"lora": [1e-3, 2e-3], "full": [5e-4]}
    assert (own.chosen_with, settings.chosen_with) == ([42], [1])


@pytest.mark.parametrize("words", [["--seed", "5"], ["--seed=5"], ["--learning_rate", "1"], ["--overwrite-output-dir"]])
def test_flags_that_the_comparison_sets_are_not_overruled(words):
    with pytest.raises(ValueError, match=r"is set by the comparison for each of its runs\. [GS]"):
        check_passed_on(words, {})
    check_passed_on(["--lr_scheduler", "cosine", "seed"], {})


def swept(losses):
    return [
        {"learning_rate": rate, "validation_loss": loss, "seed": seed}
        for rate, of_seeds in losses.items()
        for seed, loss in enumerate(of_seeds)
    ]


@pytest.mark.parametrize(
    ("losses", "best", "at_the_end", "tied"),
    [
        ({1.0: [0.3], 2.0: [0.2], 3.0: [0.4]}, 2.0, False, []),
        ({1.0: [0.3], 2.0: [0.4], 3.0: [0.2]}, 3.0, True, []),
        ({1.0: [0.3], 2.0: [0.2], 3.0: [None]}, 2.0, False, []),  # one that diverged is the worst
        ({1.0: [None], 2.0: [9.0], 3.0: [float("nan")]}, 2.0, False, []),
        ({1.0: [0.4], 2.0: [0.2], 3.0: [0.2], 4.0: [0.3]}, 2.0, False, [2.0, 3.0]),
        ({1.0: [0.1, 0.5], 2.0: [0.2, 0.2], 3.0: [0.0, None]}, 2.0, False, []),  # the mean over choosing seeds
        ({1.0: [None], 2.0: [None]}, None, False, []),
    ],
)
def test_the_lowest_loss_chooses(losses, best, at_the_end, tied):
    choice = choose(sorted(losses), swept(losses))
    assert (choice.rate, choice.at_the_end, choice.tied) == (best, at_the_end, tied)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Compares with losses by method, rate and seed in place of trainings; gives the text, compare.json and the runs.

    A run's reported loss is 10 more than the loss that chooses; `None` diverges.
    """
    ran: list[tuple[str, float, int, bool]] = []

    def run_all(losses, **given):
        monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda command, _: run(command, losses))
        settings = ComparisonSettings(str(tmp_path / "sweep"), **{"seeds": [1, 2], **given})
        before = len(ran)

        def training(method, rate, seed, reported):
            flags = ["--reported"] if reported else []
            return settings.training(
                Path("train.py"), method, rate, seed, flags, lambda folder: (folder / f"{reported}").is_file()
            )

        text = compare(settings, Protocol("A title", "3 cats", "4 dogs", training, read, ("A note.",)))
        return text, json.loads((settings.folder / "compare.json").read_text()), ran[before:]

    def run(command, losses):
        method, rate, seed = command[3], float(command[5]), int(command[7])
        ran.append((method, rate, seed, "--reported" in command))
        loss = losses(method, rate, seed)
        folder = Path(command[-1])
        folder.mkdir(parents=True, exist_ok=True)
        if loss is None:
            return SimpleNamespace(returncode=DIVERGED_STATUS, stderr="Error: The loss is nan.")
        (folder / "loss").write_text(str(loss))
        for name in ["False", *(["True"] if "--reported" in command else [])]:
            (folder / name).touch()
        return SimpleNamespace(returncode=0, stderr="")

    def read(folder):
        loss = float((folder / "loss").read_text())
        costs = {"seconds_per_step": 1.0, "peak_memory_mb": 2.0, "trainable_parameters": 3}
        return {"validation_loss": loss, "results": {"unmerged": {"loss": 10 + loss}}, **costs}

    return run_all


def test_the_first_seed_chooses_on_some_rows_and_all_seeds_are_reported_on_others(sweep):
    text, found, ran = sweep(
        lambda method, rate, seed: abs(rate - {"lora": 2.0, "full": 1.0}[method]) + seed,
        methods=["lora", "full"],
        learning_rates=[1.0, 2.0, 3.0],
    )
    choosing = [(method, rate, 1, False) for rate in (1.0, 2.0, 3.0) for method in ("lora", "full")]
    reported = [(method, rate, seed, True) for seed in (1, 2) for method, rate in (("lora", 2.0), ("full", 1.0))]
    assert ran == choosing + reported
    assert found["chosen"]["lora"]["losses"] == {"1": 2.0, "2": 1.0, "3": 2.0}
    assert [one["learning_rate"] for one in found["best"]] == [2.0, 1.0, 2.0, 1.0]
    assert (found["rates_chosen_by"], found["reported_on"]) == ("3 cats", "4 dogs")
    assert "| lora | 2 | unmerged | 11.5000 ± 0.7071 | 1.5000" in text and "| full | 1 * |" in text
    for words in (
        "# A title",
        "rate was chosen by the loss of 3 cats, with seed 1.",
        "The figures are of 4 dogs: they chose nothing.",
        "- A note.",
        "full: 1 is the lowest of its rates (1, 2, 3). A better one may lie beyond: try more with --rates_for full.",
    ):
        assert words in text


def test_runs_that_diverge_are_the_worst_and_the_sweep_goes_on(sweep):
    def losses(method, rate, seed):
        gone = method == "bad" or rate == 3.0 or (method == "unsteady" and seed == 2)
        return None if gone else rate

    methods = ["lora", "bad", "unsteady"]
    text, found, ran = sweep(losses, methods=methods, learning_rates=[1.0, 2.0, 3.0])
    assert len(ran) == 9 + 4 and found["chosen"]["bad"]["learning_rate"] is None
    assert "| lora | 1 * | unmerged | 11.0000 ± 0.0000 |" in text and "| unsteady | 1 * | diverged |" in text
    for words in (
        "bad diverged at every rate (1, 2, 3), and is left out.",
        "lora diverged at 3, which counts as the worst.",
        "unsteady diverged at its rate with seed 2, so it has no means.",
    ):
        assert words in text
    assert sweep(losses, methods=methods, learning_rates=[1.0, 2.0, 3.0])[2] == []  # nor are they run again


def test_a_single_rate_is_not_chosen_and_a_single_seed_has_no_spread(sweep):
    text, found, ran = sweep(lambda *_: 0.5, methods=["lora"], learning_rates=[1.0], seeds=[7])
    assert ran == [("lora", 1.0, 7, True)] and found["sweep"] == []
    assert "| lora | 1 | unmerged | 10.5000 | 0.5000 |" in text
    assert "lora was tried at 1 only: nothing chose its rate." in text and "There is one seed" in text


def test_other_seeds_can_choose_and_a_tie_is_told(sweep):
    text, found, ran = sweep(lambda *_: 0.5, methods=["lora"], learning_rates=[1.0, 2.0], choosing_seeds=[8, 9])
    assert [seed for *_, seed, reported in ran if not reported] == [8, 8, 9, 9]
    assert found["choosing_seeds"] == [8, 9] and "with seed 8, 9." in text
    assert "lora: 1 and 2 have the same loss; the lowest was taken." in text


def test_another_failure_ends_the_sweep(sweep):
    def fail(*_):
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        sweep(fail, methods=["lora"], learning_rates=[1.0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"validation_loss": "low"}, "'low' for validation_loss"),
        ({"results": {"unmerged": {"loss": [1]}}}, r"'\[1\]' for loss"),
        ({"results": {"unmerged": 5}}, r"'\[5\]' for results"),
        ({"results": "none"}, r'"\[\'none\'\]" for results'),
        ({"trainable_parameters": None}, "'None' for trainable_parameters"),
    ],
)
def test_figures_that_are_none_are_told_with_their_run(tmp_path, damage, message):
    said = {"seconds_per_step": 1.0, "peak_memory_mb": 2.0, "trainable_parameters": 3, "validation_loss": 1.0}
    said |= {"results": {"unmerged": {"loss": None}}} | damage
    settings = ComparisonSettings(str(tmp_path), ["lora"], [1e-3], [1])

    def training(method, rate, seed, _reported):
        return settings.training(Path("train.py"), method, rate, seed, [], lambda _: True)

    protocol = Protocol("", "", "", training, lambda _: said)
    with pytest.raises(ValueError, match=f"lora-lr0.001-seed1 has {message}.* Remove that folder"):
        compare(settings, protocol)
