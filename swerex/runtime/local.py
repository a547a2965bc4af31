"""Run commands in this process's own environment. The server of a sandbox is a thin shell around this."""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from contextlib import suppress
from logging import Logger
from pathlib import Path
from typing import Any

from typing_extensions import Self

from swerex.exceptions import SessionDoesNotExistError, SessionExistsError, SessionNotInitializedError
from swerex.runtime.abstract import (
    AbstractRuntime,
    Action,
    BashInterruptAction,
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
from swerex.runtime.bash import BashSession
from swerex.runtime.config import LocalRuntimeConfig
from swerex.runtime.execute import execute
from swerex.runtime.process import inherited_environment, kill_all
from swerex.runtime.shell import find_bash
from swerex.runtime.syntax import SyntaxChecker
from swerex.runtime.workspace import Workspace
from swerex.utils.log import get_logger

__all__ = ["LocalRuntime"]


class LocalRuntime(AbstractRuntime):
    """Runs commands on this machine, with the rights and the environment of this process.

    It isolates nothing. What it left open is closed when it is garbage collected or the interpreter exits.
    """

    def __init__(self, *, logger: Logger | None = None, **kwargs: Any) -> None:
        """Keyword arguments as `LocalRuntimeConfig`."""
        self._config = LocalRuntimeConfig(**kwargs)
        self.logger = logger or get_logger("rex-runtime")
        self._resources = _Resources()
        self._finalizer = weakref.finalize(self, _Resources.close, self._resources)

    @classmethod
    def from_config(cls, config: LocalRuntimeConfig) -> Self:
        return cls(**config.model_dump(exclude={"type"}))

    @property
    def sessions(self) -> tuple[str, ...]:
        """The names of the open sessions."""
        return tuple(self._resources.sessions)

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        return IsAliveResponse(is_alive=True)

    def create_session(self, request: CreateSessionRequest) -> CreateSessionResponse:
        return CreateBashSessionResponse(output=self._resources.create(request))

    def run_in_session(self, action: Action, *, on_output: OnOutput | None = None) -> Observation:
        session = self._resources.get(action.session)
        try:
            if isinstance(action, BashInterruptAction):
                return session.interrupt(action)
            return session.run(action, on_output)
        except SessionNotInitializedError:
            self._resources.close_session(action.session)
            raise

    def close_session(self, request: CloseSessionRequest) -> CloseSessionResponse:
        self._resources.get(request.session)
        self._resources.close_session(request.session)
        return CloseBashSessionResponse()

    def execute(self, command: Command, *, on_output: OnOutput | None = None) -> CommandResponse:
        return execute(command, self._resources.running, on_output)

    def read_file(self, request: ReadFileRequest) -> ReadFileResponse:
        content = (
            Path(request.path).read_bytes().decode(request.encoding or "utf-8", request.errors or "strict")
        )
        # With the error handler "surrogateescape" a text holds what pydantic takes for no text.
        return ReadFileResponse.model_construct(content=content)

    def write_file(self, request: WriteFileRequest) -> WriteFileResponse:
        content = request.content.encode()
        path = Path(request.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return WriteFileResponse()

    def upload(self, request: UploadRequest) -> UploadResponse:
        # Here, since a server, which takes uploads otherwise, has no need of its memory.
        from swerex.runtime.archive import pack, unpack

        source, target = os.path.realpath(request.source_path), os.path.realpath(request.target_path)
        if target.startswith(f"{source.rstrip('/')}/"):
            raise ValueError(
                f"{request.target_path!r} is inside of {request.source_path!r}: it would never end"
            )
        unpack(pack(request.source_path), request.target_path)
        return UploadResponse()

    def close(self) -> CloseResponse:
        self._resources.close()
        return CloseResponse()


class _Resources:
    """What a runtime has open. Apart from the runtime, so that its finalizer can hold it."""

    def __init__(self) -> None:
        self.sessions: dict[str, BashSession] = {}
        self.running: dict[subprocess.Popen[bytes], int] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._starting: set[str] = set()
        self._closings = 0
        self._checker: SyntaxChecker | None = None
        self._workspace: Workspace | None = None

    def create(self, request: CreateSessionRequest) -> str:
        env = inherited_environment()
        bash = find_bash(env)
        with self._lock:
            if request.session in self.sessions or request.session in self._starting:
                raise SessionExistsError(
                    f"Session {request.session!r} exists already. Close it first, or take another name."
                )
            if self._checker is None or self._workspace is None:
                self._checker = SyntaxChecker(bash, env)
                self._workspace = Workspace()
            session = BashSession(
                request, env=env, checker=self._checker, bash=bash, folder=self._workspace.folder()
            )
            self._starting.add(request.session)
            closings = self._closings
        try:
            output = session.start()
            with self._lock:
                if closings == self._closings:
                    self.sessions[request.session] = session
                    return output
        finally:
            with self._lock:
                self._starting.discard(request.session)
        session.close()
        raise SessionDoesNotExistError(f"The runtime was closed while session {request.session!r} started")

    def get(self, name: str) -> BashSession:
        try:
            return self.sessions[name]
        except KeyError:
            there = ", ".join(map(repr, self.sessions)) or "none"
            raise SessionDoesNotExistError(
                f"Session {name!r} does not exist; open sessions: {there}. Open it with create_session()."
            ) from None

    def close_session(self, name: str) -> None:
        with self._lock:
            session = self.sessions.get(name)
        if session:
            session.close()
            with self._lock:
                if self.sessions.get(name) is session:
                    del self.sessions[name]

    def close(self) -> None:
        if os.getpid() != self._pid:
            # In a forked child, all of this is the parent's.
            return
        with self._lock:
            self._closings += 1
        for process, mark in list(self.running.items()):
            kill_all(process, mark)
        with suppress(RuntimeError):
            # One stubborn session must not hold up the others; but at the interpreter's exit there are no
            # new threads.
            closing = [
                threading.Thread(target=self.close_session, args=(name,)) for name in list(self.sessions)
            ]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join()
        for name in list(self.sessions):
            self.close_session(name)
        with self._lock:
            checker, workspace = self._checker, self._workspace
            self._checker = self._workspace = None
        if checker:
            checker.close()
        if workspace:
            workspace.close()
