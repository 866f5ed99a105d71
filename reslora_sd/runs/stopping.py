"""A training that is asked to stop ends between two steps, so that it can leave a checkpoint to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Step = TypeVar("Step")
_NAMES = ("SIGTERM", "SIGINT", "SIGBREAK")  # the last one is Windows' Ctrl-Break, which one process can send another
_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


def until_stopped(steps: Iterable[Step], heed: bool = True) -> Iterator[Step]:
    """The steps, up to and with the one during which SIGTERM or Ctrl-C came. Arguments as `stop_requests`."""
    with stop_requests(heed) as asked:
        for step in steps:
            yield step
            if asked.is_set():
                return


@contextmanager
def stop_requests(heed: bool = True) -> Iterator[threading.Event]:
    """Within it, the first SIGTERM or Ctrl-C sets the event; a second one acts as it would without us.

    On Windows, where SIGTERM ends a process at once, Ctrl-C and Ctrl-Break do so.

    Args:
        heed: `False` changes nothing and never sets the event. Several processes that train together can't heed a
            signal: they would leave the loop at different steps and wait for one another for ever.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number in list(before):
            handler = before.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def ask(_number: int, _frame: object) -> None:
        asked.set()
        restore()

    if heed and threading.current_thread() is threading.main_thread():  # only there can handlers be set
        for number in _SIGNALS:
            before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()
