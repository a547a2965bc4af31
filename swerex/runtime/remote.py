"""Run commands in a sandbox, through the server that runs there."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from logging import Logger
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel
from typing_extensions import Self

from swerex.exceptions import SandboxDiedError, SwerexException
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
from swerex.runtime.answers import parse
from swerex.runtime.archive import pack, pack_zip
from swerex.runtime.client import OPERATION_TIMEOUT, PATIENCE_IF_GONE, SMALL, Client, LiveOutput
from swerex.runtime.config import RemoteRuntimeConfig
from swerex.runtime.transport import AnswerTooLargeError, ExchangeError
from swerex.runtime.wire import TEXT, encode_model
from swerex.utils.log import get_logger

__all__ = ["RemoteRuntime"]

_Response = TypeVar("_Response", bound=BaseModel)

_PART = 8 << 20
"""How many bytes of an upload go in one request, about."""
_LARGE = 1 << 30
"""How many bytes an answer may have that brings output or the content of a file."""
_OBITUARY_TIMEOUT = 1.0
"""For how many seconds `is_alive` waits to be told how the sandbox has ended."""


class RemoteRuntime(AbstractRuntime):
    """Talks to a server, over connections that it keeps and that many threads may use at once.

    A request is repeated until its answer has arrived, and yet runs once: the server knows it by its id.
    A server that is gone is a `SandboxDiedError` within seconds.
    """

    def __init__(
        self, *, logger: Logger | None = None, obituary: Callable[[], str] | None = None, **kwargs: Any
    ) -> None:
        """Keyword arguments as `RemoteRuntimeConfig`. `obituary` says why the sandbox has ended, and nothing
        as long as it may live: who made the sandbox may know before the network shows it."""
        self._config = RemoteRuntimeConfig(**kwargs)
        self.logger = logger or get_logger("rex-runtime")
        self._client = Client(self._config, obituary or str)
        self._has_obituary = obituary is not None

    @classmethod
    def from_config(cls, config: RemoteRuntimeConfig) -> Self:
        return cls(**config.model_dump(exclude={"type"}))

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether the server answers; `timeout` defaults to that of the config."""
        timeout = self._config.timeout if timeout is None else timeout
        end = time.monotonic() + timeout
        try:
            return parse(self._client.ask_alive(timeout), IsAliveResponse)
        except Exception as error:
            # A server may answer with an exception of any class that it likes. One that ends is missed some
            # moments before anybody can tell how it has ended.
            now = time.monotonic()
            deadline = min(end, now + _OBITUARY_TIMEOUT) if self._has_obituary else now
            while not (reason := self._client.obituary()) and time.monotonic() < deadline:
                time.sleep(0.02)
            reason = reason or f"{self._client.url} does not answer: {error}"
            return IsAliveResponse(is_alive=False, message=reason)

    def wait_until_alive(self, *, timeout: float = 60.0) -> None:
        """Wait until the server answers.

        Raises:
            TimeoutError: it does not within `timeout` seconds.
            SwerexException: it refuses the token; waiting would not help.
            SandboxDiedError: the sandbox has ended, as whoever made it knows.
        """
        begin = time.monotonic()
        pause = 0.01
        while True:
            left = begin + timeout - time.monotonic()
            try:
                answer = self._client.ask_alive(max(0.05, min(5.0, left)))
                refused = answer.status == 401
                if parse(answer, IsAliveResponse):
                    return
                reason = "it says that it is not alive"
            except (ExchangeError, AnswerTooLargeError) as error:
                reason = str(error)
            except Exception as error:
                # Of any class that the server likes to name.
                if refused:
                    raise
                reason = str(error)
            if ended := self._client.obituary():
                raise SandboxDiedError(ended)
            if time.monotonic() - begin + pause > timeout:
                raise TimeoutError(
                    f"The server at {self._client.url} did not answer within {timeout:g} s. "
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
        body = encode_model(request)
        answer = self._client.post(
            "/read_file", body, "application/json", timeout=OPERATION_TIMEOUT, limit=_LARGE, accept=TEXT
        )
        if answer.status != 200 or not answer.headers.get("Content-Type", "").startswith(TEXT):
            return parse(answer, ReadFileResponse)
        try:
            return ReadFileResponse.model_construct(content=answer.body.decode())
        except UnicodeDecodeError as error:
            raise SwerexException(f"The server's answer is no UTF-8: {error}") from None

    def write_file(self, request: WriteFileRequest) -> WriteFileResponse:
        if not self._client.knows_ids():
            return self._call("/write_file", request, WriteFileResponse)
        path = f"/write_file?{urlencode({'path': request.path}, errors='surrogateescape')}"
        answer = self._client.post(path, request.content.encode(), TEXT, timeout=OPERATION_TIMEOUT)
        return parse(answer, WriteFileResponse)

    def upload(self, request: UploadRequest) -> UploadResponse:
        if not self._client.knows_ids():
            return self._upload_form(request)
        upload_id, number = uuid.uuid4().hex, 0
        part: list[bytes] = []
        size = 0

        def send(*, last: bool) -> None:
            query = urlencode(
                {"target": request.target_path, "upload": upload_id, "part": number, "last": int(last)},
                errors="surrogateescape",
            )
            answer = self._client.post(
                f"/upload?{query}", b"".join(part), "application/x-tar", timeout=OPERATION_TIMEOUT
            )
            parse(answer, UploadResponse)

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
        answer = self._client.post("/upload", b"".join(parts), kind, timeout=OPERATION_TIMEOUT)
        return parse(answer, UploadResponse)

    def close(self) -> CloseResponse:
        """Close all sessions of the server, if it is still there, and the connections to it."""
        try:
            answer = self._client.post(
                "/close", None, None, timeout=OPERATION_TIMEOUT, patience=PATIENCE_IF_GONE
            )
            parse(answer, CloseResponse)
        except SandboxDiedError as error:
            self.logger.debug("The server was gone before its sessions could be closed: %s", error)
        finally:
            self._client.close()
        return CloseResponse()

    def disconnect(self) -> None:
        """Close the connections, and leave the server as it is. A later call opens new ones."""
        self._client.close()

    # What all operations share

    def _call(
        self,
        path: str,
        request: BaseModel,
        response_type: type[_Response],
        *,
        timeout: float | None = OPERATION_TIMEOUT,
        on_output: OnOutput | None = None,
        limit: int = SMALL,
    ) -> _Response:
        live = LiveOutput(on_output)
        answer = self._client.post(
            path, encode_model(request), "application/json", timeout=timeout, live=live, limit=limit
        )
        try:
            response = parse(answer, response_type)
        except SwerexException as error:
            live.complete(error.extra_info.get("output"))
            raise
        if isinstance(response, CommandResponse):
            live.complete(response.stdout + response.stderr)
        elif isinstance(response, BashObservation):
            live.complete(response.output)
        return response
