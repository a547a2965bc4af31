"""What the methods of a runtime take and return.

All sizes are in bytes and all times in seconds. The models travel as JSON between a
:class:`~swerex.runtime.remote.RemoteRuntime` and its server, so their fields are part of the wire protocol.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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

__all__ = [
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
    """Regular expressions, as pexpect's: the earliest match in the output counts. Of an ordinary command it
    ends the wait too; then the exit code is None, and what goes on is a program to talk to."""
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
    """128 + N for a command that signal N ended. None for `check="ignore"`, and for an ordinary command that
    was only waited for until it printed what was expected."""
    failure_reason: str = ""
    """What happened to the shell itself, when the command took it along."""
    expect_string: str = ""
    """Which of the action's `expect` was found. What it matched is not in `output`."""
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
