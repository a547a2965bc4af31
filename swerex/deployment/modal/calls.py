"""Calls of the modal library: in threads of their own, with a deadline, and again while Modal is busy."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from grpclib.exceptions import StreamTerminatedError
from modal.exception import ConnectionError as ModalConnectionError
from modal.exception import InternalError, ResourceExhaustedError, ServiceError

__all__ = ["CREATE_PACE", "Pace", "call", "patiently", "start_call"]

T = TypeVar("T")

_BUSY = (ResourceExhaustedError, ServiceError, InternalError, ModalConnectionError, StreamTerminatedError)
"""What may be over in a moment. The library has repeated the request by then, except for the first. The last
is its own library's, for a connection that is cut while a request is under way."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_SLICE = 0.2
"""Seconds between two looks at whether the result is still wanted."""


class Pace:
    """How fast requests may follow each other: at will, until Modal refuses one; then slower with each that
    it refuses, and a little faster again with each that it takes. One for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interval = 0.0
        self._next = 0.0
        self._slowed = 0.0

    def wait(self, deadline: float, check: Callable[[], object]) -> None:
        """Return when it is this thread's turn, or `check` raises.

        Raises:
            TimeoutError: that is not before `deadline`.
        """
        with self._lock:
            turn = max(time.monotonic(), self._next)
            if turn > deadline:
                raise TimeoutError("Modal takes no more requests at this rate")
            self._next = turn + self._interval
        _sleep_until(turn, check)

    def refused(self) -> None:
        with self._lock:
            now = time.monotonic()
            # Those that were on their way together are refused together, and count as one.
            if now - self._slowed >= self._interval:
                self._interval = min(max(2 * self._interval, 0.05), 2.0)
                self._slowed = now
                self._next = max(self._next, now + self._interval)

    def taken(self) -> None:
        with self._lock:
            self._interval = 0.9 * self._interval if self._interval > 0.01 else 0.0


CREATE_PACE = Pace()
"""That of all sandboxes of this process: Modal limits how many a workspace may create in a second."""


def _sleep_until(end: float, check: Callable[[], object]) -> None:
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, _SLICE))


def start_call(function: Callable[[], T]) -> Future[T]:
    """Run `function` in a thread of its own, where it goes on even if nobody waits for it any more.

    In the caller's thread, a notebook's event loop may run: there the library warns.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        threading.Thread(target=run, name="swerex-modal", daemon=True).start()
    except RuntimeError:
        # Python 3.12 starts no threads at the exit of the interpreter, when deployments are stopped.
        run()
    return future


def call(start: Callable[[], Future[T]], deadline: float, check: Callable[[], object] = bool) -> T:
    """Wait for a call until `deadline`, of `time.monotonic`, or until `check` raises.

    Raises:
        TimeoutError: it still goes on.
    """
    future = start()
    while not future.done():
        check()
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("Modal did not answer in time")
        wait([future], min(left, _SLICE))
    return future.result()


def patiently(
    start: Callable[[], Future[T]],
    deadline: float,
    check: Callable[[], object] = bool,
    pace: Pace | None = None,
) -> T:
    """As `call`, again and again while Modal is busy or out of reach, with a growing pause."""
    pause = _FIRST_PAUSE
    while True:
        if pace is not None:
            pace.wait(deadline, check)
        try:
            result = call(start, deadline, check)
        except _BUSY as error:
            if pace is not None and isinstance(error, ResourceExhaustedError):
                pace.refused()
            # With jitter, so that many who were refused do not come back at the same moment.
            pause_now = pause * random.uniform(0.5, 1.0)
            again = time.monotonic() + pause_now
            if again > deadline:
                raise
            _sleep_until(again, check)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if pace is not None:
                pace.taken()
            return result
