"""Independence: whatever a command does to the shell or its terminal, the next command is right."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from swerex.exceptions import NoExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Session
from tests.util import PYTHON, assert_next_is_right, every_term

DISTURBANCES = {
    "PS1": "PS1='$ '",
    "PS1 with escapes": r"PS1='\[\e[31m\]\u@\h:\w\$ \[\e[0m\]'",
    "PS1 that runs a command": "PS1='$(echo prompt; exit 3)'",
    "PS0 and PS2": "PS0='zero'; PS2='two'",
    "PS4": "PS4='four '",
    "PROMPT_COMMAND": "PROMPT_COMMAND='echo PC'",
    "PROMPT_COMMAND that fails": "PROMPT_COMMAND='false'",
    "PROMPT_COMMAND as an array": "PROMPT_COMMAND=('echo PC1' 'echo PC2')",
    "stty echo": "stty echo",
    "stty raw": "stty raw",
    "stty sane": "stty sane",
    "stty onlcr": "stty opost onlcr",
    "stty intr": "stty intr ^G; stty susp undef",
    "stty tostop": "stty tostop",
    "set -u": "set -u",
    "set -f": "set -f",
    "set -C": "set -C",
    "set -v and back": "set -v\nset +v",
    "set +m": "set +m",
    "set -b": "set -b",
    "set -k": "set -k",
    "set -a": "set -a",
    "set -H": "set -H",
    "set -T": "set -T",
    "set -E with a trap": "set -E; trap ':' ERR",
    "set -o posix": "set -o posix",
    "set -o pipefail": "set -o pipefail",
    "set -o vi": "set -o vi",
    "set -o emacs": "set -o emacs",
    "set -o ignoreeof": "set -o ignoreeof",
    "set -o history": "set -o history",
    "IFS empty": "IFS=",
    "IFS of digits": "IFS=0123456789",
    "trap DEBUG": "trap ':' DEBUG",
    "trap DEBUG that fails": "trap 'false' DEBUG",
    "trap EXIT": "trap 'echo bye' EXIT",
    "trap EXIT removed": "trap - EXIT",
    "trap CHLD": "trap ':' CHLD",
    "trap INT": "trap 'echo INT' INT",
    "traps all ignored": "trap '' INT QUIT TERM TSTP TTIN TTOU PIPE USR1 USR2",
    "extdebug": "shopt -s extdebug",
    "extdebug with a trap": "shopt -s extdebug; trap ':' DEBUG",
    "shopt": "shopt -s nullglob failglob dotglob nocaseglob nocasematch lastpipe xpg_echo globstar",
    "shopt -u": "shopt -u expand_aliases promptvars sourcepath interactive_comments checkwinsize",
    "standard error closed": "exec 2>&-",
    "standard error in a file": "exec 2>errors",
    "standard input empty": "exec </dev/null",
    "standard input from a file": "echo 'echo oops' > lines; exec < lines",
    "a folder that is gone": "mkdir gone; cd gone; rmdir ../gone",
    "HOME and PATH unset": "unset HOME PATH",
    "PATH empty": "PATH=",
    "TERM changed": "export TERM=vt100",
    "TERM of an unknown kind": "export TERM=no-such-terminal",
    "LANG changed": "export LC_ALL=C LANG=C",
    "POSIXLY_CORRECT": "export POSIXLY_CORRECT=1",
    "SHELLOPTS exported": "set -f; export SHELLOPTS",
    "BASHOPTS exported": "shopt -s extglob; export BASHOPTS",
    "BASH_ENV": "echo 'echo noise' > noise; export BASH_ENV=$PWD/noise ENV=$PWD/noise",
    "CDPATH": "export CDPATH=/",
    "GLOBIGNORE": "GLOBIGNORE='*'",
    "TMPDIR that is gone": "export TMPDIR=/no/such/folder",
    "COLUMNS and LINES": "COLUMNS=1 LINES=1",
    "umask 777": "umask 777",
    "nice terminal modes": r"printf '\e[?1049h\e[?2004h\e[?1h' > /dev/null",
    "positional parameters": "set -- a b c",
    "a function cd": 'cd() { builtin cd "$@" && ls; }',
    "functions with the names of builtins": (
        "printf() { echo no; }; source() { echo no; }; eval() { echo no; }; trap() { echo no; };"
        " test() { echo no; }; read() { echo no; }; set() { echo no; }; exit() { echo no; };"
        " return() { echo no; }; declare() { echo no; }; local() { echo no; }"
    ),
    "aliases with the names of builtins": (
        "alias printf='echo no' source='echo no' .='echo no' eval='echo no' trap='echo no' set='echo no'"
    ),
    "all names readonly": 'for v in $(compgen -v); do [ $v = _ ] || readonly "$v"; done 2>/dev/null; :',
    "all functions readonly": "for f in $(compgen -A function); do readonly -f $f; done 2>/dev/null; :",
    "all names unset": 'for v in $(compgen -v); do unset "$v"; done 2>/dev/null; :',
    "all functions unset": "for f in $(compgen -A function); do unset -f $f; done 2>/dev/null; :",
    "all aliases removed": "unalias -a",
    "a stopped job": "sleep 60 & kill -STOP $!",
    "a job that reads the terminal": "cat &",
    "a job that was disowned": "sleep 60 & disown",
    "open descriptors": 'for n in 3 4 5 6 7 8 9 20; do eval "exec $n>/dev/null"; done',
    "a coprocess": "coproc cat",
}


@every_term
@pytest.mark.parametrize("which", DISTURBANCES)
def test_the_next_command_is_right_after(session: Session, which: str) -> None:
    session.run(DISTURBANCES[which], timeout=5, check="silent")
    assert_next_is_right(session)
    observation = session.run("echo a; false", timeout=5, check="silent")
    assert (observation.output, observation.exit_code) == ("a\n", 1)


MUTED = {
    "a builtin that is off": "enable -n printf",
    "a trap that skips commands": "shopt -s extdebug; trap false DEBUG",
}


@pytest.mark.parametrize("which", MUTED)
def test_a_shell_that_can_not_report_any_more_is_replaced(session: Session, which: str) -> None:
    with pytest.raises(NoExitCodeError, match="echo before"):
        session.run(f"echo before; {MUTED[which]}", timeout=10)
    assert_next_is_right(session)


def test_a_shell_that_can_not_report_any_more_is_told_in_the_observation(session: Session) -> None:
    observation = session.run("echo before; enable -n printf", timeout=10, check="silent")
    assert (observation.output, observation.exit_code) == ("before\n", None)
    assert "SIGKILL" in observation.failure_reason


@every_term
def test_a_trace_is_output_and_shows_the_command_only(session: Session) -> None:
    session.run("set -x", timeout=5)
    assert re.fullmatch(r"\++ echo N\nN\n", session.run("echo N", timeout=5).output)
    assert re.fullmatch(r"\++ false\n", session.run("false", timeout=5, check="silent").output)
    assert re.fullmatch(r"\++ set \+x\n", session.run("set +x", timeout=5).output)
    assert_next_is_right(session)


@every_term
def test_a_verbose_shell_shows_the_command_only(session: Session) -> None:
    session.run("set -v", timeout=5)
    assert session.run("echo N", timeout=5).output in ("N\n", "echo N\nN\n")
    session.run("set +v", timeout=5)
    assert_next_is_right(session)


@every_term
def test_a_debug_trap_does_not_see_the_runtime(session: Session) -> None:
    session.run("trap 'echo D' DEBUG", timeout=5)
    assert session.run("echo N", timeout=5).output in ("N\n", "D\nN\n")


@every_term
def test_output_that_goes_into_a_file_leaves_the_session_right(session: Session, tmp_path: Path) -> None:
    session.run("exec 8>&1 > file", timeout=5)
    assert session.run("echo N", timeout=5).output == ""
    session.run("exec >&8 8>&-", timeout=5)
    assert (tmp_path / "file").read_text() == "N\n"
    assert_next_is_right(session)


@every_term
def test_errors_that_go_into_a_file_are_the_commands_only(session: Session, tmp_path: Path) -> None:
    session.run("exec 2>file", timeout=5)
    assert session.run("echo N; echo E >&2", timeout=5).output == "N\n"
    assert (tmp_path / "file").read_text() == "E\n"


@every_term
def test_a_closed_output_leaves_the_session_right(session: Session) -> None:
    session.run("exec 8>&1 >&-", timeout=5)
    assert session.run("echo N 2>/dev/null", timeout=5, check="silent").exit_code == 1
    session.run("exec >&8 8>&-", timeout=5)
    assert_next_is_right(session)


@every_term
@pytest.mark.parametrize("file", [".bashrc", "startup_source"])
def test_the_next_command_is_right_after_an_rc_file_that_sets_the_prompt(
    runtime: AbstractRuntime, name: str, term: str, tmp_path: Path, file: str
) -> None:
    rc = tmp_path / file
    rc.write_text("PS1='\\u$ '\nPROMPT_COMMAND='echo PC'\nset -o vi\nstty echo\nexport PS1\necho hello\n")
    env = {"HOME": str(tmp_path)} | ({} if term == "unset" else {"TERM": term})
    startup_source = [str(rc)] if file == "startup_source" else []
    with runtime.session(name, env=env, startup_source=startup_source) as session:
        assert_next_is_right(session)


def test_the_next_command_is_right_with_prompts_in_the_environment(
    runtime: AbstractRuntime, name: str, tmp_path: Path
) -> None:
    (tmp_path / "noise").write_text("echo noise\n")
    noise = str(tmp_path / "noise")
    env = {
        "PS1": "$ ",
        "PS0": "zero",
        "PS4": "four",
        "PROMPT_COMMAND": "echo PC",
        "BASH_ENV": noise,
        "ENV": noise,
        "POSIXLY_CORRECT": "1",
        "SHELLOPTS": "xtrace:noglob",
        "HISTCONTROL": "",
        "HISTFILE": str(tmp_path / "history"),
        "INPUTRC": noise,
        "GLOBIGNORE": "*",
    }
    with runtime.session(name, env=env) as session:
        session.run("set +x", timeout=5)
        assert_next_is_right(session)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    return folder


@every_term
def test_the_next_command_is_right_inside_and_after_a_venv(session: Session, venv: Path) -> None:
    session.run(f"source {venv}/bin/activate", timeout=5)
    assert_next_is_right(session)
    assert session.run("command -v python", timeout=5).output == f"{venv}/bin/python\n"
    session.run("deactivate", timeout=5)
    assert_next_is_right(session)
    assert session.run('echo "[$VIRTUAL_ENV]"', timeout=5).output == "[]\n"


def test_a_shell_that_logs_idle_users_out_goes_on(session: Session) -> None:
    session.run("TMOUT=1; x=5", timeout=5)
    time.sleep(1.3)  # longer than TMOUT: bash would end itself at its prompt
    assert session.run("echo $x", timeout=5).output == "5\n"
    assert_next_is_right(session)


def test_a_job_that_ends_between_two_commands_is_not_announced(session: Session) -> None:
    session.run("sleep 0.01 & x=$!", timeout=5)
    session.run("while kill -0 $x 2>/dev/null; do sleep 0.01; done", timeout=5)
    assert_next_is_right(session)


def test_a_prompt_of_many_lines_is_not_output(session: Session) -> None:
    session.run("PS1=$'one\\ntwo\\n'; PROMPT_COMMAND='seq 1000'", timeout=5)
    assert_next_is_right(session)


def test_sessions_do_not_see_each_other(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    with runtime.session(name + "-a", cwd=tmp_path) as one, runtime.session(name + "-b", cwd="/") as other:
        one.run("x=1; export y=1; f() { echo f; }; umask 077", timeout=5)
        output = other.run('echo "[$x$y]"; pwd; type f >/dev/null 2>&1 || echo none', timeout=5).output
        assert output == "[]\n/\nnone\n"


def test_a_session_has_a_terminal(session: Session) -> None:
    assert session.run("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo yes", timeout=5).output == "yes\n"


def test_the_terminal_has_a_name(session: Session) -> None:
    assert re.fullmatch(r"/dev/pts/\d+\n", session.run("tty", timeout=5).output)
