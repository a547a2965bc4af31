"""State: what a command leaves in the shell is there for the next one; the environment is the sandbox's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swerex.exceptions import SessionDoesNotExistError, SessionExistsError
from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    BashInterruptAction,
    CloseBashSessionRequest,
    CreateBashSessionRequest,
    Session,
)
from swerex.runtime.remote import RemoteRuntime
from tests.util import every_term, is_running, read_pid, running_server, wait_until

# What one command leaves, what the next one asks, and its answer.
STATES = {
    "a variable": ("x=5", "echo $x", "5\n"),
    "a variable of several lines": ("x=$'a\\n  b\\t\\n'", 'printf %s "$x"', "a\n  b\t\n"),
    "an exported variable": ("export X=5", "sh -c 'echo $X'", "5\n"),
    "a declared variable": ("declare x=5; declare -i n=2+3", "echo $x $n", "5 5\n"),
    "an array": ("a=(1 '2 3' 4)", 'echo "${#a[@]} ${a[1]}"', "3 2 3\n"),
    "an associative array": ("declare -A m=([k]=v)", "echo ${m[k]}", "v\n"),
    "an unset variable": ("x=5; unset x", 'echo "[$x]"', "[]\n"),
    "a function": ("f() { echo in f $1; }", "f a", "in f a\n"),
    "an alias": ("alias hi='echo hello'", "hi you", "hello you\n"),
    "the working directory": ("mkdir sub; cd sub", 'echo "${PWD##*/}"', "sub\n"),
    "the directory before": ("mkdir sub; cd sub; cd ..", 'cd - >/dev/null; echo "${PWD##*/}"', "sub\n"),
    "the directory stack": ("mkdir sub; pushd sub >/dev/null", "popd >/dev/null; ls", "sub\n"),
    "the umask": ("umask 027", "umask", "0027\n"),
    "the status": ("(exit 3)", "echo $?", "3\n"),
    "the status of success": ("true", "echo $?", "0\n"),
    "positional parameters": ("set -- a 'b c'", 'echo "$# $2"', "2 b c\n"),
    "a shell option": ("set -f", "echo *", "*\n"),
    "another shell option": ("shopt -s nullglob", "echo no-such-*", "\n"),
    "a trap": ("trap 'echo USR1' USR1", "kill -USR1 $$", "USR1\n"),
    "a descriptor": ("echo line > file; exec 5< file", "read -u 5 x; echo $x", "line\n"),
    "a limit": ("ulimit -S -c 0", "ulimit -S -c", "0\n"),
    "a job": ("sleep 60 &", "jobs -r %1 >/dev/null && kill %1 && echo killed", "killed\n"),
    "the id of a job": ("sleep 60 & x=$!", "[ $x = $! ] && kill $! && echo killed", "killed\n"),
    "the status of a job": ("(exit 6) &", "wait $! 2>/dev/null; echo $?", "6\n"),
}


@every_term
@pytest.mark.parametrize("which", STATES)
def test_state_passes_on(session: Session, which: str) -> None:
    leave, ask, answer = STATES[which]
    session.run(leave, timeout=5, check="silent")
    assert session.run(ask, timeout=5).output == answer


def test_the_shell_stays_the_same(session: Session) -> None:
    assert session.run("echo $$", timeout=5).output == session.run("echo $$", timeout=5).output


def test_a_job_goes_on_between_commands(session: Session, tmp_path: Path) -> None:
    session.run("mkfifo go; (read x < go; touch done) &", timeout=5)
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: (tmp_path / "done").exists())


def test_a_session_begins_where_it_is_told(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    with runtime.session(name, cwd=tmp_path) as session:
        assert session.run("pwd -P", timeout=5).output == f"{tmp_path.resolve()}\n"


def test_a_folder_that_is_not_there_is_named(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        runtime.session(name, cwd=tmp_path / "no-such-folder")
    runtime.session(name).close()


def test_the_environment_of_a_session_is_added_to(runtime: AbstractRuntime, name: str) -> None:
    env = {"X": "a b\n'\"$y\\", "EMPTY": "", "HOME": "/somewhere", "TEXT": "ä€"}
    with runtime.session(name, env=env) as session:
        assert session.run('printf %s "$X"', timeout=5).output == env["X"]
        assert session.run("echo ${EMPTY-unset}", timeout=5).output == "\n"
        assert session.run("echo $HOME; env | grep TEXT", timeout=5).output == "/somewhere\nTEXT=ä€\n"
        assert session.run("echo $PATH", timeout=5).output == os.environ["PATH"] + "\n"


@pytest.mark.parametrize("variable", ["TERM=dumb", "PAGER=cat", "GIT_PAGER=cat", "MANPAGER=cat"])
def test_terminal_and_pagers_are_set_if_unset(session: Session, variable: str) -> None:
    assert variable in session.run("env", timeout=5).output.splitlines()


def test_terminal_and_pagers_are_kept_if_set(runtime: AbstractRuntime, name: str) -> None:
    env = {"TERM": "xterm-256color", "PAGER": "less", "GIT_PAGER": "less -F", "MANPAGER": ""}
    with runtime.session(name, env=env) as session:
        output = session.run('echo "$TERM,$PAGER,$GIT_PAGER,[$MANPAGER]"', timeout=5).output
    assert output == "xterm-256color,less,less -F,[]\n"


def test_nothing_else_is_in_the_environment(session: Session) -> None:
    ours = {"TERM", "PAGER", "GIT_PAGER", "MANPAGER"}
    shells = {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES"}
    names = session.run("env -0 | cut -z -d= -f1", timeout=5).output.split("\0")
    assert set(filter(None, names)) - set(os.environ) <= ours | shells


def test_a_server_leaves_no_trace_in_the_environment(name: str, tmp_path: Path) -> None:
    # With no locale in its environment, Python sets LC_CTYPE in it (PEP 538).
    env = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    with (
        running_server(tmp_path, env=env) as server,
        RemoteRuntime(auth_token=server.token, host="http://127.0.0.1", port=server.port) as runtime,
        runtime.session(name) as session,
    ):
        names = set(session.run("env | cut -d= -f1", timeout=5).output.split())
    assert names <= {*env, "TERM", "PAGER", "GIT_PAGER", "MANPAGER", "_", "SHLVL", "PWD", "OLDPWD"}


def test_a_name_can_be_used_once(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name), pytest.raises(SessionExistsError, match=name):
        runtime.session(name)


def test_a_name_is_free_again_after_close(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name) as session:
        session.run("x=5", timeout=5)
    with runtime.session(name) as session:
        assert session.run('echo "[$x]"', timeout=5).output == "[]\n"


def test_any_text_can_be_a_name(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(f"{name}/../ä b\n%2f🦖;'\"$(x)") as session:
        assert session.run("echo a", timeout=5).output == "a\n"


def test_a_session_that_is_not_open_is_an_error(runtime: AbstractRuntime, name: str) -> None:
    with pytest.raises(SessionDoesNotExistError, match=name):
        runtime.run_in_session(BashAction(command="echo a", session=name))
    with pytest.raises(SessionDoesNotExistError, match=name):
        runtime.run_in_session(BashInterruptAction(session=name))
    with pytest.raises(SessionDoesNotExistError, match=name):
        runtime.close_session(CloseBashSessionRequest(session=name))


def test_a_session_is_default_unless_it_is_named(runtime: AbstractRuntime) -> None:
    runtime.create_session(CreateBashSessionRequest())
    try:
        assert runtime.run_in_session(BashAction(command="echo a", timeout=5)).output == "a\n"
    finally:
        runtime.close_session(CloseBashSessionRequest())


def test_close_ends_what_runs_in_the_session(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    with runtime.session(name, cwd=tmp_path) as session:
        shell = int(session.run("echo $$", timeout=5).output)
        job = int(session.run("sleep 600 & echo $!", timeout=5).output)
    wait_until(lambda: not is_running(shell) and not is_running(job))


def test_close_ends_a_job_that_ignores_signals(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    with runtime.session(name, cwd=tmp_path) as session:
        session.run("sh -c 'trap \"\" HUP INT TERM; echo $$ > pid; while :; do sleep 1; done' &", timeout=5)
        job = read_pid(tmp_path / "pid")
    wait_until(lambda: not is_running(job))


def test_close_leaves_no_file_behind(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    with (
        running_server(tmp_path, env={**os.environ, "TMPDIR": str(folder)}) as server,
        RemoteRuntime(auth_token=server.token, host="http://127.0.0.1", port=server.port) as runtime,
    ):
        runtime.session(name).close()
        before = set(folder.rglob("*"))
        with runtime.session(name) as session:
            session.run("echo a", timeout=5)
            session.run("exit 0", timeout=5)
        assert set(folder.rglob("*")) == before
