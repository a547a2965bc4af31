"""A server that lies: what it sends runs nothing, fills no memory, holds no caller, and is a typed error."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import swerex
from swerex import exceptions
from swerex.exceptions import NonZeroExitCodeError, SwerexException
from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.remote import RemoteRuntime

INSTANCE = {"X-Swerex-Instance": "3f0d2c62-0000-4000-8000-000000000000"}
"""With this header a server says that it knows our own additions to the protocol."""

MB = 1_000_000

CALLS: dict[str, Callable[[AbstractRuntime], object]] = {
    "create_session": lambda runtime: runtime.create_session(CreateBashSessionRequest()),
    "run_in_session": lambda runtime: runtime.run_in_session(BashAction(command="true", timeout=1)),
    "close_session": lambda runtime: runtime.close_session(CloseBashSessionRequest()),
    "execute": lambda runtime: runtime.execute(Command(command=["true"], timeout=1)),
    "read_file": lambda runtime: runtime.read_file(ReadFileRequest(path="x")),
    "write_file": lambda runtime: runtime.write_file(WriteFileRequest(path="x", content="")),
    "upload": lambda runtime: runtime.upload(
        UploadRequest(source_path=os.fspath(Path(__file__).parent), target_path="x")
    ),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class _Handler(BaseHTTPRequestHandler):
    """Answers with what the test wants; `is_alive` in the usual way, unless the test wants otherwise."""

    protocol_version = "HTTP/1.1"
    server: Liar

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):  # the client had enough
            if self.path == "/is_alive" and not self.server.lies_about_life:
                self.reply(200, {"is_alive": True}, INSTANCE if self.server.ours else {})
            else:
                self.server.answer(self)

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """A whole answer; a body that is not bytes becomes JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Liar(ThreadingHTTPServer):
    """The server. `answer` is called for each request."""

    daemon_threads = True
    block_on_close = False
    answer: Callable[[_Handler], None]
    ours = True
    """It claims to know our additions to the protocol."""
    lies_about_life = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.over = threading.Event()

    def handle_error(self, *_: object) -> None:
        pass

    def runtime(self) -> RemoteRuntime:
        return RemoteRuntime(auth_token="secret", host="http://127.0.0.1", port=self.server_port)

    def says(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Answer everything with this."""
        self.answer = lambda handler: handler.reply(status, body, headers)

    def raises(self, **error: Any) -> None:
        """Answer everything with an exception."""
        self.says(511, {"swerexception": {"message": "m", "traceback": "", "extra_info": {}, **error}})


@pytest.fixture(params=["ours", "other"])
def liar(request: pytest.FixtureRequest) -> Iterator[Liar]:
    """A lying server, which says that it is one of ours, and then one that says that it is not."""
    with Liar() as server:
        server.ours = request.param == "ours"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def assert_fails(call: Callable[[RemoteRuntime], object], liar: Liar, seconds: float = 10) -> SwerexException:
    begin = time.monotonic()
    with pytest.raises(SwerexException) as caught:
        call(liar.runtime())
    assert time.monotonic() - begin < seconds
    return caught.value


def execute(runtime: AbstractRuntime) -> object:
    return runtime.execute(Command(command=["true"], timeout=1))


def test_a_server_that_closes_a_connection_without_saying_so(liar: Liar) -> None:
    """It was asked to, and need not repeat that."""
    liar.ours = False

    def answer(handler: _Handler) -> None:
        handler.close_connection = True
        handler.reply(200, {"stdout": "", "stderr": "", "exit_code": 0})

    liar.answer = answer
    runtime = liar.runtime()
    for _ in range(300):
        assert runtime.execute(Command(command=["true"])).exit_code == 0


# Exceptions.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.system", "touch {}"),
        ("os.popen", "touch {}"),
        ("posix.system", "touch {}"),
        ("subprocess.Popen", "touch {}"),
        ("subprocess.getoutput", "touch {}"),
        ("builtins.exec", "open('{}', 'w')"),
        ("builtins.eval", "open('{}', 'w')"),
        ("builtins.open", "{}"),
        ("builtins.__import__", "this"),
        ("swerex.exceptions.os", "{}"),
        ("swerex.exceptions.Any", "{}"),
        ("swerex.exceptions.os.system", "touch {}"),
        ("swerex.exceptions.__builtins__.exec", "open('{}', 'w')"),
        ("swerex.exceptions.__name__", "{}"),
        ("swerex.exceptions.__class__", "{}"),
        ("swerex.runtime.local.LocalRuntime", "{}"),
        ("pathlib.Path.touch", "{}"),
        ("antigravity.x", "{}"),
        ("", "touch {}"),
        (".", "touch {}"),
        ("..", "touch {}"),
        ("exec", "open('{}', 'w')"),
        ("builtins.", "{}"),
        (".exec", "{}"),
        ("builtins.ValueError.__init__", "{}"),
        ("builtins.ValueError ", "{}"),
    ],
)
def test_a_name_that_is_no_exception_is_never_called(
    liar: Liar, tmp_path: Path, path: str, message: str
) -> None:
    before = set(sys.modules)
    liar.raises(class_path=path, message=message.format(tmp_path / "ran"))
    for call in (execute, CALLS["run_in_session"], CALLS["read_file"]):
        error = assert_fails(call, liar)
        assert type(error) is SwerexException
        assert message.format(tmp_path / "ran") in str(error)
    assert not (tmp_path / "ran").exists()
    assert not {"antigravity", "this"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    "name",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "BaseException",
        "BaseExceptionGroup",
        "object",
        "type",
    ],
)
def test_what_would_end_the_program_is_not_raised(liar: Liar, name: str) -> None:
    liar.raises(class_path=f"builtins.{name}")
    assert type(assert_fails(execute, liar)) is SwerexException


@pytest.mark.parametrize(
    "name", ["ExceptionGroup", "UnicodeDecodeError", "UnicodeTranslateError", "ImportError"]
)
def test_exceptions_that_want_other_arguments_are_still_typed(liar: Liar, name: str) -> None:
    liar.raises(class_path=f"builtins.{name}", message="the message")
    with pytest.raises((SwerexException, getattr(builtins, name, SwerexException)), match="the message"):
        execute(liar.runtime())


@pytest.mark.parametrize("name", exceptions.__all__)
def test_our_exceptions_arrive_as_themselves(liar: Liar, name: str) -> None:
    liar.raises(class_path=f"swerex.exceptions.{name}", message="the message", extra_info={"a": [1]})
    error = assert_fails(execute, liar)
    assert type(error) is getattr(exceptions, name)
    assert str(error) == "the message"
    assert error.extra_info == {"a": [1]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in ("message", "class_path", "traceback", "extra_info")
        for value in (None, 7, ["x"], {"x": 1}, "x", True)
    ],
)
def test_an_exception_with_a_field_of_the_wrong_type(liar: Liar, key: str, value: object) -> None:
    path = "swerex.exceptions.NonZeroExitCodeError"
    liar.raises(**{"class_path": path, key: value})
    error = assert_fails(execute, liar)
    assert isinstance(error.extra_info, dict)
    assert type(error) in (SwerexException, NonZeroExitCodeError)


@pytest.mark.parametrize(
    "info",
    [
        {"errno": "x"},
        {"errno": True},
        {"errno": 1 << 80},
        {"errno": -1},
        {"errno": 2, "filename": ["x"], "strerror": {}},
        {"encoding": 3, "start": "x", "end": None, "reason": []},
        {"start": 1 << 80, "end": -(1 << 80)},
        {"start": [], "end": {}},
        {"start": float("inf"), "end": float("nan")},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["FileNotFoundError", "OSError", "UnicodeDecodeError", "UnicodeEncodeError"])
def test_builtin_exceptions_with_odd_details(liar: Liar, name: str, info: dict[str, Any]) -> None:
    liar.raises(class_path=f"builtins.{name}", message="the message", extra_info=info)
    with pytest.raises((SwerexException, OSError, UnicodeError)):
        execute(liar.runtime())


@pytest.mark.parametrize(
    "body", [{}, [], None, "x", {"swerexception": None}, {"swerexception": []}, b"", b"<html>"]
)
def test_an_exception_that_is_none(liar: Liar, body: object) -> None:
    liar.says(511, body)
    assert_fails(execute, liar)


# Answers.


@every_call
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"<html><body>It works!</body></html>",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"x"',
        b'{"output": 5, "content": 5, "stdout": 5, "session_type": 5}',
        b'{"exit_code": "soon", "output": [], "content": null}',
        b'{"exit_code": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_answers_that_are_wrong(liar: Liar, call: Callable[[AbstractRuntime], object], body: bytes) -> None:
    liar.says(200, body)
    try:
        call(liar.runtime())
    except SwerexException:
        return
    # An answer without a field of interest to the call is as good as an empty one.
    assert body.startswith(b"{")


@pytest.mark.parametrize(
    "status", [201, 204, 304, 400, 401, 403, 404, 405, 409, 410, 413, 418, 422, 429, 500, 501, 599]
)
@pytest.mark.parametrize(
    "body", [b"", b'{"detail": "no"}', b'{"detail": {"a": [1]}}', b"<html>no</html>"], ids=repr
)
def test_any_status(liar: Liar, status: int, body: bytes) -> None:
    liar.says(status, b"" if status in (204, 304) else body)
    error = assert_fails(execute, liar)
    assert str(status) in str(error) or status == 409  # which says that another server answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(liar: Liar, status: int) -> None:
    with Liar() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        elsewhere.says(200, {"is_alive": True, "exit_code": 0})
        liar.lies_about_life = True
        liar.says(status, b"", {"Location": f"http://localhost:{elsewhere.server_port}/execute"})
        assert_fails(execute, liar)
        assert not liar.runtime().is_alive(timeout=1)
        elsewhere.shutdown()
        assert not elsewhere.requests


NOT_HTTP = {
    repr(answer[:50]): answer
    for answer in [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(range(256)),
    ]
}


@pytest.mark.parametrize("kind", NOT_HTTP)
def test_is_alive_is_false_for_what_is_not_http(liar: Liar, kind: str) -> None:
    liar.lies_about_life = True
    liar.answer = lambda handler: (
        handler.wfile.write(NOT_HTTP[kind]),
        setattr(handler, "close_connection", True),
    )
    assert not liar.runtime().is_alive(timeout=0.5)


def test_is_alive_never_raises(liar: Liar) -> None:
    liar.lies_about_life = True
    for status in (200, 302, 401, 404, 500, 511):
        for body in (
            b"",
            b"null",
            b"[]",
            b"<html>",
            b'{"is_alive": "perhaps"}',
            b'{"is_alive": []}',
            b'{"swerexception": 1}',
        ):
            liar.says(status, body)
            assert not liar.runtime().is_alive(timeout=1)


# Without end.


def forever(handler: _Handler, head: bytes, piece: bytes, pause: float = 0) -> None:
    """Send the head, and the piece again and again until the client goes away."""
    handler.close_connection = True
    handler.wfile.write(head)
    while not handler.server.over.wait(pause) if pause else not handler.server.over.is_set():
        handler.wfile.write(piece)


SLOW_STREAMS = {
    "drops of a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b" "),
    "drops of chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "drops of a header": (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing at all": (b"", b""),
    "a head and nothing more": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b""),
}


@pytest.mark.parametrize("kind", SLOW_STREAMS)
def test_is_alive_keeps_to_its_timeout(liar: Liar, kind: str) -> None:
    liar.lies_about_life = True
    liar.answer = lambda handler: forever(handler, *SLOW_STREAMS[kind], pause=0.05)
    begin = time.monotonic()
    assert not liar.runtime().is_alive(timeout=0.5)
    assert time.monotonic() - begin < 3


def test_calls_with_a_timeout_end_whatever_comes(liar: Liar) -> None:
    """All at once, since each may take the time that is given to a bad network."""
    not_yet = {"not yet, for ever": "", "not yet, and output": "x" * MB}

    def answer(handler: _Handler) -> None:
        kind = handler.headers["X-Kind"]
        if kind in not_yet:
            handler.reply(202, {"request_id": "x", "output": not_yet[kind]})
        elif kind in NOT_HTTP:
            handler.close_connection = True
            handler.wfile.write(NOT_HTTP[kind])
        else:
            forever(handler, *SLOW_STREAMS[kind], pause=0.05)

    liar.answer = answer
    kinds = [*not_yet, *NOT_HTTP, *SLOW_STREAMS]
    outcomes: dict[str, str] = {}

    def call(kind: str) -> None:
        runtime = RemoteRuntime(
            auth_token="secret", host="http://127.0.0.1", port=liar.server_port, headers={"X-Kind": kind}
        )
        try:
            execute(runtime)
        except SwerexException:
            outcomes[kind] = "failed"
        except BaseException as error:  # it is looked at below, in the thread of the test
            outcomes[kind] = f"{type(error).__name__}: {error}"
        else:
            outcomes[kind] = "succeeded"

    threads = [threading.Thread(target=call, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 25
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    wrong = {kind: outcomes.get(kind, "hangs") for kind in kinds if outcomes.get(kind) != "failed"}
    assert not wrong
    # One that says "not yet" at once is not asked as fast as it answers.
    assert sum(headers["X-Kind"] == "not yet, for ever" for _, _, headers in liar.requests) < 500


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"output": 5}', b'{"output": {}}', b"<html>", b'{"request_id": []}']
)
def test_not_yet_with_a_wrong_body(liar: Liar, body: bytes) -> None:
    answers = iter([lambda handler: handler.reply(202, body)])

    def answer(handler: _Handler) -> None:
        next(answers, lambda handler: handler.reply(200, {"stdout": "", "exit_code": 0}))(handler)

    liar.answer = answer
    with suppress(SwerexException):
        execute(liar.runtime())
    assert liar.requests


# Memory. The client runs in a process of its own, whose peak can be measured.

_CLIENT = r"""
import re, sys, time
from swerex.exceptions import SwerexException
from swerex.runtime.abstract import *
from swerex.runtime.remote import RemoteRuntime
runtime = RemoteRuntime(auth_token="secret", host="http://127.0.0.1", port=int(sys.argv[1]))
begin = time.monotonic()
try:
    result = {call}
except SwerexException as error:
    result = type(error).__name__
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(repr(bool(result)) if not isinstance(result, str) else result, time.monotonic() - begin, peak)
"""

STREAMS: dict[str, tuple[bytes, bytes]] = {
    "a body of an exabyte": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n", b" " * MB),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"100000\r\n" + b" " * 0x100000 + b"\r\n",
    ),
    "no length": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * MB),
    "a chunk of an exabyte": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
        b" " * MB,
    ),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "one header": (b"HTTP/1.1 200 OK\r\nA: ", b"b" * MB),
    "an exception": (b"HTTP/1.1 511 X\r\nContent-Length: 1000000000000000000\r\n\r\n", b" " * MB),
}


def measure(liar: Liar, call: str) -> tuple[str, float, int]:
    """Do a call in a process of its own: its result, its seconds, and the peak of its memory."""
    root = os.fspath(Path(swerex.__file__).parent.parent)
    program = subprocess.run(
        [sys.executable, "-c", _CLIENT.format(call=call), str(liar.server_port)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert program.returncode == 0, program.stderr
    result, seconds, peak = program.stdout.split()
    return result, float(seconds), int(peak)


@pytest.mark.parametrize("kind", STREAMS)
def test_is_alive_takes_no_more_memory_than_it_needs(liar: Liar, kind: str) -> None:
    liar.lies_about_life = True
    liar.answer = lambda handler: forever(handler, *STREAMS[kind])
    result, seconds, peak = measure(liar, "runtime.is_alive(timeout=1)")
    assert result == "False"
    assert seconds < 3
    assert peak < 150 * MB


@pytest.mark.parametrize(
    "call",
    ["write_file(WriteFileRequest(path='x', content=''))", "create_session(CreateBashSessionRequest())"],
)
@pytest.mark.parametrize("kind", [kind for kind in STREAMS if "header" not in kind])
def test_an_answer_without_content_may_not_be_large(liar: Liar, kind: str, call: str) -> None:
    liar.answer = lambda handler: forever(handler, *STREAMS[kind])
    result, seconds, peak = measure(liar, f"runtime.{call}")
    assert result in ("SwerexException", "SandboxDiedError")
    assert seconds < 35
    assert peak < 150 * MB


@pytest.mark.parametrize("kind", ["a body of an exabyte", "chunks"])
def test_output_has_a_limit_too(liar: Liar, kind: str) -> None:
    liar.answer = lambda handler: forever(handler, *STREAMS[kind])
    result, seconds, peak = measure(liar, "runtime.execute(Command(command=['true'], timeout=1))")
    assert result in ("SwerexException", "SandboxDiedError")
    assert seconds < 35
    assert peak < 1500 * MB


def test_a_small_body_that_unpacks_to_a_large_one_is_not_unpacked(liar: Liar) -> None:
    bomb = gzip.compress(b" " * 300 * MB)
    liar.says(200, bomb, {"Content-Encoding": "gzip"})
    result, _, peak = measure(liar, "runtime.execute(Command(command=['true'], timeout=1))")
    assert result == "SwerexException"
    assert peak < 150 * MB
