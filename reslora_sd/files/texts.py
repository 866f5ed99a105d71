"""Text files that people write: captions, prompts, settings. Needs no torch."""

from __future__ import annotations

import codecs
from pathlib import Path


def read_utf8(file: Path, name: str | None = None) -> str:
    """The text of a file, without the mark that Windows' editors put before it.

    Args:
        name: what errors call it, where its path is nobody's business.

    Raises:
        ValueError: it is no UTF-8; the message names the line.
    """
    return utf8_text(file.read_bytes(), name or str(file))


def utf8_text(data: bytes, name: str) -> str:
    """As `read_utf8`, of bytes that are read already."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "it is UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        line = data.count(b"\n", 0, error.start) + 1
        reason = kind or f"line {line} has the byte 0x{data[error.start]:02x}"
        raise ValueError(f"{name} is no UTF-8 text: {reason}. Save it as UTF-8.") from error
    if "\0" in text:  # UTF-16 without a mark decodes, letter by letter
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{name} is no UTF-8 text: line {line} has a zero byte. Save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")
