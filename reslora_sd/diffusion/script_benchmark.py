"""Pictures a second of the training script, beside diffusers' own on the same work.

    python -m reslora_sd.diffusion.script_benchmark --diffusers_script train_text_to_image_lora.py

The path is that of `examples/text_to_image/train_text_to_image_lora.py` in a copy of diffusers, which needs
torchvision; without it, only our script is measured. Both train LoRA of rank 4 on the embedded model, in float32, on
the same made-up photos with the same batches, centre crops and learning rate. Each runs in a process of its own, which
ends after the steps that are measured. Printed are core seconds, which other programs change less than those of a
clock: from the start, and from the loaded model, to the end of the first step; and for each picture after an epoch,
whose pictures a second, by the clock, follow.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..assets import DEFAULT_MODEL
from .data_benchmark import make_pictures

_BATCH = 4
_OURS = Path(__file__).parents[2] / "train_scripts" / "train_text_to_image_reslora.py"


class Way(NamedTuple):
    """One way to train."""

    name: str
    flags: tuple[str, ...] = ()
    ours: bool = True
    cached: bool = False
    """Whether there is a cache on disk."""


WAYS = (
    Way("diffusers' script", (), ours=False),
    Way("diffusers' script, one worker", ("--dataloader_num_workers", "1"), ours=False),
    Way("ours, decoded and encoded in each step", ("--no_cache_latents",)),
    Way("the same, one worker", ("--no_cache_latents", "--dataloader_num_workers", "1")),
    Way("ours as it is: latents in memory"),
    Way("ours, --cache_dir, empty", cached=True),
    Way("ours, --cache_dir, full", cached=True),
)


class Mark(NamedTuple):
    """A moment."""

    clock: float
    own: float
    """Seconds of this process and its workers."""


def _mark() -> Mark:
    """Now."""
    import psutil

    here = psutil.Process()
    processes = [here, *here.children(recursive=True)]
    return Mark(time.time(), sum(sum(one.cpu_times()[:4]) for one in processes))  # with ended workers


def _note_loading(kind: Any, marks: dict[str, Mark]) -> None:
    load = kind.from_pretrained.__func__

    def from_pretrained(cls: Any, *given: Any, **named: Any) -> Any:
        found = load(cls, *given, **named)
        marks["loaded"] = _mark()
        return found

    kind.from_pretrained = classmethod(from_pretrained)


def watched(script: str, words: Sequence[str], first: int, last: int) -> None:
    """Runs a script until step `last` is done, prints when it had loaded, and did steps 1, `first` and `last`."""
    import diffusers
    import psutil
    import torch

    sys.path.insert(0, str(_OURS.parents[1]))  # as a script's own folder is, for what it imports
    marks: dict[str, Mark] = {}
    done, step = 0, torch.optim.AdamW.step

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal done
        found = step(*given, **named)
        done += 1
        if done in (1, first, last):
            marks[str(done)] = _mark()
        if done == last:
            print(json.dumps(marks), flush=True)
            for worker in psutil.Process().children(recursive=True):
                worker.kill()
            os._exit(0)  # what comes after training isn't measured
        return found

    _note_loading(diffusers.ModelMixin, marks)
    _note_loading(diffusers.DiffusionPipeline, marks)
    torch.optim.AdamW.step = counted  # type: ignore[method-assign]
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def measured(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Mark]]]:
    """The marks of every way."""
    data = make_pictures(folder / "photos", args.pictures, (args.width, args.height))
    lines = []
    for text in sorted(data.glob("*.txt")):
        lines.append(json.dumps({"file_name": text.with_suffix(".jpg").name, "text": text.read_text()}))
        text.unlink()
    (data / "metadata.jsonl").write_text("\n".join(lines))
    epoch = args.pictures // _BATCH
    for number, way in enumerate(WAYS):
        script = _OURS if way.ours else args.diffusers_script
        if script is None:
            continue
        words = _flags(args, way, str(data), str(folder / f"run-{number}"))
        words += ["--cache_dir", str(folder / "cache")] if way.cached else []
        command = [sys.executable, "-m", "reslora_sd.diffusion.script_benchmark", "--inside", str(script)]
        command += ["--first", str(epoch), "--last", str(args.steps + epoch), "--", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{way.name} ended with {done.returncode}: {done.stderr[-2000:]}")
        yield way.name, {name: Mark(*found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def _flags(args: argparse.Namespace, way: Way, data: str, output: str) -> list[str]:
    steps = args.steps + args.pictures // _BATCH
    words = ["--pretrained_model_name_or_path", args.base_model, "--train_data_dir", data, "--seed", "0"]
    words += ["--resolution", str(args.resolution), "--train_batch_size", str(_BATCH), "--rank", "4"]
    words += ["--learning_rate", "1e-4", "--lr_scheduler", "constant", "--max_train_steps", str(steps)]
    words += ["--output_dir", output, "--center_crop", *way.flags]
    words += ["--method", "lora", "--no_buckets", "--num_validation_images", "0"] if way.ours else []
    words += ["--image_interpolation_mode", "lanczos"]
    return words


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusers_script", help="Path of diffusers' train_text_to_image_lora.py.")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--width", type=int, default=2000)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--steps", type=int, default=32, help="So many are measured, after an epoch.")
    parser.add_argument("--base_model", default=str(DEFAULT_MODEL))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        watched(args.inside, args.words, args.first, args.last)
        return
    if args.pictures < _BATCH or args.steps < 1:
        parser.error(
            f"--pictures is {args.pictures} and --steps {args.steps}. A batch has {_BATCH}: take one, or more."
        )
    print(f"{'':40} from start   from model   for a picture   pictures a second")
    with tempfile.TemporaryDirectory() as folder:
        for name, marks in measured(args, Path(folder)):
            epoch = args.pictures // _BATCH
            loaded, one, first, last = (marks[name] for name in ("loaded", "1", str(epoch), str(epoch + args.steps)))
            count = args.steps * _BATCH
            speed, own = count / (last.clock - first.clock), (last.own - first.own) / count
            from_model = one.own - loaded.own
            print(f"{name:40} {one.own:10.1f} {from_model:12.1f} {own:15.3f} {speed:19.1f}", flush=True)


if __name__ == "__main__":
    main()
