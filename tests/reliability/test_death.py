"""What its callers learn when something dies: the server, a session's shell, all that a server started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

import pytest

from swerex.exceptions import CommandTimeoutError, SandboxDiedError, SwerexException
from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    Session,
    UploadRequest,
)
from swerex.runtime.remote import RemoteRuntime
from swerex.utils.free_port import find_free_port
from tests.reliability.processes import client, descendants, session_folders
from tests.util import Server, is_running, read_pid, running_server, wait_until


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    with running_server(tmp_path) as server:
        yield server


CALLS: dict[str, Callable[[AbstractRuntime, Path], object]] = {
    "run_in_session": lambda runtime, begun: runtime.run_in_session(
        BashAction(command=f"touch {begun}; sleep 60", session="s")
    ),
    "run_in_session with a timeout": lambda runtime, begun: runtime.run_in_session(
        BashAction(command=f"touch {begun}; sleep 60", session="s", timeout=50)
    ),
    "execute": lambda runtime, begun: runtime.execute(Command(command=f"touch {begun}; exec sleep 60")),
    "create_session": lambda runtime, begun: runtime.create_session(
        CreateBashSessionRequest(session="slow", startup_source=[f"{begun}.rc"], startup_timeout=50)
    ),
}
"""Calls that take long, and make a file as soon as the server works on them."""


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_killed_under_a_call(own_server: Server, tmp_path: Path, call: str) -> None:
    begun = tmp_path / "begun"
    Path(f"{begun}.rc").write_text(f"touch {begun}; sleep 60\n")
    runtime = client(own_server)
    runtime.create_session(CreateBashSessionRequest(session="s"))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(CALLS[call], runtime, begun)
        wait_until(begun.exists)
        os.kill(own_server.pid, signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(SandboxDiedError):
            result.result(timeout=10)
        assert time.monotonic() - killed < 3


def test_every_thread_that_waits_learns_of_it(own_server: Server, tmp_path: Path) -> None:
    runtime = client(own_server)
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(runtime.execute, Command(command=f"touch {tmp_path}/{number}; exec sleep 60"))
            for number in range(8)
        ]
        wait_until(lambda: all((tmp_path / f"{number}").exists() for number in range(8)))
        os.kill(own_server.pid, signal.SIGKILL)
        killed = time.monotonic()
        for call in calls:
            with pytest.raises(SandboxDiedError):
                call.result(timeout=10)
        assert time.monotonic() - killed < 3


def test_calls_after_the_death_say_so_soon(own_server: Server, tmp_path: Path) -> None:
    runtime = client(own_server)
    runtime.execute(Command(command=["true"]))
    os.kill(own_server.pid, signal.SIGKILL)
    own_server.process.wait()
    calls: list[Callable[[], object]] = [
        lambda: runtime.execute(Command(command=["true"])),
        lambda: runtime.run_in_session(BashAction(command="true")),
        lambda: runtime.read_file(ReadFileRequest(path="/etc/passwd")),
        lambda: runtime.upload(UploadRequest(source_path=__file__, target_path=f"{tmp_path}/x")),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        begin = time.monotonic()
        for result in [pool.submit(call) for call in calls]:
            with pytest.raises(SandboxDiedError, match=str(own_server.port)):
                result.result()
        assert time.monotonic() - begin < 3
    assert not runtime.is_alive(timeout=1)


def test_closing_the_client_of_a_dead_server_is_no_error(own_server: Server) -> None:
    with client(own_server) as runtime:
        runtime.execute(Command(command=["true"]))
        os.kill(own_server.pid, signal.SIGKILL)
        own_server.process.wait()
        begin = time.monotonic()
    assert time.monotonic() - begin < 3


def test_a_server_that_was_never_there() -> None:
    runtime = RemoteRuntime(auth_token="x", host="http://127.0.0.1", port=find_free_port())
    begin = time.monotonic()
    assert not runtime.is_alive()
    with pytest.raises(SandboxDiedError):
        runtime.execute(Command(command=["true"]))
    assert time.monotonic() - begin < 4


def test_another_server_in_the_place_of_a_dead_one_does_not_run_it_again(tmp_path: Path) -> None:
    """The new server can't know that the command ran already."""
    log, begun = tmp_path / "log", tmp_path / "begun"
    with running_server(tmp_path) as first, ThreadPoolExecutor(1) as pool:
        runtime = client(first)
        call = pool.submit(
            runtime.execute, Command(command=f"echo ran >> {log}; touch {begun}; exec sleep 60")
        )
        wait_until(begun.exists)
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        same = ("--port", str(first.port), "--auth-token", first.token)
        with running_server(tmp_path, *same), pytest.raises(SandboxDiedError):
            call.result(timeout=10)
    assert log.read_text() == "ran\n"


def test_a_killed_server_takes_its_session_folder_along(tmp_path: Path) -> None:
    with running_server(tmp_path) as first:
        client(first).session("s")
        folders = session_folders(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
    assert folders
    with running_server(tmp_path) as second:
        client(second).session("s")  # the next one clears up
        assert not [folder for folder in folders if folder.exists()]


# A session's shell.


def test_a_shell_that_is_killed_under_a_command(session: Session, tmp_path: Path) -> None:
    shell = int(session.run("export KEPT=no; mkdir sub; cd sub; echo $$").output)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(session.run, f"touch {tmp_path}/begun; sleep 60", check="silent")
        wait_until((tmp_path / "begun").exists)
        os.kill(shell, signal.SIGKILL)
        observation = result.result(timeout=3)
    assert observation.exit_code == 128 + signal.SIGKILL
    assert observation.failure_reason
    assert session.run("echo on").output == "on\n"
    assert session.run("pwd").output == f"{tmp_path}/sub\n"


def test_a_shell_that_is_killed_between_commands(session: Session) -> None:
    shell = int(session.run("echo $$").output)
    os.kill(shell, signal.SIGKILL)
    wait_until(lambda: not is_running(shell))
    assert session.run("echo on").output == "on\n"
    assert session.run("echo on").output == "on\n"


def test_what_was_printed_before_the_kill_arrives(session: Session, tmp_path: Path) -> None:
    observation = session.run("printf before; kill -9 $$; printf after", check="silent", timeout=5)
    assert observation.output == "before"
    assert observation.exit_code == 128 + signal.SIGKILL


def test_a_kill_of_one_shell_harms_no_other(runtime: AbstractRuntime, session: Session, name: str) -> None:
    with runtime.session(f"{name}-other") as other, ThreadPoolExecutor(1) as pool:
        result = pool.submit(other.run, "sleep 0.5; echo on")
        session.run("kill -9 $$", check="silent", timeout=5)
        assert result.result(timeout=5).output == "on\n"


# The end of a server.


def test_sigterm_ends_a_server_and_all_that_it_started(own_server: Server, tmp_path: Path) -> None:
    runtime = client(own_server)
    for name in ("foreground", "background", "stubborn"):
        runtime.create_session(CreateBashSessionRequest(session=name))
    pids = [tmp_path / f"{number}.pid" for number in range(5)]
    runtime.run_in_session(
        BashAction(command=f"nohup sleep 300 >/dev/null 2>&1 & echo $! > {pids[0]}", session="background")
    )
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(
                runtime.run_in_session,
                BashAction(command=f"sh -c 'echo $$ > {pids[1]}; exec sleep 300'", session="foreground"),
            ),
            pool.submit(
                runtime.run_in_session,
                BashAction(
                    command=f"trap '' TERM INT HUP; echo $$ > {pids[2]}; while :; do sleep 300; done",
                    session="stubborn",
                ),
            ),
            pool.submit(runtime.execute, Command(command=f"echo $$ > {pids[3]}; exec sleep 300")),
            pool.submit(
                runtime.execute,
                Command(command=f"setsid sh -c 'echo $$ > {pids[4]}; trap \"\" TERM; sleep 300; :' & wait"),
            ),
        ]
        children = {read_pid(path) for path in pids}
        children |= descendants(own_server.pid)
        assert len(children) >= 8
        folders = session_folders(own_server.pid)

        os.kill(own_server.pid, signal.SIGTERM)
        assert own_server.process.wait(timeout=3) == 0
        assert not [pid for pid in children if is_running(pid)]
        assert folders
        assert not [folder for folder in folders if folder.exists()]
        for call in calls:
            # The server may have been able to say how the command ended, or not.
            error = call.exception(timeout=10)
            assert error is None or isinstance(error, SwerexException)


def test_sigterm_ends_an_idle_server(own_server: Server) -> None:
    client(own_server).execute(Command(command=["true"]))
    os.kill(own_server.pid, signal.SIGTERM)
    assert own_server.process.wait(timeout=3) == 0


def test_sigint_ends_a_server(own_server: Server) -> None:
    client(own_server).session("s")
    children = descendants(own_server.pid)
    os.kill(own_server.pid, signal.SIGINT)
    assert own_server.process.wait(timeout=3) == 0
    assert children
    assert not [pid for pid in children if is_running(pid)]


# A server that is stopped, and may go on some time.


@pytest.fixture
def stopped(own_server: Server) -> Iterator[Server]:
    client(own_server).session("s")
    os.kill(own_server.pid, signal.SIGSTOP)
    yield own_server
    os.kill(own_server.pid, signal.SIGCONT)


def test_a_stopped_server_is_not_alive(stopped: Server) -> None:
    runtime = client(stopped)
    begin = time.monotonic()
    assert not runtime.is_alive(timeout=0.3)
    assert not runtime.is_alive()
    assert time.monotonic() - begin < 2


def test_waiting_for_a_stopped_server_ends(stopped: Server) -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        client(stopped).wait_until_alive(timeout=1)
    assert time.monotonic() - begin < 3


def test_a_call_to_a_stopped_server_ends(own_server: Server) -> None:
    runtime = client(own_server)
    with runtime.session("s") as session:
        os.kill(own_server.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises((SandboxDiedError, CommandTimeoutError)):
            session.run("true", timeout=1)
        assert time.monotonic() - begin < 30
        os.kill(own_server.pid, signal.SIGCONT)


def test_a_call_outlives_a_stop_of_the_server(own_server: Server, tmp_path: Path) -> None:
    runtime = client(own_server)
    runtime.execute(Command(command=["true"]))
    os.kill(own_server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(runtime.execute, Command(command=f"echo once | tee -a {tmp_path}/log"))
        with pytest.raises(FutureTimeoutError):
            call.result(timeout=1)
        os.kill(own_server.pid, signal.SIGCONT)
        assert call.result(timeout=10).stdout == "once\n"
    assert (tmp_path / "log").read_text() == "once\n"
