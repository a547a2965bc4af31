"""Timeouts lose nothing, a busy session says so, and an interrupt brings the shell back."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError, SessionBusyError
from swerex.runtime.abstract import AbstractRuntime, Session
from tests.util import (
    PYTHON,
    Check,
    assert_next_is_right,
    every_check,
    every_term,
    is_running,
    needs,
    read_pid,
    wait_until,
)


def time_out(session: Session, command: str, timeout: float = 0.2) -> CommandTimeoutError:
    """Run a command that takes longer, and return the error."""
    with pytest.raises(CommandTimeoutError) as caught:
        session.run(command, timeout=timeout)
    return caught.value


# Timeouts


@every_term
def test_a_timeout_is_an_error_with_the_output(session: Session) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeoutError) as caught:
        session.run("printf 'a\\nb'; sleep 60", timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 1.5
    assert caught.value.extra_info["output"] == "a\nb"
    assert isinstance(caught.value, TimeoutError)


@every_check
def test_a_timeout_is_an_error_for_every_check(session: Session, check: Check) -> None:
    with pytest.raises(CommandTimeoutError):
        session.run("sleep 60", timeout=0.1, check=check)


def test_a_command_within_its_timeout_is_not_touched(session: Session) -> None:
    assert session.run("sleep 0.2; echo a", timeout=10).output == "a\n"


def test_the_command_goes_on_after_its_timeout(session: Session, tmp_path: Path) -> None:
    time_out(session, "mkfifo go; read x < go; echo $x > done")
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text() == "now\n")


# Busy


@every_term
def test_a_session_is_busy_after_a_timeout(session: Session) -> None:
    time_out(session, "sleep 60")
    begin = time.monotonic()
    for _ in range(2):
        with pytest.raises(SessionBusyError):
            session.run("echo N", timeout=5, check="silent")
    assert time.monotonic() - begin < 0.5


def test_a_busy_session_runs_nothing(session: Session, tmp_path: Path) -> None:
    time_out(session, "sleep 60")
    with pytest.raises(SessionBusyError):
        session.run("touch ran", timeout=5)
    session.interrupt()
    assert_next_is_right(session)
    assert not (tmp_path / "ran").exists()


def test_a_busy_session_is_free_when_its_command_ends(session: Session, tmp_path: Path) -> None:
    time_out(session, "mkfifo go; x=5; read y < go; echo late; exit_code=7")
    (tmp_path / "go").write_text("now\n")

    def next_output() -> str:
        try:
            return session.run("echo $x $exit_code", timeout=5).output
        except SessionBusyError:
            return ""

    assert wait_until(next_output) == "5 7\n"
    assert_next_is_right(session)


def test_a_busy_session_is_free_when_its_command_ends_the_shell(session: Session, tmp_path: Path) -> None:
    time_out(session, "mkfifo go; x=5; read y < go; echo late; exit 3")
    (tmp_path / "go").write_text("now\n")

    def next_output() -> str:
        try:
            return session.run("echo $x", timeout=5).output
        except SessionBusyError:
            return ""

    assert wait_until(next_output) == "5\n"
    assert_next_is_right(session)


def test_a_busy_session_can_be_closed(session: Session, name: str, tmp_path: Path) -> None:
    with session.runtime.session(name + "-busy", cwd=tmp_path) as busy:
        time_out(busy, "sh -c 'trap \"\" INT TERM HUP; echo $$ > pid; while :; do sleep 1; done'")
        pid = read_pid(tmp_path / "pid")
    wait_until(lambda: not is_running(pid))


def test_another_session_is_not_busy(session: Session, name: str) -> None:
    time_out(session, "sleep 60")
    with session.runtime.session(name + "-other") as other:
        assert_next_is_right(other)


def test_a_second_thread_waits_for_its_turn(session: Session, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(session.run, "mkfifo go; touch started; read x < go; echo first")
        wait_until(lambda: (tmp_path / "started").exists())
        second = pool.submit(session.run, "echo second")
        assert not wait([second], timeout=0.3).done
        (tmp_path / "go").write_text("now\n")
        assert first.result(timeout=5).output == "first\n"
        assert second.result(timeout=5).output == "second\n"


def test_many_threads_take_turns(session: Session) -> None:
    def count(number: int) -> str:
        return session.run(f"echo {number}; n=$((n + 1))", timeout=20).output

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, range(80))) == [f"{number}\n" for number in range(80)]
    assert session.run("echo $n", timeout=5).output == "80\n"


# Interrupts


@every_term
def test_an_interrupt_brings_the_shell_back(session: Session) -> None:
    time_out(session, "x=5; sleep 60")
    begin = time.monotonic()
    observation = session.interrupt()
    assert time.monotonic() - begin < 1.5
    assert observation.exit_code == 130
    assert observation.output.strip() == ""
    assert_next_is_right(session)
    assert session.run("echo $x", timeout=5).output == "5\n"


def test_an_interrupt_ends_the_whole_command(session: Session, tmp_path: Path) -> None:
    time_out(session, "sleep 60; touch ran\ntouch ran")
    session.interrupt()
    assert_next_is_right(session)
    assert not (tmp_path / "ran").exists()


def test_an_interrupt_returns_the_output_since_the_timeout(session: Session, tmp_path: Path) -> None:
    error = time_out(session, "mkfifo go; echo a; read x < go; echo b; touch done; sleep 60", timeout=0.5)
    assert error.extra_info["output"] == "a\n"
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: (tmp_path / "done").exists())
    assert session.interrupt().output.rstrip("\n") == "b"
    assert_next_is_right(session)


@every_term
def test_an_interrupt_of_an_idle_session_is_nothing(session: Session) -> None:
    session.run("x=5; sleep 60 &", timeout=5)
    observation = session.interrupt()
    assert (observation.output, observation.exit_code, observation.failure_reason) == ("", 0, "")
    assert_next_is_right(session)
    assert session.run("echo $x", timeout=5).output == "5\n"


def test_an_interrupt_of_a_new_session_is_nothing(session: Session) -> None:
    observation = session.interrupt()
    assert (observation.output, observation.exit_code) == ("", 0)
    assert_next_is_right(session)


@every_check
def test_an_action_that_is_interrupted_ends_with_130(session: Session, tmp_path: Path, check: Check) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(session.run, "echo a; touch started; sleep 60", check=check)
        wait_until(lambda: (tmp_path / "started").exists())
        session.interrupt()
        if check == "raise":
            with pytest.raises(NonZeroExitCodeError) as caught:
                running.result(timeout=5)
            assert caught.value.extra_info["exit_code"] == 130
        else:
            observation = running.result(timeout=5)
            assert observation.output.rstrip("\n") == "a"
            assert observation.exit_code == (130 if check == "silent" else None)
    assert_next_is_right(session)


def test_an_interrupt_does_not_reach_the_command_that_waits(session: Session, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(session.run, "touch started; sleep 60", check="silent")
        wait_until(lambda: (tmp_path / "started").exists())
        second = pool.submit(session.run, "sleep 0.1; echo second")
        assert not wait([second], timeout=0.2).done
        session.interrupt()
        assert first.result(timeout=5).exit_code == 130
        assert second.result(timeout=5).output == "second\n"


STUBBORN = {
    "a pipeline": "sleep 60 | cat",
    "a subshell": "(sleep 60; sleep 60)",
    "a busy loop of the shell": "while :; do :; done",
    "a loop of programs": "while :; do sleep 0.05; done",
    "a read of the shell": "read line",
    "a wait of the shell": "sleep 60 & wait",
    "a flood": "yes",
    "a program without input": "cat",
    "a command substitution": "x=$(sleep 60)",
    "a function": "f() { sleep 60; }; f",
    "a shell that ignores INT": "trap '' INT; sleep 60",
    "a loop in a shell that ignores INT": "trap '' INT TERM; while :; do :; done",
    "a program that ignores INT": "sh -c 'trap \"\" INT; while :; do sleep 1; done'",
    "a program that ignores INT and TERM": "sh -c 'trap \"\" INT TERM; while :; do sleep 1; done'",
    "a terminal without an interrupt character": "stty intr undef; sleep 60",
    "a terminal in raw mode": "stty raw; sleep 60",
    "a program in the shell's place": "exec sleep 60",
    "a program with a terminal of its own": "setsid -w sleep 60",
    "a shell in the shell's place": "exec bash --norc",
    "a shell in the shell": "bash --norc",
    "python that sleeps": f"{PYTHON} -c 'import time; time.sleep(60)'",
    "python": PYTHON,
    "less": "less text",
    "vi": "vi text",
}
INTERACTIVE = {
    "python on a terminal with colours": PYTHON,
    "bash on a terminal with colours": "bash --norc",
    "less on a terminal with colours": "less text",
    "vi on a terminal with colours": "vi text",
}


@pytest.fixture(scope="module")
def interrupted(
    runtime: AbstractRuntime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[float]]]:
    """How many seconds the interrupt of each takes; the session is right afterwards.

    They run side by side, since each of them mostly waits.
    """

    # Made here: pytest's factory of folders is not for many threads.
    folders = {which: tmp_path_factory.mktemp("interrupted") for which in [*STUBBORN, *INTERACTIVE]}

    def interrupt(which: str) -> float:
        term = {"TERM": "xterm-256color"} if which in INTERACTIVE else {}
        folder = folders[which]
        (folder / "text").write_text("text\n" * 500)
        with runtime.session(f"interrupted: {which}", env=term, cwd=folder) as session:
            time_out(session, {**STUBBORN, **INTERACTIVE}[which])
            begin = time.monotonic()
            session.interrupt(timeout=0.1, n_retry=1)
            seconds = time.monotonic() - begin
            assert_next_is_right(session)
        return seconds

    with ThreadPoolExecutor(6) as pool:
        yield {which: pool.submit(interrupt, which) for which in [*STUBBORN, *INTERACTIVE]}


@pytest.mark.parametrize("which", [*STUBBORN, *INTERACTIVE])
def test_the_shell_comes_back_within_5_s_from(interrupted: dict[str, Future[float]], which: str) -> None:
    if which.split()[0] in ("less", "vi"):
        needs(which)
    assert interrupted[which].result(timeout=30) < 5


def test_an_interrupt_with_its_defaults_ends_a_stubborn_program_in_5_s(
    session: Session, tmp_path: Path
) -> None:
    time_out(session, "sh -c 'trap \"\" INT TERM; echo $$ > pid; while :; do sleep 1; done'")
    begin = time.monotonic()
    session.interrupt()
    assert time.monotonic() - begin < 5
    assert not is_running(read_pid(tmp_path / "pid"))
    assert_next_is_right(session)


def test_a_program_that_cleans_up_on_ctrl_c_has_its_time(session: Session, tmp_path: Path) -> None:
    program = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('clean')\n"
    (tmp_path / "program.py").write_text(f"open('started', 'w').close()\n{program}")
    time_out(session, f"{PYTHON} program.py")
    wait_until(lambda: (tmp_path / "started").exists())
    assert "clean\n" in session.interrupt(timeout=2).output
    assert_next_is_right(session)


@pytest.mark.parametrize("command", ["sleep 60", "sh -c 'trap \"\" INT TERM; while :; do sleep 1; done'"])
def test_a_job_survives_the_interrupt(session: Session, command: str) -> None:
    job = int(session.run("sleep 600 & echo $!", timeout=5).output)
    time_out(session, command)
    session.interrupt(timeout=0.1, n_retry=1)
    assert_next_is_right(session)
    assert is_running(job)
    assert session.run("jobs -r %1 | grep -c sleep", timeout=5).output == "1\n"


def test_a_job_of_the_same_command_survives_the_interrupt(session: Session, tmp_path: Path) -> None:
    time_out(session, "sleep 600 & echo $! > pid; sleep 60")
    job = read_pid(tmp_path / "pid")
    session.interrupt()
    assert_next_is_right(session)
    assert is_running(job)


def test_an_interrupt_waits_for_an_expected_output(session: Session, tmp_path: Path) -> None:
    program = "import signal, time\nsignal.signal(signal.SIGINT, lambda *_: print('caught', flush=True))\n"
    (tmp_path / "program.py").write_text(f"{program}open('started', 'w').close()\ntime.sleep(60)\n")
    time_out(session, f"{PYTHON} program.py")
    wait_until(lambda: (tmp_path / "started").exists())
    observation = session.interrupt(timeout=2, expect=["caught"])
    assert observation.expect_string == "caught"
    with pytest.raises(SessionBusyError):
        session.run("echo N", timeout=5)
    session.interrupt(timeout=0.1, n_retry=1)
    assert_next_is_right(session)


def test_a_session_takes_many_timeouts_and_interrupts(session: Session) -> None:
    for number in range(10):
        time_out(session, f"echo {number}; sleep 60", timeout=0.05)
        assert session.interrupt().exit_code == 130
        assert session.run(f"echo {number}", timeout=5).output == f"{number}\n"


def test_interrupts_of_many_threads_do_no_harm(session: Session) -> None:
    time_out(session, "sleep 60")
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(session.interrupt) for _ in range(4)]:
            assert future.result(timeout=10).exit_code in (0, 130)
    assert_next_is_right(session)


def test_a_signal_from_outside_ends_the_command(session: Session, tmp_path: Path) -> None:
    time_out(session, "sh -c 'echo $$ > pid; exec sleep 60'")
    os.kill(read_pid(tmp_path / "pid"), signal.SIGTERM)

    def is_free() -> bool:
        try:
            return bool(re.fullmatch("N\n", session.run("echo N", timeout=5).output))
        except SessionBusyError:
            return False

    assert wait_until(is_free)


def test_an_interrupt_works_in_a_program_that_a_script_started_in_the_background() -> None:
    """Such a program ignores Ctrl-C, and what it starts would too."""
    needs("env")
    code = (
        "from swerex.runtime.local import LocalRuntime\n"
        "with LocalRuntime() as runtime, runtime.session() as session:\n"
        "    try: session.run('sleep 60', timeout=0.2)\n"
        "    except TimeoutError: print(session.interrupt(timeout=5).exit_code)\n"
    )
    command = ["sh", "-c", f"{shlex.quote(PYTHON)} -c {shlex.quote(code)} & wait"]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30
    )
    assert result.stdout == "130\n", result.stderr
