"""Trainings of a sweep in forked processes, which begin with everything imported: most of the time of a short one."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.scripts import load_script


def launch(command: Sequence[str], started: Callable[[Any], None]) -> subprocess.CompletedProcess[str]:
    """In place of `reslora_sd.runs.sweep.launch`, for the files of train_scripts."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("output", "errors")]
        process = multiprocessing.get_context("fork").Process(target=_run, args=(list(command[1:]), files))
        process.start()
        started(process)
        process.join()
        output, errors = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    return subprocess.CompletedProcess(command, process.exitcode or 0, output, errors)


def _run(words: list[str], files: list[Path]) -> None:
    gc.freeze()  # what was there before is not looked through again: half of the time of a short training
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest's take nothing from here
    sys.argv = words
    status = 1
    try:
        load_script(Path(words[0]).stem).cli()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what pytest would do at its end is not for this process
