"""The interface of every runtime, the models that its methods take and return, and a session in hand.

All sizes are in bytes and all times in seconds. The models travel as JSON between a
:class:`~swerex.runtime.remote.RemoteRuntime` and its server, so their fields are part of the wire protocol.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from typing_extensions import Self

from swerex.exceptions import SessionDoesNotExistError, SwerexException

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


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character: the operating system ends strings there")
    return text


def _environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} can't be the name of an environment variable")
        _no_nul(name + value)
    return env


def _fspath(path: object) -> object:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


_Text = Annotated[str, AfterValidator(_no_nul)]
_Path = Annotated[str, BeforeValidator(_fspath), AfterValidator(_no_nul)]
_Env = Annotated[dict[str, str], AfterValidator(_environment)]
_Seconds = Annotated[float, Field(ge=0)]


class _Model(BaseModel):
    # Made at its first use: all of them together are a good part of the time a server takes to start.
    model_config = ConfigDict(defer_build=True)


class IsAliveResponse(_Model):
    """Whether the sandbox answers; use it as a boolean."""

    is_alive: bool
    message: str = ""
    """Why not."""

    def __bool__(self) -> bool:
        return self.is_alive


class CreateBashSessionRequest(_Model):
    """Open a session: a bash that lives, with its state, until it is closed."""

    session: str = "default"
    startup_source: list[_Path] = []
    """Files to source first, in order."""
    startup_timeout: _Seconds = 10.0
    """For the shell to be ready, the files of `startup_source` included."""
    session_type: Literal["bash"] = "bash"
    env: _Env = {}
    """Added to the sandbox's environment. A value may be empty."""
    cwd: _Path | None = None
    """The working directory to begin in."""


class CreateBashSessionResponse(_Model):
    output: str = ""
    """What the files of `startup_source` printed."""
    session_type: Literal["bash"] = "bash"


class BashAction(_Model):
    """Run a command in a session, or send a line to the program in its foreground."""

    command: str
    session: str = "default"
    timeout: _Seconds | None = None
    """None: no limit. On a timeout the command goes on, and the session is busy until it is interrupted."""
    is_interactive_command: bool = False
    """Wait for one of `expect` instead of for the end of the command: for the start of a program such as
    python or gdb, and then for each line that is sent to it."""
    is_interactive_quit: bool = False
    """Send this line to the program in the foreground, and wait until the shell is back."""
    check: Literal["silent", "raise", "ignore"] = "raise"
    """For a non-zero exit code: "raise" raises `NonZeroExitCodeError`, "silent" reports it in the
    observation. "ignore" leaves the exit code None."""
    error_msg: str = ""
    """Put before the message of a `NonZeroExitCodeError`."""
    expect: list[str] = []
    """Regular expressions, as pexpect's: the earliest match in the output counts."""
    action_type: Literal["bash"] = "bash"

    @model_validator(mode="after")
    def _can_be_parsed(self) -> Self:
        if not (self.is_interactive_command or self.is_interactive_quit):
            _no_nul(self.command)
        return self


class BashInterruptAction(_Model):
    """Stop the command in the foreground of a session and bring the shell back.

    Ctrl-C first, `n_retry` times, each time waiting `timeout` seconds; then SIGTERM and SIGKILL to the
    foreground process group, and only to that.
    """

    session: str = "default"
    timeout: _Seconds = 0.2
    n_retry: Annotated[int, Field(ge=0)] = 3
    expect: list[str] = []
    """Output that ends the interrupt as well as the shell's return does, such as the prompt of an
    interactive program that is to go on."""
    action_type: Literal["bash_interrupt"] = "bash_interrupt"


class BashObservation(_Model):
    """What an action printed, and how it ended."""

    output: str = ""
    """Standard output and standard error as they came. Bytes that are not UTF-8 appear as ``\\xNN``."""
    exit_code: int | None = None
    """128 + N for a command that signal N ended. None for `check="ignore"`."""
    failure_reason: str = ""
    """What happened to the shell itself, when the command took it along."""
    expect_string: str = ""
    """The text that matched one of the action's `expect`."""
    session_type: Literal["bash"] = "bash"


class CloseBashSessionRequest(_Model):
    session: str = "default"
    session_type: Literal["bash"] = "bash"


class CloseBashSessionResponse(_Model):
    session_type: Literal["bash"] = "bash"


class Command(_Model):
    """Run a program outside of any session, as `subprocess.run` does. Its standard input is empty."""

    command: _Text | list[_Text]
    """A list is a program and its arguments; a string is a line for /bin/sh."""
    timeout: _Seconds | None = None
    """None: no limit. On a timeout the command and all its descendants are killed."""
    shell: bool = Field(default=None, validate_default=False)  # type: ignore[assignment]
    """Default: True for a string, False for a list."""
    check: bool = False
    """Raise `NonZeroExitCodeError` for a non-zero exit code."""
    error_msg: str = ""
    """Put before the message of a `NonZeroExitCodeError`."""
    env: _Env | None = None
    """Added to the sandbox's environment. A value may be empty."""
    cwd: _Path | None = None
    merge_output_streams: bool = False
    """Standard error goes to `stdout`, in order."""

    @model_validator(mode="before")
    @classmethod
    def _choose_shell(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("shell") is None:
            return {**data, "shell": isinstance(data.get("command"), str)}
        return data

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.command:
            raise ValueError("command is empty: give a program to run")
        return self


class CommandResponse(_Model):
    """What a command printed. Bytes that are not UTF-8 appear as ``\\xNN``."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    """128 + N for a command that signal N ended."""


class ReadFileRequest(_Model):
    path: _Path
    encoding: _Text | None = None
    """As for `open`; UTF-8 by default, whatever the sandbox's locale is."""
    errors: _Text | None = None
    """As for `open`; "strict" by default."""


class ReadFileResponse(_Model):
    content: str = ""
    """Exactly what is in the file: line ends stay as they are."""


class WriteFileRequest(_Model):
    """Write a text as UTF-8. Missing parent folders are made."""

    content: str
    path: _Path


class WriteFileResponse(_Model):
    pass


class UploadRequest(_Model):
    """Copy a file or a folder of this machine into the sandbox.

    A folder is merged into the target if that exists. Modes, times, symbolic links and empty folders stay.
    """

    source_path: _Path
    """A file or a folder on the machine of the caller."""
    target_path: _Path
    """What it shall be called in the sandbox."""


class UploadResponse(_Model):
    pass


class CloseResponse(_Model):
    pass


def _action_type(value: Any) -> str:
    """Other clients leave the type out; it is "bash" then."""
    found = (
        value.get("action_type", "bash") if isinstance(value, dict) else getattr(value, "action_type", "bash")
    )
    return found if isinstance(found, str) else ""


# Unions of one member, as long as there is one type of session.
CreateSessionRequest = CreateBashSessionRequest
CreateSessionResponse = CreateBashSessionResponse
CloseSessionRequest = CloseBashSessionRequest
CloseSessionResponse = CloseBashSessionResponse
Observation = BashObservation
Action = Annotated[
    Annotated[BashAction, Tag("bash")] | Annotated[BashInterruptAction, Tag("bash_interrupt")],
    Discriminator(_action_type),
]

OnOutput = Callable[[str], object]
"""Gets a command's output piece by piece while it runs, in the thread that waits for the command."""


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
