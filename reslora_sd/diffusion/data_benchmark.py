"""How fast pictures come to the U-Net, and what many of them cost before the first step.

    python -m reslora_sd.diffusion.data_benchmark                 # 32 photos of 3 million pixels
    python -m reslora_sd.diffusion.data_benchmark --many 10000    # small pictures: seconds and memory to the first step
    python -m reslora_sd.diffusion.data_benchmark --many 10000 --tar    # the same in tar files

The photos are made up, in a temporary folder. The first form prints, for every way to keep and to prepare them,
pictures a second of batches alone, with the VAE's work in them, and what share of a step waits for data; the second,
what each stage before the first step takes, with an empty and with a full cache, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..assets import DEFAULT_MODEL
from .arguments import parse_settings
from .batches import BatchMaker, training_batches
from .data import load_split
from .encodings import encodings_of
from .framing import framing_of
from .models import load_parts

WAYS: dict[str, tuple[list[str], bool, bool]] = {
    "decoded in the loop": (["--no_cache_latents"], False, False),
    "decoded by workers": (["--no_cache_latents"], False, True),
    "cache on disk, first time": ([], True, False),
    "cache on disk, full": ([], True, False),
    "cache on disk, full, workers": ([], True, True),
    "latents in memory": (["--cache_latents"], False, False),
}
"""Flags, whether there is a cache on disk, and whether there are workers."""

_WITH_A_DEVICE = 6
_IN_A_SHARD = 1000


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """JPEGs with captions: photos of smooth shapes and some noise, so that they take as long to decode as real ones."""
    folder.mkdir(parents=True)
    width, height = size
    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = np.stack([across / width, down / height, (across + down) / (width + height)], -1) * 200
    pixels = np.clip(smooth + rng.normal(20, 12, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.jpg", quality=90)
    data = (folder / "0.jpg").read_bytes()
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(data + number.to_bytes(4, "big"))  # the same picture, another content
        (folder / f"{number}.txt").write_text(f"made-up picture number {number}")
    return folder


def make_shards(folder: Path, pictures: Path) -> Path:
    """The pictures and captions of a folder in tar files of a thousand each."""
    folder.mkdir(parents=True)
    files = sorted(pictures.iterdir())
    for number, start in enumerate(range(0, len(files), 2 * _IN_A_SHARD)):
        with tarfile.open(folder / f"{number:05}.tar", "w") as archive:
            for file in files[start : start + 2 * _IN_A_SHARD]:
                archive.add(file, file.name)
    return folder


def maker_of(words: Sequence[str], cache: Path | None, tell: Any = lambda name: None) -> BatchMaker:
    """Batches as the script makes them; `tell` is called after each stage."""
    settings = parse_settings([*words, "--method", "lora"])
    parts = load_parts(settings.model.pretrained_model_name_or_path)
    parts.encodings = encodings_of(None if cache is None else str(cache), parts)
    tell("model loaded")
    resolution = settings.data.resolution or parts.resolution
    images = load_split(settings, resolution).training
    tell("data set read")
    framing = framing_of(settings.data, resolution, images, parts)
    found = training_batches(settings, parts, images, framing, quiet=True)
    tell("sizes read, captions and pictures encoded")
    return found


def speeds(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, float, float]]:
    """For every way: seconds before the first batch, pictures a second, and the share of a step that waits for them."""
    data = make_pictures(folder / "photos", args.pictures, (args.width, args.height))
    plain = ["--pretrained_model_name_or_path", args.base_model, "--train_data_dir", str(data)]
    plain += ["--resolution", str(args.resolution), "--train_batch_size", "4"]
    for name, (flags, cached, worked) in WAYS.items():
        started = time.perf_counter()
        workers = args.workers if worked else 0
        words = [*plain, *flags, "--dataloader_num_workers", str(workers)]
        maker = maker_of(words, folder / "cache" if cached else None)
        before = time.perf_counter() - started
        steps = max(2, args.pictures // 4)
        maker.ahead(0, steps, workers)
        started = time.perf_counter()
        for step in range(steps):
            maker(step)
        speed = steps * 4 / (time.perf_counter() - started)
        maker.ahead(steps, steps + _WITH_A_DEVICE, workers)
        maker(steps)
        started, maker.waited = time.perf_counter(), 0.0
        for step in range(steps + 1, steps + _WITH_A_DEVICE):
            time.sleep(args.step_seconds)  # a device is at work, and needs no core
            maker(step)
        yield name, before, speed, maker.waited / (time.perf_counter() - started)


class Stage(NamedTuple):
    """What was needed up to its end."""

    seconds: float
    """By the clock."""
    own: float
    """Seconds of this process."""
    memory: float
    """The most until then, MiB."""


def first_step(args: argparse.Namespace) -> dict[str, Any]:
    """The stages before the first step; and of how many files of the data set there was one opening, two, and so on."""
    told: dict[str, Any] = {}
    opened = _openings(args.of)
    started = time.perf_counter(), time.process_time()

    def tell(name: str) -> None:
        nonlocal started
        now = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told[name] = Stage(now[0] - started[0], now[1] - started[1], peak)
        started = now

    words = ["--pretrained_model_name_or_path", args.base_model, "--train_data_dir", args.of, "--resolution", "64"]
    maker = maker_of([*words, "--train_batch_size", "4", "--buckets"], Path(args.cache), tell)
    before = Counter(opened.values())
    maker(0)
    tell("first batch")
    return {**told, "opened": dict(before), "opened by then": dict(Counter(opened.values()))}


def _openings(folder: str) -> Counter[str]:
    """Counts from now on how often this process opens each file of a folder."""
    found: Counter[str] = Counter()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
            found[arguments[0]] += 1

    sys.addaudithook(note)
    return found


def many(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`first_step` with an empty cache, and with what that left."""
    data = make_pictures(folder / "many", args.many, (96, 64))
    data = make_shards(folder / "shards", data) if args.tar else data
    for name in ("cache empty", "again"):
        words = ["--of", str(data), "--cache", str(folder / "cache"), "--base_model", args.base_model]
        done = subprocess.run(
            [sys.executable, "-m", "reslora_sd.diffusion.data_benchmark", *words], stdout=subprocess.PIPE, check=True
        )
        yield name, json.loads(done.stdout.splitlines()[-1])


def _lines(name: str, told: dict[str, Any]) -> Iterator[str]:
    yield f"{name}:"
    for stage, found in told.items():
        if stage.startswith("opened"):
            counts = ", ".join(f"{files} files {times} x" for times, files in sorted(found.items(), key=_times))
            yield f"  {stage:42} {counts}"
        else:
            seconds, own, memory = found
            yield f"  {stage:42} {seconds:9.2f} s, {own:9.2f} s of a core, {memory:6.0f} MiB at most until then"


def _times(counted: tuple[Any, Any]) -> int:
    return int(counted[0])  # JSON has texts as keys


@contextmanager
def temporary(asked: str | None) -> Iterator[Path]:
    """A folder that is removed afterwards, below the one that is asked for."""
    with tempfile.TemporaryDirectory(dir=asked) as folder:
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--width", type=int, default=2000)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--step_seconds", type=float, default=1.0, help="Of a training step beside its data.")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--many", type=int, help="Measure so many small pictures up to the first step instead.")
    parser.add_argument("--tar", action="store_true", help="With --many: in tar files.")
    parser.add_argument("--base_model", default=str(DEFAULT_MODEL))
    parser.add_argument("--folder", help="Where the temporary folder is made.")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.of:
        print(json.dumps(first_step(args)))
        return
    if args.tar and not args.many:
        parser.error("--tar is for the pictures of --many. Add --many, such as --many 10000, or leave it out.")
    with temporary(args.folder) as folder:
        if args.many:
            for name, told in many(args, folder):
                print("\n".join(_lines(f"{args.many} pictures, {name}", told)), flush=True)
            return
        print(f"{'':30} seconds before   pictures a second   waiting in steps of {args.step_seconds:g} s")
        for name, before, speed, waiting in speeds(args, folder):
            print(f"{name:30} {before:14.1f} {speed:19.1f} {waiting:26.1%}", flush=True)


if __name__ == "__main__":
    main()
