"""One writer a folder."""

import os
import signal
import subprocess
import sys

import pytest

from reslora_sd.runs.lock import FolderInUseError, as_only_writer, one_writer
from tests.scripts import ROOT

HOLD = """
import sys, time
from pathlib import Path
from reslora_sd.runs.lock import FolderInUseError, one_writer
folder = Path(sys.argv[1])
try:
    with one_writer(folder):
        (folder / sys.argv[2]).touch()
        print("runs", flush=True)
        time.sleep(float(sys.argv[3]))
except FolderInUseError as error:
    print(error, flush=True)
"""


def start(folder, name, seconds):
    line = [sys.executable, "-c", HOLD, str(folder), name, str(seconds)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_of_processes_that_start_at_once_exactly_one_runs_and_the_others_say_why(tmp_path):
    for number in range(10):
        folder = tmp_path / "new" / str(number)
        processes = [start(folder, name, 1) for name in "ab"]
        said = [process.communicate(timeout=60)[0] for process in processes]
        refused = next(text for text in said if text != "runs\n")
        assert sorted(text == "runs\n" for text in said) == [False, True]
        assert refused.startswith(f"--output_dir {folder}: another training writes there")
        assert refused.endswith("Wait until it ends, stop it, or choose another folder.\n")
        assert len(list(folder.iterdir())) == 1  # neither the loser's file nor the lock's


def test_a_killed_process_leaves_no_lock(tmp_path):
    process = start(tmp_path, "a", 60)
    assert process.stdout.readline() == "runs\n"
    with pytest.raises(FolderInUseError, match=rf"\(process {process.pid} on "), one_writer(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    with one_writer(tmp_path):
        assert (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_stepped_clock_frees_no_lock(tmp_path):
    with one_writer(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        with pytest.raises(FolderInUseError), one_writer(tmp_path):
            pass


def test_a_folder_that_stays_empty_goes_again(tmp_path):
    with pytest.raises(KeyError), one_writer(tmp_path / "a" / "b"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with one_writer(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_a_damaged_note_of_the_writer_is_no_matter(tmp_path):
    with one_writer(tmp_path):
        for text in ("[", "{}", '{"process": 1}'):
            (tmp_path / ".writer.json").write_text(text)
            with pytest.raises(FolderInUseError, match=r"writes there\. Wait"), one_writer(tmp_path):
                pass


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    error = pytest.raises(ValueError, match=r"file/run can't be written: .*Choose another folder")
    with error, one_writer(tmp_path / "file" / "run"):
        pass


def test_only_the_first_of_several_processes_takes_the_lock(tmp_path, monkeypatch):
    @as_only_writer(lambda folder: folder)
    def main(folder):
        return (folder / ".lock").exists()

    assert main(tmp_path) is True
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, holds in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert main(tmp_path) is holds
    monkeypatch.setenv("WORLD_SIZE", "1")  # left of a shell's setting
    assert main(tmp_path) is True


def test_the_package_of_runs_needs_the_standard_library_and_filelock_only():
    names = [f"reslora_sd.runs.{path.stem}" for path in (ROOT / "reslora_sd" / "runs").glob("[a-z]*.py")]
    code = f"import sys\nbefore = set(sys.modules)\nimport {', '.join(names)}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages - sys.stdlib_module_names == {"reslora_sd", "filelock"}
