"""A TCP proxy that harms what goes through it.

It looks at nothing but the chunks of bytes that pass. For each chunk that a client sends, a request or a
part of one, it takes the next of its `faults`:

    PASS           nothing happens
    DELAY          the chunk waits for 50 ms
    CUT_BEFORE     the connection ends, and the server saw nothing of the chunk
    CUT_INSIDE     the server gets the first half of the chunk, then the connection ends
    CUT_AFTER      the server gets the chunk, and the connection ends before the answer
    CUT_ANSWER     the client gets the first half of the answer's first chunk, then the connection ends
    RESET_AFTER    as CUT_AFTER, but with a reset in place of an end
    DROP_REQUEST   the chunk, and all that follows, disappears, and the connection stays open
    DROP_ANSWER    the server gets the chunk, the client never an answer, and the connection stays open
"""

from __future__ import annotations

import enum
import itertools
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType

__all__ = ["Fault", "Proxy", "at_random"]


class Fault(enum.Enum):
    PASS = enum.auto()
    DELAY = enum.auto()
    CUT_BEFORE = enum.auto()
    CUT_INSIDE = enum.auto()
    CUT_AFTER = enum.auto()
    CUT_ANSWER = enum.auto()
    RESET_AFTER = enum.auto()
    DROP_REQUEST = enum.auto()
    DROP_ANSWER = enum.auto()


def at_random(seed: int, shares: Mapping[Fault, float]) -> Iterator[Fault]:
    """Faults without end, each as often as its share of 1 says; the rest passes."""
    dice = random.Random(seed)
    kinds = [*shares, Fault.PASS]
    weights = [*shares.values(), 1 - sum(shares.values())]
    while True:
        yield dice.choices(kinds, weights)[0]


class Proxy:
    """Listens on a free port of the loopback and passes on to `port`; use it with ``with``.

    After the last of `faults` everything passes.
    """

    def __init__(self, port: int, faults: Iterable[Fault] = ()) -> None:
        self._target = port
        self._faults = itertools.chain(faults, itertools.repeat(Fault.PASS))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.done: Counter[Fault] = Counter()
        """How often each fault was done."""
        self.connections = 0
        """How many there have been."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_all(self) -> None:
        """End all connections, both ways."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _end(connection)

    def add_faults(self, *faults: Fault) -> None:
        """Do these next."""
        with self._lock:
            self._faults = itertools.chain(faults, self._faults)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Pass on what one client sends, and harm it."""
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # there is no server: the client learns it as it would have without a proxy
            _reset(client)
            return
        for connection in (client, server):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        answers = _Answers(server, client)
        answers.start()
        try:
            while chunk := client.recv(1 << 20):
                if not self._pass_on(chunk, client, server, answers):
                    break
        except OSError:  # either side went away
            pass
        finally:
            _end(server)
            _end(client)
            answers.join()
            with self._lock:
                self._open -= {client, server}
            server.close()
            client.close()

    def _pass_on(self, chunk: bytes, client: socket.socket, server: socket.socket, answers: _Answers) -> bool:
        """Send a chunk on, with the fault whose turn it is; whether the connection is to go on."""
        with self._lock:
            fault = next(self._faults)
            self.done[fault] += 1
        if fault is Fault.DELAY:
            time.sleep(0.05)
        elif fault is Fault.CUT_BEFORE:
            return False
        elif fault is Fault.CUT_INSIDE:
            server.sendall(chunk[: len(chunk) // 2])
            return False
        elif fault is Fault.DROP_REQUEST:
            return _swallow(client)
        elif fault in (Fault.CUT_AFTER, Fault.RESET_AFTER):
            answers.keep_back()
            server.sendall(chunk)
            if fault is Fault.RESET_AFTER:
                _reset(client)
            return False
        elif fault is Fault.DROP_ANSWER:
            answers.keep_back()
            server.sendall(chunk)
            return _swallow(client)
        elif fault is Fault.CUT_ANSWER:
            answers.halve()
        server.sendall(chunk)
        return True


class _Answers(threading.Thread):
    """Passes on what the server sends, on one connection."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._client = client
        self._kept_back = False
        self._halved = False

    def keep_back(self) -> None:
        self._kept_back = True

    def halve(self) -> None:
        self._halved = True

    def run(self) -> None:
        with suppress(OSError):
            while chunk := self._server.recv(1 << 20):
                if self._halved:
                    self._client.sendall(chunk[: len(chunk) // 2])
                    break
                if not self._kept_back:
                    self._client.sendall(chunk)
        if not self._kept_back:
            _end(self._client)


def _swallow(connection: socket.socket) -> bool:
    """Read until the other side gives up."""
    while connection.recv(1 << 20):
        pass
    return False


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
