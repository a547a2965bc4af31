"""A timeout loses nothing, and a session that is busy says so."""

from __future__ import annotations

from swerex.exceptions import CommandTimeoutError, SessionBusyError
from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.tools import (
    CHECKS,
    equal,
    eventually,
    exists,
    in_parallel,
    new_name,
    next_is_right,
    raised,
    read,
    true,
    wait_for_end,
    wait_for_file,
    wait_for_pid,
    within,
    write,
)


def errors(runtime: AbstractRuntime) -> None:
    """A command that takes too long is a CommandTimeoutError with what it has printed."""

    def time_out(check: str) -> None:
        with runtime.session(new_name()) as session:
            command = "printf 'a\\nb'; sleep 60"
            with within(5, "a timeout of 0.3 s"):
                error = raised(CommandTimeoutError, session.run, command, timeout=0.3, check=check)
            equal(error.extra_info.get("output"), "a\nb", f"extra_info['output'], check={check!r}")

    in_parallel(time_out, CHECKS)


def in_time(session: Session) -> None:
    """A command within its timeout is not touched."""
    equal(session.run("sleep 0.3; echo a", timeout=20).output, "a\n")


def afterwards(session: Session, folder: str) -> None:
    """The command goes on after its timeout."""
    raised(CommandTimeoutError, session.run, _waits("x=now; echo $x > done"), timeout=0.3)
    write(session.runtime, f"{folder}/go")
    wait_for_file(session.runtime, f"{folder}/done")
    _until_free(session)
    equal(read(session.runtime, f"{folder}/done"), "now\n")


def busy(session: Session, folder: str) -> None:
    """A session is busy after a timeout: it says so at once, and runs nothing."""
    raised(CommandTimeoutError, session.run, "sleep 60", timeout=0.3)
    with within(5, "two SessionBusyErrors"):
        for check in ("raise", "silent"):
            raised(SessionBusyError, session.run, ": > ran", timeout=10, check=check)
    session.interrupt()
    next_is_right(session)
    true(not exists(session.runtime, f"{folder}/ran"), "a command ran in a busy session")


def free_again(session: Session, folder: str) -> None:
    """A busy session is free when its command ends, and when that ends the shell."""
    for number, end in enumerate(("true", "exit 3")):
        command = _waits(f"x={number}; echo late; {end}")
        raised(CommandTimeoutError, session.run, command, timeout=0.3)
        write(session.runtime, f"{folder}/go")
        _until_free(session)
        equal(session.run("echo $x; rm go", timeout=10).output, f"{number}\n")


def close(runtime: AbstractRuntime, folder: str) -> None:
    """A busy session can be closed, which ends its command."""
    with runtime.session(new_name(), cwd=folder) as session:
        raised(CommandTimeoutError, session.run, "sh -c 'echo $$ > pid; sleep 60; true'", timeout=0.3)
    wait_for_end(runtime, wait_for_pid(runtime, f"{folder}/pid"))


def other_sessions(session: Session) -> None:
    """Another session is not busy."""
    raised(CommandTimeoutError, session.run, "sleep 60", timeout=0.3)
    with session.runtime.session(new_name()) as other:
        next_is_right(other)


def _waits(then: str) -> str:
    """A command that waits for a file before it does what it does."""
    return f"until [ -e go ]; do sleep 0.05; done; {then}"


def _until_free(session: Session) -> None:
    """Wait for the end of the command of a busy session; the next ones are right."""

    def is_free() -> bool:
        try:
            session.run("true", timeout=10)
        except SessionBusyError:
            return False
        return True

    eventually(is_free, "the session is free")
    next_is_right(session)
