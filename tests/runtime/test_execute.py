"""execute(): a program outside of any session, its output and its end, and nothing of it left behind."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Command
from tests.util import PYTHON, is_running, read_pid, wait_until


def test_a_list_is_a_program_and_its_arguments(runtime: AbstractRuntime) -> None:
    arguments = ["a b", "$HOME", "", "'\"\\", "ä€", "*", "\t\n", "\x03"]
    response = runtime.execute(Command(command=["printf", "[%s]", *arguments], timeout=5))
    assert response.stdout == "".join(f"[{argument}]" for argument in arguments)
    assert (response.stderr, response.exit_code) == ("", 0)


def test_a_string_is_a_line_for_the_shell(runtime: AbstractRuntime) -> None:
    response = runtime.execute(Command(command="x=5; echo $x; echo e >&2; exit 3", timeout=5))
    assert (response.stdout, response.stderr, response.exit_code) == ("5\n", "e\n", 3)


def test_shell_can_be_asked_for(runtime: AbstractRuntime) -> None:
    response = runtime.execute(Command(command="echo a | cat", shell=True, timeout=5))
    assert response.stdout == "a\n"


def test_shell_can_be_refused(runtime: AbstractRuntime) -> None:
    assert runtime.execute(Command(command="true", shell=False, timeout=5)).exit_code == 0
    with pytest.raises(FileNotFoundError):
        runtime.execute(Command(command="echo $x", shell=False, timeout=5))


def test_a_missing_program_is_named(runtime: AbstractRuntime) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        runtime.execute(Command(command=["no-such-program", "x"], timeout=5))


def test_a_missing_program_of_the_shell_is_a_status(runtime: AbstractRuntime) -> None:
    response = runtime.execute(Command(command="no-such-program", timeout=5))
    assert response.exit_code == 127
    assert "no-such-program" in response.stderr


def test_a_file_that_is_no_program_is_an_error(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(PermissionError, match="file"):
        runtime.execute(Command(command=[str(tmp_path / "file")], timeout=5))


def test_a_missing_folder_is_named(runtime: AbstractRuntime, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        runtime.execute(Command(command=["true"], cwd=str(tmp_path / "no-such-folder"), timeout=5))


def test_a_file_as_folder_is_named(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(NotADirectoryError, match="a-file"):
        runtime.execute(Command(command=["true"], cwd=str(tmp_path / "a-file"), timeout=5))


def test_the_folder_is_the_one_given(runtime: AbstractRuntime, tmp_path: Path) -> None:
    response = runtime.execute(Command(command="pwd -P", cwd=str(tmp_path), timeout=5))
    assert response.stdout == f"{tmp_path.resolve()}\n"


def test_the_environment_is_added_to(runtime: AbstractRuntime) -> None:
    env = {"X": "a b\n'$y", "EMPTY": ""}
    command = 'printf "%s,%s,%s" "$X" "${EMPTY-unset}" "$PATH"'
    response = runtime.execute(Command(command=command, env=env, timeout=5))
    assert response.stdout == f"{env['X']},,{os.environ['PATH']}"


def test_the_environment_of_one_call_is_gone_in_the_next(runtime: AbstractRuntime) -> None:
    runtime.execute(Command(command="true", env={"X_OF_ONE_CALL": "5"}, timeout=5))
    response = runtime.execute(Command(command="echo ${X_OF_ONE_CALL-unset}", timeout=5))
    assert response.stdout == "unset\n"


def test_the_path_that_is_given_finds_the_program(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "my-program").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "my-program").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert runtime.execute(Command(command="my-program", env=env, timeout=5)).stdout == "mine\n"
    assert runtime.execute(Command(command=["my-program"], env=env, timeout=5)).stdout == "mine\n"


def test_the_environment_holds_nothing_of_the_server(runtime: AbstractRuntime) -> None:
    names = runtime.execute(Command(command="env -0 | cut -z -d= -f1", timeout=5)).stdout.split("\0")
    assert set(filter(None, names)) <= {*os.environ, "PWD", "OLDPWD", "SHLVL", "_"} | {
        "TERM",
        "PAGER",
        "GIT_PAGER",
        "MANPAGER",
    }


def test_standard_input_is_empty(runtime: AbstractRuntime) -> None:
    response = runtime.execute(Command(command="cat; read x || echo end", timeout=5))
    assert (response.stdout, response.exit_code) == ("end\n", 0)


def test_a_status_is_reported(runtime: AbstractRuntime) -> None:
    assert runtime.execute(Command(command=["sh", "-c", "exit 7"], timeout=5)).exit_code == 7


def test_a_signal_is_reported_as_a_shell_does(runtime: AbstractRuntime) -> None:
    assert runtime.execute(Command(command=["sh", "-c", "kill -9 $$"], timeout=5)).exit_code == 137


def test_check_raises_for_a_status(runtime: AbstractRuntime) -> None:
    command = Command(command="echo a; echo b >&2; exit 3", check=True, error_msg="It failed", timeout=5)
    with pytest.raises(NonZeroExitCodeError, match=r"^It failed") as caught:
        runtime.execute(command)
    assert caught.value.extra_info["exit_code"] == 3
    assert "a\n" in caught.value.extra_info["output"]
    assert (caught.value.extra_info["stdout"], caught.value.extra_info["stderr"]) == ("a\n", "b\n")


def test_check_raises_nothing_for_success(runtime: AbstractRuntime) -> None:
    assert runtime.execute(Command(command="echo a", check=True, timeout=5)).stdout == "a\n"


def test_streams_can_be_merged_in_order(runtime: AbstractRuntime) -> None:
    command = "for i in 1 2 3; do echo o$i; echo e$i >&2; done"
    response = runtime.execute(Command(command=command, merge_output_streams=True, timeout=5))
    assert (response.stdout, response.stderr) == ("o1\ne1\no2\ne2\no3\ne3\n", "")


def test_all_bytes_are_kept(runtime: AbstractRuntime, tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\r\n\xe2\x82" + "ä€🦖".encode()
    (tmp_path / "data").write_bytes(data)
    response = runtime.execute(Command(command="cat data; cat data >&2", cwd=str(tmp_path), timeout=5))
    assert response.stdout == response.stderr == data.decode("utf-8", "backslashreplace")


def test_much_output_on_both_streams_comes_in_full(runtime: AbstractRuntime) -> None:
    command = "head -c 5000000 /dev/zero | tr '\\0' e >&2 & head -c 5000000 /dev/zero | tr '\\0' o; wait"
    response = runtime.execute(Command(command=command, timeout=20))
    assert response.stdout == "o" * 5_000_000
    assert response.stderr == "e" * 5_000_000


def test_a_job_does_not_hold_the_call(runtime: AbstractRuntime) -> None:
    begin = time.monotonic()
    response = runtime.execute(Command(command="sleep 60 & echo ok", timeout=20))
    assert (response.stdout, response.exit_code) == ("ok\n", 0)
    assert time.monotonic() - begin < 1


def test_a_job_goes_on_after_the_call(runtime: AbstractRuntime, tmp_path: Path) -> None:
    command = "mkfifo go; (read x < go; touch done) & true"
    runtime.execute(Command(command=command, cwd=str(tmp_path), timeout=5))
    with (tmp_path / "go").open("w") as go:
        go.write("now\n")
    wait_until(lambda: (tmp_path / "done").exists())


def test_a_timeout_is_an_error_with_the_output(runtime: AbstractRuntime) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeoutError) as caught:
        runtime.execute(Command(command="echo a; echo b >&2; printf c; sleep 60", timeout=0.5))
    assert 0.5 <= time.monotonic() - begin < 2
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.extra_info["stdout"] == "a\nc"
    assert caught.value.extra_info["stderr"] == "b\n"
    assert "a\n" in caught.value.extra_info["output"]


DESCENDANTS = {
    "a child": "sleep 600 & echo $! > pid; wait",
    "a grandchild": "sh -c 'sh -c \"echo \\$\\$ > pid; sleep 600; true\"; true'; true",
    "a child that ignores signals": "sh -c 'trap \"\" INT TERM; echo $$ > pid; while :; do sleep 1; done'",
    "a child in a session of its own": "setsid -w sh -c 'echo $$ > pid; sleep 600; true'",
    "an orphan in a session of its own": "(setsid sh -c 'echo $$ > pid; sleep 600; true' &) ; sleep 600",
    "an orphan with no descriptor of ours": (
        "(setsid sh -c 'echo $$ > pid; exec sleep 600' < /dev/null > /dev/null 2>&1 &) ; sleep 600"
    ),
    "a stopped child": "sh -c 'echo $$ > pid; kill -STOP $$'",
}


@pytest.mark.parametrize("which", DESCENDANTS)
def test_a_timeout_leaves_no_descendant(runtime: AbstractRuntime, tmp_path: Path, which: str) -> None:
    with pytest.raises(CommandTimeoutError):
        runtime.execute(Command(command=DESCENDANTS[which], cwd=str(tmp_path), timeout=0.25))
    pid = read_pid(tmp_path / "pid")
    wait_until(lambda: not is_running(pid), timeout=2)


def test_a_timeout_under_a_fork_storm_leaves_nothing(runtime: AbstractRuntime, tmp_path: Path) -> None:
    script = "while :; do\n  (echo $BASHPID >> pids; sleep 600) &\n  sleep 0.01\ndone\n"
    (tmp_path / "storm.sh").write_text(script)
    with pytest.raises(CommandTimeoutError):
        runtime.execute(Command(command=["bash", "storm.sh"], cwd=str(tmp_path), timeout=0.5))
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert pids
    wait_until(lambda: not any(map(is_running, pids)), timeout=2)


def test_a_timeout_leaves_other_calls_alone(runtime: AbstractRuntime) -> None:
    with ThreadPoolExecutor() as pool:
        other = pool.submit(runtime.execute, Command(command="sleep 0.8; echo ok", timeout=10))
        with pytest.raises(CommandTimeoutError):
            runtime.execute(Command(command="sleep 60", timeout=0.3))
        assert other.result(timeout=5).stdout == "ok\n"


def test_many_calls_run_at_once(runtime: AbstractRuntime) -> None:
    begin = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        commands = [Command(command=f"sleep 0.5; echo {number}", timeout=10) for number in range(16)]
        outputs = [response.stdout for response in pool.map(runtime.execute, commands)]
    assert outputs == [f"{number}\n" for number in range(16)]
    assert time.monotonic() - begin < 3


def test_calls_do_not_touch_the_sessions(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name) as session:
        session.run("x=5; cd /", timeout=5)
        runtime.execute(Command(command="x=6; cd /tmp; export X=7", timeout=5))
        assert session.run('echo "$x $PWD [$X]"', timeout=5).output == "5 / []\n"


def test_a_program_leaves_no_zombie(runtime: AbstractRuntime, tmp_path: Path) -> None:
    runtime.execute(Command(command="echo $$ > pid", cwd=str(tmp_path), timeout=5))
    pid = read_pid(tmp_path / "pid")
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_python_program_runs(runtime: AbstractRuntime) -> None:
    command = [PYTHON, "-c", "import sys; print(sys.argv[1:])", "a"]
    response = runtime.execute(Command(command=command, timeout=10))
    assert response.stdout == "['a']\n"
