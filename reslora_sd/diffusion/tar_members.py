"""The members of tar files by their places: headers are read once, and nothing is unpacked. No torch."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

_MOST_HEADER = 2**16
"""Bytes of all headers of a member, with a long name and all else that they say."""
_DIGITS = re.compile(rb"\d{257}")
"""More than a name can have in a row. In older Pythons, `tarfile` takes their square in time (CVE-2024-6232)."""
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

    def open(self) -> io.FileIO:
        """The whole file, by a descriptor of its own, so that processes don't move each other's.

        Raises:
            ValueError: it can't be opened, or has changed since its headers were read.
        """
        try:
            file = io.FileIO(self.path)
        except OSError as error:
            raise ValueError(f"the shard {self.path} can't be opened: {error.strerror}") from error
        said = os.fstat(file.fileno())
        if (said.st_size, said.st_mtime_ns) != (self.size, self.changed):
            file.close()
            raise ValueError(f"the shard {self.path} has changed since its headers were read; start anew")
        return file


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
            ValueError: as `Shard.open`.
        """
        return io.BufferedReader(_Part(self.shard.open(), self))

    def read(self, file: io.FileIO | None = None) -> bytes:
        """The whole of it.

        Args:
            file: its shard, where it is open.

        Raises:
            ValueError: as `Shard.open`; or its shard has become shorter.
        """
        if file is None:
            with self.shard.open() as own:
                return self.read(own)
        file.seek(self.offset)
        found = bytearray(self.size)
        view, at = memoryview(found), 0
        while at < self.size and (count := file.readinto(view[at:])):
            at += count
        if at < self.size:
            raise ValueError(f"The shard {self.shard.path} ends too early. {_AGAIN}.")
        return bytes(found)


class _Part(io.RawIOBase):
    """A part of a file, which it closes."""

    def __init__(self, file: io.FileIO, member: Member) -> None:
        self._file, self._begin, self._size, self._at = file, member.offset, member.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(view[: max(0, self._size - self._at)]) or 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the beginning is asked for: {base + offset}")
        self._at = base + offset
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


class _Headers(io.FileIO):
    """A tar file whose headers alone are read; one that says it is huge can't fill the memory, or take for ever."""

    left = _MOST_HEADER
    """Bytes that the member at hand may still read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"the headers of a member have more than {_MOST_HEADER} bytes")
        found = super().read(size) or b""
        if _DIGITS.search(found):
            raise tarfile.ReadError("a header has a number of more than 256 digits")
        return found


def shown(name: str) -> str:
    """A member's name as it may be printed: bytes that are no UTF-8, and control characters, are escaped."""
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def members_of(shard: Shard) -> Iterator[tuple[str, Member]]:
    """Names and places of the files in a shard; folders are passed over. Names are as `tarfile` has them: see `shown`.

    Raises:
        ValueError: the shard is damaged, compressed or truncated, or a member is a link, no file, or lies outside.
    """
    for info in _headers(shard):
        parts, name = PurePosixPath(info.name).parts, shown(info.name)
        if info.isdir():
            continue
        if info.name.startswith("/") or ".." in parts or not parts:
            raise ValueError(
                f"The shard {shard.path} has a member named '{name:.200}', which lies outside. Write it again, with "
                "names as seen from one folder."
            )
        if info.islnk() or info.issym():
            raise ValueError(
                f"In the shard {shard.path}, {name:.200} is a link to '{shown(info.linkname):.200}'. Write files "
                "instead: tar --dereference --hard-dereference."
            )
        if not info.isreg() or info.issparse():
            raise ValueError(f"In the shard {shard.path}, {name:.200} is no plain file. Write it again without it.")
        yield "/".join(parts), Member(shard, info.offset_data, info.size)


def _headers(shard: Shard) -> Iterator[tarfile.TarInfo]:
    try:
        with _Headers(shard.path) as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            before = 0
            while (info := archive.next()) is not None:
                file.left = _MOST_HEADER
                vars(archive)["members"].clear()  # it would keep all of them
                if not before < archive.offset <= -(-shard.size // _BLOCK) * _BLOCK or info.size < 0:
                    raise tarfile.ReadError("a member reaches beyond its end")
                before = archive.offset
                yield info
            _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        why = shown(str(error)) or type(error).__name__
        raise ValueError(f"The shard {shard.path} can't be read ({_said(shard, why)}). {_AGAIN}.") from error


def _check_end(file: io.FileIO, offset: int) -> None:
    """Whether a shard ends as it should: `tarfile` takes a damaged header for the end, and a missing end for one."""
    file.seek(offset)
    block = memoryview(bytearray(_CHUNK))
    if not (count := file.readinto(block[:_BLOCK])):
        raise tarfile.ReadError("its end is missing, as if it were still being written")
    while count:
        if any(block[:count]):
            raise tarfile.ReadError(f"its header at byte {offset} is damaged, or several tar files were joined")
        count = file.readinto(block)


def _said(shard: Shard, why: str) -> str:
    """What is wrong, by the first bytes of a shard if these say so."""
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
    try:
        with open(shard.path, "rb") as file:
            start = file.read(8)
    except OSError:
        return why
    kind = next((name for first, name in known.items() if start.startswith(first)), None)
    return f"it is compressed with {kind}: unpack it to a plain tar" if kind else why
