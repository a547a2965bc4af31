"""Startup files are sourced in order; one that fails says how, and frees the session's name."""

from __future__ import annotations

from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError, SessionNotInitializedError
from swerex.runtime.abstract import AbstractRuntime
from swerex.testing.tools import (
    equal,
    in_parallel,
    new_name,
    next_is_right,
    raised,
    true,
    wait_for_end,
    wait_for_pid,
    within,
    write,
)


def order(runtime: AbstractRuntime, folder: str) -> None:
    """Files are sourced in order, and what they leave and print is kept."""
    files = [f"{folder}/one 'ä'.sh", f"{folder}/two.sh"]
    write(runtime, files[0], "echo one; x=1; f() { echo in f; }")
    write(runtime, files[1], "echo two $x; x=2; alias hi='echo hello'; cd /")
    with runtime.session(new_name(), startup_source=files, cwd=folder) as session:
        equal(session.output, "one\ntwo 1\n", "what the files printed")
        next_is_right(session)
        equal(session.run("echo $x; f\nhi; pwd", timeout=10).output, "2\nin f\nhello\n/\n")


def no_files(runtime: AbstractRuntime) -> None:
    """A session without startup files has printed nothing."""
    with runtime.session(new_name()) as session:
        equal(session.output, "")
        next_is_right(session)


def environment(runtime: AbstractRuntime, folder: str) -> None:
    """Files see the session's env and cwd."""
    write(runtime, f"{folder}/rc", "echo $X; pwd -P")
    with runtime.session(new_name(), startup_source=["rc"], env={"X": "5"}, cwd=folder) as session:
        equal(session.output, f"5\n{folder}\n")


def failing_commands(runtime: AbstractRuntime, folder: str) -> None:
    """A command that fails in a file is no failure."""
    write(runtime, f"{folder}/rc", "no-such-command\nfalse\nx=5\nreturn 3")
    with runtime.session(new_name(), startup_source=[f"{folder}/rc"]) as session:
        true("no-such-command: command not found" in session.output, f"it printed {session.output!r}")
        equal(session.run("echo $x", timeout=10).output, "5\n")


def disturbances(runtime: AbstractRuntime, folder: str) -> None:
    """Files may set prompts, options, traps and redirections."""
    for text in (
        "PS1='$ '; PROMPT_COMMAND='echo PC'; set -o vi; export PS1",
        "exec 2>/dev/null",
        "set -u",
        "trap 'echo bye' EXIT",
        "trap ':' DEBUG",
        "exec </dev/null",
        "cat <<'EOF'\nlines\nEOF",
        "printf 'no line end'",
    ):
        write(runtime, f"{folder}/rc", text)
        with runtime.session(new_name(), startup_source=[f"{folder}/rc"]) as session:
            next_is_right(session)


def missing_files(runtime: AbstractRuntime, folder: str) -> None:
    """A file or a cwd that is not there is a FileNotFoundError that names it."""
    write(runtime, f"{folder}/rc", "x=5")
    files = [f"{folder}/rc", f"{folder}/no-such-file"]
    _fails(runtime, FileNotFoundError, "no-such-file", startup_source=files)
    _fails(runtime, FileNotFoundError, "no-such-folder", cwd=f"{folder}/no-such-folder")


def wrong_syntax(runtime: AbstractRuntime, folder: str) -> None:
    """A file that bash can't parse is a BashIncorrectSyntaxError."""
    write(runtime, f"{folder}/rc", "echo a\nif true; then\n")
    _fails(runtime, BashIncorrectSyntaxError, "rc", startup_source=[f"{folder}/rc"])


def ends_of_the_shell(runtime: AbstractRuntime, folder: str) -> None:
    """A file that ends the shell is a SessionNotInitializedError with its output."""
    for end in ("exit 3", "exit 0", "set -e; false", "exec true"):
        write(runtime, f"{folder}/rc", f"echo boom; {end}")
        with within(5, f"the error of {end!r}"):
            _fails(runtime, SessionNotInitializedError, "boom", startup_source=[f"{folder}/rc"])


def slow_files(runtime: AbstractRuntime, folder: str) -> None:
    """A file that takes too long is a CommandTimeoutError, and is ended."""
    write(runtime, f"{folder}/rc", f"echo boom; echo $$ > '{folder}/pid'; sleep 60")
    write(runtime, f"{folder}/reads", "read line; cat")

    def fail(file: str) -> None:
        path = f"{folder}/{file}"
        _fails(runtime, CommandTimeoutError, path, startup_source=[path], startup_timeout=0.5)

    with within(5, "the errors for startup_timeout=0.5"):
        in_parallel(fail, ["rc", "reads"])
    wait_for_end(runtime, wait_for_pid(runtime, f"{folder}/pid"))


def _fails(runtime: AbstractRuntime, kind: type[Exception], text: str, **arguments: object) -> None:
    """A session can't be opened, the error names the text, and the name of the session is free again."""
    name = new_name()
    error = raised(kind, runtime.session, name, **arguments)
    true(text in str(error), f"{text!r} is not in the error: {error}")
    with runtime.session(name) as session:
        next_is_right(session)
