"""moto's AWS on a port of this machine, with what the real one does besides: faults, limits, pages.

boto3 talks to it as to the real one, over HTTP.
"""

from __future__ import annotations

import io
import json
import random
import re
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

__all__ = ["Answer", "FakeAws", "Fault", "answer", "error", "held", "interrupted", "lost", "unreachable"]

Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], bytes]
"""Status, headers and body."""
Serve = Callable[[], Answer]
Fault = Callable[[Environ, Serve], Answer]
"""Answers a call in the place of AWS; it may have the call served."""

_PAGE = 100
_LISTS = {"ListClusters": "clusterArns", "ListTasks": "taskArns", "ListTaskDefinitions": "taskDefinitionArns"}
_MOST_OVERRIDES = 8192
_AT_MOST_A_HUNDRED = {"DescribeClusters": "clusters", "DescribeTasks": "tasks"}


class _Bucket:
    """The tokens of a rate limit."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._seen = float(burst), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class FakeAws:
    """A server of all of moto's services. `on_answer` is told of each call that was served."""

    def __init__(self, on_answer: Callable[[str, dict[str, Any], Answer], None]) -> None:
        self.lock = threading.RLock()
        """Held while moto serves a call, since it can only serve one."""
        self.calls: Counter[str] = Counter()
        self.used: set[tuple[str, str]] = set()
        """The permissions that were needed: ``service:Action``, and the role or object it was for, if any."""
        self.throttled: Counter[str] = Counter()
        self.limits_rates = True
        self.failure_rate = 0.0
        """The part of all calls that fail with a server error, or by a lost connection."""
        self.random = random.Random(1)
        self._on_answer = on_answer
        self._planned: defaultdict[str, deque[Fault]] = defaultdict(deque)
        # What the ECS developer guide says of Fargate, and of "cluster resource" calls.
        self._run_task, self._ecs = _Bucket(20, 20), _Bucket(20, 50)
        self._by_token: dict[str, tuple[dict[str, Any], Answer]] = {}
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_QuietHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def plan(self, operation: str, *faults: Fault) -> None:
        """Let the next calls of an operation go wrong, one after the other."""
        self._planned[operation].extend(faults)

    def clear_plan(self, operation: str) -> None:
        """Let nothing more go wrong with an operation."""
        self._planned[operation].clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(
        self, environ: Environ, start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        operation, arguments = _operation(environ, body)

        def serve() -> Answer:
            return self._serve_once(environ, operation, arguments, body)

        with self.lock:
            self.calls[operation] += 1
            self.used.add(_permission(environ, operation, arguments))
            fault = self._fault(environ, operation)
        try:
            found = fault(environ, serve) if fault else serve()
            token = arguments.get("clientToken")
            if token and found[0].startswith("200"):
                self._by_token.setdefault(token, (arguments, found))
            status, headers, content = found
        except ConnectionError:
            with suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise
        start_response(status, headers)
        return [content]

    def _fault(self, environ: Environ, operation: str) -> Fault | None:
        if self._planned[operation]:
            return self._planned[operation].popleft()
        if self.limits_rates and "ContainerService" in environ.get("HTTP_X_AMZ_TARGET", ""):
            bucket = self._run_task if operation == "RunTask" else self._ecs
            if not bucket.take():
                self.throttled[operation] += 1
                return error("ThrottlingException", "Rate exceeded")
        if self.random.random() < self.failure_rate:
            return self.random.choice([error("InternalFailure", "of a test", 500), lost(), unreachable()])
        return None

    def _serve_once(self, environ: Environ, operation: str, arguments: dict[str, Any], body: bytes) -> Answer:
        with self.lock:
            token = arguments.get("clientToken")
            if token in self._by_token:
                before, found = self._by_token[token]
                if before != arguments:
                    return _error(
                        environ, "ConflictException", "the clientToken is that of another call", 400
                    )
                return found
            if len(json.dumps(arguments.get("overrides"))) > _MOST_OVERRIDES:
                message = f"Container Overrides length must be at most {_MOST_OVERRIDES}"
                return _error(environ, "InvalidParameterException", message, 400)
            asked = arguments.get(_AT_MOST_A_HUNDRED.get(operation, ""), [])
            if len(asked) > _PAGE:
                return _error(environ, "InvalidParameterException", "there are more than 100 of them", 400)
            if operation == "ListTasks":
                # moto lists the stopped ones too.
                body = json.dumps({"desiredStatus": "RUNNING", **arguments}).encode()
                environ["CONTENT_LENGTH"] = str(len(body))
            served: list[Any] = []
            environ["wsgi.input"] = io.BytesIO(body)
            pieces = self._app(environ, lambda status, headers, *_: served.extend((status, headers)))
            found = (served[0], served[1], b"".join(pieces))
            if operation in _LISTS and found[0].startswith("200"):
                found = _page(found, _LISTS[operation], arguments)
            if token and found[0].startswith("200"):
                self._by_token[token] = (arguments, found)
            self._on_answer(operation, arguments, found)
            return found


class _QuietHandler(MotoRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


def error(code: str, message: str, status: int = 400) -> Fault:
    """The call is refused."""
    return lambda environ, serve: _error(environ, code, message, status)


def answer(content: dict[str, Any]) -> Fault:
    """The call is answered with this, and nothing is done."""
    return lambda environ, serve: _json(200, content)


def lost() -> Fault:
    """The call is served, and the connection breaks before its answer."""

    def fault(environ: Environ, serve: Serve) -> Answer:
        serve()
        raise ConnectionResetError

    return fault


def unreachable() -> Fault:
    """The connection breaks before the call is served."""

    def fault(environ: Environ, serve: Serve) -> Answer:
        raise ConnectionResetError

    return fault


def held(begun: threading.Event, released: threading.Event) -> Fault:
    """The call is served when `released` is set. That it has come, `begun` tells."""

    def fault(environ: Environ, serve: Serve) -> Answer:
        begun.set()
        released.wait(60)
        return serve()

    return fault


def interrupted(interrupt: Callable[[], None]) -> Fault:
    """The call is served, and `interrupt` is called before its answer."""

    def fault(environ: Environ, serve: Serve) -> Answer:
        found = serve()
        interrupt()
        time.sleep(0.3)
        return found

    return fault


def _operation(environ: Environ, body: bytes) -> tuple[str, dict[str, Any]]:
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return target.rpartition(".")[2], json.loads(body or b"{}")
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        form = parse_qs(body.decode())
        return form.get("Action", [""])[0], dict(form)
    return f"{environ['REQUEST_METHOD']} s3", {}


def _permission(environ: Environ, operation: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """What a policy must allow for a call."""
    signed = environ.get("HTTP_AUTHORIZATION") or environ["QUERY_STRING"]
    scope = re.search(r"Credential=[^/%]+(?:/|%2F)\d+(?:/|%2F)[\w-]+(?:/|%2F)(\w+)", signed)
    service = scope[1] if scope else "unsigned"
    if service == "s3":
        # A part of an upload, too, is a PutObject; and so is its begin, and its end.
        action = "GetObject" if environ["REQUEST_METHOD"] in ("GET", "HEAD") else "PutObject"
        return f"s3:{action}", f"arn:aws:s3:::{environ['PATH_INFO'].lstrip('/')}"
    role = arguments.get("RoleName")
    return f"{service}:{operation}", f"arn:aws:iam::123456789012:role/{role[0]}" if role else ""


def _page(found: Answer, key: str, arguments: dict[str, Any]) -> Answer:
    content = json.loads(found[2])
    begin = int(arguments.get("nextToken") or 0)
    end = begin + min(_PAGE, int(arguments.get("maxResults") or _PAGE))
    page = {key: content[key][begin:end]}
    if end < len(content[key]):
        page["nextToken"] = str(end)
    return _json(200, page)


def _json(status: int, content: dict[str, Any]) -> Answer:
    return f"{status} test", [("Content-Type", "application/x-amz-json-1.1")], json.dumps(content).encode()


def _error(environ: Environ, code: str, message: str, status: int) -> Answer:
    if environ.get("HTTP_X_AMZ_TARGET"):
        return _json(status, {"__type": code, "message": message})
    inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    xml = f"<Response><Errors>{inner}</Errors><RequestID>x</RequestID></Response>"
    return f"{status} test", [("Content-Type", "text/xml")], xml.encode()
