"""Kills trainings at random moments, resumes them, and compares everything that they wrote with a straight run.

    python -m tests.kills --times 20

A U-Net script on a tiny pipeline is ended by SIGKILL at some moment of its run: while it loads, trains, draws, writes a
checkpoint, merges, exports or proves. It is then resumed (or started anew, without a checkpoint), perhaps killed
again, until it ends by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reslora_sd.runs.checkpoints import list_checkpoints
from tests.conftest import make_picture_folder, save_tiny_pipeline
from tests.scripts import ROOT, SCRIPTS
from tests.snapshots import differences

FLAGS = """--method reslora_ms --train_batch_size 2 --max_train_steps 7 --learning_rate 1e-2 --rank 4 --lora_dropout 0.1
--calibration_samples 8 --checkpointing_steps 2 --checkpoints_total_limit 2 --validation_steps 2
--validation_inference_steps 4 --validation_samples 2 --report --validation_prompts red green""".split()
"""Of a run in which as much as possible is written."""
_MOST_KILLS = 4  # of one run


def command(model: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    """The training's command line."""
    script = str(SCRIPTS / "train_text_to_image_reslora.py")
    paths = ["--pretrained_model_name_or_path", model, "--train_data_dir", pictures, "--output_dir", output]
    return [sys.executable, script, *map(str, paths), *FLAGS, *more]


def how_to_go_on(output: Path) -> list[str]:
    """Flags that continue a killed run."""
    return ["--resume_from_checkpoint", "latest"] if list_checkpoints(output) else ["--overwrite_output_dir"]


def environment() -> dict[str, str]:
    """Of the training's process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def run_for(line: list[str], seconds: float | None) -> bool:
    """Runs a command, and kills it after so many seconds; whether it ended by itself.

    Raises:
        RuntimeError: it ended with an error.
    """
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    if process.returncode:
        raise RuntimeError(errors[-3000:])
    return True


def newest(folder: Path) -> str:
    """What a killed run wrote last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".writer.json")]
    return max(files, key=lambda path: path.stat().st_mtime_ns).relative_to(folder).as_posix() if files else "nothing"


def main() -> None:
    """The runs; the exit status is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--times", type=int, default=10, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    source, failed, kills = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, pictures = save_tiny_pipeline(folder / "tiny"), make_picture_folder(folder / "pictures")
        straight = folder / "straight" / "run"
        started = time.perf_counter()
        run_for(command(model, pictures, straight), None)
        duration = time.perf_counter() - started
        print(f"A straight run takes {duration:.1f} s.", flush=True)
        for number in range(args.times):
            output, moments = folder / str(number) / "run", []
            for kill in range(_MOST_KILLS + 1):
                seconds = source.uniform(0.3, 1.0) * duration if kill < _MOST_KILLS else None
                if run_for(command(model, pictures, output, *how_to_go_on(output)), seconds):
                    break
                kills += 1
                moments.append(newest(output))
            found = differences(straight, output)
            failed += bool(found)
            print(
                f"{number}: killed after {', '.join(moments) or 'nothing'}: {'; '.join(found) or 'the same'}",
                flush=True,
            )
    print(f"{args.times} runs, {kills} kills, {failed} differ.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
