"""Survival: a command that ends the shell ends with its status, and the session goes on."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.exceptions import NonZeroExitCodeError
from swerex.runtime.abstract import BashObservation, Session
from tests.util import Check, assert_next_is_right, every_check, every_term, is_running, read_pid, wait_until

# Each command that ends the shell, and the exit code that is left.
ENDINGS = {
    "exit": ("exit 3", 3),
    "exit 0": ("exit 0", 0),
    "exit with the last status": ("false; exit", 1),
    "exit with a large status": ("exit 300", 44),
    "exit in a function": ("f() { exit 4; }; f; echo never", 4),
    "exit in a trap": ("trap 'exit 5' USR1; kill -USR1 $$; echo never", 5),
    "set -e": ("set -e; false; echo never", 1),
    "set -e with a pipeline": ("set -eo pipefail; (exit 6) | cat; echo never", 6),
    "exec true": ("exec true", 0),
    "exec false": ("exec false", 1),
    "exec of a program": ("exec sh -c 'exit 9'", 9),
    "kill -9": ("kill -9 $$; sleep 5", 137),
    "kill -HUP": ("kill -HUP $$; sleep 5", 129),
    "exit with a job": ("sleep 60 & exit 7", 7),
}


@every_term
@pytest.mark.parametrize("which", ENDINGS)
def test_the_session_goes_on_after(session: Session, which: str) -> None:
    command, status = ENDINGS[which]
    observation = session.run(command, timeout=10, check="silent")
    assert observation.exit_code == status
    assert "never" not in observation.output
    assert observation.failure_reason
    assert_next_is_right(session)


@every_check
@pytest.mark.parametrize("command", ["exit 3", "set -e; (exit 3)", "exec sh -c 'exit 3'"])
def test_the_status_of_the_end_is_treated_as_any(session: Session, command: str, check: Check) -> None:
    if check == "raise":
        with pytest.raises(NonZeroExitCodeError) as caught:
            session.run(command, timeout=5, check="raise")
        assert caught.value.extra_info["exit_code"] == 3
    else:
        observation = session.run(command, timeout=5, check=check)
        assert observation.exit_code == (3 if check == "silent" else None)
        assert observation.failure_reason
    assert_next_is_right(session)


@pytest.mark.parametrize("end", ["exit 3", "exec true", "kill -9 $$", "set -e; false"])
def test_output_before_the_end_is_kept(session: Session, end: str) -> None:
    assert session.run(f"echo before; {end}", timeout=5, check="silent").output == "before\n"


def test_the_program_that_takes_the_shells_place_prints(session: Session) -> None:
    observation = session.run("exec echo instead", timeout=5)
    assert (observation.output, observation.exit_code) == ("instead\n", 0)
    assert_next_is_right(session)


def test_set_e_of_an_earlier_command_ends_the_next(session: Session) -> None:
    assert session.run("set -e", timeout=5).failure_reason == ""
    observation = session.run("echo a; false; echo b", timeout=5, check="silent")
    assert (observation.output, observation.exit_code) == ("a\n", 1)
    assert observation.failure_reason
    assert_next_is_right(session)


def test_a_job_that_ignores_signals_does_not_hold_the_end(session: Session) -> None:
    observation = session.run("(trap '' HUP INT TERM; sleep 60) & exit 8", timeout=5, check="silent")
    assert observation.exit_code == 8
    assert_next_is_right(session)


def test_a_subshell_that_ends_is_nothing_special(session: Session) -> None:
    session.run("x=5", timeout=5)
    observation = session.run("(exit 3)", timeout=5, check="silent")
    assert (observation.exit_code, observation.failure_reason) == (3, "")
    assert session.run("echo $x", timeout=5).output == "5\n"


@every_term
@pytest.mark.parametrize("end", ["exit 3", "set -e; false"])
@pytest.mark.parametrize(
    ("leave", "ask", "answer"),
    [
        ("x=$'a\\n  \\'b'", 'printf %s "$x"', "a\n  'b"),
        ("a=(1 '2 3')", 'echo "${#a[@]} ${a[1]}"', "2 2 3\n"),
        ("declare -A m=([k]=v)", "echo ${m[k]}", "v\n"),
        ("f() { echo in f; }", "f", "in f\n"),
        ("alias hi='echo hello'", "hi", "hello\n"),
        ("umask 027", "umask", "0027\n"),
        ("export X='a b'", "sh -c 'echo $X'", "a b\n"),
        ("export X=; unset PAGER", "sh -c 'echo \"${X-unset} ${PAGER-unset}\"'", " unset\n"),
        ("readonly r=5", "echo $r", "5\n"),
        ("mkdir sub; cd sub", 'echo "${PWD##*/}"', "sub\n"),
        ("TERM=vt100", "echo $TERM", "vt100\n"),
        ("mkdir sub; cd sub; cd ..", 'echo "${OLDPWD##*/}"', "sub\n"),
        ("shopt -s extglob\nf() { [[ ab = @(ab|c) ]] && echo yes; }; shopt -u extglob", "f", "yes\n"),
        ("shopt -s extglob", "[[ ab = @(ab|c) ]] && echo yes", "yes\n"),
    ],
    ids=lambda text: text,
)
def test_state_outlives_an_exit(session: Session, end: str, leave: str, ask: str, answer: str) -> None:
    session.run(leave, timeout=5)
    session.run(end, timeout=5, check="silent")
    assert session.run(ask, timeout=5).output == answer


def test_state_of_the_command_that_exits_is_kept(session: Session) -> None:
    session.run("mkdir sub; x=5; f() { echo in f; }; cd sub; exit 3", timeout=5, check="silent")
    assert session.run('echo $x "${PWD##*/}"; f', timeout=5).output == "5 sub\nin f\n"


@every_term
@pytest.mark.parametrize("end", ["exec true", "kill -9 $$"])
def test_the_working_directory_outlives_the_worst(session: Session, end: str) -> None:
    session.run("mkdir sub; cd sub", timeout=5)
    session.run(end, timeout=5, check="silent")
    assert session.run('echo "${PWD##*/}"', timeout=5).output == "sub\n"


@pytest.mark.parametrize("end", ["exit 3", "exec true", "kill -9 $$"])
def test_the_environment_of_the_session_outlives_its_shell(session: Session, end: str, name: str) -> None:
    with session.runtime.session(name + "-env", env={"X": "given"}) as other:
        other.run(end, timeout=5, check="silent")
        assert other.run("echo $X $TERM", timeout=5).output == "given dumb\n"


def test_a_shell_whose_folder_is_gone_is_replaced(session: Session) -> None:
    session.run("mkdir gone; cd gone; rmdir ../gone; exit 3", timeout=5, check="silent")
    assert_next_is_right(session)


def test_an_exit_trap_of_the_users_runs_once(session: Session) -> None:
    session.run("trap 'echo bye >> log' EXIT", timeout=5)
    observation = session.run("exit 3", timeout=5, check="silent")
    assert observation.exit_code == 3
    assert session.run("cat log", timeout=5).output == "bye\n"


def test_an_exit_trap_of_the_users_runs_after_set_e_too(session: Session) -> None:
    session.run("trap 'echo $? >> log' EXIT; x=5", timeout=5)
    session.run("set -e; y=6; (exit 7)", timeout=5, check="silent")
    assert session.run("echo $x $y; cat log", timeout=5).output == "5 6\n7\n"


def test_state_outlives_an_exit_with_a_trap_of_the_users(session: Session) -> None:
    session.run("trap 'true' EXIT; x=5", timeout=5)
    session.run("exit 3", timeout=5, check="silent")
    assert session.run("echo $x", timeout=5).output == "5\n"


def test_a_removed_exit_trap_does_no_harm(session: Session) -> None:
    session.run("trap - EXIT", timeout=5)
    assert session.run("exit 3", timeout=5, check="silent").exit_code == 3
    assert_next_is_right(session)


def test_a_session_outlives_many_shells(session: Session) -> None:
    session.run("n=0; mkdir sub; cd sub", timeout=5)
    for _ in range(10):
        session.run("n=$((n + 1)); exit 3", timeout=5, check="silent")
    assert session.run('echo $n "${PWD##*/}"', timeout=5).output == "10 sub\n"


def test_an_idle_shell_that_is_killed_is_replaced(session: Session) -> None:
    session.run("mkdir sub; cd sub", timeout=5)
    shell = int(session.run("echo $$", timeout=5).output)
    os.kill(shell, signal.SIGKILL)
    wait_until(lambda: not is_running(shell))
    assert_next_is_right(session)
    assert session.run('echo "${PWD##*/}"', timeout=5).output == "sub\n"


def test_a_shell_that_is_killed_under_its_command_is_replaced(session: Session, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(session.run, "echo a; echo $$ > pid; sleep 60", check="silent")
        os.kill(read_pid(tmp_path / "pid"), signal.SIGKILL)
        observation = running.result(timeout=5)
    assert (observation.output, observation.exit_code) == ("a\n", 137)
    assert observation.failure_reason
    assert_next_is_right(session)


def test_a_job_goes_on_when_its_shell_ends(session: Session, tmp_path: Path) -> None:
    session.run("mkfifo go; (trap '' HUP; read x < go; echo late; touch done) & exit 0", timeout=5)
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: (tmp_path / "done").exists())
    assert_next_is_right(session)


def test_the_failure_says_what_happened(session: Session) -> None:
    def end(command: str) -> BashObservation:
        return session.run(command, timeout=5, check="silent")

    assert end("exit 3").failure_reason != end("kill -9 $$; sleep 5").failure_reason
