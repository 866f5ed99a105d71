"""A training that is asked to stop ends between two steps, so that it can leave a checkpoint to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Step = TypeVar("Step")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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

    Args:
        heed: `False` changes nothing and never sets the event. Several processes that train together can't heed a
            signal: they would leave the loop at different steps and wait for one another for ever.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number in list(before):
            signal.signal(number, before.pop(number))

    def ask(_number: int, _frame: object) -> None:
        asked.set()
        restore()

    if heed and threading.current_thread() is threading.main_thread():  # only there can handlers be set
        before.update({number: signal.signal(number, ask) for number in _SIGNALS})
    try:
        yield asked
    finally:
        restore()
