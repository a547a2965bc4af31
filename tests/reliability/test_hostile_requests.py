"""Requests that no client would send: the server answers each with JSON and a 4xx status, and goes on.

511 is for a request that is valid and can't be done; it carries an exception. Nothing is ever a 500, or HTML.
"""

from __future__ import annotations

import io
import json
import socket
import string
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerex.runtime.abstract import Command
from tests.reliability.processes import client, threads
from tests.util import Server, running_server, wait_until

many = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
few = settings(many, max_examples=40)

JSON_ROUTES = [
    "/create_session",
    "/run_in_session",
    "/close_session",
    "/execute",
    "/read_file",
    "/write_file",
]
POST_ROUTES = [*JSON_ROUTES, "/close", "/upload"]
GET_ROUTES = ["/", "/is_alive"]

VALID: dict[str, dict[str, Any]] = {
    "/create_session": {
        "session": "s",
        "startup_source": [],
        "startup_timeout": 1.0,
        "env": {},
        "session_type": "bash",
    },
    "/run_in_session": {
        "command": "true",
        "session": "not there",
        "timeout": 1.0,
        "is_interactive_command": False,
        "check": "silent",
        "expect": [],
        "action_type": "bash",
    },
    "/close_session": {"session": "not there", "session_type": "bash"},
    "/execute": {
        "command": ["true"],
        "timeout": 1.0,
        "shell": False,
        "env": {},
        "merge_output_streams": False,
    },
    "/read_file": {"path": "/not there", "encoding": None},
    "/write_file": {"path": "/not/to/be/written", "content": ""},
}
"""Bodies of which each is wrong as soon as one field has another type."""

REQUIRED = [
    ("/run_in_session", "command"),
    ("/execute", "command"),
    ("/read_file", "path"),
    ("/write_file", "path"),
    ("/write_file", "content"),
]

# No value of these is right for any field above, whatever is converted.
never_right = st.one_of(
    st.just({"an": ["object"]}),
    st.lists(st.lists(st.integers(), max_size=2), min_size=1, max_size=2),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PRINTABLE = string.ascii_letters + string.digits + string.punctuation
header_values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=60
)


class Reply(NamedTuple):
    status: int
    body: bytes
    kind: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests' own: they close all its sessions."""
    with running_server(tmp_path_factory.mktemp("hostile")) as server:
        yield server


@pytest.fixture(autouse=True)
def still_alive(server: Server) -> Iterator[None]:
    """After each test the server answers, and works."""
    yield
    runtime = client(server)
    assert runtime.is_alive(timeout=2)
    assert runtime.execute(Command(command=["echo", "works"])).stdout == "works\n"


def ask(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own; with the token, unless `headers` has another one."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": "localhost", "X-API-Key": server.token, "Content-Length": str(len(body))}
        for key, value in {**sent, **(headers or {})}.items():
            connection.putheader(key, value.encode("latin-1"))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
    finally:
        connection.close()


def post(server: Server, path: str, body: object, headers: dict[str, str] | None = None) -> Reply:
    kind = {"Content-Type": "application/json"}
    return ask(server, "POST", path, json.dumps(body).encode(), {**kind, **(headers or {})})


def raw(server: Server, data: bytes) -> bytes:
    """Send bytes, say that there are no more, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        answer = b""
        with suppress(ConnectionError):  # the server may have enough before it has read all
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def assert_refused(reply: Reply) -> None:
    """4xx, and JSON."""
    assert 400 <= reply.status < 500, reply
    assert_json(reply)


def assert_json(reply: Reply) -> None:
    assert reply.kind.startswith("application/json"), reply
    assert isinstance(reply.json, dict)
    assert b"<html" not in reply.body.lower()


def assert_answered(reply: Reply) -> None:
    """Done, refused, or tried and failed with an exception."""
    if reply.status == 511:
        error = reply.json["swerexception"]
        assert set(error) == {"message", "class_path", "traceback", "extra_info"}
        assert all(isinstance(error[key], str) for key in ("message", "class_path", "traceback"))
        assert isinstance(error["extra_info"], dict)
    else:
        assert reply.status == 200 or 400 <= reply.status < 500, reply
    assert_json(reply)


def assert_raw_refused(answer: bytes) -> None:
    """No answer at all is right for what is not HTTP; an answer is a 4xx, and no HTML."""
    if answer:
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
        assert b"<html" not in answer.lower()


# Not HTTP.


@many
@given(st.binary(max_size=400))
def test_bytes_that_are_not_http(server: Server, data: bytes) -> None:
    assert_raw_refused(raw(server, data))


@few
@given(st.binary(max_size=200).filter(lambda data: b"\r\n\r\n" not in data))
def test_bytes_that_begin_like_http(server: Server, data: bytes) -> None:
    assert_raw_refused(raw(server, b"POST /execute HTTP/1.1\r\n" + data + b"\r\n\r\n"))


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: -1",
        "Content-Length: abc",
        "Content-Length: 1e3",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 99999999999999999999999999",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "no colon",
        " folded: header",
        ": no name",
        "X-API-Key",
        "X-A: " + 300_000 * "a",
    ],
    ids=lambda lines: lines[:40],
)
def test_wrong_header_lines(server: Server, lines: str) -> None:
    head = f"POST /execute HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {server.token}\r\n{lines}\r\n\r\n"
    assert_raw_refused(raw(server, head.encode() + b"zz"))


def test_an_unknown_transfer_coding_is_not_implemented(server: Server) -> None:
    """The one answer that is no 4xx, and that HTTP itself asks for: RFC 9112, section 6.1."""
    head = f"POST /execute HTTP/1.1\r\nX-API-Key: {server.token}\r\nTransfer-Encoding: gzip\r\n\r\n"
    assert b" 501 " in raw(server, head.encode() + b"zz").splitlines()[0]


@pytest.mark.parametrize(
    "line", ["GET", "GET /", "GET / HTTP/9.9", "GET  HTTP/1.1", "/ GET HTTP/1.1", "\r\nGET / HTTP/1.1 more"]
)
def test_wrong_request_lines(server: Server, line: str) -> None:
    answer = raw(server, f"{line}\r\nHost: localhost\r\n\r\n".encode())
    assert_raw_refused(answer)


@few
@given(st.binary(max_size=60))
def test_wrong_chunks(server: Server, data: bytes) -> None:
    head = f"POST /execute HTTP/1.1\r\nX-API-Key: {server.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert_raw_refused(raw(server, head.encode() + data + b"\r\n0\r\n\r\n"))


def test_a_body_that_ends_early_is_not_run(server: Server, tmp_path: Path) -> None:
    body = json.dumps({"command": f"touch {tmp_path}/ran"})
    head = f"POST /execute HTTP/1.1\r\nX-API-Key: {server.token}\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    assert_raw_refused(raw(server, (head + body).encode()))
    assert not (tmp_path / "ran").exists()


def test_clients_that_send_half_a_request_and_wait_do_not_hinder_others(server: Server) -> None:
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    try:
        for connection in connections:
            connection.sendall(b"POST /execute HTTP/1.1\r\nContent-Length: 100\r\n")
        assert client(server).is_alive(timeout=2)
    finally:
        for connection in connections:
            connection.close()


# Wrong routes and methods.


@many
@given(st.text(PRINTABLE, max_size=30), st.sampled_from(["GET", "POST"]))
def test_unknown_routes(server: Server, path: str, method: str) -> None:
    reply = ask(server, method, f"/no-{path}")
    assert reply.status in (400, 404)
    assert_refused(reply)


@pytest.mark.parametrize("path", POST_ROUTES)
@pytest.mark.parametrize(
    "change", ["{}/", "{}/x", "/.{}", "/x/..{}", "/x/{}", "{}%00", "{}%20", "{};x", "{}.json"]
)
def test_routes_that_are_nearly_right(server: Server, change: str, path: str) -> None:
    assert_refused(post(server, change.format(path), VALID.get(path, {})))


@pytest.mark.parametrize(
    "path", ["//read_file", "http://localhost/read_file", "/%72ead_file", "/read_file?x#y"]
)
def test_a_route_written_in_another_way(server: Server, path: str) -> None:
    assert_answered(post(server, path, VALID["/read_file"]))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "FROBNICATE"])
@pytest.mark.parametrize("path", [*GET_ROUTES, *POST_ROUTES])
def test_wrong_methods(server: Server, path: str, method: str) -> None:
    assert_refused(ask(server, method, path))


@pytest.mark.parametrize("path", [*GET_ROUTES, *POST_ROUTES])
def test_get_for_post_and_post_for_get(server: Server, path: str) -> None:
    assert ask(server, "POST" if path in GET_ROUTES else "GET", path).status == 405


# The token.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "FROBNICATE"])
@pytest.mark.parametrize("path", [*GET_ROUTES, *POST_ROUTES, "/not-there"])
def test_nothing_without_a_token(server: Server, path: str, method: str) -> None:
    reply = ask(server, method, path, headers={"X-API-Key": ""})
    assert reply.status == 401
    if method != "HEAD":
        assert_json(reply)


@many
@given(header_values)
def test_nothing_with_a_wrong_token(server: Server, token: str) -> None:
    reply = ask(server, "GET", "/is_alive", headers={"X-API-Key": token})
    assert reply.status == 401
    assert_json(reply)


@pytest.mark.parametrize("change", ["{}x", "x{}", "{},{}", '"{}"', "{}\u00e4", "Bearer {}"])
def test_nothing_with_a_token_that_is_nearly_right(server: Server, change: str) -> None:
    token = change.format(server.token, server.token)
    assert ask(server, "GET", "/is_alive", headers={"X-API-Key": token}).status == 401


def test_nothing_with_a_token_in_another_place(server: Server) -> None:
    query = f"X-API-Key={server.token}"
    headers = {"X-API-Key": "", "Authorization": f"Bearer {server.token}", "Cookie": query}
    assert ask(server, "GET", f"/is_alive?{query}", headers=headers).status == 401


def test_without_the_token_nothing_is_done(server: Server, tmp_path: Path) -> None:
    body = {"command": f"touch {tmp_path}/ran"}
    assert post(server, "/execute", body, {"X-API-Key": "wrong"}).status == 401
    assert not (tmp_path / "ran").exists()


# Bodies that are not JSON, or not the right JSON.


@many
@given(st.sampled_from(JSON_ROUTES), st.binary(max_size=200))
def test_bodies_that_are_not_json(server: Server, path: str, body: bytes) -> None:
    with suppress(ValueError):
        json.loads(body)
        return
    assert_refused(ask(server, "POST", path, body, {"Content-Type": "application/json"}))


@many
@given(st.sampled_from(JSON_ROUTES), json_values.filter(lambda value: not isinstance(value, dict)))
def test_bodies_that_are_no_object(server: Server, path: str, value: object) -> None:
    assert_refused(post(server, path, value))


@many
@given(st.sampled_from([(path, key) for path in VALID for key in VALID[path]]), never_right)
def test_fields_of_the_wrong_type(server: Server, place: tuple[str, str], value: object) -> None:
    path, key = place
    if isinstance(VALID[path][key], dict) and isinstance(value, dict):
        value = {"not a string": value}
    assert_refused(post(server, path, {**VALID[path], key: value}))


@pytest.mark.parametrize(("path", "key"), REQUIRED)
def test_fields_that_are_missing(server: Server, path: str, key: str) -> None:
    body = {name: value for name, value in VALID[path].items() if name != key}
    reply = post(server, path, body)
    assert reply.status == 422
    assert reply.json["detail"]


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("/run_in_session", "timeout", "soon"),
        ("/run_in_session", "timeout", -1),
        ("/run_in_session", "timeout", float("nan")),
        ("/run_in_session", "check", "perhaps"),
        ("/run_in_session", "action_type", "python"),
        ("/run_in_session", "action_type", None),
        ("/create_session", "session_type", "zsh"),
        ("/create_session", "session_type", 7),
        ("/create_session", "env", {"A=B": "c"}),
        ("/create_session", "env", {"": "c"}),
        ("/create_session", "startup_timeout", -1),
        ("/create_session", "startup_timeout", float("nan")),
        ("/execute", "command", []),
        ("/execute", "command", ""),
        ("/execute", "command", ["a\0b"]),
        ("/execute", "timeout", float("nan")),
        ("/read_file", "path", "a\0b"),
        ("/write_file", "path", "a\0b"),
    ],
)
def test_values_that_are_wrong(server: Server, path: str, key: str, value: object) -> None:
    assert post(server, path, {**VALID[path], key: value}).status == 422


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"command":' * 50_000,
        b'{"timeout": ' + b"9" * 10_000 + b"}",
        b'{"command": "\\ud800"',
        b'{"command": "\xff\xfe"}',
        b"\xef\xbb\xbf[]",
        json.dumps([1]).encode("utf-16"),
        b'{"session": 1, "session": 2, "path": 3, "command": 4}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bodies_that_hurt_parsers(server: Server, path: str, body: bytes) -> None:
    assert_refused(ask(server, "POST", path, body, {"Content-Type": "application/json"}))


@pytest.mark.parametrize("timeout", [0, 1e-320, 1e10, 1e308, float("inf"), True, "3"])
def test_timeouts_at_the_edge(server: Server, timeout: object) -> None:
    execute = {**VALID["/execute"], "timeout": timeout}
    create = {"session": "edge", "startup_timeout": timeout}
    run = {**VALID["/run_in_session"], "session": "edge", "timeout": timeout}
    for path, body in [("/execute", execute), ("/create_session", create), ("/run_in_session", run)]:
        if path == "/run_in_session":  # it may have been too short for the session
            post(server, "/create_session", {"session": "edge"})
        reply = post(server, path, body)
        assert_answered(reply)
        if reply.status == 511:
            assert reply.json["swerexception"]["class_path"] == "swerex.exceptions.CommandTimeoutError"
        if float(str(timeout if timeout is not True else 1)) >= 1:
            assert reply.status == 200
    interrupt = {"action_type": "bash_interrupt", "session": "edge", "timeout": timeout, "n_retry": 1}
    assert_answered(post(server, "/run_in_session", interrupt))
    post(server, "/close_session", {"session": "edge"})


@pytest.mark.parametrize("key", ["command", "session", "expect"])
def test_lone_surrogates(server: Server, key: str) -> None:
    post(server, "/create_session", {"session": "surrogates"})
    value: object = ["\ud800"] if key == "expect" else "echo \ud800"
    body = {**VALID["/run_in_session"], "session": "surrogates", key: value}
    assert_answered(post(server, "/run_in_session", body))
    after = {**VALID["/run_in_session"], "session": "surrogates", "command": "echo on"}
    assert post(server, "/run_in_session", after).json["output"] == "on\n"
    post(server, "/close_session", {"session": "surrogates"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/execute", {"command": ["/not there", "\ud800"]}),
        ("/execute", {"command": ["true"], "env": {"A": "\ud800"}}),
        ("/execute", {"command": ["true"], "cwd": "/\ud800"}),
        ("/execute", {"command": ["true"], "cwd": ""}),
        ("/execute", {"command": ["true", 200_000 * "a"]}),
        ("/execute", {"command": 200_000 * "a"}),
        ("/execute", {"command": ["true"], "shell": True}),
        ("/execute", {"command": "true", "shell": False}),
        ("/execute", {"command": [""]}),
        ("/read_file", {"path": ""}),
        ("/read_file", {"path": "/"}),
        ("/read_file", {"path": "/\ud800"}),
        ("/read_file", {"path": 10_000 * "a"}),
        ("/read_file", {"path": "/bin/sh"}),
        ("/read_file", {"path": "/etc/passwd", "encoding": "no-such-encoding"}),
        ("/read_file", {"path": "/etc/passwd", "encoding": "rot13"}),
        ("/read_file", {"path": "/etc/passwd", "encoding": "hex"}),
        ("/read_file", {"path": "/etc/passwd", "encoding": ""}),
        ("/read_file", {"path": "/etc/passwd", "errors": "no-such-handler"}),
        ("/read_file", {"path": "/bin/sh", "encoding": "utf-8", "errors": "no-such-handler"}),
        ("/read_file", {"path": "/bin/sh", "errors": "surrogateescape"}),
        ("/write_file", {"path": "", "content": ""}),
        ("/write_file", {"path": "/", "content": ""}),
        ("/write_file", {"path": "/dev/null/x", "content": ""}),
        ("/write_file", {"path": "/dev/null", "content": "\ud800"}),
        ("/create_session", {"session": "failing", "cwd": "/not there"}),
        ("/create_session", {"session": "failing", "startup_source": ["/not there"]}),
        ("/create_session", {"session": "failing", "startup_timeout": 0}),
        ("/create_session", {"session": "failing", "env": {"A": "\ud800"}}),
        ("/close_session", {"session": "\ud800"}),
        ("/run_in_session", {"command": "true", "session": "\ud800"}),
        ("/run_in_session", {"action_type": "bash_interrupt", "session": "not there"}),
    ],
    ids=lambda value: str(value)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_valid_requests_that_can_not_be_done(server: Server, path: str, body: dict[str, Any]) -> None:
    reply = post(server, path, body)
    assert_answered(reply)
    if body.get("session") == "failing" and reply.status == 200:
        post(server, "/close_session", {"session": "failing"})


@few
@given(st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_objects_of_any_kind(server: Server, body: dict[str, Any]) -> None:
    assert_answered(post(server, "/close_session", body))
    assert_answered(post(server, "/read_file", body))


def test_an_expression_that_is_none_is_the_callers_fault(server: Server) -> None:
    post(server, "/create_session", {"session": "expressions"})
    changes = {"session": "expressions", "is_interactive_command": True, "expect": ["("]}
    body = {**VALID["/run_in_session"], **changes}
    reply = post(server, "/run_in_session", body)
    assert reply.status == 511 or 400 <= reply.status < 500
    assert_answered(reply)
    post(server, "/close_session", {"session": "expressions"})


@pytest.mark.parametrize("missing", ["file", "target_path"])
def test_an_upload_without_what_it_needs_does_not_validate(server: Server, missing: str) -> None:
    parts = {"file": (f'{FILE}"', b"text"), "target_path": ('target_path"', b"/not/to/be/written")}
    del parts[missing]
    reply = ask(server, "POST", "/upload", *form(*parts.values()))
    assert reply.status == 422
    assert_json(reply)


@pytest.mark.parametrize(("unzip", "status"), [(b"maybe", 422), (b"1", 511), (b"0", 200), (b"False", 200)])
def test_an_upload_is_an_archive_or_none(server: Server, tmp_path: Path, unzip: bytes, status: int) -> None:
    target = tmp_path / "target"
    parts = [(f'{FILE}"', b"text"), ('target_path"', bytes(target)), ('unzip"', unzip)]
    assert ask(server, "POST", "/upload", *form(*parts)).status == status
    assert target.is_file() == (status == 200)


# Headers.


@many
@given(header_values)
def test_any_request_id(server: Server, value: str) -> None:
    assert_answered(post(server, "/execute", {"command": ["true"]}, {"X-Request-ID": value}))


@many
@given(header_values | st.from_regex(r"wait *= *[-+0-9a-f.e]{1,30}", fullmatch=True))
def test_any_preference(server: Server, value: str) -> None:
    headers = {"Prefer": value, "X-Request-ID": "".join(f"{ord(char):x}" for char in value)[:90] or "x"}
    reply = post(server, "/execute", {"command": ["true"]}, headers)
    assert reply.status in (200, 202)
    assert_json(reply)


@pytest.mark.parametrize("value", ["wait=0", "Wait=0", "respond-async, WAIT = 0"])
def test_a_preference_is_understood_in_any_case(server: Server, value: str) -> None:
    headers = {"Prefer": value, "X-Request-ID": f"{value[:4]}.{len(value)}:1"}
    assert post(server, "/execute", {"command": ["sleep", "0.5"]}, headers).status == 202


@few
@given(header_values)
def test_any_content_type(server: Server, value: str) -> None:
    for path in ("/execute", "/upload", "/close_session"):
        body = {"command": ["true"], "session": "not there"}
        assert_answered(post(server, path, body, {"Content-Type": value}))


@few
@given(st.text(string.ascii_letters + "-", min_size=1, max_size=20), header_values)
def test_any_other_header(server: Server, name: str, value: str) -> None:
    if name.lower() in ("content-length", "transfer-encoding", "x-api-key", "connection", "upgrade", "te"):
        return
    assert_answered(post(server, "/execute", {"command": ["true"]}, {name: value}))


@pytest.mark.parametrize("header", ["X-Request-Acknowledge", "X-Swerex-Instance"])
@pytest.mark.parametrize("value", ["", ",", 10_000 * "x,", "not-an-id", "\u00e4\u00f6", "'; --"])
def test_odd_values_of_our_own_headers(server: Server, header: str, value: str) -> None:
    assert_answered(post(server, "/execute", {"command": ["true"]}, {header: value}))


def test_a_request_id_that_another_route_has(server: Server) -> None:
    headers = {"X-Request-ID": "used-twice"}
    assert post(server, "/execute", {"command": ["true"]}, headers).status == 200
    assert_refused(post(server, "/read_file", {"path": "/etc/passwd"}, headers))


# Uploads.


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f'--B\r\nContent-Disposition: form-data; name="{head}\r\n\r\n'.encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + b"--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


FILE = 'file"; filename="f'


@many
@given(st.binary(max_size=200))
def test_uploads_that_are_no_form(server: Server, data: bytes) -> None:
    for kind in ("multipart/form-data; boundary=B", "multipart/form-data", "multipart/form-data; boundary="):
        assert_refused(ask(server, "POST", "/upload", data, {"Content-Type": kind}))
        assert_refused(ask(server, "POST", "/upload", b"--B\r\n" + data, {"Content-Type": kind}))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [('target_path"', b"/tmp/x")],
        [(FILE + '"', b"x")],
        [('file"', b"not a file"), ('target_path"', b"/not/to/be/written")],
        [(FILE + '"', b"x"), ('target_path"', b"")],
        [(FILE + '"', b"x"), ('target_path"', b"a\0b")],
        [(FILE + '"', b"x"), ('target_path"; filename="t"', b"/not/to/be/written")],
        [(FILE + '"', b"x"), (1000 * "a" + '"', b"x")],
    ],
    ids=range(8),
)
def test_uploads_with_the_wrong_parts(server: Server, parts: list[tuple[str, bytes]]) -> None:
    body, headers = form(*parts)
    assert_refused(ask(server, "POST", "/upload", body, headers))


def test_an_upload_of_very_many_parts(server: Server) -> None:
    body, headers = form(*[('a"', b"")] * 20_000)
    assert_refused(ask(server, "POST", "/upload", body, headers))


@few
@given(st.binary(max_size=200))
def test_an_archive_that_is_none(server: Server, tmp_path: Path, data: bytes) -> None:
    parts = [(FILE + '"', data), ('target_path"', f"{tmp_path}/target".encode()), ('unzip"', b"true")]
    reply = ask(server, "POST", "/upload", *form(*parts))
    assert reply.status == 511 or 400 <= reply.status < 500
    assert_answered(reply)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "..\\out"])
def test_an_archive_that_leaves_its_target(server: Server, tmp_path: Path, name: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    target = f"{tmp_path}/a/target".encode()
    parts = [(FILE + '"', content.getvalue()), ('target_path"', target), ('unzip"', b"true")]
    assert_answered(ask(server, "POST", "/upload", *form(*parts)))
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and "target" not in path.parts]
    assert not outside
    assert not Path("/out").exists()


@few
@given(st.binary(max_size=100), st.text(PRINTABLE, max_size=20))
def test_any_query_of_an_upload(server: Server, data: bytes, query: str) -> None:
    reply = ask(server, "POST", f"/upload?{query}", data, {"Content-Type": "application/x-tar"})
    assert_refused(reply)


# Together.


def test_threads_end_after_all_this(server: Server) -> None:
    """Whatever came before, in this file: nothing of it is still being worked on."""
    for _ in range(20):
        with suppress(HTTPException, OSError):
            raw(server, b"POST /execute HTTP/1.1\r\nX-API-Key: x\r\nContent-Length: 10\r\n\r\n123")
    wait_until(lambda: threads(server.pid) < 60)
