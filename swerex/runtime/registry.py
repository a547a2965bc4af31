"""Every request runs once, however often it is asked for, and its answer waits for who asks.

This is where a request, the worker that runs it, its output so far and its answer meet. HTTP threads only
wait here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from swerex.runtime.abstract import OnOutput

__all__ = ["Answer", "AnswerGoneError", "Entry", "RequestRegistry", "Work"]


class Answer(NamedTuple):
    """An HTTP status and a body."""

    status: int
    body: bytes
    mimetype: str = "application/json"


_logger = logging.getLogger(__name__)

Work = Callable[[OnOutput | None], Answer]
"""Runs a request. It gets a function to report output with, if anybody wants it, and never raises."""


class AnswerGoneError(Exception):
    """The request has run, and its answer is no longer kept."""


class Entry:
    """A request that runs or has run."""

    def __init__(self, route: str) -> None:
        self.route = route
        self.answer: Answer | None = None
        self.ended = 0.0
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._output: list[str] = []
        self._forgotten = 0

    def add_output(self, text: str) -> None:
        with self._lock:
            self._output.append(text)

    def output_from(self, begin: int | None) -> str:
        """The output from its character `begin` on; what stands before that has arrived and is forgotten.

        None: the output since the last call.
        """
        with self._lock:
            output = "".join(self._output)
            if begin is None:
                self._output, self._forgotten = [], self._forgotten + len(output)
            else:
                output = output[max(0, begin - self._forgotten) :]
                self._output, self._forgotten = [output], max(begin, self._forgotten)
        return output

    def wait(self, timeout: float | None) -> Answer | None:
        """The answer, or None if there is none after `timeout` seconds."""
        self._done.wait(timeout)
        return self.answer

    def finish(self, answer: Answer) -> None:
        self.answer = answer
        self.ended = time.monotonic()
        self._done.set()


class RequestRegistry:
    """Runs requests in worker threads of its own, and keeps the answers of those that have an id.

    Answers are kept until they are acknowledged, for `max_age` seconds at the longest, and no more than
    `max_answers` of them or `max_bytes` together; then the oldest go first. What is known for longer is
    that a request has run, so that none runs twice.
    """

    def __init__(
        self,
        *,
        max_answers: int = 1000,
        max_bytes: int = 256 << 20,
        max_age: float = 600.0,
        workers: int = 1000,
    ) -> None:
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="swerex-worker")
        self._lock = threading.Lock()
        self._running: dict[str, Entry] = {}
        self._ended: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._gone: OrderedDict[str, None] = OrderedDict()

    def submit(self, request_id: str | None, route: str, work: Work, *, follow: bool) -> Entry:
        """Run a request, or join the one that has this id. With `follow` its output is kept as it comes.

        Raises:
            AnswerGoneError: it has run, and its answer is gone.
            ValueError: the id is that of another kind of request.
        """
        entry = Entry(route)
        if request_id is None:
            self._workers.submit(self._run, None, entry, work, False)
            return entry
        with self._lock:
            self._drop_old()
            known = self._running.get(request_id) or self._ended.get(request_id)
            if known:
                if known.route != route:
                    raise ValueError(f"the request id {request_id} is that of a request to {known.route}")
                return known
            if request_id in self._gone:
                raise AnswerGoneError
            # Known before it runs: a repeated request can't overtake it.
            self._running[request_id] = entry
        self._workers.submit(self._run, request_id, entry, work, follow)
        return entry

    def _run(self, request_id: str | None, entry: Entry, work: Work, follow: bool) -> None:
        try:
            answer = work(entry.add_output if follow else None)
        except BaseException as error:
            # Such as having no memory left for the answer; who waits must not wait for ever.
            answer = Answer(500, b'{"detail": "the request failed without an answer"}')
            _logger.exception("A request to %s failed: %r", entry.route, error)
        if request_id is not None:
            with self._lock:
                del self._running[request_id]
                self._ended[request_id] = entry
                self._bytes += len(answer.body)
                entry.finish(answer)
                self._drop_old()
        else:
            entry.finish(answer)

    def acknowledge(self, request_ids: Iterable[str]) -> None:
        """These answers have arrived."""
        with self._lock:
            for request_id in request_ids:
                if request_id in self._ended:
                    self._drop(request_id)
            self._drop_old()

    def _drop_old(self) -> None:
        too_old = time.monotonic() - self._max_age
        while self._ended:
            request_id, entry = next(iter(self._ended.items()))
            # The newest answer stays, whatever its size: its client may be about to ask again.
            too_many = len(self._ended) > self._max_answers or (
                self._bytes > self._max_bytes and len(self._ended) > 1
            )
            if entry.ended > too_old and not too_many:
                break
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        answer = self._ended.pop(request_id).answer
        assert answer
        self._bytes -= len(answer.body)
        self._gone[request_id] = None
        while len(self._gone) > 20 * self._max_answers:
            self._gone.popitem(last=False)
