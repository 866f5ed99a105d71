"""Names from disks and files that can be sent to a browser: those that are UTF-8."""

from __future__ import annotations


def is_utf8(name: object) -> bool:
    """Whether a name can be sent. On Linux a file can have any bytes as its name."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(name: object) -> str:
    """A name with what is no UTF-8 in it written out."""
    return str(name).encode(errors="backslashreplace").decode()
