"""What a command leaves in the shell is there for the next one, and the environment is the sandbox's own."""

from __future__ import annotations

import os

from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    CloseBashSessionRequest,
    CreateBashSessionRequest,
    Session,
)
from swerex.testing.tools import (
    equal,
    new_name,
    next_is_right,
    sh,
    true,
    wait_for_end,
    wait_for_file,
    wait_for_pid,
    write,
)

_SERVERS = {"PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "SWEREX_AUTH_TOKEN", "SWEREX_LEASE"}
"""What a server may be started with, and its sandbox must not see."""


def variables(session: Session) -> None:
    """Variables pass on, exported, declared and of several lines."""
    _passes_on(session, "x=5; y=6; unset y", 'echo "$x ${y-unset}"', "5 unset\n")
    _passes_on(session, "x=$'a\\n  b\\t\\n'", 'printf %s "$x"', "a\n  b\t\n")
    _passes_on(session, "export X=5", "sh -c 'echo $X'", "5\n")
    _passes_on(session, "declare x=5; declare -i n=2+3", "echo $x $n", "5 5\n")


def arrays(session: Session) -> None:
    """Arrays and associative arrays pass on."""
    _passes_on(session, "a=(1 '2 3' 4)", 'echo "${#a[@]} ${a[1]}"', "3 2 3\n")
    _passes_on(session, "declare -A m=([k]=v)", "echo ${m[k]}", "v\n")


def functions_and_aliases(session: Session) -> None:
    """Functions and aliases pass on."""
    _passes_on(session, "f() { echo in f $1; }", "f a", "in f a\n")
    _passes_on(session, "alias hi='echo hello'", "hi you", "hello you\n")


def working_directory(session: Session) -> None:
    """The working directory, the one before and the stack pass on."""
    _passes_on(session, "mkdir sub; cd sub", 'echo "${PWD##*/}"', "sub\n")
    _passes_on(session, "cd ..", 'cd - >/dev/null; echo "${PWD##*/}"; cd ..', "sub\n")
    _passes_on(session, "pushd sub >/dev/null", "popd >/dev/null; ls", "sub\n")


def status(session: Session) -> None:
    """$? and positional parameters pass on."""
    _passes_on(session, "(exit 3)", "echo $?", "3\n")
    _passes_on(session, "true", "echo $?", "0\n")
    _passes_on(session, "set -- a 'b c'", 'echo "$# $2"', "2 b c\n")


def settings(session: Session) -> None:
    """The umask, options, traps, limits and open files pass on."""
    _passes_on(session, "umask 027", "umask", "0027\n")
    _passes_on(session, "set -f", "echo *; set +f", "*\n")
    _passes_on(session, "shopt -s nullglob", "echo no-such-*", "\n")
    _passes_on(session, "trap 'echo USR1' USR1", "kill -USR1 $$", "USR1\n")
    _passes_on(session, "ulimit -S -c 0", "ulimit -S -c", "0\n")
    _passes_on(session, "echo line > file; exec 5< file", "read -u 5 x; echo $x", "line\n")


def jobs(session: Session) -> None:
    """Jobs, their ids and their statuses pass on."""
    _passes_on(session, "sleep 60 &", "jobs -r %1 >/dev/null && kill %1 && echo killed", "killed\n")
    _passes_on(session, "sleep 60 & x=$!", "[ $x = $! ] && kill $! && echo killed", "killed\n")
    _passes_on(session, "(exit 6) &", "wait $! 2>/dev/null; echo $?", "6\n")


def a_job_in_between(session: Session, folder: str) -> None:
    """A job goes on between commands."""
    session.run("(until [ -e go ]; do sleep 0.05; done; : > done) &", timeout=10)
    write(session.runtime, f"{folder}/go")
    wait_for_file(session.runtime, f"{folder}/done")


def the_same_shell(session: Session) -> None:
    """One shell runs all commands of a session."""
    first = session.run("echo $$", timeout=10).output
    true(first.strip().isdigit(), f"$$ is {first!r}")
    equal(session.run("echo $$", timeout=10).output, first)


def beginning(runtime: AbstractRuntime, folder: str) -> None:
    """A session begins in its cwd, with its env added to the sandbox's environment."""
    env = {"X": "a b\n'\"$y\\", "EMPTY": "", "HOME": "/somewhere", "TEXT": "ä€"}
    with runtime.session(new_name(), env=env, cwd=folder) as session:
        equal(session.run("pwd -P", timeout=10).output, f"{folder}\n")
        equal(session.run('printf %s "$X"', timeout=10).output, env["X"])
        equal(session.run("echo ${EMPTY-unset} $HOME $TEXT", timeout=10).output, "/somewhere ä€\n")
        equal(session.run('echo "$PATH"', timeout=10).output, sh(runtime, 'echo "$PATH"').stdout, "PATH")


def terminal_and_pagers(session: Session) -> None:
    """TERM is dumb and the pagers are cat, where the sandbox sets no other."""
    for name, default in {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}.items():
        expected = sh(session.runtime, f'echo "${{{name}-{default}}}"').stdout
        true(expected, "echo prints nothing")
        equal(session.run(f"sh -c 'echo ${name}'", timeout=10).output, expected, name)


def terminal_and_pagers_that_are_given(runtime: AbstractRuntime) -> None:
    """TERM and the pagers of a session's env are kept."""
    env = {"TERM": "xterm-256color", "PAGER": "less", "GIT_PAGER": "less -F", "MANPAGER": ""}
    with runtime.session(new_name(), env=env) as session:
        output = session.run('echo "$TERM,$PAGER,$GIT_PAGER,[$MANPAGER]"', timeout=10).output
    equal(output, "xterm-256color,less,less -F,[]\n")


def environment(session: Session) -> None:
    """The environment is the sandbox's own, without a variable of the server's."""
    here = set(session.run("compgen -e", timeout=10).output.split())
    there = set(sh(session.runtime, "bash -c 'compgen -e'").stdout.split())
    shells = {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES"}
    true("PATH" in here and "PATH" in there, "there is no PATH")
    equal(here - there - shells - {"TERM", "PAGER", "GIT_PAGER", "MANPAGER"}, set(), "only in the session")
    equal(there - here - shells, set(), "not in the session")
    equal((here | there) & _SERVERS - set(os.environ), set(), "left there by the server")


def names_of_sessions(runtime: AbstractRuntime) -> None:
    """Any text can be the name of a session."""
    with runtime.session(f"{new_name()}/../ä b\n%2f🦖;'\"$(x)") as session:
        next_is_right(session)


def names_that_are_free_again(runtime: AbstractRuntime) -> None:
    """A name can be used again after close, and nothing is left of its last session."""
    name = new_name()
    with runtime.session(name) as session:
        session.run("x=5", timeout=10)
    with runtime.session(name) as session:
        equal(session.run('echo "[$x]"', timeout=10).output, "[]\n")


def default_session(runtime: AbstractRuntime) -> None:
    """Requests that name no session mean the one called default."""
    runtime.create_session(CreateBashSessionRequest())
    try:
        equal(runtime.run_in_session(BashAction(command="echo a", timeout=10)).output, "a\n")
        equal(runtime.run_in_session(BashAction(command="echo b", session="default")).output, "b\n")
    finally:
        runtime.close_session(CloseBashSessionRequest())


def close(runtime: AbstractRuntime, folder: str) -> None:
    """`close` ends all that runs in a session, also what ignores signals."""
    with runtime.session(new_name(), cwd=folder) as session:
        pids = session.run("sleep 600 & echo $$ $!", timeout=10).output.split()
        stubborn = "sh -c 'trap \"\" HUP INT TERM; echo $$ > pid; while :; do sleep 1; done' &"
        session.run(stubborn, timeout=10)
        pids.append(wait_for_pid(runtime, f"{folder}/pid"))
    equal(len(pids), 3, "the number of processes")
    for pid in pids:
        wait_for_end(runtime, pid)


def _passes_on(session: Session, leave: str, ask: str, answer: str) -> None:
    """What one command leaves, the next one finds."""
    session.run(leave, timeout=10, check="silent")
    equal(session.run(ask, timeout=10).output, answer, f"{ask!r} after {leave!r}")
