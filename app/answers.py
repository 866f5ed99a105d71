"""Answers that are made once for all who ask: while one is being made, others wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any

from .limits import SECONDS, TooSlowError


class Answers:
    """The answers that were asked for last.

    Args:
        most: so many are kept.
        seconds: for which somebody waits for an answer that another is making.
    """

    def __init__(self, most: int, seconds: float = SECONDS) -> None:
        self.most, self.seconds = most, seconds
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The answer to a question; what `make` raises is raised to all who wait, and isn't kept.

        Raises:
            TooSlowError: another is making it, and it isn't there in time.
        """
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
                self._forget(key, found)
                found.set_exception(error)
        elif not wait([found], self.seconds).done:
            raise TooSlowError(
                f"Another visitor asked for the same over {self.seconds:g} s ago, and it isn't there yet. Look at it "
                "again later."
            )
        return found.result()

    def ready(self, key: Hashable) -> Any | None:
        """The answer, if it has been made."""
        with self._lock:
            found = self._found.get(key)
            if found is None or not found.done() or found.exception() is not None:
                return None
            self._found.move_to_end(key)
        return found.result()

    def forget(self, key: Hashable) -> None:
        """The answer is made again when it is asked for next."""
        with self._lock:
            self._found.pop(key, None)

    def _forget(self, key: Hashable, found: Future[Any]) -> None:
        with self._lock:
            if self._found.get(key) is found:  # it can have gone, and have been begun again
                del self._found[key]
