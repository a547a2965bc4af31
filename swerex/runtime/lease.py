"""The end of a server whose clients are gone: each request renews its lease, and so does a quiet beat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Lease"]


class Lease:
    """Calls `on_end`, once, when there was no request for `seconds` seconds."""

    def __init__(self, seconds: float, on_end: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_end = on_end
        self._lock = threading.Lock()
        self._under_way = 0
        self._renewed = time.monotonic()

    def begin(self) -> None:
        """A request has come. As long as it is under way, the lease does not run out."""
        with self._lock:
            self._under_way += 1

    def end(self) -> None:
        """The request was answered."""
        with self._lock:
            self._under_way -= 1
            self._renewed = time.monotonic()

    def watch(self) -> None:
        """Return when the lease has run out, after `on_end`."""
        pause = threading.Event()
        while True:
            with self._lock:
                now = time.monotonic()
                left = self._seconds if self._under_way else self._renewed + self._seconds - now
            if left <= 0:
                return self._on_end()
            pause.wait(min(left, 3600.0))
