"""What tests of reslora-convert share: a command, and the script that makes runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reslora_sd.convert.converting import convert
from reslora_sd.convert.settings import Conversion, parse
from tests.diffusion.conftest import train as train


@pytest.fixture
def run() -> Callable[..., list[str]]:
    """Runs the command in this process; gives what it prints."""

    def command(*words: object) -> list[str]:
        parsed = parse([str(word) for word in words])
        assert isinstance(parsed, Conversion)
        return convert(parsed)

    return command
