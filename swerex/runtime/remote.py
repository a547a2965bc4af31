"""Run commands in a sandbox, through the server that runs there."""

from __future__ import annotations

import json
import os
import random
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from logging import Logger
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from typing_extensions import Self

from swerex.exceptions import CommandTimeoutError, SandboxDiedError, SwerexException
from swerex.runtime.abstract import (
    AbstractRuntime,
    Action,
    BashInterruptAction,
    BashObservation,
    CloseBashSessionResponse,
    CloseResponse,
    CloseSessionRequest,
    CloseSessionResponse,
    Command,
    CommandResponse,
    CreateBashSessionResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    IsAliveResponse,
    Observation,
    OnOutput,
    ReadFileRequest,
    ReadFileResponse,
    UploadRequest,
    UploadResponse,
    WriteFileRequest,
    WriteFileResponse,
)
from swerex.runtime.archive import pack, pack_zip
from swerex.runtime.config import RemoteRuntimeConfig
from swerex.runtime.transport import AnswerTooLargeError, ExchangeError, HttpAnswer, Transport
from swerex.runtime.wire import (
    ACKNOWLEDGE_HEADER,
    API_KEY_HEADER,
    EXCEPTION_STATUS,
    INSTANCE_HEADER,
    OUTPUT_HEADER,
    REQUEST_ID_HEADER,
    TEXT,
    decode_exception,
)
from swerex.utils.log import get_logger

__all__ = ["RemoteRuntime"]

_Response = TypeVar("_Response", bound=BaseModel)

_FIRST_WAIT, _LONGEST_WAIT = 2, 20
"""How many seconds the server is to hold an exchange before it answers "not yet". A short command's exchange
is short, so that one that the network swallowed is missed soon."""
_LIVE_WAIT = 1
"""The same where somebody watches the output, which comes with each "not yet"."""
_MARGIN = 5.0
"""How many seconds later than that an answer may come."""
_SLOWEST = 50_000
"""How many bytes a second a line is expected to carry at the least."""
_OVERTIME = 10.0
"""How many seconds after its own deadline, which the sandbox enforces, a call gives up."""
_PATIENCE = 30.0
"""For so many seconds a server may be out of reach before it counts as dead."""
_PATIENCE_IF_GONE = 1.5
"""The same where nobody listens at its address any more."""
_OPERATION_TIMEOUT = 600.0
"""What an operation may take for which the caller gives no timeout, commands excepted."""
_PART = 8 << 20
_SMALL, _LARGE = 16 << 20, 1 << 30
"""The limits for answers: of most operations, and of those that bring output or the content of a file."""


class RemoteRuntime(AbstractRuntime):
    """Talks to a server, over connections that it keeps and that many threads may use at once.

    A request is repeated until its answer has arrived, and yet runs once: the server knows it by its id.
    A server that is gone is a `SandboxDiedError` within seconds.
    """

    def __init__(self, *, logger: Logger | None = None, **kwargs: Any) -> None:
        """Keyword arguments as `RemoteRuntimeConfig`."""
        self._config = RemoteRuntimeConfig(**kwargs)
        self.logger = logger or get_logger("rex-runtime")
        self._transport = Transport(self._config)
        self._received: deque[str] = deque(maxlen=1000)
        """The ids of answers that have arrived, and that the server does not know of yet."""
        self._meeting = threading.Lock()
        self._met = False
        self._instance: str | None = None
        """Which process the server is, once it was met; None for one that can't run a request just once."""

    @classmethod
    def from_config(cls, config: RemoteRuntimeConfig) -> Self:
        return cls(**config.model_dump(exclude={"type"}))

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether the server answers; `timeout` defaults to that of the config."""
        try:
            answer = self._ask_alive(self._config.timeout if timeout is None else timeout)
            return _parse(answer, IsAliveResponse)
        except (ExchangeError, AnswerTooLargeError, SwerexException) as error:
            return IsAliveResponse(is_alive=False, message=f"{self._transport.url} does not answer: {error}")

    def wait_until_alive(self, *, timeout: float = 60.0) -> None:
        """Wait until the server answers.

        Raises:
            TimeoutError: it does not within `timeout` seconds.
            SwerexException: it refuses the token; waiting would not help.
        """
        begin = time.monotonic()
        pause = 0.01
        while True:
            left = begin + timeout - time.monotonic()
            try:
                answer = self._ask_alive(max(0.05, min(5.0, left)))
                if answer.status == 401 or (answer.status == 200 and _parse(answer, IsAliveResponse)):
                    _parse(answer, IsAliveResponse)
                    return
                reason = f"status {answer.status}: {answer.body[:300]!r}"
            except (ExchangeError, AnswerTooLargeError) as error:
                reason = str(error)
            if time.monotonic() - begin + pause > timeout:
                raise TimeoutError(
                    f"The server at {self._transport.url} did not answer within {timeout:g} s. "
                    f"Last try: {reason}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def create_session(self, request: CreateSessionRequest) -> CreateSessionResponse:
        return self._call(
            "/create_session", request, CreateBashSessionResponse, timeout=request.startup_timeout
        )

    def run_in_session(self, action: Action, *, on_output: OnOutput | None = None) -> Observation:
        if isinstance(action, BashInterruptAction):
            timeout: float | None = action.timeout * (action.n_retry + 1) + 5
        else:
            timeout = action.timeout
        return self._call(
            "/run_in_session", action, BashObservation, timeout=timeout, on_output=on_output, limit=_LARGE
        )

    def close_session(self, request: CloseSessionRequest) -> CloseSessionResponse:
        return self._call("/close_session", request, CloseBashSessionResponse)

    def execute(self, command: Command, *, on_output: OnOutput | None = None) -> CommandResponse:
        return self._call(
            "/execute", command, CommandResponse, timeout=command.timeout, on_output=on_output, limit=_LARGE
        )

    def read_file(self, request: ReadFileRequest) -> ReadFileResponse:
        body = to_json(request)
        answer = self._post(
            "/read_file", body, "application/json", timeout=_OPERATION_TIMEOUT, limit=_LARGE, accept=TEXT
        )
        if answer.status != 200 or not answer.headers.get("Content-Type", "").startswith(TEXT):
            return _parse(answer, ReadFileResponse)
        try:
            return ReadFileResponse.model_construct(content=answer.body.decode())
        except UnicodeDecodeError as error:
            raise SwerexException(f"The server's answer is no UTF-8: {error}") from None

    def write_file(self, request: WriteFileRequest) -> WriteFileResponse:
        self._meet()
        if self._instance is None:
            return self._call("/write_file", request, WriteFileResponse)
        path = f"/write_file?{urlencode({'path': request.path})}"
        answer = self._post(path, request.content.encode(), TEXT, timeout=_OPERATION_TIMEOUT)
        return _parse(answer, WriteFileResponse)

    def upload(self, request: UploadRequest) -> UploadResponse:
        self._meet()
        if self._instance is None:
            return self._upload_form(request)
        upload_id, number = uuid.uuid4().hex, 0
        part: list[bytes] = []
        size = 0

        def send(*, last: bool) -> None:
            query = urlencode(
                {"target": request.target_path, "upload": upload_id, "part": number, "last": int(last)}
            )
            answer = self._post(
                f"/upload?{query}", b"".join(part), "application/x-tar", timeout=_OPERATION_TIMEOUT
            )
            _parse(answer, UploadResponse)

        for piece in pack(request.source_path):
            part.append(piece)
            size += len(piece)
            if size >= _PART:
                send(last=False)
                part.clear()
                size = 0
                number += 1
        send(last=True)
        return UploadResponse()

    def _upload_form(self, request: UploadRequest) -> UploadResponse:
        """Upload to the other implementation's server: a form with a file, or with a zip of the folder."""
        source = request.source_path
        folder = os.path.isdir(source)
        boundary = uuid.uuid4().hex
        fields = {"target_path": request.target_path, "unzip": "true" if folder else "false"}
        with pack_zip(source) if folder else open(source, "rb") as file:
            parts = [
                f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
                for key, value in fields.items()
            ]
            parts += [
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n".encode(),
                b'Content-Disposition: form-data; name="file"; filename="file"\r\n\r\n',
                file.read(),
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        kind = f"multipart/form-data; boundary={boundary}"
        answer = self._post("/upload", b"".join(parts), kind, timeout=_OPERATION_TIMEOUT)
        return _parse(answer, UploadResponse)

    def close(self) -> CloseResponse:
        """Close all sessions of the server, if it is still there, and the connections to it."""
        try:
            answer = self._post("/close", None, None, timeout=_OPERATION_TIMEOUT, patience=_PATIENCE_IF_GONE)
            _parse(answer, CloseResponse)
        except SandboxDiedError as error:
            self.logger.debug("The server was gone before its sessions could be closed: %s", error)
        finally:
            self._transport.close()
        return CloseResponse()

    # What all operations share

    def _call(
        self,
        path: str,
        request: BaseModel,
        response_type: type[_Response],
        *,
        timeout: float | None = _OPERATION_TIMEOUT,
        on_output: OnOutput | None = None,
        limit: int = _SMALL,
    ) -> _Response:
        live = _Live(on_output)
        answer = self._post(
            path, to_json(request), "application/json", timeout=timeout, live=live, limit=limit
        )
        try:
            response = _parse(answer, response_type)
        except SwerexException as error:
            live.complete(error.extra_info.get("output"))
            raise
        if isinstance(response, CommandResponse):
            live.complete(response.stdout + response.stderr)
        elif isinstance(response, BashObservation):
            live.complete(response.output)
        return response

    def _post(
        self,
        path: str,
        body: bytes | None,
        content_type: str | None,
        *,
        timeout: float | None,
        live: _Live | None = None,
        limit: int = _SMALL,
        patience: float = _PATIENCE,
        accept: str | None = None,
    ) -> HttpAnswer:
        """Have a request run once, and return its answer, whatever happens to the exchanges on the way.

        Raises:
            SandboxDiedError: the server is gone, or was replaced.
            CommandTimeoutError: `timeout` seconds have long passed and the server still says "not yet".
        """
        self._meet(patience)
        deadline = None if timeout is None else time.monotonic() + timeout + _OVERTIME
        request_id = str(uuid.uuid4())
        headers = {API_KEY_HEADER: self._config.auth_token}
        if content_type:
            headers["Content-Type"] = content_type
        if accept:
            headers["Accept"] = f"{accept}, application/json"
        repeatable = self._instance is not None
        if self._instance is not None:
            headers[REQUEST_ID_HEADER] = request_id
            headers[INSTANCE_HEADER] = self._instance
        else:
            # A kept connection that the server closes just now would look like a lost answer.
            headers["Connection"] = "close"
        live = live or _Live(None)
        wait = _LIVE_WAIT if live.wanted else _FIRST_WAIT
        trouble = _Trouble(patience)
        while True:
            received: list[str] = []
            asked = time.monotonic()
            read_timeout = None if deadline is None else deadline - asked
            if repeatable:
                headers["Prefer"] = f"wait={wait}"
                if live.wanted:
                    headers[OUTPUT_HEADER] = str(live.length)
                read_timeout = wait + _MARGIN + len(body or b"") / _SLOWEST
                received = self._take_received()
                headers[ACKNOWLEDGE_HEADER] = ",".join(received)
            try:
                answer = self._transport.exchange(
                    "POST", path, headers, body, read_timeout=read_timeout, deadline=deadline, limit=limit
                )
            except AnswerTooLargeError as error:
                raise SwerexException(f"{path}: {error}") from None
            except ExchangeError as error:
                self._received.extend(received)
                trouble.met(str(error), gone=error.gone)
                if error.sent and not repeatable:
                    raise SandboxDiedError(
                        f"The connection to {self._transport.url} was lost while {path} ran. It was not "
                        f"repeated, since it may have run: {error}"
                    ) from error
                self._pause_or_give_up(path, trouble, deadline)
                continue
            if answer.status in (502, 503, 504) and repeatable:
                # From a gateway in between: the server itself never says so.
                self._received.extend(received)
                trouble.met(f"status {answer.status} from a gateway", gone=False)
                self._pause_or_give_up(path, trouble, deadline)
                continue
            trouble = _Trouble(patience)
            if answer.status != 202 or not repeatable:
                if repeatable:
                    self._received.append(request_id)
                return answer
            if not live.wanted:
                wait = min(2 * wait, _LONGEST_WAIT)
            live.add(_output_so_far(answer))
            if deadline is not None and time.monotonic() > deadline:
                raise CommandTimeoutError(
                    f"{path} was to take {timeout:g} s, and {_OVERTIME:g} s later the server says "
                    "that it still runs",
                    extra_info={"output": live.output()},
                )
            # One that says "not yet" at once must not be asked as fast as it answers.
            time.sleep(max(0.0, asked + 0.2 - time.monotonic()))

    def _meet(self, patience: float = _PATIENCE) -> None:
        """Learn, once, what kind of server this is, before it is asked for what must not run twice."""
        if self._met:
            return
        trouble = _Trouble(patience)
        while not self._met:
            try:
                answer = self._ask_alive(_MARGIN)
            except (ExchangeError, AnswerTooLargeError) as error:
                trouble.met(str(error), gone=isinstance(error, ExchangeError) and error.gone)
                self._pause_or_give_up("/is_alive", trouble, None)
                continue
            if answer.status in (502, 503, 504):
                trouble.met(f"status {answer.status} from a gateway", gone=False)
                self._pause_or_give_up("/is_alive", trouble, None)
                continue
            _parse(answer, IsAliveResponse)
            with self._meeting:
                # Who comes second keeps to the server that the first has met.
                if not self._met:
                    self._instance = answer.headers.get(INSTANCE_HEADER)
                    self._met = True

    def _take_received(self) -> list[str]:
        """Some ids to acknowledge."""
        taken: list[str] = []
        with suppress(IndexError):
            while len(taken) < 50:
                taken.append(self._received.popleft())
        return taken

    def _ask_alive(self, timeout: float) -> HttpAnswer:
        headers = {API_KEY_HEADER: self._config.auth_token}
        if self._instance is not None:
            headers[INSTANCE_HEADER] = self._instance
        return self._transport.exchange(
            "GET",
            "/is_alive",
            headers,
            read_timeout=timeout,
            deadline=time.monotonic() + timeout,
            limit=_SMALL,
        )

    def _pause_or_give_up(self, path: str, trouble: _Trouble, deadline: float | None) -> None:
        """Wait before the next try. Raises SandboxDiedError when there have been enough."""
        if trouble.hopeless() or (deadline is not None and time.monotonic() > deadline):
            raise SandboxDiedError(
                f"The server at {self._transport.url} does not answer any more: {path} was tried for "
                f"{trouble.seconds():.1f} s. Last try: {trouble.message}"
            )
        trouble.pause()


class _Live:
    """The output of a command that still runs, for who watches it."""

    def __init__(self, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self._pieces: list[str] = []
        self.length = 0

    @property
    def wanted(self) -> bool:
        return self._on_output is not None

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self.length += len(piece)
        if self._on_output and piece:
            self._on_output(piece)

    def output(self) -> str:
        return "".join(self._pieces)

    def complete(self, output: object) -> None:
        """The command is over; hand out what came last. Two streams that were mixed can't be told apart."""
        seen = self.output()
        if isinstance(output, str) and output.startswith(seen):
            self.add(output[len(seen) :])


class _Trouble:
    """Failed tries in a row: how long they have been going on, and how long to wait before the next."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None
        self._gone_since: float | None = None
        self._pause = 0.02
        self.message = ""

    def met(self, message: str, *, gone: bool) -> None:
        now = time.monotonic()
        self.message = message
        self._since = self._since or now
        self._gone_since = (self._gone_since or now) if gone else None

    def seconds(self) -> float:
        return time.monotonic() - (self._since or time.monotonic())

    def hopeless(self) -> bool:
        now = time.monotonic()
        gone = self._gone_since is not None and now - self._gone_since > _PATIENCE_IF_GONE
        return gone or self.seconds() > self._patience

    def pause(self) -> None:
        # With jitter, so that many clients do not come back at the same moment.
        time.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, 1.0)


def _parse(answer: HttpAnswer, response_type: type[_Response]) -> _Response:
    """The model in an answer, or the exception in it."""
    if answer.status != 200:
        _raise_for(answer)
    try:
        return response_type.model_validate_json(answer.body)
    except ValidationError as error:
        content = _json(answer.body)
        if response_type is ReadFileResponse and isinstance(content, dict) and list(content) == ["content"]:
            text = content["content"]
            if isinstance(text, str):
                # With the error handler "surrogateescape" a text holds what pydantic takes for no text.
                return response_type.model_construct(content=text)
        raise SwerexException(f"The server's answer is no {response_type.__name__}: {error}") from None


def _raise_for(answer: HttpAnswer) -> NoReturn:
    body = _json(answer.body)
    if answer.status == EXCEPTION_STATUS:
        raise decode_exception(body)
    detail = body.get("detail") if isinstance(body, dict) else None
    said = detail if detail is not None else answer.body[:500].decode(errors="backslashreplace")
    if answer.status == 401:
        raise SwerexException(
            f"The server refuses the token (401): check `auth_token` and SWEREX_AUTH_TOKEN. {said}"
        )
    if answer.status == 409:
        raise SandboxDiedError(
            f"The server is not the one that was there before, and its sessions are lost: {said}"
        )
    raise SwerexException(f"The server answered with status {answer.status}: {said}")


def _output_so_far(answer: HttpAnswer) -> str:
    body = _json(answer.body)
    output = body.get("output") if isinstance(body, dict) else None
    return output if isinstance(output, str) else ""


def _json(body: bytes) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found
