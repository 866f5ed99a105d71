"""A run folder that is full or gone while a training writes to it."""

import errno
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from reslora_sd.runs.failures import NoSpaceError, is_full, told_plainly
from reslora_sd.runs.folder import RunFolder
from reslora_sd.runs.lock import as_only_writer


@pytest.fixture
def small_disk():
    """A file system of 256 kB, outside of pytest's folders; skipped where it may not be mounted."""
    folder = Path(tempfile.mkdtemp())
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        folder.rmdir()
        pytest.skip("tmpfs can't be mounted here")
    try:
        yield folder
    finally:  # torch still holds its file
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


WRITERS = {
    "torch": lambda path: torch.save(torch.zeros(1_000_000), path),
    "safetensors": lambda path: safetensors.torch.save_file({"x": torch.zeros(1_000_000)}, path),
    "a file": lambda path: path.write_bytes(bytes(1_000_000)),
    "a copy": lambda path: shutil.copyfile("/dev/urandom", path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writers_error_on_a_full_disk_becomes_one_sentence(small_disk, writer):
    (small_disk / "checkpoint-7").mkdir()
    left = small_disk / ".checkpoint-9.tmp"
    left.mkdir()
    with pytest.raises(NoSpaceError) as caught, told_plainly(small_disk):
        WRITERS[writer](left / "file")
    said = str(caught.value)
    assert said.startswith(f"No space left in {small_disk}: free 20 MB there. Resume from checkpoint-7:")
    assert "--resume_from_checkpoint latest" in said and not left.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("unexpected pos 1344 vs 1238"),
    ],
)
def test_full_disks_are_known_by_their_errors(error):
    assert is_full(error)
    with pytest.raises(NoSpaceError, match="There is no checkpoint yet: start"), told_plainly(Path("nowhere")):
        raise ValueError("something else") from error


def test_a_damaged_file_is_no_full_disk():
    words = "[enforce fail at inline_container.cc:145] . PytorchStreamReader failed reading zip archive"
    assert not is_full(RuntimeError(words)) and not is_full(ValueError("x"))


def test_a_training_on_a_full_disk_ends_in_the_sentence_and_frees_its_lock(tmp_path):
    @as_only_writer(lambda folder: folder)
    def main(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpaceError, match=r"No space left in .*run: free 20 MB there"):
        main(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(PermissionError), told_plainly(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(KeyboardInterrupt, match=r"Interrupted\. Resume from checkpoint-5: "), told_plainly(tmp_path):
        raise KeyboardInterrupt


def test_a_removed_run_folder_is_told_and_not_made_anew(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({})
    run.log(step=1, loss=1.0)
    shutil.rmtree(run.path)
    for write in (lambda: run.log(step=2, loss=1.0), lambda: run.finish("merge_report.json", {})):
        with pytest.raises(FileNotFoundError, match="was removed or moved while the training wrote to it"):
            write()
    assert not run.path.exists()
