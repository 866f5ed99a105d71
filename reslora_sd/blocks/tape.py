"""The record of one forward pass, which later blocks read.

A tape belongs to one forward pass. The U-Net's pre-hook makes a new one and puts it into `cross_attention_kwargs`,
which diffusers hands to every attention processor: also when gradient checkpointing runs a block again, since it is an
argument there. A text model's pre-hook puts it into a context variable of the thread, and `checkpoint_contexts` brings
the right one back for a recomputation. Nothing is kept on modules, so that threads, copies and a second forward don't
meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token

import torch
from torch import Tensor

TAPE = "reslora_tape"
"""Name of the tape among `cross_attention_kwargs`."""


class Tape:
    """What blocks leave for their successors in one forward pass.

    Args:
        strength: factor on every branch; 0 leaves the branches out.
        inputs: a dictionary to fill with every block's input, or `None` (used to collect statistics).
        keep: whether values stay after their last reader, as recomputation under gradient checkpointing needs.
    """

    def __init__(self, strength: float = 1.0, inputs: dict[str, Tensor] | None = None, keep: bool = False) -> None:
        self.strength = strength
        self.inputs = inputs
        self._keep = keep
        self._records: dict[str, Tensor] = {}
        self._readers: dict[str, int] = {}

    def hear(self, x: Tensor, readers: Iterable[str]) -> None:
        """Notes the input of the blocks named `readers`, if anybody listens."""
        if self.inputs is not None:
            self.inputs.update(dict.fromkeys(readers, x))

    def write(self, name: str, value: Tensor, readers: int) -> None:
        """Keeps the first value for a name: a recomputation must not replace what later blocks have used."""
        self._records.setdefault(name, value)
        self._readers[name] = self._readers.get(name, 0) + readers

    def read(self, name: str, reader: str, readers: int = 1) -> Tensor:
        """The value that `write` kept; it goes when as many have read it as were announced.

        Raises:
            RuntimeError: nothing was written, since the block that should have done so was skipped.
        """
        if name not in self._records:
            raise RuntimeError(
                f"{reader} needs what {name} leaves on the tape, but that block has not run in this forward pass. "
                "Run the whole model (a U-Net with its own enable_gradient_checkpointing(), if any), or train with a "
                "method without such paths (lora, reslora_bs, reslora_frozen)."
            )
        value = self._records[name]
        self._readers[name] -= readers
        if self._readers[name] <= 0 and not self._keep:
            del self._records[name]
        return value

    def close(self) -> None:
        """Cuts the records off the graph when the forward pass has ended.

        Recomputation needs their values only, and a tape that held the graph would keep itself alive through it.
        """
        self._records = {
            name: value.detach().requires_grad_(value.requires_grad) for name, value in self._records.items()
        }


_strength: ContextVar[float] = ContextVar("reslora_strength", default=1.0)
_running: ContextVar[tuple[Tape, ...]] = ContextVar("reslora_tapes", default=())
"""Tapes of the text models' forward passes that run in this thread, one inside the other."""
_listener: ContextVar[tuple[Callable[[dict[str, Tensor]], None], object] | None] = ContextVar(
    "reslora_listener", default=None
)
"""Who listens, and to which model."""


def new_tape(strength: float = 1.0, keep: bool = False, model: object = None) -> Tape:
    """A tape for the forward pass of `model` that starts now, in this thread."""
    heard = _listener.get()
    listens = heard is not None and (heard[1] is None or heard[1] is model)
    return Tape(strength * _strength.get(), {} if listens else None, keep)


def end_tape(tape: Tape) -> None:
    """Closes a tape, and hands the inputs to whoever listens in this thread."""
    tape.close()
    listener = _listener.get()
    if listener is not None and tape.inputs is not None:
        listener[0](tape.inputs)


@contextmanager
def branch_strength(value: float) -> Iterator[None]:
    """Multiplies the branches of all adapters by `value` in this thread; 0 gives the base model, bit for bit."""
    token = _strength.set(_strength.get() * value)
    try:
        yield
    finally:
        _strength.reset(token)


@contextmanager
def listening(listener: Callable[[dict[str, Tensor]], None], model: object = None) -> Iterator[None]:
    """Calls `listener` with {block name: its input (..., in)} after every forward pass in this thread.

    Args:
        model: whose passes count, where several run, such as a U-Net and its text encoders; left out: all.
    """
    token = _listener.set((listener, model))
    try:
        with torch.no_grad():
            yield
    finally:
        _listener.reset(token)


def current_tape() -> Tape | None:
    """The tape of the text model's forward pass that runs in this thread."""
    running = _running.get()
    return running[-1] if running else None


def enter_tape(tape: Tape) -> None:
    """Makes `tape` the current one of this thread."""
    _running.set((*_running.get(), tape))


def leave_tape(tape: Tape) -> None:
    """Makes the tape current that was so before `tape`."""
    *outer, last = _running.get()
    assert last is tape
    _running.set(tuple(outer))


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` of `torch.utils.checkpoint.checkpoint`: the recomputation gets the tape of its forward pass."""
    return nullcontext(), _Recomputation(current_tape())


class _Recomputation:
    """Makes a tape current for a while, as often as a graph is run backward."""

    def __init__(self, tape: Tape | None) -> None:
        self._running = () if tape is None else (tape,)
        self._tokens: list[Token[tuple[Tape, ...]]] = []

    def __enter__(self) -> None:
        self._tokens.append(_running.set(self._running))

    def __exit__(self, *_: object) -> None:
        _running.reset(self._tokens.pop())
