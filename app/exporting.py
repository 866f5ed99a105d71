"""A comparison as one HTML file that needs no server, and as a folder that is a Space on the Hugging Face Hub."""

from __future__ import annotations

import base64
import html
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from reslora_sd.runs.atomic import replacing
from reslora_sd.runs.run import Run

from .export_template import TEMPLATE
from .grids import chosen_steps
from .library import Library
from .pictures import reference_view, seeds_of, steps_of, variants, view
from .wording import variant_name

MOST_RUNS, MOST_SERIES, MOST_STEPS, MOST_BYTES = 8, 16, 24, 100_000_000
_SIDE, _SMALL = 768, 256
HTML_NAME = "index.html"
ABOUT = (
    "Made with reslora-sd: pictures of training runs at the same prompt, seed and step. Nothing here is loaded from "
    "elsewhere."
)


def comparison(runs: Mapping[str, Run], title: str = "", variant: str | None = None) -> str:
    """The HTML of a comparison: of each prompt and seed, up to 24 steps of each run, as the runs' folders hold them.

    Args:
        title: (left out: the runs' names)
        variant: as in `pictures.variants`; the first that there is where left out.

    Raises:
        ValueError: there are no pictures, or too many.
    """
    if not 0 < len(runs) <= MOST_RUNS:
        raise ValueError(f"{len(runs)} runs are chosen. An export has 1 to {MOST_RUNS}.")
    images = _Images()
    chosen = variant if variant is not None else variants(runs)[0]
    prompts = dict.fromkeys(prompt for run in runs.values() for prompt in run.prompts())
    places = [(prompt, seed) for prompt in prompts for seed in seeds_of(runs, prompt)]
    found = [_series(runs, prompt, seed, chosen, images) for prompt, seed in places[:MOST_SERIES]]
    found = [one for one in found if one["steps"]]
    if not found:
        raise ValueError(f"{', '.join(runs)}: no picture can be exported. Choose runs that have pictures.")
    title = title or " and ".join(runs)
    left_out = len(places) - MOST_SERIES
    about = f"{ABOUT} Pictures: {variant_name(chosen)}." + (
        f" {left_out} prompts and seeds are left out." if left_out > 0 else ""
    )
    data = {"title": title, "about": about, "runs": list(runs), "series": found, "images": images.addresses}
    data["technical"] = [run.method for run in runs.values()]
    # in a script, only "<" could end the text or begin a comment; the two separators are no JSON in old browsers
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    before, after = TEMPLATE.split("DATA")
    return f"{before.replace('TITLE', html.escape(title))}{text}{after}"


def _series(runs: Mapping[str, Run], prompt: str, seed: int, variant: str, images: _Images) -> dict[str, Any]:
    """Numbers of the pictures of a prompt and seed, by run and step."""
    steps = chosen_steps(steps_of(runs, prompt, seed, variant), MOST_STEPS)
    pictures = [
        [images.add(view(name, run, prompt, seed, variant, step).image) for step in steps] for name, run in runs.items()
    ]
    real = reference_view(runs, prompt)
    return {
        "prompt": prompt,
        "seed": seed,
        "steps": steps,
        "pictures": pictures,
        "real": images.add(real.image) if real is not None else None,
        "real_title": real.title if real is not None else "",
    }


class _Images:
    """Pictures as addresses that hold them, each once."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._numbers: dict[str, int] = {}
        self._bytes = 0

    def add(self, image: Image.Image | None) -> int | None:
        """The number of a picture; `None` for none."""
        if image is None:
            return None
        address = _address(image)
        if address not in self._numbers:
            self._bytes += len(address)
            if self._bytes > MOST_BYTES:
                raise ValueError(f"The pictures have more than {MOST_BYTES / 1e6:.0f} MB together. Choose fewer runs.")
            self._numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return self._numbers[address]


def _address(image: Image.Image) -> str:
    """Small pictures lose nothing; large ones are made smaller, and lose what one hardly sees."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, format="WEBP", lossless=max(small.size) <= _SMALL, quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def space_files(page: str, title: str) -> dict[str, str]:
    """Names and texts of the files of a static Space, which needs no machine of its own."""
    front = {
        "title": title[:60] or "LoRA and ResLoRA",
        "emoji": "\N{RED APPLE}",
        "sdk": "static",
        "app_file": HTML_NAME,
    }
    lines = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in front.items())
    readme = (
        f"---\n{lines}colorFrom: yellow\ncolorTo: red\npinned: false\n---\n\n"
        f"{ABOUT}\n\nTo put this folder online: `hf upload YOUR-NAME/YOUR-SPACE . . --repo-type space`\n"
    )
    return {"README.md": readme, HTML_NAME: page}


def space_zip(page: str, title: str) -> bytes:
    """The same as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in space_files(page, title).items():
            archive.writestr(name, text)
    return buffer.getvalue()


def export(folders: list[Path], target: Path) -> str:
    """Writes a comparison of the runs in folders: one file where the name ends in .html, else a folder for a Space.

    Returns:
        What was written, in words.

    Raises:
        ValueError: the target is there already, or the runs have no pictures.
    """
    if target.exists():
        raise ValueError(f"--export names {target}, which is there already. Choose another name.")
    library = Library(folders)
    runs = {name: run for name, run in library.get(library.keys()).items() if run.pictures}
    page = comparison(runs)
    is_file = target.suffix.lower() in (".html", ".htm")
    files = {target.name: page} if is_file else space_files(page, " and ".join(runs))
    for name, text in files.items():
        with replacing((target.parent if is_file else target) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    kind = "open it in a browser" if is_file else "a static Space: see README.md in it for how to upload it"
    return f"{target}: {' and '.join(runs)}, {len(page) / 1e6:.1f} MB; {kind}."
