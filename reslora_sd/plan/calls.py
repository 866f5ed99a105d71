"""What ran in a forward pass that is traced."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def recorder(name: str, calls: list[tuple[str, Tensor]]) -> Any:
    """A forward pre-hook that notes the module's name and its input.

    Raises:
        ValueError: when called, if the module ran before.
    """

    def record(_module: object, args: tuple[Any, ...]) -> None:
        if any(seen == name for seen, _ in calls):
            raise ValueError(f"{name} runs twice in one forward pass, so that its predecessor isn't defined.")
        calls.append((name, args[0]))

    return record
