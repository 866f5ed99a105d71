"""What the hooks of text models, U-Nets and other transformers have in common: a tape that comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..blocks.tape import TAPE, current_tape, end_tape, leave_tape


@contextmanager
def undone_after_error(handles: Sequence[RemovableHandle], restore: Callable[[], None]) -> Iterator[None]:
    """Within it, hooks are put into a model. After an error those of `handles` are removed, and `restore` is called."""
    try:
        yield
    except BaseException:
        for handle in handles:
            handle.remove()
        restore()
        raise


def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Makes the tape current that was so before the module ran."""
    tape = current_tape()
    if tape is not None:  # the pre-hook itself may have failed
        leave_tape(tape)


def leave_and_end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """The same after the whole model, whose tape ends."""
    tape = current_tape()
    leave(module, args, output)
    if tape is not None:
        end_tape(tape)


def handed_with_tape(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str, name: str
) -> dict[str, Any]:
    """The dictionary among a block's arguments that holds the tape.

    Args:
        what: the whole model in words, such as `the U-Net`.
        name: of the variable that people hold it in.

    Raises:
        RuntimeError: there is none, or the block runs a layer in chunks.
    """
    if getattr(module, "_chunk_size", None) is not None:
        raise RuntimeError(
            "Forward chunking runs a feed-forward layer several times in one pass, which the paths of its block don't "
            "allow. Turn it off (block.set_chunk_feed_forward(None)), or leave ff out of target_modules."
        )
    for one in (*args, *kwargs.values()):
        if isinstance(one, dict) and TAPE in one:
            return one
    raise RuntimeError(
        f"A {type(module).__name__} got no tape. Call {what} itself, {name}(...): calling {name}.forward(...) or one "
        "of its parts leaves out the hook that makes the tape."
    )
