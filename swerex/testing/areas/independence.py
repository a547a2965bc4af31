"""Whatever a command does to the shell, its terminal or its environment, the next command is right."""

from __future__ import annotations

import re

from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.tools import (
    NotApplicable,
    equal,
    in_parallel,
    needs,
    new_name,
    next_is_right,
    read,
    scratch,
    true,
)

_BUILTINS = ["printf", "source", "eval", "trap", "test", "read", "set", "exit", "return", "declare", "local"]


def prompts(runtime: AbstractRuntime) -> None:
    """Prompts and PROMPT_COMMAND are not output."""
    _disturb(
        runtime,
        "PS1='$ '",
        r"PS1='\[\e[31m\]\u@\h:\w\$ \[\e[0m\]'",
        "PS1='$(echo prompt; exit 3)'",
        "PS1=$'one\\ntwo\\n'; PROMPT_COMMAND='seq 1000'",
        "PS0='zero'; PS2='two'; PS4='four '",
        "PROMPT_COMMAND='echo PC'",
        "PROMPT_COMMAND='false'",
        "PROMPT_COMMAND=('echo PC1' 'echo PC2')",
    )


def terminal_settings(runtime: AbstractRuntime) -> None:
    """Changes of the terminal's settings do no harm."""
    needs(runtime, "stty")
    settings = ["echo", "raw", "sane", "opost onlcr", "tostop", "intr ^G; stty susp undef"]
    _disturb(runtime, *(f"stty {setting}" for setting in settings))


def shell_options(runtime: AbstractRuntime) -> None:
    """Options of set and shopt do no harm."""
    _disturb(
        runtime,
        *(f"set -{option}" for option in "ufCbkaHT"),
        "set -v\nset +v",
        "set +m",
        *(f"set -o {option}" for option in ("posix", "pipefail", "vi", "emacs", "history", "ignoreeof")),
        "shopt -s nullglob failglob dotglob nocaseglob nocasematch lastpipe xpg_echo globstar",
        "shopt -u expand_aliases promptvars sourcepath interactive_comments checkwinsize",
    )


def traces(session: Session) -> None:
    """A trace shows the command and nothing of the runtime."""
    session.run("set -x", timeout=10)
    output = session.run("echo N", timeout=10).output
    true(re.fullmatch(r"\++ echo N\nN\n", output), f"the trace of 'echo N' is {output!r}")
    session.run("set +x", timeout=10)
    next_is_right(session)


def traps(runtime: AbstractRuntime) -> None:
    """Traps of every kind do no harm."""
    _disturb(
        runtime,
        "trap ':' DEBUG",
        "trap 'false' DEBUG",
        "shopt -s extdebug",
        "shopt -s extdebug; trap ':' DEBUG",
        "set -E; trap ':' ERR",
        "trap 'echo bye' EXIT",
        "trap - EXIT",
        "trap ':' CHLD",
        "trap 'echo INT' INT",
        "trap '' INT QUIT TERM TSTP TTIN TTOU PIPE USR1 USR2",
    )


def redirections(runtime: AbstractRuntime) -> None:
    """Redirections of the shell itself do no harm."""
    _disturb(
        runtime,
        "exec 2>&-",
        "exec 2>errors",
        "exec </dev/null",
        "echo 'echo oops' > lines; exec < lines",
        'for n in 3 4 5 6 7 8 9 20; do eval "exec $n>/dev/null"; done',
    )


def output_into_a_file(session: Session, folder: str) -> None:
    """A shell that prints into a file prints just the commands' output there."""
    session.run("exec 8>&1 > file", timeout=10)
    equal(session.run("echo N", timeout=10).output, "")
    session.run("exec >&8 8>&-", timeout=10)
    equal(read(session.runtime, f"{folder}/file"), "N\n", "the file")
    next_is_right(session)


def folders_that_are_gone(runtime: AbstractRuntime) -> None:
    """A working directory that is deleted does no harm."""
    _disturb(runtime, "mkdir gone; cd gone; rmdir ../gone")


def environments(runtime: AbstractRuntime) -> None:
    """Variables that programs and bash heed may be set or unset."""
    _disturb(
        runtime,
        "unset HOME PATH",
        "PATH=",
        "IFS=",
        "IFS=0123456789",
        "export TERM=no-such-terminal",
        "export LC_ALL=C LANG=C",
        "export POSIXLY_CORRECT=1",
        "set -f; export SHELLOPTS",
        "shopt -s extglob; export BASHOPTS",
        "echo 'echo noise' > noise; export BASH_ENV=$PWD/noise ENV=$PWD/noise",
        "export CDPATH=/",
        "GLOBIGNORE='*'",
        "export TMPDIR=/no/such/folder",
        "COLUMNS=1 LINES=1",
    )


def umasks(runtime: AbstractRuntime) -> None:
    """A umask that forbids everything does no harm."""
    _disturb(runtime, "umask 777")


def names_of_builtins(runtime: AbstractRuntime) -> None:
    """Functions and aliases may have the names of builtins."""
    _disturb(
        runtime,
        "; ".join(f"{name}() {{ echo no; }}" for name in _BUILTINS),
        f"alias {' '.join(f'{name}=' + repr('echo no') for name in [*_BUILTINS, 'builtin', '.'])}",
        'cd() { builtin cd "$@" && ls; }',
    )


def names_of_the_runtime(runtime: AbstractRuntime) -> None:
    """All variables and functions may be made read-only, or unset."""
    _disturb(
        runtime,
        'for v in $(compgen -v); do [ $v = _ ] || readonly "$v"; done 2>/dev/null; :',
        "for f in $(compgen -A function); do readonly -f $f; done 2>/dev/null; :",
        'for v in $(compgen -v); do unset "$v"; done 2>/dev/null; :',
        "for f in $(compgen -A function); do unset -f $f; done; unalias -a",
        "set -- a b c",
    )


def jobs(runtime: AbstractRuntime) -> None:
    """Jobs that are stopped, disowned, read the terminal or end do no harm."""
    _disturb(
        runtime,
        "sleep 60 & kill -STOP $!",
        "cat &",
        "sleep 60 & disown",
        "coproc cat",
        "sleep 0.01 & x=$!; while kill -0 $x 2>/dev/null; do sleep 0.01; done",
    )


def environment_of_the_session(runtime: AbstractRuntime) -> None:
    """Prompts, options and startup files that come with the environment do no harm."""
    with scratch(runtime) as folder:
        env = {
            "PS1": "$ ",
            "PS0": "zero",
            "PROMPT_COMMAND": "echo PC",
            "BASH_ENV": f"{folder}/noise",
            "ENV": f"{folder}/noise",
            "POSIXLY_CORRECT": "1",
            "SHELLOPTS": "xtrace:noglob",
            "HISTFILE": f"{folder}/history",
            "GLOBIGNORE": "*",
        }
        with runtime.session(new_name(), env=env, cwd=folder) as session:
            session.run("set +x", timeout=10)
            next_is_right(session)


def virtual_environments(session: Session, folder: str) -> None:
    """A Python venv may be activated and left."""
    needs(session.runtime, "python3")
    if session.run("python3 -m venv --without-pip v", timeout=60, check="silent").exit_code:
        raise NotApplicable("python3 of the sandbox can't make a venv")
    session.run("source v/bin/activate", timeout=10)
    next_is_right(session)
    equal(session.run("command -v python", timeout=10).output, f"{folder}/v/bin/python\n")
    session.run("deactivate", timeout=10)
    next_is_right(session)
    equal(session.run('echo "[$VIRTUAL_ENV]"', timeout=10).output, "[]\n")


def other_sessions(runtime: AbstractRuntime) -> None:
    """Sessions do not see each other's state."""
    with runtime.session(new_name(), cwd="/dev") as one, runtime.session(new_name(), cwd="/") as other:
        one.run("x=1; export y=1; f() { echo f; }; umask 077", timeout=10)
        output = other.run('echo "[$x$y]"; pwd; type f >/dev/null 2>&1 || echo none', timeout=10).output
        equal(output, "[]\n/\nnone\n")


def a_terminal(session: Session) -> None:
    """A session has a terminal."""
    equal(session.run("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo yes", timeout=10).output, "yes\n")


def _disturb(runtime: AbstractRuntime, *commands: str) -> None:
    """The next command is right after each of these, each in a session of its own."""

    def disturb(command: str) -> None:
        with scratch(runtime) as folder, runtime.session(new_name(), cwd=folder) as session:
            session.run(command, timeout=20, check="silent")
            next_is_right(session)
            observation = session.run("echo a; false", timeout=10, check="silent")
            equal(
                (observation.output, observation.exit_code), ("a\n", 1), f"after {command!r}: echo a; false"
            )

    in_parallel(disturb, commands)
