"""Limits of time for what is computed of a run's files, whatever they hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any

SECONDS = 20.0
"""For which a visitor waits for a view."""
_MOST_LEFT = 4


class TooSlowError(ValueError):
    """A view that takes longer than it may, in words."""


class Limits:
    """Computes things in threads of their own, and waits for each only so long.

    A thread can't be ended from outside. What takes too long goes on, beside the page and at the cost of a processor,
    until it is done by itself; whoever asks for the same meanwhile waits for that work, and none is begun twice. While
    `most` of them go on, nothing that was not asked before is begun.
    """

    def __init__(self, seconds: float = SECONDS, most: int = _MOST_LEFT) -> None:
        self.seconds, self.most = seconds, most
        self._left: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, what: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, or raises.

        Args:
            what: a sentence's beginning, such as "The grid".
            key: equal for equal work.

        Raises:
            TooSlowError: it isn't there in time.
        """
        with self._lock:
            self._left = {one: future for one, future in self._left.items() if not future.done()}
            future = self._left.get((what, key))
            if future is None and len(self._left) >= self.most:
                raise TooSlowError(f"{what} waits: {self.most} views that took too long are still being computed.")
        future = future or self._begin(make)
        try:
            return future.result(self.seconds)
        except Late:
            if future.done():
                raise  # of `make` itself
            with self._lock:
                self._left[(what, key)] = future
            raise TooSlowError(
                f"{what} takes longer than {self.seconds:g} s with these runs, and isn't shown. Tick fewer runs, or "
                "look at it again later: it is still being computed."
            ) from None

    def _begin(self, make: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future
