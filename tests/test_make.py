"""make try: what it says without pictures, and that any folder's name reaches the script whole."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.scripts import ROOT


@pytest.fixture
def make(tmp_path):
    """Runs a target with an environment that counts as installed, and with a Python that only prints its arguments."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    python.chmod(0o755)
    of_make = ("PICTURES", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # CI runs these tests from make, which adds lines then
    known = {name: value for name, value in os.environ.items() if name not in of_make}

    def run(*words):
        command = ["make", "--assume-old", ".venv/trainer", f"RUN={python}", *words]
        return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("name", ["plain", "with  two spaces", "it's", 'a "quoted" one'])
def test_try_trains_on_the_folder_and_ends_with_the_sheet_and_the_page(make, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    done = make("try", f"PICTURES={folder}")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[0] == "<train_scripts/train_text_to_image_reslora.py>"
    assert words[words.index("<--train_data_dir>") + 1] == f"<{folder}>"
    assert "runs/own/validation/steps.png" in words[-1] and "-m app runs/own" in words[-1]


@pytest.mark.parametrize("words", [(), ("PICTURES=",)])
def test_try_without_pictures_asks_for_them_before_anything_is_installed(make, words):
    done = make("try", *words)
    assert done.returncode != 0 and done.stdout == "Which pictures? Give their folder: make try PICTURES=my_pictures\n"


def test_try_says_that_there_is_no_such_folder(make, tmp_path):
    done = make("try", f"PICTURES={tmp_path}/no where")
    assert done.returncode != 0
    assert done.stdout == f"There is no {tmp_path}/no where. Give a folder of captioned pictures.\n"
