"""Every error reaches the caller as itself, with what a program may want to know, and breaks nothing."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    NonZeroExitCodeError,
    SessionBusyError,
    SessionDoesNotExistError,
    SessionExistsError,
    SessionNotInitializedError,
    SwerexException,
)
from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    BashInterruptAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    Session,
)
from swerex.testing.tools import (
    equal,
    in_parallel,
    new_name,
    next_is_right,
    raised,
    read,
    true,
    upload,
    write,
)

E = TypeVar("E", bound=Exception)


def no_such_session(runtime: AbstractRuntime) -> None:
    """SessionDoesNotExistError [ValueError] for a session that is not open."""
    name = new_name()
    for call, request in (
        (runtime.run_in_session, BashAction(command="echo a", session=name)),
        (runtime.run_in_session, BashInterruptAction(session=name)),
        (runtime.close_session, CloseBashSessionRequest(session=name)),
    ):
        error = _raised(SessionDoesNotExistError, ValueError, call, request)
        true(name in str(error), f"the error does not name the session: {error}")


def session_exists(session: Session) -> None:
    """SessionExistsError [ValueError] for a name that is taken."""
    request = CreateBashSessionRequest(session=session.name)
    error = _raised(SessionExistsError, ValueError, session.runtime.create_session, request)
    true(session.name in str(error), f"the error does not name the session: {error}")
    next_is_right(session)


def session_not_initialized(runtime: AbstractRuntime, folder: str) -> None:
    """SessionNotInitializedError [RuntimeError] for a shell that does not come up."""
    write(runtime, f"{folder}/rc", "echo boom; exit 3")
    arguments: dict[str, Any] = {"startup_source": [f"{folder}/rc"]}
    error = _raised(SessionNotInitializedError, RuntimeError, runtime.session, new_name(), **arguments)
    equal(error.extra_info.get("output"), "boom\n", "extra_info['output']")


def session_busy(session: Session) -> None:
    """SessionBusyError [RuntimeError] for a session whose command still runs."""
    raised(CommandTimeoutError, session.run, "sleep 60", timeout=0.2)
    _raised(SessionBusyError, RuntimeError, session.run, "echo a", timeout=10)


def incorrect_syntax(session: Session) -> None:
    """BashIncorrectSyntaxError [RuntimeError] with bash_stdout and bash_stderr."""
    error = _raised(BashIncorrectSyntaxError, RuntimeError, session.run, "if", timeout=10)
    equal(sorted(error.extra_info), ["bash_stderr", "bash_stdout"], "extra_info")
    next_is_right(session)


def non_zero_exit_code(session: Session) -> None:
    """NonZeroExitCodeError [RuntimeError] with exit_code and output, after error_msg."""
    for call in (
        lambda: session.run("echo ä; (exit 3)", timeout=10, error_msg="It failed"),
        lambda: session.runtime.execute(
            Command(command="echo ä; exit 3", check=True, timeout=10, error_msg="It failed")
        ),
    ):
        error = _raised(NonZeroExitCodeError, RuntimeError, call)
        equal((error.extra_info["exit_code"], error.extra_info["output"]), (3, "ä\n"), "extra_info")
        true(str(error).startswith("It failed"), f"the message does not begin with error_msg: {error}")


def command_timeout(session: Session) -> None:
    """CommandTimeoutError [RuntimeError, TimeoutError] with output."""
    command = Command(command="printf 'a\\377'; sleep 60", timeout=0.3)
    for error in in_parallel(
        lambda call: _raised(CommandTimeoutError, TimeoutError, call),
        [
            lambda: session.run("printf 'a\\xff'; sleep 60", timeout=0.3),
            lambda: session.runtime.execute(command),
        ],
    ):
        true(isinstance(error, RuntimeError), "the error is no RuntimeError")
        equal(error.extra_info["output"], "a\\xff", "extra_info['output']")


def missing_file(runtime: AbstractRuntime, folder: str) -> None:
    """FileNotFoundError with errno and filename."""
    path = f"{folder}/no such ä"
    error = raised(FileNotFoundError, read, runtime, path)
    equal((type(error), error.errno, error.filename), (FileNotFoundError, errno.ENOENT, path))


def folder_as_file(runtime: AbstractRuntime, folder: str) -> None:
    """IsADirectoryError with errno."""
    for call in (lambda: read(runtime, folder), lambda: write(runtime, folder, "a")):
        error = raised(IsADirectoryError, call)
        equal((type(error), error.errno), (IsADirectoryError, errno.EISDIR))


def file_as_folder(runtime: AbstractRuntime, folder: str) -> None:
    """NotADirectoryError with errno."""
    write(runtime, f"{folder}/file")
    error = raised(NotADirectoryError, read, runtime, f"{folder}/file/below")
    equal((type(error), error.errno), (NotADirectoryError, errno.ENOTDIR))


def no_permission(runtime: AbstractRuntime, folder: str) -> None:
    """PermissionError with errno, for a file that is no program."""
    write(runtime, f"{folder}/file", "text")
    error = raised(PermissionError, runtime.execute, Command(command=[f"{folder}/file"], timeout=10))
    equal((type(error), error.errno), (PermissionError, errno.EACCES))


def undecodable_text(runtime: AbstractRuntime, folder: str) -> None:
    """UnicodeDecodeError with encoding, start, end and reason."""
    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "file").write_bytes(b"abc\xff")
        upload(runtime, Path(source) / "file", f"{folder}/file")
    error = raised(UnicodeDecodeError, read, runtime, f"{folder}/file")
    found = (type(error), error.encoding, error.start, error.end, error.reason)
    equal(found, (UnicodeDecodeError, "utf-8", 3, 4, "invalid start byte"))


def unknown_encoding(runtime: AbstractRuntime, folder: str) -> None:
    """LookupError for an encoding that does not exist."""
    write(runtime, f"{folder}/file", "a")
    request = ReadFileRequest(path=f"{folder}/file", encoding="no-such-encoding")
    equal(type(raised(LookupError, runtime.read_file, request)), LookupError)


def unusable_expectation(session: Session) -> None:
    """ValueError for an expect that is no regular expression."""
    action = BashAction(
        command="cat", session=session.name, is_interactive_command=True, expect=["("], timeout=10
    )
    equal(type(raised(ValueError, session.runtime.run_in_session, action)), ValueError)
    next_is_right(session)


def _raised(
    kind: type[E], base: type[Exception], function: Callable[..., object], *args: Any, **kwargs: Any
) -> E:
    """An error of exactly this class, below its base, with an `extra_info` of plain JSON."""
    error = raised(kind, function, *args, **kwargs)
    equal(type(error), kind, "the class of the error")
    true(isinstance(error, base), f"{kind.__name__} is no {base.__name__}")
    assert isinstance(error, SwerexException)
    true(str(error), f"{kind.__name__} has no message")
    json.dumps(error.extra_info)
    return error
