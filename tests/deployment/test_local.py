from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from swerex.deployment.local import LocalDeployment
from swerex.exceptions import DeploymentNotStartedError
from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest


def test_runs_commands():
    with LocalDeployment() as deployment:
        assert deployment.runtime.execute(Command(command="echo hello")).stdout == "hello\n"


def test_is_alive_is_false_before_start():
    response = LocalDeployment().is_alive()
    assert not response
    assert response.message == "the deployment is not started"


def test_is_alive_from_start_to_stop():
    deployment = LocalDeployment()
    with deployment:
        assert deployment.is_alive()
    assert not deployment.is_alive()


def test_runtime_before_start_raises():
    with pytest.raises(DeploymentNotStartedError):
        _ = LocalDeployment().runtime


def test_unknown_option_is_refused():
    with pytest.raises(ValidationError):
        LocalDeployment(image="python:3.12")


def test_stop_closes_the_sessions():
    with LocalDeployment() as deployment:
        deployment.runtime.create_session(CreateBashSessionRequest())
        pid = int(deployment.runtime.run_in_session(BashAction(command="echo $$")).output)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_interpreter_exit_closes_the_sessions():
    code = (
        "from swerex.deployment.local import LocalDeployment\n"
        "deployment = LocalDeployment()\n"
        "deployment.start()\n"
        "print(deployment.runtime.session().run('echo $$').output, end='')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.stdout), 0)
