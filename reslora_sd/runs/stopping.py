"""A training that is asked to stop ends between two steps, so that it can leave a checkpoint to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Step = TypeVar("Step")
Agree = Callable[[bool], bool]
"""Tells processes that train together whether any of them was asked; all call it at the same places."""
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
"""SIGHUP: the terminal was closed. SIGBREAK is Windows' Ctrl-Break, which one process can send another."""
_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


def until_stopped(steps: Iterable[Step], agree: Agree | None = None) -> Iterator[Step]:
    """The steps, up to and with the one during which SIGTERM, SIGHUP or Ctrl-C came. Arguments as `stop_requests`."""
    with stop_requests(together=agree is not None) as asked:
        for step in steps:
            yield step
            if agree(asked.is_set()) if agree else asked.is_set():
                return


@contextmanager
def stop_requests(together: bool = False) -> Iterator[threading.Event]:
    """Within it, the first SIGTERM, SIGHUP or Ctrl-C sets the event; a second one acts as it would without us.

    On Windows, where SIGTERM ends a process at once, Ctrl-C and Ctrl-Break do so. A SIGHUP that was ignored before, as
    by nohup, stays ignored.

    Args:
        together: several processes train together. A terminal and a launcher then both send signals, so a second one
            does nothing, even after the block while the checkpoint is written: only SIGKILL, which a launcher sends
            after its own patience, ends the process at once.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def ask(_number: int, _frame: object) -> None:
        asked.set()
        if not together:
            _restore(before)

    _handle(ask, before, lambda number: number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN)
    try:
        yield asked
    finally:
        if not (together and asked.is_set()):
            _restore(before)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; one that was ignored stays ignored."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    _handle(interrupt, before, lambda number: signal.getsignal(number) == signal.SIG_DFL)
    try:
        yield
    finally:
        _restore(before)


def _handle(
    handler: Callable[[int, object], None], before: dict[signal.Signals, Any], wanted: Callable[[signal.Signals], bool]
) -> None:
    """Sets the handler of the wanted signals, and notes those of before one by one, as a signal may come meanwhile."""
    if threading.current_thread() is threading.main_thread():  # only there can handlers be set
        for number in filter(wanted, _SIGNALS):
            before[number] = signal.signal(number, handler)


def _restore(before: dict[signal.Signals, Any]) -> None:
    """Sets the handlers of before, once."""
    for number in list(before):
        handler = before.pop(number)
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
