"""An interrupt brings the shell back, whatever runs, and harms nothing else."""

from __future__ import annotations

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError, SessionBusyError
from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.tools import (
    CHECKS,
    NotApplicable,
    background,
    equal,
    exists,
    has,
    in_parallel,
    needs,
    new_name,
    next_is_right,
    raised,
    result,
    running,
    scratch,
    true,
    wait_for_file,
    wait_for_pid,
    within,
    write,
)

_IGNORES_SIGNALS = "sh -c 'trap \"\" INT TERM; while :; do sleep 1; done'"


def the_shell_comes_back(session: Session, folder: str) -> None:
    """The command ends with 130, all of it, and the state stays."""
    _time_out(session, "x=5; sleep 60; : > ran\n: > ran")
    with within(5, "the interrupt"):
        observation = session.interrupt()
    equal((observation.exit_code, observation.output.strip()), (130, ""))
    next_is_right(session)
    equal(session.run("echo $x", timeout=10).output, "5\n")
    true(not exists(session.runtime, f"{folder}/ran"), "the rest of the command ran")


def output_since_the_timeout(session: Session, folder: str) -> None:
    """The interrupt returns the output since the timeout."""
    command = "echo a; until [ -e go ]; do sleep 0.05; done; echo b; : > done; sleep 60"
    error = _time_out(session, command, timeout=0.5)
    equal(error.extra_info["output"], "a\n", "the output of the error")
    write(session.runtime, f"{folder}/go")
    wait_for_file(session.runtime, f"{folder}/done")
    equal(session.interrupt().output.rstrip("\n"), "b", "the output of the interrupt")
    next_is_right(session)


def idle_sessions(session: Session) -> None:
    """An interrupt of an idle session does nothing."""
    for command in ("", "x=5; sleep 60 &"):
        session.run(command, timeout=10)
        observation = session.interrupt()
        equal((observation.output, observation.exit_code, observation.failure_reason), ("", 0, ""))
        next_is_right(session)
    equal(session.run("echo $x", timeout=10).output, "5\n")


def other_threads(runtime: AbstractRuntime) -> None:
    """An interrupt from another thread ends the call that waits, as `check` says."""

    def interrupt(check: str) -> None:
        with scratch(runtime) as folder, runtime.session(new_name(), cwd=folder) as session:
            call = background(session.run, "echo a; : > started; sleep 60", check=check)
            wait_for_file(runtime, f"{folder}/started")
            session.interrupt()
            if check == "raise":
                error = raised(NonZeroExitCodeError, result, call)
                equal(error.extra_info["exit_code"], 130, "extra_info['exit_code']")
            else:
                observation = result(call)
                equal(observation.output.rstrip("\n"), "a")
                equal(observation.exit_code, 130 if check == "silent" else None, f"check={check!r}")
            next_is_right(session)

    in_parallel(interrupt, CHECKS)


def commands_that_wait(session: Session, folder: str) -> None:
    """An interrupt does not reach the command that waits for its turn."""
    first = background(session.run, ": > started; sleep 60", check="silent")
    wait_for_file(session.runtime, f"{folder}/started")
    second = background(session.run, "sleep 0.1; echo second")
    session.interrupt()
    equal(result(first).exit_code, 130)
    equal(result(second).output, "second\n")


def commands_of_many_kinds(runtime: AbstractRuntime) -> None:
    """Pipelines, loops, reads, floods, shells and what ignores signals end within 5 s."""
    _end_within_5_s(
        runtime,
        "sleep 60 | cat",
        "(sleep 60; sleep 60)",
        "while :; do :; done",
        "while :; do sleep 0.05; done",
        "read line",
        "sleep 60 & wait",
        "yes",
        "cat",
        "x=$(sleep 60)",
        "f() { sleep 60; }; f",
        "exec sleep 60",
        "exec bash --norc",
        "bash --norc",
        "trap '' INT; sleep 60",
        "trap '' INT TERM; while :; do :; done",
        "sh -c 'trap \"\" INT; while :; do sleep 1; done'",
        _IGNORES_SIGNALS,
    )


def commands_that_change_the_terminal(runtime: AbstractRuntime) -> None:
    """What changes the terminal ends within 5 s."""
    needs(runtime, "stty")
    _end_within_5_s(runtime, "stty intr undef; sleep 60", "stty raw; sleep 60")


def programs_on_the_whole_screen(runtime: AbstractRuntime) -> None:
    """Less, vi and python come back to the shell within 5 s."""
    programs = [c for c in ("less text", "vi text", "python3") if has(runtime, c.split()[0])]
    if not programs:
        raise NotApplicable("the sandbox has no less, no vi and no python3")
    _end_within_5_s(runtime, *programs, *(f"TERM=xterm-256color {program}" for program in programs))


def jobs(session: Session, folder: str) -> None:
    """Jobs of the session survive the interrupt."""
    job = session.run("sleep 600 & echo $!", timeout=10).output.strip()
    for command in ("sleep 600 & echo $! > pid; sleep 60", _IGNORES_SIGNALS):
        _time_out(session, command)
        session.interrupt(timeout=0.1, n_retry=1)
        next_is_right(session)
        true(running(session.runtime, job), f"the job of an earlier command ended with {command!r}")
    job = wait_for_pid(session.runtime, f"{folder}/pid")
    true(running(session.runtime, job), "the job of the same command ended")


def again_and_again(session: Session) -> None:
    """A session takes many timeouts and interrupts, from many threads."""
    for number in range(5):
        _time_out(session, f"echo {number}; sleep 60", timeout=0.1)
        equal(session.interrupt().exit_code, 130)
        equal(session.run(f"echo {number}", timeout=10).output, f"{number}\n")
    _time_out(session, "sleep 60")
    in_parallel(lambda _: session.interrupt(), range(4))
    next_is_right(session)


def expected_output(session: Session, folder: str) -> None:
    """An interrupt ends at an output that is expected, and the program goes on."""
    program = "trap 'echo caught' INT; : > started; while :; do sleep 0.1; done"
    write(session.runtime, f"{folder}/program", program)
    _time_out(session, "bash program")
    wait_for_file(session.runtime, f"{folder}/started")
    equal(session.interrupt(timeout=5, expect=["caught"]).expect_string, "caught")
    raised(SessionBusyError, session.run, "echo N", timeout=10)
    session.interrupt(timeout=0.1, n_retry=1)
    next_is_right(session)


def _time_out(session: Session, command: str, timeout: float = 0.3) -> CommandTimeoutError:
    return raised(CommandTimeoutError, session.run, command, timeout=timeout)


def _end_within_5_s(runtime: AbstractRuntime, *commands: str) -> None:
    """An interrupt brings the shell back from each of these, each in a session of its own."""

    def interrupt(command: str) -> None:
        with scratch(runtime) as folder:
            write(runtime, f"{folder}/text", "text\n" * 500)
            with runtime.session(new_name(), cwd=folder) as session:
                _time_out(session, command, timeout=0.5)
                with within(5, f"the interrupt of {command!r}"):
                    session.interrupt()
                next_is_right(session)

    in_parallel(interrupt, commands)
