"""Pictures of runs: opened safely, told in words, put side by side, into one grid, into one animation."""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from reslora_sd.runs.names import BASE, UNMERGED
from reslora_sd.runs.paths import inside
from reslora_sd.runs.run import PictureKey, Run, is_text

from .wording import MERGED, variant_name

_EXACT = "exact"
_MOST_PIXELS = 4096 * 4096
_MOST_BYTES = 150_000_000
"""Of a file: as many pixels need no more, whatever their depth."""
FORMATS = ("PNG", "JPEG", "WEBP")
NO_PICTURES = "{} is a text run, which has no pictures: see the tab Text"


@dataclass(frozen=True)
class PictureView:
    """One picture to show, or the reason that there is none."""

    title: str
    alt: str
    image: Image.Image | None = None
    missing: str = ""
    source: tuple[Path, int, int] | None = None
    """The picture's file, its time and its size: what is equal for equal pictures."""


def open_picture(folder: Path, relative: str) -> Image.Image:
    """A picture below `folder`, decoded, RGB.

    Raises:
        ValueError: it lies outside, isn't there, is too large, or is no whole PNG, JPEG or WebP.
    """
    return decoded(*source_of(folder, relative))


def source_of(folder: Path, relative: str) -> tuple[Path, int, int]:
    """Where a picture below `folder` is, when it was written, and its bytes.

    Raises:
        ValueError: it lies outside, isn't there, is no file (reading a pipe could wait for good), or is too large.
    """
    try:
        path = inside(folder, relative)
        found = path.stat()
    except OSError as error:
        raise ValueError(f"{relative!r} can't be read: {_reason(error)}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{relative!r} is no file.")
    if found.st_size > _MOST_BYTES:
        most = _MOST_BYTES // 1_000_000
        raise ValueError(f"{relative!r} has {found.st_size / 1e6:.0f} MB, more than the {most} MB of a picture.")
    return path, found.st_mtime_ns, found.st_size


def decoded(path: Path, mtime_ns: int, size: int) -> Image.Image:
    """The picture of `source_of`, from memory where it was decoded lately; one that is written again is read again.

    Raises:
        ValueError: as `open_picture`.
    """
    key = (path, mtime_ns, size)
    found = _latest.get(key)
    if found is None:
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES)  # it can have grown meanwhile
            found = decode(data, path.name)
        except OSError as error:
            raise ValueError(f"{path.name!r} can't be read: {_reason(error)}.") from error
        _latest.put(key, found)
    return found


class Latest:
    """The pictures that were used last, up to so many bytes: one can have 67 MB, and another 4 kB."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._pictures: OrderedDict[object, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> Image.Image | None:
        """The picture, if it is kept."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def put(self, key: object, picture: Image.Image) -> None:
        """Keeps it; those that were not used for longest go."""
        with self._lock:
            if key not in self._pictures:
                self.bytes += _bytes_of(picture)
            self._pictures[key] = picture
            while self.bytes > self.most:
                self.bytes -= _bytes_of(self._pictures.popitem(last=False)[1])


def _bytes_of(picture: Image.Image) -> int:
    return 4 * picture.width * picture.height  # Pillow keeps RGB in four bytes a pixel


_latest = Latest(256_000_000)


def decode(data: bytes, name: str) -> Image.Image:
    """An RGB picture from the bytes of a PNG, JPEG or WebP.

    Raises:
        ValueError: as `load`.
    """
    return load(data, name).convert("RGB")


def load(
    data: bytes,
    name: str,
    formats: tuple[str, ...] = FORMATS,
    most_pixels: int = _MOST_PIXELS,
    wanted_pixels: int | None = None,
) -> Image.Image:
    """The picture of a file as it is stored: with its transparency, and on its side if it was taken so.

    Args:
        formats: Pillow's names of those that are opened; no other decoder sees the bytes.
        wanted_pixels: that are enough: a larger JPEG is decoded at a half, a quarter or an eighth of its sides. Its
            size of before is then in `info["sent"]`.

    Raises:
        ValueError: it is damaged, too large, or of another kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > most_pixels:
                most = math.isqrt(most_pixels)
                raise ValueError(f"{name!r} has {image.width} x {image.height} pixels, more than {most} x {most}.")
            image.info["sent"] = image.size
            share = math.sqrt(min(1.0, (wanted_pixels or most_pixels) / (image.width * image.height)))
            if share < 1:
                image.draft(None, (math.ceil(share * image.width), math.ceil(share * image.height)))
            image.load()
            return image
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name!r} is no whole picture: {_reason(error)}.") from error


def variants(runs: Mapping[str, Run]) -> list[str]:
    """What can be chosen to look at: unmerged, as exported, base, then each merge approach that was drawn."""
    found = dict.fromkeys(key.variant for run in runs.values() for key in run.pictures)
    exported = {run.exported for run in runs.values()} & found.keys()
    first = [UNMERGED] * (UNMERGED in found) + [MERGED] * bool(exported)
    return first + sorted(variant for variant in found if variant not in first) or [UNMERGED]


def variant_of(run: Run, variant: str) -> str:
    """The variant of the index that a choice means for one run; its exact merge, or the exported one, where the run
    has no such merge."""
    if variant == MERGED:
        return run.exported
    if variant in (BASE, UNMERGED) or variant in run.variants:
        return variant
    return next((one for one in (_EXACT, run.exported) if one in run.variants), variant)


def _titled(name: str, run: Run, asked: str, step: int | str) -> str:
    """What a picture is, in a few words: the model and the merge that drew it."""
    used = variant_of(run, asked)
    if used == BASE:
        return f"base model, drawn by {name}"
    how = f", {variant_name(used)}" if used and used != UNMERGED else ""
    instead = f", instead of {variant_name(asked)}" if asked not in (MERGED, used) else ""
    return f"{name}, step {step}{how}{instead}"


def steps_of(runs: Mapping[str, Run], prompt: str, seed: int, variant: str) -> list[int]:
    """Steps at which any of the runs has such a picture."""
    return sorted(
        {
            key.step
            for run in runs.values()
            for key in run.pictures
            if key.prompt == prompt and key.seed == seed and key.variant == variant_of(run, variant)
        }
    )


def seeds_of(runs: Mapping[str, Run], prompt: str) -> list[int]:
    """Seeds that any of the runs drew a prompt with."""
    return sorted({key.seed for run in runs.values() for key in run.pictures if key.prompt == prompt})


def missing_view(name: str, run: Run, prompt: str, seed: int, asked: str, step: int | str) -> tuple[PictureView, str]:
    """How a run's step is told where it has no picture, and the text of its picture where it has one."""
    used = variant_of(run, asked)
    how = variant_name(used) or MERGED
    alt = f'Picture by {name} at step {step}, {how}, for the prompt "{prompt}" with seed {seed}'
    title = _titled(name, run, asked, step)
    missing = NO_PICTURES.format(name) if is_text(run.settings) else f"No picture of {name} at step {step}"
    return PictureView(title, f"No {alt[0].lower()}{alt[1:]}", missing=missing), alt


def view(name: str, run: Run, prompt: str, seed: int, variant: str, step: int) -> PictureView:
    """A run's picture at a step."""
    nothing, alt = missing_view(name, run, prompt, seed, variant, step)
    title, variant = nothing.title, variant_of(run, variant)
    picture = run.pictures.get(PictureKey(prompt, seed, variant, step))
    if picture is None:
        return nothing
    try:
        source = source_of(run.validation, picture.file)
        return PictureView(title, alt, decoded(*source), source=source)
    except ValueError as error:
        return PictureView(title, f"Unreadable: {alt}", missing=f"{name}, step {step}: {error}")


def reference_view(runs: Mapping[str, Run], prompt: str) -> PictureView | None:
    """The data set's own picture of a prompt, where a run has one."""
    found = reference_of(runs, prompt)
    if found is None:
        return None
    run, file, title, alt = found
    try:
        return PictureView(title, alt, open_picture(run.validation, file))
    except ValueError as error:
        return PictureView(title, "Unreadable picture of the data set", missing=str(error))


def reference_of(runs: Mapping[str, Run], prompt: str) -> tuple[Run, str, str, str] | None:
    """The run that has the data set's own picture of a prompt, its file, its title and its text."""
    for run in runs.values():
        reference = run.references.get(prompt)
        if reference is not None:
            told = {"training": "seen in training", "held out": "held out of training"}
            seen = told.get(reference.seen, "not in training")
            alt = f'Real picture of the data set for the prompt "{prompt}", {seen}'
            return run, reference.file, f"real, {seen}", alt
    return None


def views(runs: Mapping[str, Run], prompt: str, seed: int, variant: str, step: int) -> list[PictureView]:
    """What stands side by side: one picture a run, and the real one last."""
    found = [view(name, run, prompt, seed, variant, step) for name, run in runs.items()]
    reference = reference_view(runs, prompt)
    return [*found, reference] if reference else found


def store(image: Image.Image, folder: Path, name: str) -> Path:
    """A PNG of the picture below `folder`, named by its content; written once."""
    digest = hashlib.sha256(image.tobytes() + str(image.size).encode()).hexdigest()[:24]
    path = folder / digest / f"{name}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{threading.get_ident()}.tmp")  # two requests can store it at once
        image.save(temporary, format="PNG", compress_level=1)
        os.replace(temporary, path)
    return path


def _reason(error: Exception) -> str:
    """What went wrong, without the system's path in it."""
    return getattr(error, "strerror", None) or str(error).split("<")[0].strip() or type(error).__name__
