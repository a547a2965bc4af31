"""Startup files: they are sourced in order, and a file that fails says how and frees the session's name."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError, SessionNotInitializedError
from swerex.runtime.abstract import AbstractRuntime
from tests.util import assert_next_is_right, is_running, read_pid, wait_until

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a startup file, and return its path."""

    def write(text: str) -> str:
        path = tmp_path / f"rc {len(list(tmp_path.iterdir()))} 'ä'.sh"
        path.write_text(text)
        return str(path)

    return write


def assert_name_is_free(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name) as session:
        assert_next_is_right(session)


def test_files_are_sourced_in_order(runtime: AbstractRuntime, name: str, write: Write) -> None:
    files = [write("echo one; x=1; f() { echo in f; }"), write("echo two $x; x=2; alias hi='echo hello'")]
    with runtime.session(name, startup_source=files) as session:
        assert session.output == "one\ntwo 1\n"
        assert_next_is_right(session)
        assert session.run("echo $x; f\nhi", timeout=5).output == "2\nin f\nhello\n"


def test_without_files_there_is_no_output(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name) as session:
        assert session.output == ""


def test_files_see_the_environment_and_the_folder(
    runtime: AbstractRuntime, name: str, write: Write, tmp_path: Path
) -> None:
    file = write("echo $X; pwd -P; echo $TERM")
    with runtime.session(name, startup_source=[file], env={"X": "5"}, cwd=tmp_path) as session:
        assert session.output == f"5\n{tmp_path.resolve()}\ndumb\n"


def test_a_file_that_asks_whether_anybody_talks_to_the_shell(
    runtime: AbstractRuntime, name: str, write: Write
) -> None:
    """As those of many distributions do."""
    guarded = write('case $- in *i*) ;; *) return ;; esac\n[ -z "$PS1" ] && return\nx=set\n')
    with runtime.session(name, startup_source=[guarded]) as session:
        assert session.run("echo $x", timeout=5).output == "set\n"


def test_the_path_of_a_file_may_name_variables(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("echo sourced\n")
    for path in ("~/rc", "$HOME/rc", "${HOME}/rc", "$FOLDER/rc"):
        env = {"HOME": str(tmp_path), "FOLDER": str(tmp_path)}
        with runtime.session(name, startup_source=[path], env=env) as session:
            assert session.output == "sourced\n"


def test_a_file_may_change_the_folder(runtime: AbstractRuntime, name: str, write: Write) -> None:
    with runtime.session(name, startup_source=[write("cd /")], cwd="/tmp") as session:
        assert session.run("pwd", timeout=5).output == "/\n"


def test_a_command_that_fails_in_a_file_is_no_failure(
    runtime: AbstractRuntime, name: str, write: Write
) -> None:
    files = [write("no-such-command\nfalse\nx=5\nreturn 3"), write("y=6; false")]
    with runtime.session(name, startup_source=files) as session:
        assert "no-such-command: command not found" in session.output
        assert session.run("echo $x $y", timeout=5).output == "5 6\n"


def test_a_file_that_is_not_there_is_named(runtime: AbstractRuntime, name: str, write: Write) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        runtime.session(name, startup_source=[write("x=5"), "/tmp/no-such-file"])
    assert_name_is_free(runtime, name)


def test_a_file_with_wrong_syntax_is_refused(runtime: AbstractRuntime, name: str, write: Write) -> None:
    with pytest.raises(BashIncorrectSyntaxError):
        runtime.session(name, startup_source=[write("echo a\nif true; then\n")])
    assert_name_is_free(runtime, name)


@pytest.mark.parametrize(
    "text", ["echo boom; exit 3", "echo boom; exit 0", "echo boom; set -e; false", "echo boom; exec true"]
)
def test_a_file_that_ends_the_shell_is_an_error(
    runtime: AbstractRuntime, name: str, write: Write, text: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(SessionNotInitializedError) as caught:
        runtime.session(name, startup_source=[write(text)])
    assert "boom" in str(caught.value) + str(caught.value.extra_info)
    assert time.monotonic() - begin < 3
    assert_name_is_free(runtime, name)


def test_a_slow_file_is_a_timeout(runtime: AbstractRuntime, name: str, write: Write, tmp_path: Path) -> None:
    file = write(f"echo boom; echo $$ > '{tmp_path}/pid'; sleep 60")
    begin = time.monotonic()
    with pytest.raises(CommandTimeoutError) as caught:
        runtime.session(name, startup_source=[file], startup_timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 2
    assert "boom" in caught.value.extra_info["output"]
    wait_until(lambda: not is_running(read_pid(tmp_path / "pid")))
    assert_name_is_free(runtime, name)


def test_a_file_that_waits_for_input_is_a_timeout(runtime: AbstractRuntime, name: str, write: Write) -> None:
    with pytest.raises(CommandTimeoutError):
        runtime.session(name, startup_source=[write("read line; cat")], startup_timeout=0.3)
    assert_name_is_free(runtime, name)


def test_a_slow_file_within_its_timeout_is_waited_for(
    runtime: AbstractRuntime, name: str, write: Write
) -> None:
    with runtime.session(name, startup_source=[write("sleep 0.3; x=5")]) as session:
        assert session.run("echo $x", timeout=5).output == "5\n"


@pytest.mark.parametrize(
    "text",
    [
        "PS1='$ '; PROMPT_COMMAND='echo PC'",
        "stty echo",
        "exec 2>/dev/null",
        "set -x",
        "set -u",
        "trap 'echo bye' EXIT",
        "trap ':' DEBUG",
        "exec </dev/null",
        "cat <<'EOF'\nlines\nEOF",
        "printf 'no line end'",
        "clear; printf '\\e[2J'",
    ],
)
def test_a_file_may_do_what_a_command_may(
    runtime: AbstractRuntime, name: str, write: Write, text: str
) -> None:
    with runtime.session(name, startup_source=[write(text)]) as session:
        session.run("set +x", timeout=5)
        assert_next_is_right(session)


def test_a_file_counts_for_one_session_only(runtime: AbstractRuntime, name: str, write: Write) -> None:
    with runtime.session(name, startup_source=[write("export X=5")]):
        pass
    with runtime.session(name) as session:
        assert session.run('echo "[$X]"', timeout=5).output == "[]\n"
