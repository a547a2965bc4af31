"""One runtime serves many threads at once, and answers whatever runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from swerex.deployment.abstract import AbstractDeployment
from swerex.exceptions import SessionBusyError, SessionDoesNotExistError, SessionExistsError
from swerex.runtime.abstract import AbstractRuntime, Command, Session
from swerex.testing.tools import (
    background,
    equal,
    eventually,
    exists,
    in_parallel,
    new_name,
    next_is_right,
    raised,
    read,
    result,
    true,
    upload,
    wait_for_file,
    within,
    write,
)


def sessions_in_parallel(runtime: AbstractRuntime) -> None:
    """8 sessions run at once."""

    def work(number: int) -> str:
        with runtime.session(new_name()) as session:
            return session.run(f"sleep 1; echo {number}", timeout=20).output

    with within(5, "'sleep 1' in 8 sessions"):
        equal(in_parallel(work, range(8)), [f"{number}\n" for number in range(8)])


def outputs_in_parallel(runtime: AbstractRuntime) -> None:
    """The outputs of sessions that run at once are not mixed up."""

    def work(number: int) -> None:
        with runtime.session(new_name()) as session:
            for turn in range(10):
                command = f"for i in {{1..300}}; do echo {number} {turn} $i; done"
                expected = "".join(f"{number} {turn} {i}\n" for i in range(1, 301))
                equal(session.run(command, timeout=30).output, expected)

    in_parallel(work, range(8))


def many_threads(runtime: AbstractRuntime) -> None:
    """100 threads on one runtime get their own answers."""

    def work(number: int) -> str:
        return runtime.execute(Command(command=["echo", f"{number}"], timeout=30)).stdout

    equal(in_parallel(work, range(100)), [f"{number}\n" for number in range(100)])


def many_sessions(runtime: AbstractRuntime) -> None:
    """32 threads open, use and close sessions at once."""

    def work(number: int) -> str:
        with runtime.session(new_name()) as session:
            session.run(f"x={number}", timeout=30)
            return session.run("echo $x", timeout=30).output

    equal(in_parallel(work, range(32)), [f"{number}\n" for number in range(32)])


def many_programs(runtime: AbstractRuntime) -> None:
    """16 programs run at once."""
    commands = [Command(command=f"sleep 0.5; echo {number}", timeout=20) for number in range(16)]
    with within(4, "'sleep 0.5' 16 times"):
        outputs = [response.stdout for response in in_parallel(runtime.execute, commands)]
    equal(outputs, [f"{number}\n" for number in range(16)])


def many_files(runtime: AbstractRuntime, folder: str) -> None:
    """16 threads write, upload and read files at once."""

    def work(number: int) -> None:
        text = f"{number}" * 1000
        write(runtime, f"{folder}/{number}", text)
        with tempfile.TemporaryDirectory() as source:
            (Path(source) / "file").write_text(text)
            upload(runtime, source, f"{folder}/uploads {number}")
        equal(read(runtime, f"{folder}/{number}"), text)
        equal(read(runtime, f"{folder}/uploads {number}/file"), text)

    in_parallel(work, range(16))


def is_alive_meanwhile(deployment: AbstractDeployment, folder: str) -> None:
    """`is_alive` answers within a second while 16 sessions run commands."""
    runtime = deployment.runtime

    def work(number: int) -> None:
        with runtime.session(new_name(), cwd=folder) as session:
            session.run(f": > started{number}; until [ -e go ]; do sleep 0.1; done", timeout=30)

    commands = background(in_parallel, work, range(16))
    try:
        eventually(lambda: all(exists(runtime, f"{folder}/started{n}") for n in range(16)), "all started")
        for _ in range(5):
            with within(1, "is_alive"):
                alive = deployment.is_alive(timeout=10)
            true(alive, f"is_alive says: {alive.message}")
    finally:
        write(runtime, f"{folder}/go")
        result(commands)


def turns(session: Session, folder: str) -> None:
    """Threads that use one session take turns."""
    first = background(session.run, ": > started; until [ -e go ]; do sleep 0.05; done; echo first; n=0")
    wait_for_file(session.runtime, f"{folder}/started")
    second = background(in_parallel, lambda _: session.run("n=$((n + 1)); echo second").output, range(16))
    true(not second.done(), "a command ran beside another one of its session")
    write(session.runtime, f"{folder}/go")
    equal(result(first).output, "first\n")
    equal(result(second), ["second\n"] * 16)
    equal(session.run("echo $n", timeout=10).output, "16\n")


def turns_that_do_not_come(session: Session, folder: str) -> None:
    """A command whose turn does not come in time is a SessionBusyError, and is not run."""
    call = background(session.run, ": > started; until [ -e go ]; do sleep 0.05; done")
    wait_for_file(session.runtime, f"{folder}/started")
    raised(SessionBusyError, session.run, ": > ran", timeout=0.3)
    write(session.runtime, f"{folder}/go")
    result(call)
    next_is_right(session)
    true(not exists(session.runtime, f"{folder}/ran"), "it was run after all")


def one_name(runtime: AbstractRuntime) -> None:
    """Of 8 threads that open a session of one name, one succeeds."""
    name = new_name()

    def work(_: int) -> Session | None:
        try:
            return runtime.session(name)
        except SessionExistsError:
            return None

    opened = [session for session in in_parallel(work, range(8)) if session]
    equal(len(opened), 1, "the number of threads that opened it")
    next_is_right(opened[0])
    opened[0].close()


def close_meanwhile(runtime: AbstractRuntime, folder: str) -> None:
    """A call whose session another thread closes ends with SessionDoesNotExistError."""
    with runtime.session(new_name(), cwd=folder) as session:
        call = background(session.run, ": > started; sleep 60")
        wait_for_file(runtime, f"{folder}/started")
    with within(5, "the end of the call"):
        raised(SessionDoesNotExistError, result, call)
