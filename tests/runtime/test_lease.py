"""A server that ends itself when nobody asks for anything any more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swerex.deployment.beat import Beat
from swerex.runtime.abstract import Command
from swerex.runtime.remote import RemoteRuntime
from tests.util import PYTHON, Server, running_server, wait_until


def client(server: Server) -> RemoteRuntime:
    return RemoteRuntime(host="http://127.0.0.1", port=server.port, auth_token=server.token)


def test_it_ends_when_no_request_comes(tmp_path: Path) -> None:
    with running_server(tmp_path, "--lease", "0.5") as server:
        assert server.process.wait(10) == 0
        assert "there was no request" in server.log.read_text()


def test_a_command_that_runs_keeps_it(tmp_path: Path) -> None:
    with running_server(tmp_path, "--lease", "0.5") as server:
        with client(server) as runtime:
            assert runtime.execute(Command(command="sleep 1.5; echo done")).stdout == "done\n"
        assert server.process.wait(10) == 0


def test_a_beat_keeps_it(tmp_path: Path) -> None:
    with running_server(tmp_path, "--lease", "1") as server, client(server) as runtime:
        beat = Beat(runtime, 1)
        beat.start()
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(2.5)
        beat.stop()
        assert server.process.wait(10) == 0


def test_a_request_without_the_token_does_not_keep_it(tmp_path: Path) -> None:
    with running_server(tmp_path, "--lease", "1") as server:
        stranger = RemoteRuntime(host="http://127.0.0.1", port=server.port, auth_token="wrong")
        wait_until(lambda: not stranger.is_alive(timeout=1) and server.process.poll() is not None, 10)
        assert server.process.returncode == 0


def test_it_may_stand_in_the_environment_and_does_not_stay_there(tmp_path: Path) -> None:
    environment = {"SWEREX_LEASE": "60", "PATH": "/usr/bin:/bin"}
    with running_server(tmp_path, env=environment) as server, client(server) as runtime:
        assert "SWEREX" not in runtime.execute(Command(command="env")).stdout


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_a_lease_that_is_no_time(value: str) -> None:
    command = [PYTHON, "-m", "swerex", "--auth-token", "x", "--lease", value]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == 2
    assert "--lease" in run.stderr
