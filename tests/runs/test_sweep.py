"""A sweep's own files, as a kill or an editor may have left them."""

import pytest

from reslora_sd.runs.sweep import SETTINGS_FILE, claim_folder, has_result, read_result

DAMAGED = ("", "{", "[1]", "null", '{"method": ', "\x00")


@pytest.mark.parametrize("text", DAMAGED)
def test_settings_that_cannot_be_read_are_a_clear_error_where_runs_depend_on_them(tmp_path, text):
    (tmp_path / SETTINGS_FILE).write_text(text)
    claim_folder(tmp_path, {"task": "svamp"}, "results.json")  # nothing is done yet
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "results.json").touch()
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.json .*nobody knows which settings .* --output_dir"):
        claim_folder(tmp_path, {"task": "svamp"}, "results.json")


@pytest.mark.parametrize("text", [*DAMAGED, "{}", '{"method": "lora"}'])
def test_a_damaged_result_is_made_again_and_never_a_traceback(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    assert not has_result(file, ("method", "results"))
    with pytest.raises(ValueError, match=r"results\.json is damaged\. .*start the same command again"):
        read_result(file, ("method", "results"))


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be written"):
        claim_folder(tmp_path / "file" / "sweep", {}, "results.json")


def test_trained_runs_count_by_any_of_their_names(tmp_path):
    claim_folder(tmp_path, {"task": "svamp"}, "results.json", "checkpoint-*")
    (tmp_path / "lora" / "checkpoint-9").mkdir(parents=True)
    claim_folder(tmp_path, {"task": "svamp"}, "results.json", "checkpoint-*")
    with pytest.raises(ValueError, match="runs with task svamp, and not rte"):
        claim_folder(tmp_path, {"task": "rte"}, "results.json", "checkpoint-*")
