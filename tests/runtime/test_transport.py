"""One exchange, with a server that stops in the middle of its answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from swerex.runtime.config import RemoteRuntimeConfig
from swerex.runtime.transport import ExchangeError, Transport

BODY = b'{"is_alive": true}'
WITH_LENGTH = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


class Stammerer:
    """Answers each connection with the next of `answers`, and closes it."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection, suppress(OSError):
                while not connection.recv(1 << 16).endswith(b"\r\n\r\n"):
                    pass
                connection.sendall(answer)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def outcomes(answers: list[bytes]) -> Iterator[bytes | ExchangeError]:
    server = Stammerer(answers)
    transport = Transport(RemoteRuntimeConfig(host="http://127.0.0.1", port=server.port))
    for _ in answers:
        try:
            yield transport.exchange("GET", "/is_alive", {}, read_timeout=5, limit=1000).body
        except ExchangeError as error:
            yield error
    transport.close()
    server.close()


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.filterwarnings("ignore")
def test_a_part_of_an_answer_is_no_answer(answer: bytes) -> None:
    """Wherever it breaks off, also in its headers."""
    end = answer.index(BODY) + len(BODY)
    for length, outcome in enumerate(outcomes([answer[:length] for length in range(end)])):
        assert isinstance(outcome, ExchangeError), answer[:length]
        assert (outcome.sent, outcome.gone) == (True, False), answer[:length]


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED], ids=["length", "chunked"])
def test_a_whole_answer_is_one(answer: bytes) -> None:
    assert list(outcomes([answer])) == [BODY]
