"""Limits of time for what is computed of a run's files, whatever they hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any

SECONDS = 20.0
"""For which a visitor waits for a view."""
_MOST_LATE = 4
_MOST_AT_ONCE = 16
_MOST_KEPT = 16
"""Late results that nobody has come for yet."""


class TooSlowError(ValueError):
    """A view that takes longer than it may, in words."""


class Limits:
    """Computes things in threads of their own, and waits for each only so long.

    A thread can't be ended from outside. What takes too long goes on, beside the page and at the cost of a processor,
    until it is done by itself; whoever asks for the same next gets its result, or waits for it, and none is begun
    twice. While `most` of them go on, nothing that was not asked before is begun.

    Args:
        most: so many that are late may go on.
        at_once: so many are computed at the same time; others wait for their turn, within their limit.
    """

    def __init__(self, seconds: float = SECONDS, most: int = _MOST_LATE, at_once: int = _MOST_AT_ONCE) -> None:
        self.seconds, self.most = seconds, most
        self._turns = threading.Semaphore(at_once)
        self._running: dict[Hashable, Future[Any]] = {}
        self._late: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, what: str, key: Hashable, make: Callable[[], Any], state: Hashable = None) -> Any:
        """What `make` gives, or raises.

        Args:
            what: a sentence's beginning, such as "The grid".
            key: equal for equal questions.
            state: what else the answer depends on. Who asks at another state doesn't get what was begun before, unless
                it is late: then an older answer is better than none.

        Raises:
            TooSlowError: it isn't there in time.
        """
        name = (what, key)
        with self._lock:
            work = self._late.get(name) or self._running.get((name, state))
            if work is None:
                if sum(not one.done() for one in self._late.values()) >= self.most:
                    raise TooSlowError(f"{what} waits: {self.most} views that took too long are still being computed.")
                work = self._running[(name, state)] = self._begin((name, state), make)
        if wait([work], self.seconds).done:
            with self._lock:
                if self._late.get(name) is work:
                    del self._late[name]  # handed over once: files may have changed since
            return work.result()
        with self._lock:
            self._late.setdefault(name, work)
            done = [one for one, future in self._late.items() if future.done()]
            for one in done[:-_MOST_KEPT]:
                del self._late[one]
        raise TooSlowError(
            f"{what} takes longer than {self.seconds:g} s with these runs, and isn't shown. Tick fewer runs, or look "
            "at it again later: it is still being computed."
        )

    def _begin(self, key: Hashable, make: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            found, failed = None, None
            with self._turns:
                try:
                    found = make()
                except BaseException as error:  # raised where it is asked for
                    failed = error
            with self._lock:
                del self._running[key]
            if failed is None:
                future.set_result(found)
            else:
                future.set_exception(failed)

        threading.Thread(target=work, daemon=True).start()
        return future
