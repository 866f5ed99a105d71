"""The members of tar files by their places: headers are read once, and nothing is unpacked. No torch."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

_MOST_HEADER = 2**20
"""Bytes of a header, with a long name and all else that it says."""
_BLOCK = 512
_CHUNK = 2**20
_AGAIN = "Copy it again, or write it again with tar or WebDataset"


class Shard(NamedTuple):
    """A tar file as it was when its headers were read."""

    path: str
    size: int
    changed: int
    """In nanoseconds."""

    @classmethod
    def of(cls, file: Path) -> Shard:
        """As it is now."""
        said = os.stat(file)
        return cls(str(file), said.st_size, said.st_mtime_ns)


class Member(NamedTuple):
    """A file in a shard."""

    shard: Shard
    offset: int
    """Of its first byte."""
    size: int

    @property
    def place(self) -> str:
        """A name for where it is."""
        return f"{os.path.abspath(self.shard.path)}:{self.offset}+{self.size}"

    def open(self) -> io.BufferedReader:
        """It alone, from its beginning.

        Raises:
            ValueError: the shard has changed since its headers were read.
        """
        return io.BufferedReader(_Part(self))

    def read(self) -> bytes:
        """The whole of it.

        Raises:
            ValueError: as `open`; or its shard has become shorter.
        """
        with _Part(self) as file:
            found = file.read(self.size) or b""
        if len(found) != self.size:
            raise ValueError(f"The shard {self.shard.path} ends too early. {_AGAIN}.")
        return found


class _Part(io.RawIOBase):
    """A part of a file, by a descriptor of its own, so that processes don't move each other's."""

    def __init__(self, member: Member) -> None:
        shard, self._begin, self._size, self._at = member.shard, member.offset, member.size, 0
        self._file = os.open(shard.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        said = os.fstat(self._file)
        if (said.st_size, said.st_mtime_ns) != (shard.size, shard.changed):
            self.close()
            raise ValueError(f"the shard {shard.path} has changed since its headers were read; start anew")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        found = os.pread(self._file, count, self._begin + self._at)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the beginning is asked for: {base + offset}")
        self._at = base + offset
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


class _Headers(io.FileIO):
    """A tar file whose headers alone are read; one that says it is huge can't fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        return super().read(size) or b""


def members_of(shard: Shard) -> Iterator[tuple[str, Member]]:
    """Names and places of the files in a shard; folders are passed over.

    Raises:
        ValueError: the shard is damaged, compressed or truncated, or a member is a link, no file, or lies outside.
    """
    for info in _headers(shard):
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        parts = PurePosixPath(name).parts
        if info.isdir():
            continue
        if name.startswith("/") or ".." in parts or not parts:
            raise ValueError(
                f"The shard {shard.path} has a member named {name!r:.200}, which lies outside. Write it again, with "
                "names as seen from one folder."
            )
        if info.islnk() or info.issym():
            raise ValueError(
                f"In the shard {shard.path}, {name:.200} is a link to {info.linkname!r:.200}. Write files instead: tar "
                "--dereference --hard-dereference."
            )
        if not info.isreg() or info.issparse():
            raise ValueError(f"In the shard {shard.path}, {name:.200} is no plain file. Write it again without it.")
        yield "/".join(parts), Member(shard, info.offset_data, info.size)


def _headers(shard: Shard) -> Iterator[tarfile.TarInfo]:
    try:
        with _Headers(shard.path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            before = 0
            while (info := archive.next()) is not None:
                vars(archive)["members"].clear()  # it would keep all of them
                if not before < archive.offset <= -(-shard.size // _BLOCK) * _BLOCK or info.size < 0:
                    raise tarfile.ReadError("a member reaches beyond its end")
                before = archive.offset
                yield info
            _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"The shard {shard.path} can't be read ({_said(shard, why)}). {_AGAIN}.") from error


def _check_end(file: io.FileIO, offset: int) -> None:
    """Whether a shard ends as it should: `tarfile` takes a damaged header for the end, and a missing end for one."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if not block:
        raise tarfile.ReadError("its end is missing, as if it were still being written")
    while block:
        if any(block):
            raise tarfile.ReadError(f"its header at byte {offset} is damaged, or several tar files were joined")
        block = file.read(_CHUNK)


def _said(shard: Shard, why: str) -> str:
    """What is wrong, by the first bytes of a shard if these say so."""
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
    with open(shard.path, "rb") as file:
        start = file.read(8)
    kind = next((name for first, name in known.items() if start.startswith(first)), None)
    return f"it is compressed with {kind}: unpack it to a plain tar" if kind else why
