"""The server in the sandbox: HTTP around a :class:`~swerex.runtime.local.LocalRuntime`.

It decodes, calls and encodes, and knows nothing of commands. Requests run in the worker threads of the
:class:`~swerex.runtime.registry.RequestRegistry`; a thread that serves HTTP only waits for them.
"""

from __future__ import annotations

import argparse
import hmac
import io
import json
import os
import re
import resource
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask, Response, g, request
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, HTTPException, UnprocessableEntity
from werkzeug.wsgi import wrap_file

from swerex import REMOTE_EXECUTABLE_NAME, __version__
from swerex.runtime.abstract import (
    AbstractRuntime,
    Action,
    CloseSessionRequest,
    Command,
    CreateSessionRequest,
    OnOutput,
    ReadFileRequest,
    ReadFileResponse,
    UploadResponse,
    WriteFileRequest,
)
from swerex.runtime.lease import Lease
from swerex.runtime.local import LocalRuntime
from swerex.runtime.process import adopt_orphans, kill_descendants, reap_orphans
from swerex.runtime.registry import Answer, AnswerGoneError, RequestRegistry, Work
from swerex.runtime.uploads import Uploads
from swerex.runtime.wire import (
    ACKNOWLEDGE_HEADER,
    API_KEY_HEADER,
    EXCEPTION_STATUS,
    INSTANCE_HEADER,
    OUTPUT_HEADER,
    REQUEST_ID_HEADER,
    TEXT,
    encode_exception,
    encode_model,
)

__all__ = ["create_app", "main"]

_LONGEST_WAIT = 600
"""Seconds that an exchange may last at the most, whatever the client prefers."""

_LARGE = 1 << 16
_TOKEN = re.compile(r"[!-~]+")
_REQUEST_ID = re.compile(r"[!-+\--~]{1,100}")


def create_app(
    runtime: AbstractRuntime,
    token: str,
    *,
    lease: Lease | None = None,
    stopping: threading.Event | None = None,
) -> Flask:
    """The WSGI application that serves `runtime` to whoever knows the `token`, and renews the `lease`.

    Once `stopping` is set, nothing is answered any more: how a command ended that was killed with the server
    is not how it would have ended.
    """
    app = Flask("swerex", static_folder=None)
    registry = RequestRegistry()
    uploads = Uploads()
    instance = str(uuid.uuid4())
    key = token.encode()

    @app.before_request
    def check() -> Response | None:
        given = request.headers.get(API_KEY_HEADER, "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, key):
            return _json(401, {"detail": f"The header {API_KEY_HEADER} is missing or wrong"})
        if lease is not None:
            lease.begin()
            g.leased = True
        wanted = request.headers.get(INSTANCE_HEADER, instance)
        if wanted != instance:
            return _json(409, {"detail": "This server was started anew, and does not know what ran before"})
        if received := request.headers.get(ACKNOWLEDGE_HEADER):
            registry.acknowledge(item.strip() for item in received.split(","))
        return None

    @app.after_request
    def introduce(response: Response) -> Response:
        response.headers[INSTANCE_HEADER] = instance
        return response

    @app.teardown_request
    def end_lease(_: BaseException | None) -> None:
        if lease is not None and g.pop("leased", False):
            lease.end()

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _json(error.code or 500, {"detail": error.description})

    @app.errorhandler(ValidationError)
    def invalid(error: ValidationError) -> Response:
        return _json(422, {"detail": _problems(error)})

    @app.get("/")
    def root() -> Response:
        return _json(200, {"message": "hello world"})

    @app.get("/is_alive")
    def is_alive() -> Response:
        return _response(Answer(200, to_json(runtime.is_alive())))

    def answer(call: Callable[[OnOutput | None], BaseModel], *, divisible: bool = True) -> Response:
        """Let the registry run the call, and wait for it; for as long as the client wants, if `divisible`."""
        request_id = request.headers.get(REQUEST_ID_HEADER)
        if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
            raise BadRequest(f"{REQUEST_ID_HEADER} must be 1 to 100 visible ASCII characters without commas")
        wait = _preferred_wait() if request_id and divisible else None
        try:
            work = _work(call, text=TEXT in request.accept_mimetypes.values())
            entry = registry.submit(request_id, request.path, work, follow=wait is not None)
        except AnswerGoneError:
            return _json(410, {"detail": f"Request {request_id} has run, and its answer is no longer kept"})
        except ValueError as error:
            raise BadRequest(str(error)) from None
        found = entry.wait(wait)
        if stopping is not None and stopping.is_set():
            return _json(503, {"detail": "This server is being stopped"})
        arrived = request.headers.get(OUTPUT_HEADER, type=int)
        output = "" if found and arrived is None else entry.output_from(arrived)
        if found is None or output:
            # Output that has not arrived comes before the end.
            return _json(202, {"request_id": request_id, "output": output})
        return _response(found)

    def serve(path: str, model: Any, call: Callable[[Any, OnOutput | None], BaseModel]) -> None:
        # Made at the first request, and not while the server starts.
        adapter = cache(lambda: TypeAdapter(model))

        def view() -> Response:
            body = _validate(adapter(), request.get_data(cache=False))
            return answer(lambda on_output: call(body, on_output))

        app.post(path, endpoint=path)(view)

    serve("/create_session", CreateSessionRequest, lambda body, _: runtime.create_session(body))
    serve("/run_in_session", Action, lambda body, out: runtime.run_in_session(body, on_output=out))
    serve("/close_session", CloseSessionRequest, lambda body, _: runtime.close_session(body))
    serve("/execute", Command, lambda body, out: runtime.execute(body, on_output=out))
    serve("/read_file", ReadFileRequest, lambda body, _: runtime.read_file(body))

    @app.post("/write_file")
    def write_file() -> Response:
        data = request.get_data(cache=False)
        if request.mimetype == TEXT:
            fields = {"path": _args().get("path"), "content": data}
            body = WriteFileRequest.model_validate(fields)
        else:
            body = _validate(TypeAdapter(WriteFileRequest), data)
        return answer(lambda _: runtime.write_file(body))

    @app.post("/close")
    def close() -> Response:
        def end(_: OnOutput | None) -> BaseModel:
            uploads.close()
            return runtime.close()

        return answer(end)

    @app.post("/upload")
    def upload() -> Response:
        if request.mimetype == "application/x-tar":
            return upload_part()
        file, target = request.files.get("file"), request.form.get("target_path")
        if file is None or not target or "\0" in target:
            raise UnprocessableEntity("An upload is a form with a `file`, a `target_path` and `unzip`")
        unzip = TypeAdapter(bool).validate_python(request.form.get("unzip", "false"))

        def store(_: OnOutput | None) -> BaseModel:
            if unzip:
                from swerex.runtime.archive import unpack_zip

                unpack_zip(file.stream, target)
            else:
                os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
                file.save(target)
            return UploadResponse()

        # The form's files are there only as long as this request is.
        return answer(store, divisible=False)

    def upload_part() -> Response:
        args = _args()
        target, upload_id, number = args.get("target"), args.get("upload"), args.get("part", type=int)
        if not target or "\0" in target or not upload_id or number is None:
            raise UnprocessableEntity("A part of an upload names its `target`, `upload` and `part`")
        data, last = request.get_data(cache=False), args.get("last") == "1"

        def add(_: OnOutput | None) -> BaseModel:
            uploads.add(upload_id, number, data, target, last=last)
            return UploadResponse()

        return answer(add)

    return app


def _problems(error: ValidationError) -> list[object]:
    return [*error.errors(include_url=False, include_context=False, include_input=False)]


def _work(call: Callable[[OnOutput | None], BaseModel], *, text: bool) -> Work:
    def run(on_output: OnOutput | None) -> Answer:
        try:
            response = call(on_output)
            if text and isinstance(response, ReadFileResponse):
                with suppress(UnicodeEncodeError):
                    return Answer(200, response.content.encode(), TEXT)
            return Answer(200, encode_model(response))
        except Exception as error:
            # Whatever it is, it is the caller's to see.
            return Answer(EXCEPTION_STATUS, json.dumps(encode_exception(error), default=str).encode())

    return run


def _validate(adapter: TypeAdapter[Any], data: bytes) -> Any:
    """The model in a body."""
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
        # A lone surrogate, from the name of a file that is no UTF-8, is JSON to others than pydantic.
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise error from None
        return adapter.validate_python(found)


def _args() -> MultiDict[str, str]:
    """The arguments in the address, where a path need not be UTF-8."""
    query = request.query_string.decode("latin-1")
    return MultiDict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))


def _preferred_wait() -> float | None:
    """How many seconds the client wants to wait for an answer: RFC 7240. None: until it is there."""
    found = re.search(r"(?:^|[\s,;])wait\s*=\s*(\d{1,9})\b", request.headers.get("Prefer", ""), re.IGNORECASE)
    return min(int(found[1]), _LONGEST_WAIT) if found else None


def _json(status: int, body: object) -> Response:
    return _response(Answer(status, json.dumps(body, default=str).encode()))


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status, mimetype=answer.mimetype)
    if len(answer.body) > _LARGE:
        # Sent from where it is, and not from a copy.
        response.response = wrap_file(request.environ, io.BytesIO(answer.body), _LARGE)
        response.direct_passthrough = True
        response.content_length = len(answer.body)
    return response


class _ElasticDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Starts threads as they are needed: clients that wait on one exchange can't starve the others."""

    def __init__(self, limit: int, on_shutdown: Callable[[], None]) -> None:
        super().__init__()
        self._limit = limit
        self._on_shutdown = on_shutdown

    def add_task(self, task: object) -> None:
        with self.lock:
            self.queue.append(task)
            self.queue_cv.notify()
            threads = len(self.threads)
            short = len(self.queue) > threads - self.stop_count - self.active_count
        if short and threads < self._limit:
            self.set_thread_count(threads + 1)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 1) -> bool:
        self._on_shutdown()
        return bool(super().shutdown(cancel_pending, timeout))


def main(argv: list[str] | None = None) -> None:
    """The command ``swerex-remote``."""
    parser = argparse.ArgumentParser(REMOTE_EXECUTABLE_NAME, description="Serve this machine as a sandbox.")
    parser.add_argument("-v", "--version", action="version", version=__version__)
    parser.add_argument(
        "--host",
        default="0.0.0.0",
        help="address to listen at, or unix:///path/of/a/socket (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--auth-token",
        default=os.environ.pop("SWEREX_AUTH_TOKEN", None),
        help="what clients must send in X-API-Key (default: the environment variable SWEREX_AUTH_TOKEN, "
        "which other users can't read, unlike a command line)",
    )
    parser.add_argument(
        "--threads", type=int, default=500, help="how many exchanges may be under way (default: %(default)s)"
    )
    parser.add_argument(
        "--lease",
        type=float,
        # As a string it is checked as if it stood on the command line.
        default=os.environ.pop("SWEREX_LEASE", None),
        metavar="SECONDS",
        help="end when there was no request for so long (default: the environment variable SWEREX_LEASE, "
        "else never)",
    )
    options = parser.parse_args(argv)
    if not options.auth_token:
        parser.error("a token is needed: set SWEREX_AUTH_TOKEN, or give --auth-token")
    if not _TOKEN.fullmatch(options.auth_token):
        parser.error("the token must be printable ASCII without blanks")
    if not 0 <= options.port <= 65535:
        parser.error("--port must be 0 to 65535")
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    if options.lease is not None and not options.lease > 0:
        parser.error("--lease must be a positive number of seconds")
    _serve(options.host, options.port, options.auth_token, options.threads, options.lease)


def _serve(host: str, port: int, token: str, threads: int, lease_seconds: float | None) -> None:
    adopt_orphans()
    runtime = LocalRuntime()
    lease = None if lease_seconds is None else Lease(lease_seconds, _end_of_lease)
    path = host.removeprefix("unix://") if host.startswith("unix://") else None
    # Who may reach the file may use it: the token decides.
    listen = (
        {"host": host, "port": port} if path is None else {"unix_socket": path, "unix_socket_perms": "666"}
    )

    stopping = threading.Event()

    def end_everything() -> None:
        stopping.set()
        runtime.close()
        kill_descendants()

    try:
        server = create_server(
            create_app(runtime, token, lease=lease, stopping=stopping),
            _dispatcher=_ElasticDispatcher(threads, end_everything),
            **listen,
            ident=None,
            asyncore_use_poll=True,
            connection_limit=min(2 * threads + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2),
            recv_bytes=1 << 18,
            # Bodies below are kept in memory, and larger ones in temporary files.
            inbuf_overflow=32 << 20,
            outbuf_overflow=32 << 20,
        )
    except (OSError, ValueError) as error:
        where = f"{host}:{port}" if path is None else host
        sys.exit(f"{REMOTE_EXECUTABLE_NAME}: can't listen at {where}: {error}")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # With a handler for each, none is ignored in the commands, even if this process was told to.
        signal.signal(number, _ignore if number == signal.SIGHUP else _stop)
    threading.Thread(target=_reap, name="swerex-reaper", daemon=True).start()
    if lease is not None:
        threading.Thread(target=lease.watch, name="swerex-lease", daemon=True).start()
    url = host
    if path is None:
        # A server for two address families has a list of what it listens at.
        found = getattr(server, "effective_listen", None) or [(server.effective_host, server.effective_port)]
        url = _url(*found[0])
    print(f"{REMOTE_EXECUTABLE_NAME} {__version__} listens at {url}", flush=True)
    server.run()
    # Nothing is left to do but to wait for threads that wait for nothing.
    os._exit(0)


def _url(host: str, port: int | str) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The server outlives the terminal it was started from."""


def _end_of_lease() -> None:
    with suppress(OSError):
        # There may be nobody left to read it.
        print(f"{REMOTE_EXECUTABLE_NAME} ends: there was no request for as long as its lease", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _reap() -> None:
    known: set[int] = set()
    while True:
        threading.Event().wait(10)
        known = reap_orphans(known)
