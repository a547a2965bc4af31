from __future__ import annotations

import pytest

from swerex.deployment.dummy import DummyDeployment
from swerex.exceptions import DeploymentNotStartedError, DummyOutputsExhaustedError
from swerex.runtime.abstract import BashAction
from swerex.runtime.dummy import DummyRuntime


def test_outputs_come_in_order():
    with DummyDeployment(outputs=["a", "b"]) as deployment:
        session = deployment.runtime.session()
        assert [session.run("x").output, session.run("y").output] == ["a", "b"]
        with pytest.raises(DummyOutputsExhaustedError):
            session.run("z")


def test_is_alive_from_start_to_stop():
    deployment = DummyDeployment()
    with deployment:
        assert deployment.is_alive()
    with pytest.raises(DeploymentNotStartedError):
        deployment.is_alive()


def test_a_runtime_that_was_put_in_before_the_start_is_used():
    deployment = DummyDeployment()
    deployment.runtime = DummyRuntime(outputs=["given"])
    with deployment:
        assert deployment.runtime.run_in_session(BashAction(command="x")).output == "given"


def test_a_runtime_can_be_put_in_after_the_start():
    with DummyDeployment() as deployment:
        runtime = DummyRuntime()
        deployment.runtime = runtime
        assert deployment.runtime is runtime
