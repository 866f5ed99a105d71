"""Kills trainings at random moments, resumes them, and compares everything that they wrote with a straight run.

    python -m tests.kills --times 20

The U-Net script on a tiny pipeline is ended by SIGKILL at some moment of its run: while it loads, trains, draws, writes
a checkpoint, merges, exports or proves. It is then resumed (or started anew, without a checkpoint), perhaps killed
again, until it ends by itself. Its processes are forked from one that has imported everything, so that a kill hits the
work and not the imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from reslora_sd.runs.checkpoints import list_checkpoints
from tests.conftest import make_picture_folder, save_tiny_pipeline
from tests.scripts import ROOT, SCRIPTS, load_script
from tests.snapshots import differences

FLAGS = """--method reslora_ms --train_batch_size 2 --max_train_steps 7 --learning_rate 1e-2 --rank 4 --lora_dropout 0.1
--calibration_samples 8 --checkpointing_steps 2 --checkpoints_total_limit 2 --validation_steps 2 --save_lora_steps 3
--validation_inference_steps 4 --validation_samples 2 --report --validation_prompts red green""".split()
"""Of a run in which as much as possible is written."""
SCRIPT = SCRIPTS / "train_text_to_image_reslora.py"
_MOST_KILLS = 4  # of one run


def arguments(model: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    """The script's arguments."""
    paths = ["--pretrained_model_name_or_path", model, "--train_data_dir", pictures, "--output_dir", output]
    return [*map(str, paths), *FLAGS, *more]


def command(model: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    """The training's command line, for a process of its own."""
    return [sys.executable, str(SCRIPT), *arguments(model, pictures, output, *more)]


def how_to_go_on(output: Path) -> list[str]:
    """Flags that continue a killed run."""
    return ["--resume_from_checkpoint", "latest"] if list_checkpoints(output) else ["--overwrite_output_dir"]


def environment() -> dict[str, str]:
    """Of the training's process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def run_for(argv: list[str], seconds: float | None, log: Path) -> bool:
    """Runs the script in a forked process, and kills it after so many seconds; whether it ended by itself.

    Args:
        argv: the script's arguments.
        log: where the process's output goes.

    Raises:
        RuntimeError: it ended with an error.
    """
    process = multiprocessing.get_context("fork").Process(target=_train, args=(argv, log))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode == -signal.SIGKILL:
        return False
    if process.exitcode:
        raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-3000:])
    return True


def _train(argv: list[str], log: Path) -> None:
    """What the forked process does: imports are there already, everything else is as in one of its own."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        script = load_script(SCRIPT.stem)
        script.main(script.parse_settings(argv))


def newest(folder: Path) -> str:
    """What a killed run wrote last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".writer.json")]
    return max(files, key=lambda path: path.stat().st_mtime_ns).relative_to(folder).as_posix() if files else "nothing"


def killed_run(argv: list[str], output: Path, moments: Iterator[float]) -> list[str]:
    """A run that is killed at these moments, and goes on each time, until it ends by itself; at least one kill.

    Returns:
        For each kill, the file that was written last.
    """
    killed_after: list[str] = []
    log = output.parent / "log.txt"
    while not killed_after:
        shutil.rmtree(output.parent, ignore_errors=True)
        output.parent.mkdir()
        while True:
            seconds = next(moments) if len(killed_after) < _MOST_KILLS else None
            if run_for([*argv, *how_to_go_on(output)], seconds, log):
                break
            killed_after.append(newest(output))
    return killed_after


def main() -> None:
    """The runs; the exit status is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--times", type=int, default=10, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has none of the parent's threads
    source, failed, kills = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = save_tiny_pipeline(folder / "tiny"), make_picture_folder(folder / "pictures")
        straight = folder / "straight" / "run"
        straight.parent.mkdir()
        started = time.perf_counter()
        run_for(arguments(model, pictures, straight), None, straight.parent / "log.txt")
        duration = time.perf_counter() - started
        print(f"A straight run takes {duration:.1f} s.", flush=True)
        moments = iter(lambda: source.uniform(0.02, 1.0) * duration, None)
        for number in range(args.times):
            output = folder / str(number) / "run"
            killed_after = killed_run(arguments(model, pictures, output), output, moments)
            found = differences(straight, output)
            failed += bool(found)
            kills += len(killed_after)
            print(f"{number}: killed after {', '.join(killed_after)}: {'; '.join(found) or 'the same'}", flush=True)
    print(f"{args.times} runs, {kills} kills, {failed} differ.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
