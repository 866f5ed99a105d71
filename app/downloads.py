"""Downloads of a run: its LoRA in three forms, and its settings. Runs are asked for by key, never by path."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
import zipfile
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse

from reslora_sd.runs.run import Run

from . import run_card
from .library import Library, key_of

_PATH = "/of-run"
_ENDINGS = {"diffusers": ".safetensors", "kohya": "-kohya.safetensors", run_card.PEFT: "-peft.zip"}
_MOST_BYTES = 4_000_000_000
"""Of a LoRA that is turned into PEFT's form."""
_lock = threading.Lock()


def address(key: str, what: str, token: str = "") -> str:
    """Where the page's server has a download of a run: one of `run_card.FORMS`, or `run_card.SETTINGS`.

    Args:
        token: of `Library.token`: once the name is another run's, there is no such download.
    """
    which = f"&token={quote(token, safe='')}" if token else ""
    return f"{_PATH}/{what}?run={quote(key, safe='')}{which}"


def routes(library: Library, cache: Path) -> APIRouter:
    """The downloads of the library's runs.

    Args:
        cache: for what is made to be downloaded.
    """
    router = APIRouter()

    @router.get(f"{_PATH}/{{what}}", include_in_schema=False)
    def download(what: str, run: str = "", token: str | None = None) -> Response:
        try:
            path = library.find(run, token)
            found, name = library.read(path), library.keys().get(key_of(path), run)
            if what == run_card.SETTINGS:
                text = run_card.settings_file(found)
                headers = {"content-disposition": f'attachment; filename="{run_card.download_name(name, ".json")}"'}
                return PlainTextResponse(text, media_type="application/json", headers=headers)
            file = _file(found, cache, name, what)
            said = run_card.download_name(name, _ENDINGS[what])
            return FileResponse(file, media_type="application/octet-stream", filename=said)
        except (ValueError, OSError) as error:
            return PlainTextResponse(str(error), status_code=404)

    return router


def _file(run: Run, cache: Path, name: str, form: str) -> Path:
    """The LoRA of a run in a form.

    Raises:
        ValueError: there is no such form, or the run has no LoRA yet, or it is damaged.
    """
    if form not in run_card.FORMS:
        raise ValueError(f"The form is {form!r:.40}. It must be one of {', '.join(run_card.FORMS)}.")
    found = run_card.lora_file(run, "kohya" if form == "kohya" else "diffusers")
    if found is None:
        raise ValueError(f"{name} has no such LoRA. It is written when a training has ended.")
    return zip_as_peft(found, cache) if form == run_card.PEFT else found


def zip_as_peft(file: Path, cache: Path) -> Path:
    """A LoRA as a zip of PEFT's folder, made once.

    Raises:
        ValueError: it is damaged, or too large.
    """
    stat = file.stat()
    if stat.st_size > _MOST_BYTES:
        raise ValueError(
            f"{file.name} has {stat.st_size / 1e9:.1f} GB, too much for this. Use reslora-convert --to peft."
        )
    key = hashlib.sha256(f"{file} {stat.st_mtime_ns} {stat.st_size}".encode()).hexdigest()[:24]
    target = cache / key / "peft.zip"
    with _lock:  # who asks at the same time waits for the same file
        if not target.exists():
            _write_zip(file, target)
    return target


def _write_zip(file: Path, target: Path) -> None:
    from reslora_sd import PlainLoRA

    work = target.with_name(f"making-{secrets.token_hex(4)}")
    work.mkdir(parents=True)
    folder, unfinished = work / "lora", work / "unfinished.zip"
    try:
        PlainLoRA.load(file).save_peft(folder)
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            for one in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(one, one.relative_to(folder).as_posix())
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
