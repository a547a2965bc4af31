"""A server that listens at a socket in the file system, for a sandbox without a network."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swerex.exceptions import SandboxDiedError
from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest
from swerex.runtime.remote import RemoteRuntime
from tests.util import PYTHON, wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [PYTHON, "-m", "swerex", "--host", f"unix://{path}"]
    environment = {**os.environ, "SWEREX_AUTH_TOKEN": "secret"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert f"unix://{path}" in process.stdout.readline().decode()
        yield process
        process.terminate()


def client(path: Path) -> RemoteRuntime:
    return RemoteRuntime(host=f"unix://{path}", auth_token="secret")


def test_sessions_and_commands(process: subprocess.Popen[bytes], path: Path) -> None:
    with client(path) as runtime:
        assert runtime.is_alive(timeout=5)
        runtime.create_session(CreateBashSessionRequest())
        assert runtime.run_in_session(BashAction(command="echo $((6 * 7))")).output == "42\n"
        assert runtime.execute(Command(command=["echo", "hello"])).stdout == "hello\n"


def test_anybody_may_connect_since_the_token_decides(process: subprocess.Popen[bytes], path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_server_that_is_killed(process: subprocess.Popen[bytes], path: Path) -> None:
    runtime = client(path)
    runtime.execute(Command(command=["true"]))
    process.kill()
    with pytest.raises(SandboxDiedError):
        runtime.execute(Command(command=["true"]))


def test_a_file_that_is_not_there(path: Path) -> None:
    answer = client(path).is_alive(timeout=1)
    assert not answer
    assert str(path) in answer.message


def test_a_link_is_not_followed(process: subprocess.Popen[bytes], path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    answer = client(link).is_alive(timeout=1)
    assert not answer
    assert "no socket" in answer.message


def test_a_socket_that_nobody_serves_is_taken_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
    command = [PYTHON, "-m", "swerex", "--host", f"unix://{path}"]
    environment = {**os.environ, "SWEREX_AUTH_TOKEN": "secret"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: client(path).is_alive(timeout=1), 15)
        process.terminate()


@pytest.mark.parametrize("host", ["unix://relative", "unix://", "unix:///x"])
def test_hosts(host: str) -> None:
    if host == "unix:///x":
        with pytest.raises(ValueError, match="port"):
            RemoteRuntime(host=host, port=8000)
    else:
        with pytest.raises(ValueError, match="address"):
            RemoteRuntime(host=host)
