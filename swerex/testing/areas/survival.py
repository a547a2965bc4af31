"""A command that ends the shell ends with its status, and the session goes on."""

from __future__ import annotations

from swerex.exceptions import NonZeroExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.tools import (
    background,
    equal,
    new_name,
    next_is_right,
    raised,
    result,
    sh,
    true,
    wait_for_end,
    wait_for_file,
    wait_for_pid,
    write,
)


def exits(session: Session) -> None:
    """After exit, with any status and from anywhere, the session goes on."""
    _ends(session, "exit 3", 3)
    _ends(session, "exit 0", 0)
    _ends(session, "false; exit", 1)
    _ends(session, "exit 300", 44)
    _ends(session, "f() { exit 4; }; f; echo never", 4)
    _ends(session, "trap 'exit 5' USR1; kill -USR1 $$; echo never", 5)


def errexit(session: Session) -> None:
    """After set -e and a command that fails, the session goes on."""
    _ends(session, "set -e; false; echo never", 1)
    _ends(session, "set -eo pipefail; (exit 6) | cat; echo never", 6)


def errexit_of_an_earlier_command(session: Session) -> None:
    """Set -e counts in the commands that follow."""
    equal(session.run("set -e", timeout=10).failure_reason, "")
    observation = session.run("echo a; false; echo b", timeout=10, check="silent")
    equal((observation.output, observation.exit_code), ("a\n", 1))
    next_is_right(session)


def execs(session: Session) -> None:
    """After exec of a program, the session goes on."""
    _ends(session, "exec true", 0)
    _ends(session, "exec false", 1)
    _ends(session, "exec sh -c 'exit 9'", 9)
    equal(session.run("exec echo instead", timeout=10).output, "instead\n")


def kills(session: Session) -> None:
    """After a signal that kills the shell, the session goes on."""
    _ends(session, "kill -9 $$; sleep 5", 137)
    _ends(session, "kill -HUP $$; sleep 5", 129)


def output_before_the_end(session: Session) -> None:
    """The output before the end of the shell is kept."""
    for end in ("exit 3", "exec true", "kill -9 $$; sleep 5", "set -e; false"):
        equal(session.run(f"echo before; {end}", timeout=10, check="silent").output, "before\n", end)


def status_of_the_end(session: Session) -> None:
    """The status of a shell that ends is raised, reported or ignored as any other."""
    for command in ("exit 3", "set -e; (exit 3)", "exec sh -c 'exit 3'"):
        error = raised(NonZeroExitCodeError, session.run, command, timeout=10)
        equal(error.extra_info["exit_code"], 3, f"extra_info['exit_code'] of {command!r}")
        equal(session.run(command, timeout=10, check="silent").exit_code, 3, f"{command!r}, silent")
        equal(session.run(command, timeout=10, check="ignore").exit_code, None, f"{command!r}, ignore")
    next_is_right(session)


def reasons(session: Session) -> None:
    """`failure_reason` tells how the shell ended."""
    exited = session.run("exit 3", timeout=10, check="silent").failure_reason
    killed = session.run("kill -9 $$; sleep 5", timeout=10, check="silent").failure_reason
    true(exited and killed and exited != killed, f"after exit 3: {exited!r}, after kill -9: {killed!r}")
    equal(session.run("(exit 3)", timeout=10, check="silent").failure_reason, "", "after a subshell's end")


def state(session: Session) -> None:
    """Variables, functions, aliases, the umask and the directory outlive an exit."""
    session.run("x=$'a\\n  \\'b'; a=(1 '2 3'); declare -A m=([k]=v); readonly r=5", timeout=10)
    session.run("export X='a b'; unset PAGER; umask 027; mkdir sub; cd sub", timeout=10)
    session.run("f() { echo in f; }; alias hi='echo hello'; y=6; exit 3", timeout=10, check="silent")
    for ask, answer in {
        'printf %s "$x"': "a\n  'b",
        'echo "${#a[@]} ${a[1]} ${m[k]} $r $y"': "2 2 3 v 5 6\n",
        "sh -c 'echo \"$X ${PAGER-unset}\"'": "a b unset\n",
        "umask": "0027\n",
        'echo "${PWD##*/}"': "sub\n",
        "f; hi": "in f\nhello\n",
    }.items():
        equal(session.run(ask, timeout=10).output, answer, ask)


def state_after_errexit(session: Session) -> None:
    """The state outlives set -e and a trap of the user's too."""
    session.run("trap 'echo bye >> log' EXIT; x=5", timeout=10)
    session.run("set -e; y=6; false", timeout=10, check="silent")
    equal(session.run("echo $x $y; cat log", timeout=10).output, "5 6\nbye\n")


def directory_after_the_worst(session: Session) -> None:
    """The working directory outlives exec and kill -9."""
    session.run("mkdir sub; cd sub", timeout=10)
    for end in ("exec true", "kill -9 $$; sleep 5"):
        session.run(end, timeout=10, check="silent")
        equal(session.run('echo "${PWD##*/}"', timeout=10).output, "sub\n", f"after {end!r}")


def directory_that_is_gone(session: Session) -> None:
    """A shell that ends in a deleted directory is replaced."""
    session.run("mkdir gone; cd gone; rmdir ../gone; exit 3", timeout=10, check="silent")
    next_is_right(session)


def environment(runtime: AbstractRuntime) -> None:
    """The env of a session outlives its shells."""
    with runtime.session(new_name(), env={"X": "given"}) as session:
        for end in ("exit 3", "exec true", "kill -9 $$; sleep 5"):
            session.run(end, timeout=10, check="silent")
            equal(session.run("echo $X", timeout=10).output, "given\n", f"after {end!r}")


def many_shells(session: Session) -> None:
    """A session outlives many shells."""
    session.run("n=0", timeout=10)
    for _ in range(10):
        session.run("n=$((n + 1)); exit 3", timeout=10, check="silent")
    equal(session.run("echo $n", timeout=10).output, "10\n")


def kills_from_outside(session: Session, folder: str) -> None:
    """A shell that somebody kills is replaced, when it is idle and under a command."""
    shell = session.run("echo $$", timeout=10).output.strip()
    sh(session.runtime, 'kill -9 "$1"', shell)
    wait_for_end(session.runtime, shell)
    next_is_right(session)
    call = background(session.run, "echo a; echo $$ > pid; sleep 60", check="silent")
    sh(session.runtime, 'kill -9 "$1"', wait_for_pid(session.runtime, f"{folder}/pid"))
    observation = result(call)
    equal((observation.output, observation.exit_code), ("a\n", 137))
    next_is_right(session)


def jobs(session: Session, folder: str) -> None:
    """A job goes on when its shell ends, and does not hold up its end."""
    job = "trap '' HUP INT TERM; until [ -e go ]; do sleep 0.05; done; echo late; : > done"
    observation = session.run(f"({job}) & exit 8", timeout=10, check="silent")
    equal(observation.exit_code, 8)
    write(session.runtime, f"{folder}/go")
    wait_for_file(session.runtime, f"{folder}/done")
    next_is_right(session)


def _ends(session: Session, command: str, status: int) -> None:
    """The command ends the shell with this status, and the session goes on."""
    observation = session.run(command, timeout=20, check="silent")
    equal(observation.exit_code, status, f"the exit code of {command!r}")
    true("never" not in observation.output, f"{command!r} went on: {observation.output!r}")
    true(observation.failure_reason, f"the observation of {command!r} has no failure_reason")
    next_is_right(session)
