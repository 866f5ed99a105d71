"""What VAE and text encoders made, on disk: found by all that it depends on, shared by runs and processes.

Every entry is a file of its own, which is written beside its place and renamed: processes that make the same at once
write the same. A damaged entry is made anew. Nothing is ever removed: the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..runs.atomic import write_json

logger = logging.getLogger("reslora_sd")
FOLDER = "reslora-encoded"
"""Below `--cache_dir`."""
_FORM = 1
"""Of the files; one more where their meaning changes."""
_NOT_THE_MODEL = ("_name_or_path", "_commit_hash", "_diffusers_version", "transformers_version")
"""Entries of a configuration that say where it was read."""
_CHECK = "crc32"
_MANY = 5_000
"""Contents that are known to this process alone."""
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that may only be read."""
_FRESH = 2.0
"""Seconds that a file has to be unchanged before its time says that it still is."""


def key_of(*about: Any) -> str:
    """A name for what depends on these values, which JSON can hold, and on nothing else."""
    return hashlib.sha256(json.dumps([_FORM, *about]).encode()).hexdigest()


class DiskCache:
    """Tensors by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0
        self._read_only = False
        self._index = folder / "contents.json"
        self._contents: dict[str, list[Any]] | None = None
        self._noted: dict[str, list[Any]] = {}

    def get(self, key: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
        """The entry; `None` where there is none, or it is damaged, which is told once.

        Args:
            shapes: of the tensors that it may hold.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = (file.metadata() or {}).get(_CHECK)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError):
            said, tensors = "", {}
        if said == _sum(tensors) and all(shapes.get(name) == tensor.shape for name, tensor in tensors.items()):
            return tensors
        self.damaged += 1
        if self.damaged == 1:
            logger.warning("%s is damaged, and is made anew; so are others like it.", path)
        return None

    def has(self, key: str) -> bool:
        """Whether there is an entry, whole or damaged."""
        return self._path(key).is_file()

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes an entry; where the folder may only be read, nothing is written from then on, which is told.

        Raises:
            ValueError: the disk is full, or fails.
        """
        if self._read_only:
            return
        path = self._path(key)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(save(whole, {_CHECK: _sum(whole)}))
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):  # it can't be there, or what is told below says why it stays
                temporary.unlink(missing_ok=True)
            if error.errno in _FORBIDDEN:
                self._only_read(error)
                return
            raise ValueError(
                f"{self.folder} can't be written ({error.strerror or error}). Make room, or name another --cache_dir."
            ) from error

    def size(self) -> tuple[int, int]:
        """How many entries there are, and their bytes; other processes may add and remove some meanwhile."""
        sizes = []
        for folder in self.folder.glob("??"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for file in filter(lambda name: name.endswith(".safetensors"), os.listdir(folder)):
                    with contextlib.suppress(FileNotFoundError):
                        sizes.append((folder / file).stat().st_size)
        return len(sizes), sum(sizes)

    def content(self, file: str) -> str:
        """A name for what a file holds. It is remembered, and the file isn't read again unless it has changed."""
        said = os.stat(file)
        return self.content_at(os.path.abspath(file), [said.st_size, said.st_mtime_ns], Path(file).read_bytes)

    def content_at(self, place: str, stamp: list[int], read: Callable[[], bytes]) -> str:
        """As `content`, of what is at a place of a file with this size and time of its last change."""
        known = self._known().get(place)
        if isinstance(known, list) and len(known) == 3 and known[:2] == stamp and isinstance(known[2], str):
            return known[2]
        found = hashlib.sha256(read()).hexdigest()
        self.note(place, [*stamp, found])
        return found

    def note(self, place: str, stamp: list[Any]) -> None:
        """Remembers a content, unless the file is so new that it could change again without a later time."""
        if time.time() - stamp[1] / 1e9 > _FRESH:
            self._known()[place] = self._noted[place] = stamp

    def drained(self) -> dict[str, list[Any]]:
        """What was noted, for the process that remembers it."""
        found, self._noted = self._noted, {}
        return found

    def take(self, noted: Mapping[str, list[Any]]) -> None:
        """Notes what another process gives."""
        self._known().update(noted)
        self._noted.update(noted)
        if len(self._noted) >= _MANY:
            self.remember()

    def remember(self) -> None:
        """Writes what is known of contents; other processes' is kept. Where it can't be, files are read again."""
        if not self._noted or self._read_only:
            return
        self._contents = {**self._read(), **self._known()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._index, self._contents)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                self._only_read(error)
            else:
                logger.warning("%s can't be written (%s). Files are read again.", self._index, error.strerror or error)
        self._noted = {}

    def _only_read(self, error: OSError) -> None:
        if not self._read_only:
            why = error.strerror or error
            logger.warning("%s can't be written (%s). What is in it is used, and nothing is added.", self.folder, why)
        self._read_only = True

    def _known(self) -> dict[str, list[Any]]:
        if self._contents is None:
            self._contents = self._read()
        return self._contents

    def _read(self) -> dict[str, list[Any]]:
        try:
            found = json.loads(self._index.read_bytes())
        except (OSError, ValueError, RecursionError):  # it saves reading, and is nothing else
            return {}
        return found if isinstance(found, dict) else {}

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"


def fingerprint(model: torch.nn.Module) -> str:
    """A name for a model: its configuration, and every number of its weights."""
    config: Any = getattr(model, "config", {})
    about = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    for name in _NOT_THE_MODEL:
        about.pop(name, None)
    found = hashlib.sha256(json.dumps(about, default=str, sort_keys=True).encode())
    for name, value in model.state_dict().items():
        bits = value.detach().contiguous().view(-1)
        bits = bits.view({4: torch.int32, 2: torch.int16, 1: torch.uint8, 8: torch.int64}[bits.element_size()])
        whole = int(bits.sum(dtype=torch.int64))
        some = bits[:: max(1, len(bits) // 4096)].cpu().numpy().tobytes()  # where a number stands counts, too
        found.update(f"{name}{tuple(value.shape)}{value.dtype}{whole}".encode() + some)
    return found.hexdigest()


def _sum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        about = f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode()
        total = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, zlib.crc32(about, total))
    return f"{total:08x}"
