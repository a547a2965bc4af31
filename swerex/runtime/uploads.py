"""Uploads that arrive in parts, each part a request of its own.

So a part that is lost on the way is sent again by itself, and no upload is in memory or on disk twice.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from swerex.exceptions import SwerexException

__all__ = ["Uploads"]

_PATIENCE = 300.0
"""An upload ends when its next part does not come for so many seconds: the client is gone."""


class Uploads:
    """The uploads that are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: dict[str, _Upload] = {}

    def add(self, upload_id: str, number: int, data: bytes, target: str, *, last: bool) -> None:
        """Take part `number`, counted from 0; with the `last` one, return when all is written.

        Raises what `unpack` raises, with whichever part comes next.
        """
        with self._lock:
            # Those whose client has vanished.
            self._uploads = {key: upload for key, upload in self._uploads.items() if not upload.done()}
            if number == 0:
                self._uploads[upload_id] = _Upload(target)
            upload = self._uploads.get(upload_id)
        if upload is None or not upload.expects(number):
            raise SwerexException(
                f"Part {number} of an upload to {target!r} does not follow the parts that have arrived. "
                "The server gave the upload up, or was started anew; upload again."
            )
        try:
            upload.put(data, last=last)
        except BaseException:
            self._forget(upload_id)
            raise
        if last:
            self._forget(upload_id)

    def _forget(self, upload_id: str) -> None:
        with self._lock:
            self._uploads.pop(upload_id, None)

    def close(self) -> None:
        """Give up what is under way."""
        with self._lock:
            uploads = list(self._uploads.values())
            self._uploads.clear()
        for upload in uploads:
            upload.give_up()


class _Upload:
    """A thread that unpacks, and the parts on their way to it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._next = 0
        self._parts: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._unpack, name="swerex-upload", daemon=True).start()

    def done(self) -> bool:
        return self._done.is_set() and self._error is None

    def expects(self, number: int) -> bool:
        return number == self._next

    def put(self, data: bytes, *, last: bool) -> None:
        self._next += 1
        for part in [data, None] if last else [data]:
            self._hand_over(part)
        if last:
            self._done.wait()
        if self._done.is_set() and self._error:
            raise self._error

    def _hand_over(self, part: bytes | None) -> None:
        while not self._done.is_set():
            try:
                self._parts.put(part, timeout=0.1)
                return
            except queue.Full:
                continue

    def give_up(self) -> None:
        self._error = SwerexException(f"The upload to {self._target!r} was given up: the runtime is closed.")
        self._done.set()

    def _unpack(self) -> None:
        # Here, since a server without uploads has no need of its memory.
        from swerex.runtime.archive import unpack

        try:
            unpack(self._arriving(), self._target)
        except BaseException as error:
            # For who sends the next part.
            self._error = self._error or error
        finally:
            self._done.set()

    def _arriving(self) -> Iterator[bytes]:
        while not self._done.is_set():
            try:
                part = self._parts.get(timeout=_PATIENCE)
            except queue.Empty:
                raise SwerexException(f"The rest of the upload to {self._target!r} did not come.") from None
            if part is None:
                return
            yield part
