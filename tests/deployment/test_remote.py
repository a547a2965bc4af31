from __future__ import annotations

import os
import signal

import pytest

from swerex.deployment.remote import RemoteDeployment
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest
from swerex.utils.free_port import find_free_port
from tests.util import is_running, running_server


def test_runs_commands(server):
    with (
        RemoteDeployment(port=server.port, auth_token=server.token) as deployment,
        deployment.runtime.session("remote-deployment") as session,
    ):
        assert session.run("echo hello").output == "hello\n"


def test_token_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("SWEREX_AUTH_TOKEN", server.token)
    with RemoteDeployment(host=server.url) as deployment:
        assert deployment.is_alive(timeout=5)


def test_runtime_before_start_raises(server):
    with pytest.raises(DeploymentNotStartedError):
        _ = RemoteDeployment(port=server.port, auth_token=server.token).runtime


def test_a_wrong_token_fails_and_says_so(server):
    deployment = RemoteDeployment(port=server.port, auth_token="wrong")
    with pytest.raises(DeploymentStartupError, match=r"(?s)token.*Check that `swerex-remote` runs there"):
        deployment.start()


def test_the_token_is_not_in_the_error(server):
    with pytest.raises(DeploymentStartupError) as caught:
        RemoteDeployment(port=server.port, auth_token="not-the-token").start()
    assert "not-the-token" not in str(caught.value)


def test_no_server_fails_and_says_where(monkeypatch):
    monkeypatch.setattr("swerex.deployment.remote._STARTUP_TIMEOUT", 0.3)
    port = find_free_port()
    with pytest.raises(DeploymentStartupError, match=rf"The server at http://127.0.0.1:{port} can't be used"):
        RemoteDeployment(port=port, auth_token="x").start()


def test_stop_closes_the_sessions_and_leaves_the_server(tmp_path):
    with running_server(tmp_path) as server:
        with RemoteDeployment(port=server.port, auth_token=server.token) as deployment:
            deployment.runtime.create_session(CreateBashSessionRequest())
            shell = int(deployment.runtime.run_in_session(BashAction(command="echo $$")).output)
        assert not is_running(shell)
        with RemoteDeployment(port=server.port, auth_token=server.token) as deployment:
            assert deployment.is_alive(timeout=5)


def test_a_dead_server_is_not_alive_and_can_be_stopped(tmp_path):
    with running_server(tmp_path) as server:
        deployment = RemoteDeployment(port=server.port, auth_token=server.token)
        deployment.start()
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        response = deployment.is_alive()
        assert not response
        assert response.message
        deployment.stop()
