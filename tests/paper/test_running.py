"""Runs of a plan: what is started and how, what fails or is missing, how rates are chosen; with trainings played."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from reslora_sd.paper.__main__ import main
from reslora_sd.runs.failures import DIVERGED_STATUS
from reslora_sd.runs.names import checkpoint_name
from tests.scripts import ROOT


def value_of(command, flag):
    return command[command.index(flag) + 1] if flag in command else None


def ends(method, status):
    """Exit statuses by the command: that of one method's trainings, and 0."""
    return lambda command: status if value_of(command, "--method") == method else 0


class Played:
    """In place of `launch`: writes the result of a training at once.

    Args:
        loss: of the kept rows, by the words of the command.
        status: exit status, by the words of the command.
    """

    def __init__(self, loss=lambda command: 1.0, status=lambda command: 0):
        self.loss, self.status, self.commands, self.environments = loss, status, [], []

    def __call__(self, command, started, environment=None):
        self.commands.append(command)
        self.environments.append(environment)
        if status := self.status(command):
            return SimpleNamespace(returncode=status, stderr="Error: it went wrong")
        evaluated = value_of(command, "--evaluate") == "all"
        figures = {"accuracy": 0.5, "unreadable": 0.0}
        forms = ("base", "unmerged", "merged: exact", "merged: weights", "merged: input", "merged: none")
        found = {
            "validation_loss": self.loss(command),
            "results": dict.fromkeys(forms, figures) if evaluated else {},
            "seconds_per_step": 2.0,
            "steps_per_epoch": 3,
        }
        folder = command[-1]
        subprocess.run(["mkdir", "-p", folder], check=True)
        (ROOT / folder / "results.json").write_text(json.dumps(found))
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs a verb on a small preset of its own, and gives what was started."""
    monkeypatch.setattr("reslora_sd.paper.running.lacks", lambda *_: [])

    def run(verb, *words, preset="smoke", **played):
        one = Played(**played)
        monkeypatch.setattr("reslora_sd.runs.sweep.launch", one)
        monkeypatch.setattr("reslora_sd.paper.made.make_all", lambda folder: None)
        main([verb, *words, "--preset", preset, "--output_dir", str(tmp_path / "out")])
        return one

    return run


def rates(played, method="lora"):
    return [
        (float(value_of(command, "--learning_rate")), value_of(command, "--evaluate"))
        for command in played.commands
        if value_of(command, "--method") == method
    ]


def test_a_rate_is_chosen_by_kept_rows_before_test_rows_are_looked_at(play):
    played = play("run", "fig5", loss=lambda command: abs(float(value_of(command, "--learning_rate")) - 0.005))
    assert rates(played) == [(0.005, "none"), (0.01, "none"), (0.005, "all")]
    assert rates(played, "reslora_bs") == [(0.01, "all")]
    assert play("run", "fig5").commands == []


def test_a_rate_at_which_it_diverged_is_the_worst_and_others_go_on(play, capsys):
    played = play(
        "run",
        "fig5",
        loss=lambda command: 9.0,
        status=lambda command: DIVERGED_STATUS if value_of(command, "--learning_rate") == "0.005" else 0,
    )
    assert rates(played)[-1] == (0.01, "all")
    capsys.readouterr()


def test_a_method_that_diverges_at_every_rate_is_told_and_a_gap(play, tmp_path, capsys):
    play("run", "fig5", status=ends("lora", DIVERGED_STATUS))
    play("plan", "fig5")
    assert "lora on svamp diverged at every rate: add lower ones" in capsys.readouterr().out
    play("render", "fig5")
    assert "lora diverged on svamp at every rate" in json.loads((tmp_path / "out" / "fig5.json").read_text())["gaps"]


def test_one_that_fails_is_reported_and_the_others_are_done(play, tmp_path, capsys):
    with pytest.raises(RuntimeError, match=r"1 trainings failed; the others are done\.") as told:
        play("run", "table9", status=ends("reslora_is", 1))
    assert str(told.value).count("it went wrong") == 1
    again = play("run", "table9")
    assert [value_of(command, "--method") for command in again.commands] == ["reslora_is"]
    play("render", "table9")
    assert json.loads((tmp_path / "out" / "table9.json").read_text())["cells"][0]["ours"]["gap"]
    capsys.readouterr()


def test_a_training_that_was_stopped_goes_on_and_one_without_a_checkpoint_starts_anew(play, tmp_path):
    with pytest.raises(RuntimeError, match="went wrong") as told:
        play("run", "fig5", status=ends("reslora_bs", 1))
    folder = str(told.value).split("--output_dir ")[1].split(" failed:")[0]
    checkpoint = ROOT / folder / checkpoint_name(2)
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"step": 2, "files": {}}))
    played = play("run", "fig5")
    by_folder = {command[-1]: command for command in played.commands}
    assert value_of(by_folder[folder], "--resume_from_checkpoint") == "latest"
    assert list(by_folder) == [folder] and "--overwrite_output_dir" in str(told.value)


def test_one_that_somebody_else_stopped_is_not_said_to_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", lambda *_: SimpleNamespace(returncode=0, stderr=""))
    monkeypatch.setattr("reslora_sd.paper.made.make_all", lambda folder: None)
    with pytest.raises(RuntimeError, match="2 trainings failed") as told:
        main(["run", "fig3", "--preset", "smoke", "--output_dir", str(tmp_path)])
    assert str(told.value).count("it was stopped before its end; this command goes on") == 2


def test_gpus_and_launcher_reach_every_training(play):
    played = play("run", "fig5", "--gpus", "4,6", "--launcher", "accelerate launch --quiet")
    assert all(command[:3] == ["accelerate", "launch", "--quiet"] for command in played.commands)
    assert {one["CUDA_VISIBLE_DEVICES"] for one in played.environments} <= {"4", "6"}
    with pytest.raises(ValueError, match="--jobs is 0"):
        play("run", "fig5", "--jobs", "0")


def test_what_lacks_its_data_is_left_out_with_the_way_to_get_it(tmp_path, monkeypatch, capsys):
    played = Played()
    monkeypatch.setattr("reslora_sd.runs.sweep.launch", played)
    (tmp_path / "data" / "svamp").mkdir(parents=True)
    for name in ("train", "test"):
        (tmp_path / "data" / "svamp" / f"{name}.jsonl").write_text("{}\n" * 40)
    words = ["table3", "--output_dir", str(tmp_path / "out"), "--data_dir", str(tmp_path / "data"), "--set", "seeds=1"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    main(["run", *words])
    assert {value_of(command, "--task") for command in played.commands} == {"svamp"} and len(played.commands) == 3
    assert "3 runs are left out. They need" in capsys.readouterr().out
    main(["plan", *words])
    said = capsys.readouterr().out
    assert "gsm8k/train.jsonl: there is no such file. Give the folder that has gsm8k/train.jsonl as --data_dir" in said
    assert "25 steps" in said  # 40 rows, batches of 8, five epochs


def test_a_plan_starts_nothing_writes_nothing_and_loads_no_torch(tmp_path):
    code = (
        "import sys; from reslora_sd.paper.__main__ import main\n"
        f"main(['plan', 'all', '--preset', 'paper', '--output_dir', {str(tmp_path / 'out')!r}])\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False False" and not (tmp_path / "out").exists()
    assert "hf download meta-llama/Llama-2-7b-hf" in done.stdout and "372 more follow" in done.stdout
    assert "metamathqa-lora-r4" in done.stdout


def test_without_matplotlib_all_but_the_plots_is_there(play, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"table9\.png and \.svg, .* need matplotlib\. Run: pip install matplotlib"):
        play("render", "table9")
    assert (tmp_path / "out" / "table9.md").is_file() and (tmp_path / "out" / "table9.csv").is_file()
