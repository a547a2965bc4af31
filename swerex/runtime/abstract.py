"""The interface of every runtime, and a session in hand. The models are importable from here too."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from swerex.exceptions import SessionDoesNotExistError, SwerexException
from swerex.runtime.models import (
    Action,
    BashAction,
    BashInterruptAction,
    BashObservation,
    CloseBashSessionRequest,
    CloseBashSessionResponse,
    CloseResponse,
    CloseSessionRequest,
    CloseSessionResponse,
    Command,
    CommandResponse,
    CreateBashSessionRequest,
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

__all__ = [
    "AbstractRuntime",
    "Action",
    "BashAction",
    "BashInterruptAction",
    "BashObservation",
    "CloseBashSessionRequest",
    "CloseBashSessionResponse",
    "CloseResponse",
    "CloseSessionRequest",
    "CloseSessionResponse",
    "Command",
    "CommandResponse",
    "CreateBashSessionRequest",
    "CreateBashSessionResponse",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "IsAliveResponse",
    "Observation",
    "OnOutput",
    "ReadFileRequest",
    "ReadFileResponse",
    "Session",
    "UploadRequest",
    "UploadResponse",
    "WriteFileRequest",
    "WriteFileResponse",
]


class AbstractRuntime(ABC):
    """Runs commands in one sandbox. Every method blocks, and may be called from many threads at once.

    Use it with ``with``: it is closed at the end.
    """

    @abstractmethod
    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether the sandbox answers within `timeout` seconds. Never raises for one that does not."""

    @abstractmethod
    def create_session(self, request: CreateSessionRequest) -> CreateSessionResponse:
        """Open a session.

        Raises:
            SessionExistsError: the name is taken.
            FileNotFoundError: a file of `startup_source`, or `cwd`, is not there.
            SessionNotInitializedError: the shell did not come up; the message says why.
            CommandTimeoutError: it did not come up in time. The name is free again in each case.
        """

    @abstractmethod
    def run_in_session(self, action: Action, *, on_output: OnOutput | None = None) -> Observation:
        """Run a command in a session, or interrupt the one that runs there.

        `on_output` gets the output while it is printed; the observation has all of it once more.

        Raises:
            SessionDoesNotExistError: there is no such session.
            SessionBusyError: an earlier command of the session still runs after its timeout.
            BashIncorrectSyntaxError: bash can't parse the command. Nothing of it ran.
            CommandTimeoutError: the command still runs; its output until now is in `extra_info`.
            NonZeroExitCodeError: the command failed and `check` is "raise".
            SessionNotInitializedError: the command ended the shell, and no new one could be started.
        """

    @abstractmethod
    def close_session(self, request: CloseSessionRequest) -> CloseSessionResponse:
        """Close a session and end all that runs in it.

        Raises:
            SessionDoesNotExistError: there is no such session.
        """

    @abstractmethod
    def execute(self, command: Command, *, on_output: OnOutput | None = None) -> CommandResponse:
        """Run a program outside of any session.

        `on_output` gets the output of both streams while it is printed.

        Raises:
            FileNotFoundError: there is no such program, or no such `cwd`.
            CommandTimeoutError: it took too long and was killed with all its descendants.
            NonZeroExitCodeError: it failed, and `check` was asked for.
        """

    @abstractmethod
    def read_file(self, request: ReadFileRequest) -> ReadFileResponse:
        """Read a text file. Raises what `open` and `read` raise."""

    @abstractmethod
    def write_file(self, request: WriteFileRequest) -> WriteFileResponse:
        """Write a text file, and its missing parent folders. Raises what `open` and `write` raise."""

    @abstractmethod
    def upload(self, request: UploadRequest) -> UploadResponse:
        """Copy a file or a folder of this machine into the sandbox.

        Raises:
            FileNotFoundError: the source is not there.
            PermissionError: the upload would leave its target through a symbolic link.
        """

    @abstractmethod
    def close(self) -> CloseResponse:
        """Close all sessions, and end what `execute` still runs. Safe to call again."""

    def session(
        self,
        name: str = "default",
        *,
        startup_source: list[str] | None = None,
        startup_timeout: float = 10.0,
        env: dict[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Session:
        """Open a session and hand it out; ``with`` closes it. Arguments and errors as `create_session`."""
        request = CreateBashSessionRequest(
            session=name,
            startup_source=startup_source or [],
            startup_timeout=startup_timeout,
            env=env or {},
            cwd=None if cwd is None else os.fspath(cwd),
        )
        return Session(self, name, output=self.create_session(request).output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _close(self, error)


def _close(what: AbstractRuntime | Session, error: BaseException | None) -> None:
    """Close at the end of a ``with``; an error that is on its way out already says more than a second one."""
    try:
        what.close()
    except SwerexException:
        if error is None:
            raise


class Session:
    """An open session of a runtime: ``with runtime.session("build") as s: s.run("make", timeout=60)``."""

    def __init__(self, runtime: AbstractRuntime, name: str, *, output: str = "") -> None:
        self.runtime = runtime
        self.name = name
        self.output = output
        """What its startup files printed."""
        self._closed = False

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        check: Literal["silent", "raise", "ignore"] = "raise",
        error_msg: str = "",
        is_interactive_command: bool = False,
        is_interactive_quit: bool = False,
        expect: list[str] | None = None,
        on_output: OnOutput | None = None,
    ) -> BashObservation:
        """Run a command here; arguments as `BashAction`, errors as `AbstractRuntime.run_in_session`."""
        return self.runtime.run_in_session(
            BashAction(
                command=command,
                session=self.name,
                timeout=timeout,
                check=check,
                error_msg=error_msg,
                is_interactive_command=is_interactive_command,
                is_interactive_quit=is_interactive_quit,
                expect=expect or [],
            ),
            on_output=on_output,
        )

    def interrupt(
        self, *, timeout: float = 0.2, n_retry: int = 3, expect: list[str] | None = None
    ) -> BashObservation:
        """Stop what runs here; arguments as `BashInterruptAction`. For use from another thread, too."""
        return self.runtime.run_in_session(
            BashInterruptAction(session=self.name, timeout=timeout, n_retry=n_retry, expect=expect or [])
        )

    def close(self) -> None:
        """Close the session and end all that runs in it. Safe to call again."""
        if not self._closed:
            self._closed = True
            # A session that could not go on is closed already.
            with suppress(SessionDoesNotExistError):
                self.runtime.close_session(CloseBashSessionRequest(session=self.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _close(self, error)

    def __repr__(self) -> str:
        return f"<Session {self.name!r}>"
