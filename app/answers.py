"""Answers that are made once for all who ask: while one is being made, others wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class Answers:
    """The answers that were asked for last.

    Args:
        most: so many are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The answer to a question; what `make` raises is raised to all who wait, and isn't kept."""
        with self._lock:
            found = self._found.get(key)
            mine = found is None
            if found is None:
                found = self._found[key] = Future()
            self._found.move_to_end(key)
            while len(self._found) > self.most:
                self._found.popitem(last=False)
        if mine:
            try:
                found.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._found.pop(key, None)
                found.set_exception(error)
        return found.result()

    def ready(self, key: Hashable) -> Any | None:
        """The answer, if it has been made."""
        found = self._found.get(key)
        return found.result() if found is not None and found.done() and found.exception() is None else None
