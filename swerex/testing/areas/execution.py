"""execute() runs a program outside of any session, and leaves nothing of it behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Command, CommandResponse, Session
from swerex.testing.tools import (
    background,
    equal,
    eventually,
    exists,
    in_parallel,
    needs,
    raised,
    result,
    scratch,
    sh,
    true,
    upload,
    wait_for_end,
    wait_for_file,
    wait_for_pid,
    within,
    write,
)


def lists(runtime: AbstractRuntime) -> None:
    """A list is a program and its arguments, which arrive as they are."""
    arguments = ["a b", "$HOME", "", "'\"\\", "ä€", "*", "\t\n", "\x03"]
    response = runtime.execute(Command(command=["printf", "[%s]", *arguments], timeout=10))
    equal(response.stdout, "".join(f"[{argument}]" for argument in arguments))
    equal((response.stderr, response.exit_code), ("", 0))


def strings(runtime: AbstractRuntime) -> None:
    """A string is a line for the shell, unless shell=False."""
    response = _execute(runtime, "x=5; echo $x | cat; echo e >&2; exit 3")
    equal((response.stdout, response.stderr, response.exit_code), ("5\n", "e\n", 3))
    equal(_execute(runtime, "true", shell=False).exit_code, 0)
    raised(FileNotFoundError, _execute, runtime, "echo $x", shell=False)


def missing_programs(runtime: AbstractRuntime) -> None:
    """A missing program is a FileNotFoundError, and in a shell the exit code 127."""
    error = raised(FileNotFoundError, _execute, runtime, ["no-such-program", "x"])
    true("no-such-program" in str(error), f"the error does not name it: {error}")
    response = _execute(runtime, "no-such-program")
    equal(response.exit_code, 127)
    true("no-such-program" in response.stderr, f"stderr does not name it: {response.stderr!r}")


def folders(runtime: AbstractRuntime, folder: str) -> None:
    """The program runs in its `cwd`; a missing one is an error that names it."""
    equal(_execute(runtime, "pwd -P", cwd=folder).stdout, f"{folder}\n")
    write(runtime, f"{folder}/a-file")
    for kind, name in ((FileNotFoundError, "no-such-folder"), (NotADirectoryError, "a-file")):
        error = raised(kind, _execute, runtime, ["true"], cwd=f"{folder}/{name}")
        true(name in str(error), f"the error does not name {name}: {error}")


def environments(runtime: AbstractRuntime) -> None:
    """`env` is added to the sandbox's environment, for this call only."""
    path = _execute(runtime, 'printf %s "$PATH"').stdout
    env = {"X_OF_A_CHECK": "a b\n'$y", "EMPTY": ""}
    response = _execute(runtime, 'printf "%s,%s,%s" "$X_OF_A_CHECK" "${EMPTY-unset}" "$PATH"', env=env)
    equal(response.stdout, f"{env['X_OF_A_CHECK']},,{path}")
    equal(_execute(runtime, "echo ${X_OF_A_CHECK-unset}").stdout, "unset\n", "in the next call")


def own_programs(runtime: AbstractRuntime) -> None:
    """The python3 of the sandbox is the image's own, and undisturbed."""
    needs(runtime, "python3")
    program = "import sys; print(sys.executable, sys.prefix)"
    script = 'env -i PATH="$PATH" HOME="$HOME" python3 -c "$1"; python3 -c "$1"'
    alone, here = sh(runtime, script, program).stdout.splitlines()
    equal(here, alone, "python3, compared with env -i python3")


def input_is_empty(runtime: AbstractRuntime) -> None:
    """Standard input is empty."""
    response = _execute(runtime, "cat; read x || echo end")
    equal((response.stdout, response.exit_code), ("end\n", 0))


def statuses(runtime: AbstractRuntime) -> None:
    """The exit code is reported; that of signal N is 128 + N."""
    equal(_execute(runtime, ["sh", "-c", "exit 7"]).exit_code, 7)
    equal(_execute(runtime, ["sh", "-c", "kill -9 $$"]).exit_code, 137)


def checks(runtime: AbstractRuntime) -> None:
    """`check=True` raises for a non-zero exit code, with the output."""
    command = "echo a; echo b >&2; exit 3"
    error = raised(NonZeroExitCodeError, _execute, runtime, command, check=True, error_msg="It failed")
    true(str(error).startswith("It failed"), f"the message does not begin with error_msg: {error}")
    info = [error.extra_info.get(key) for key in ("exit_code", "stdout", "stderr")]
    equal(info, [3, "a\n", "b\n"], "exit_code, stdout and stderr in extra_info")
    equal(_execute(runtime, "echo a", check=True).stdout, "a\n")


def merged_streams(runtime: AbstractRuntime) -> None:
    """`merge_output_streams` puts both streams into stdout, in order."""
    response = _execute(runtime, "for i in 1 2; do echo o$i; echo e$i >&2; done", merge_output_streams=True)
    equal((response.stdout, response.stderr), ("o1\ne1\no2\ne2\n", ""))


def all_bytes(runtime: AbstractRuntime, folder: str) -> None:
    """Output may hold every byte; what is no UTF-8 comes as \\xNN."""
    data = bytes(range(256)) + b"\r\n\xe2\x82" + "ä€🦖".encode()
    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "data").write_bytes(data)
        upload(runtime, Path(source) / "data", f"{folder}/data")
    response = _execute(runtime, "cat data; cat data >&2", cwd=folder)
    equal(response.stdout, data.decode("utf-8", "backslashreplace"))
    equal(response.stderr, response.stdout)


def much_output(runtime: AbstractRuntime) -> None:
    """5 MB on both streams come in full."""
    line = "0" * 4999 + "\n"
    script = 'i=0; while [ $i -lt 1000 ]; do printf "%05000d\\n" 0; i=$((i+1)); done'
    response = runtime.execute(Command(command=f"({script}) >&2 & {script}; wait", timeout=60))
    equal(response.stdout, f"0{line}" * 1000, "stdout")
    equal(response.stderr, f"0{line}" * 1000, "stderr")


def live_output(runtime: AbstractRuntime, folder: str) -> None:
    """`on_output` gets the output while the program runs, all of it."""
    pieces: list[str] = []

    def on_output(text: str) -> None:
        pieces.append(text)
        if "".join(pieces) == "a\n":
            write(runtime, f"{folder}/go")

    command = Command(command="echo a; until [ -e go ]; do sleep 0.05; done; echo b", cwd=folder, timeout=20)
    response = runtime.execute(command, on_output=on_output)
    equal((response.stdout, "".join(pieces)), ("a\nb\n", "a\nb\n"))


def jobs(runtime: AbstractRuntime, folder: str) -> None:
    """A job in the background does not hold the call, and goes on after it."""
    with within(5, "'sleep 60 & echo ok'"):
        equal(_execute(runtime, "sleep 60 & echo ok").stdout, "ok\n")
    _execute(runtime, "(until [ -e go ]; do sleep 0.05; done; : > done) & true", cwd=folder)
    write(runtime, f"{folder}/go")
    wait_for_file(runtime, f"{folder}/done")


def timeouts(runtime: AbstractRuntime) -> None:
    """A program that takes too long is a CommandTimeoutError with its output."""
    with within(5, "a timeout of 0.5 s"):
        command = "echo a; echo b >&2; printf c; sleep 60"
        error = raised(CommandTimeoutError, _execute, runtime, command, timeout=0.5)
    info = [error.extra_info.get(key) for key in ("stdout", "stderr")]
    equal(info, ["a\nc", "b\n"], "stdout and stderr in extra_info")
    true("a\n" in error.extra_info.get("output", ""), "extra_info['output'] lacks what was printed")


def descendants(runtime: AbstractRuntime) -> None:
    """A timeout leaves no descendant, also none that ignores signals."""
    _leave_nothing(
        runtime,
        "sleep 600 & echo $! > pid; wait",
        "sh -c 'sh -c \"echo \\$\\$ > pid; sleep 600; true\"; true'; true",
        "sh -c 'trap \"\" INT TERM; echo $$ > pid; while :; do sleep 1; done'",
        "sh -c 'echo $$ > pid; kill -STOP $$'",
    )


def descendants_in_their_own_session(runtime: AbstractRuntime) -> None:
    """A timeout leaves no descendant that went into a session of its own."""
    needs(runtime, "setsid")
    _leave_nothing(
        runtime,
        "setsid sh -c 'echo $$ > pid; sleep 600; true' & wait",
        "(setsid sh -c 'echo $$ > pid; exec sleep 600' < /dev/null > /dev/null 2>&1 &) ; sleep 600",
    )


def other_calls(runtime: AbstractRuntime, session: Session) -> None:
    """A timeout leaves other calls and the sessions alone."""
    session.run("x=5; cd /", timeout=10)
    other = background(_execute, runtime, "sleep 0.6; echo ok")
    raised(CommandTimeoutError, _execute, runtime, "x=6; cd /dev; export X=7; sleep 60", timeout=0.3)
    equal(result(other).stdout, "ok\n", "the other call")
    equal(session.run('echo "$x $PWD [$X]"', timeout=10).output, "5 / []\n", "the session")


def leftovers(runtime: AbstractRuntime) -> None:
    """A program that has ended leaves no process behind, not even a zombie."""
    pid = _execute(runtime, "echo $$").stdout.strip()
    true(pid.isdigit(), f"$$ is {pid!r}")
    eventually(lambda: not exists(runtime, f"/proc/{pid}"), f"process {pid} is gone")


def _execute(
    runtime: AbstractRuntime, command: str | list[str], *, timeout: float = 20, **arguments: object
) -> CommandResponse:
    return runtime.execute(Command(command=command, timeout=timeout, **arguments))  # type: ignore[arg-type]


def _leave_nothing(runtime: AbstractRuntime, *commands: str) -> None:
    """A process that writes its id into the file `pid` is gone after the timeout of each command."""

    def time_out(command: str) -> None:
        with scratch(runtime) as folder:
            raised(CommandTimeoutError, _execute, runtime, command, cwd=folder, timeout=0.5)
            wait_for_end(runtime, wait_for_pid(runtime, f"{folder}/pid"))

    in_parallel(time_out, commands)
