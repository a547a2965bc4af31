"""One container that runs: its log as it is written, and why it ended."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import requests
from docker.errors import DockerException, NotFound
from docker.utils.socket import frames_iter

from swerex.deployment.docker.engine import Engine

__all__ = ["ContainerWatch"]

_TAIL = 16_000
"""How many bytes of the log are kept."""


class ContainerWatch:
    """Reads what the container prints, all the time, so that nothing is ever full, and keeps the tail of it.

    Begin it before the container starts: nothing that it prints is missed then.
    """

    def __init__(self, engine: Engine, name: str, *, tty: bool = False, running: bool = False) -> None:
        """`running`: it was started before, and has printed something."""
        self._api = engine.client.api
        self.name = name
        self._tty = tty
        self._tail: deque[bytes] = deque()
        self._size = 0
        self._since = time.time()
        self._closed = False
        self._changed = threading.Condition()
        self._end = ""
        self._stream = self._attach()
        if running:
            self._add_past()
        self._thread = threading.Thread(target=self._follow, name="swerex-container", daemon=True)
        self._thread.start()

    def log(self) -> str:
        """The tail of what the container has printed."""
        with self._changed:
            return b"".join(self._tail).decode(errors="backslashreplace")

    def ending(self) -> str:
        """How the container ended, with the tail of its log; empty while it runs."""
        with self._changed:
            return self._end

    def wait_for_end(self, timeout: float) -> str:
        """As `ending`, after at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._end), timeout)
            return self._end

    def close(self) -> None:
        """Take no more notice of it, whether it runs or not."""
        self._closed = True
        _shut(self._stream)
        self._thread.join(5)
        _close(self._stream)

    def _attach(self) -> Any:
        return self._api.attach_socket(self.name, {"stdout": 1, "stderr": 1, "stream": 1})

    def _follow(self) -> None:
        while True:
            try:
                for _, piece in frames_iter(self._stream, self._tty):
                    self._add(piece)
            except (DockerException, requests.RequestException, OSError, ValueError):
                # The engine went away; whether the container did too is seen next.
                pass
            end = self._how_it_ended()
            if end:
                with self._changed:
                    self._end = end
                    self._changed.notify_all()
                return
            if self._closed:
                return

    def _add_past(self) -> None:
        """Read the tail of what it has printed until now."""
        # A log driver may keep nothing.
        with suppress(DockerException, requests.RequestException):
            past = self._api.logs(self.name, stdout=True, stderr=True, tail=200)
            with self._changed:
                self._tail.clear()
                self._size = 0
            self._add(past)

    def _add(self, piece: bytes) -> None:
        with self._changed:
            self._tail.append(piece[-_TAIL:])
            self._size += len(self._tail[-1])
            while self._size - len(self._tail[0]) > _TAIL:
                self._size -= len(self._tail.popleft())
            self._changed.notify_all()

    def _how_it_ended(self) -> str:
        """Empty if it runs, with a new stream of what it prints; waits for an engine that does not answer."""
        pause = 0.05
        while not self._closed:
            try:
                state = self._api.inspect_container(self.name)["State"]
                if not state["Running"]:
                    return self._sentence(state.get("ExitCode"), bool(state.get("OOMKilled")))
                stream = self._attach()
                with self._changed:
                    _close(self._stream)
                    self._stream = stream
                self._add_past()
                if self._closed:
                    _shut(stream)
                return ""
            except NotFound:
                return self._sentence(self._exit_code_of_the_past(), out_of_memory=False)
            except (DockerException, requests.RequestException, OSError):
                time.sleep(pause)
                pause = min(2 * pause, 0.2)
        return ""

    def _exit_code_of_the_past(self) -> int | None:
        """That of a container that is removed already, as the engine remembers it for a while."""
        try:
            events = self._api.events(
                since=int(self._since),
                until=f"{time.time():.9f}",
                filters={"container": [self.name], "event": ["die"]},
                decode=True,
            )
            codes = [event["Actor"]["Attributes"].get("exitCode") for event in events]
        except (DockerException, requests.RequestException, OSError, KeyError, ValueError):
            return None
        return next((int(code) for code in codes if code is not None and code.isdigit()), None)

    def _sentence(self, code: int | None, out_of_memory: bool) -> str:
        how = "" if code is None else f" with exit code {code}"
        if out_of_memory:
            how += ": out of memory"
        elif code == 137:
            how += ": it was killed, from outside or for want of memory"
        text = f"The container {self.name} has ended{how}."
        tail = b"".join(self._tail).decode(errors="backslashreplace").strip()
        return f"{text} The end of its log:\n{tail}" if tail else f"{text} It had printed nothing."


def _shut(stream: Any) -> None:
    """End the reading of the other thread. What the SDK returns is a socket, or a file around one."""
    with suppress(OSError):
        getattr(stream, "_sock", stream).shutdown(socket.SHUT_RDWR)


def _close(stream: Any) -> None:
    """Close all that the SDK has opened for it, and not only the outermost."""
    connection = getattr(stream, "_sock", stream)
    stream._response.close()
    stream.close()
    connection.close()
