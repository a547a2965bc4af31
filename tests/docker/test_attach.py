"""A sandbox that one process made, and another takes up."""

from __future__ import annotations

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError, SandboxDiedError
from swerex.runtime.abstract import BashAction, Command
from tests.docker.engines import leftovers, only_docker
from tests.docker.programs import program
from tests.util import stays, wait_until

MAKE = """
deployment = deployment_in(engine, **fields)
deployment.start()
deployment.runtime.create_session(CreateBashSessionRequest())
deployment.runtime.run_in_session(BashAction(command="x=kept; cd /bin"))
tell(deployment.container_name)
wait()
"""
DETACH = """
deployment.detach()
"""
USE = """
tell(deployment.runtime.execute(Command(command="echo on")).stdout.strip())
wait()
deployment.stop()
"""


def attach(engine, name):
    return DockerDeployment.attach(name, container_runtime=engine.name.lower())


def test_a_sandbox_that_was_detached_from(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image) as maker:
        name = maker.line()
        maker.go_on_and_finish()
    deployment = attach(engine, name)
    assert deployment.container_name == name
    observation = deployment.runtime.run_in_session(BashAction(command="echo $x; pwd"))
    assert observation.output == "kept\n/bin\n"
    deployment.stop()
    assert deployment.container_name is None
    assert not leftovers(engine, maker.owner)


def test_a_sandbox_whose_maker_was_killed(engine, bare_image):
    with program(engine, MAKE, image=bare_image, auto_remove_after=2) as maker:
        name = maker.line()
        maker.kill()
    with attach(engine, name) as deployment:
        # More than its lease, which is renewed from here now.
        assert stays(deployment.is_alive, seconds=5)
        assert deployment.runtime.run_in_session(BashAction(command="echo $x")).output == "kept\n"
    assert not leftovers(engine, maker.owner)


@only_docker
def test_a_sandbox_without_a_network(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image, network="none") as maker:
        name = maker.line()
        maker.go_on_and_finish()
    with attach(engine, name) as deployment:
        assert deployment.runtime.run_in_session(BashAction(command="echo $x")).output == "kept\n"
    assert not leftovers(engine, maker.owner)


def test_by_its_id(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image) as maker:
        name = maker.line()
        maker.go_on_and_finish()
    with attach(engine, engine.client.api.inspect_container(name)["Id"][:12]) as deployment:
        assert deployment.container_name == name
        assert deployment.is_alive()
    assert not leftovers(engine, maker.owner)


@only_docker
def test_two_processes_use_it_at_once(engine, bare_image):
    with program(engine, MAKE + USE, image=bare_image) as maker:
        name = maker.line()
        deployment = attach(engine, name)
        assert deployment.runtime.execute(Command(command="echo on")).stdout == "on\n"
        deployment.detach()
        with pytest.raises(DeploymentNotStartedError):
            _ = deployment.runtime
        deployment.stop()
        maker.go_on()
        assert maker.line() == "on"
        maker.go_on_and_finish()
    assert not leftovers(engine, maker.owner)


def test_stop_ends_it_for_everybody(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image) as maker:
        name = maker.line()
        maker.go_on_and_finish()
    one, other = attach(engine, name), attach(engine, name)
    one.stop()
    with pytest.raises(SandboxDiedError, match=name):
        other.runtime.execute(Command(command="true"))
    other.stop()


@only_docker
def test_a_kept_one_is_kept_by_who_took_it_up(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image, remove_container=False) as maker:
        name = maker.line()
        maker.go_on_and_finish()
    with attach(engine, name):
        pass
    assert engine.client.api.inspect_container(name)["State"]["Running"] is False
    with pytest.raises(DeploymentStartupError, match=f"{name} does not run: it is exited"):
        attach(engine, name)
    engine.client.api.remove_container(name)


@only_docker
def test_a_detached_one_ends_with_its_lease(engine, bare_image):
    with program(engine, MAKE + DETACH, image=bare_image, auto_remove_after=1) as maker:
        maker.line()
        maker.go_on_and_finish()
    wait_until(lambda: not leftovers(engine, maker.owner), timeout=10)


def test_nothing_of_this_name(engine):
    with pytest.raises(DeploymentStartupError, match="has no container swerex-absent"):
        attach(engine, "swerex-absent")


def test_a_container_of_others(engine, bare_image, request):
    api = engine.client.api
    other = api.create_container(bare_image, ["sleep", "60"])["Id"]
    request.addfinalizer(lambda: api.remove_container(other, force=True))
    api.start(other)
    with pytest.raises(DeploymentStartupError, match="was not made by this package"):
        attach(engine, other)
    assert api.inspect_container(other)["State"]["Running"]


def test_what_can_not_be_taken_up_is_not_removed(engine, start, bare_image, monkeypatch):
    made = start(image=bare_image)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DockerDeployment, "_wait_until_alive", fail)
        with pytest.raises(KeyboardInterrupt):
            attach(engine, made.container_name)
    assert made.is_alive()
