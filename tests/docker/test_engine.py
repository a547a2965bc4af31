"""An engine that goes away under its sandboxes and comes again, and what it keeps of the server's files."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from swerex.deployment.bundle import get_bundle
from swerex.deployment.docker import DockerDeployment, list_sandboxes, prune
from swerex.exceptions import DeploymentStartupError, SandboxDiedError, SwerexException
from swerex.runtime.abstract import Command
from tests.docker.engines import bare_files, build_image, deployment_in, leftovers
from tests.docker.own_engine import OwnEngine, own_engine
from tests.docker.programs import program

IMAGE = "swerex-test/bare"

# The SDK does not close a socket that could not be connected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def the_engine() -> Iterator[OwnEngine]:
    with pytest.MonkeyPatch.context() as patch, own_engine(patch) as own:
        own.run()
        build_image(own.engine, IMAGE, "FROM scratch\nADD root.tar /\n", bare_files())
        yield own


@pytest.fixture
def own(the_engine) -> OwnEngine:
    """An engine that runs, whichever test was before."""
    the_engine.run()
    return the_engine


@pytest.fixture
def deployment(own) -> Iterator[DockerDeployment]:
    """A sandbox in that engine."""
    deployment = deployment_in(own.engine, image=IMAGE, network="none")
    deployment.start()
    yield deployment
    own.run()
    deployment.stop()
    assert not leftovers(own.engine)


def assert_works(deployment: DockerDeployment) -> None:
    assert deployment.runtime.execute(Command(command="echo on", timeout=5)).stdout == "on\n"


def test_an_engine_that_is_stopped_takes_its_sandboxes_along(own, deployment):
    connection = own.engine
    session = deployment.runtime.session()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.run, "sleep 60")
        own.end(signal.SIGTERM)
        stopped = time.monotonic()
        assert isinstance(call.exception(timeout=20), SwerexException)
        assert time.monotonic() - stopped < 3
    assert not deployment.is_alive(timeout=2)
    with pytest.raises(SandboxDiedError):
        session.run("true", timeout=5)
    with pytest.raises(SwerexException, match=r"did not remove the container .*prune\(\) removes it"):
        deployment.stop()
    with pytest.raises(DeploymentStartupError, match="No Docker engine answers"):
        deployment_in(connection, image=IMAGE).start()
    own.run()
    deployment.stop()
    assert not leftovers(own.engine)
    with deployment:
        assert_works(deployment)


def test_a_sandbox_works_on_while_its_engine_is_dead(own, deployment):
    session = deployment.runtime.session()
    session.run("x=kept")
    own.end(signal.SIGKILL)
    assert session.run("echo $x", timeout=5).output == "kept\n"
    assert deployment.is_alive()
    begin = time.monotonic()
    with pytest.raises(SwerexException, match="did not remove the container"):
        deployment.stop()
    assert time.monotonic() - begin < 5


def test_a_sandbox_that_outlives_its_engine(own):
    """An engine with --live-restore leaves its containers alone, and takes them up again."""
    own.run("--live-restore")
    # Those that remove themselves it removes when it starts (github.com/moby/moby, before version 24).
    with deployment_in(own.engine, image=IMAGE, network="none", remove_container=False) as other:
        session = other.runtime.session()
        session.run("x=kept")
        own.end(signal.SIGTERM)
        assert session.run("echo $x", timeout=5).output == "kept\n"
        own.run("--live-restore")
        assert session.run("echo $x", timeout=5).output == "kept\n"
        own.engine.client.api.kill(other.container_name)
        killed = time.monotonic()
        with pytest.raises(SandboxDiedError, match=f"{other.container_name} has ended"):
            session.run("true", timeout=5)
        assert time.monotonic() - killed < 3
    own.engine.client.api.remove_container(other.container_name)


def volume_name() -> str:
    return f"swerex-bundle-{get_bundle().key[:20]}"


def test_prune_removes_the_volume_when_nobody_has_it(own, deployment):
    assert volume_name() not in {item.name for item in prune(volumes=True)}
    deployment.stop()
    assert volume_name() not in {item.name for item in prune()}
    assert volume_name() in {item.name for item in prune(volumes=True, dry_run=True)}
    assert [item.kind for item in prune(volumes=True)] == ["volume"]
    assert list_sandboxes() == []


def test_a_volume_that_was_removed_is_made_again(own):
    """Also in a process that has seen it."""
    for _ in range(2):
        with deployment_in(own.engine, image=IMAGE, network="none") as deployment:
            assert_works(deployment)
        prune(volumes=True)


def test_a_volume_that_is_empty_is_filled(own):
    prune(volumes=True)
    own.engine.client.api.create_volume(volume_name())
    with deployment_in(own.engine, image=IMAGE, network="none") as deployment:
        assert_works(deployment)


def test_a_process_that_is_killed_while_it_fills_the_volume(own):
    own.engine.client.api.remove_volume(volume_name(), force=True)
    code = """
import docker
put = docker.APIClient.put_archive
def half(self, container, path, data):
    # What comes first is enough for a server to start with, and to fail.
    size = data.seek(0, 2)
    data.seek(0)
    def pieces():
        while data.tell() < size * 0.6:
            yield data.read(1 << 16)
        tell("half")
        wait()
    put(self, container, path, pieces())
docker.APIClient.put_archive = half
deployment_in(engine, **fields).start()
"""
    fields = {"image": IMAGE, "network": "none"}
    with program(own.engine, code, **fields) as client:
        assert client.line() == "half"
        client.kill()
    with program(own.engine, "with deployment_in(engine, **fields):\n    tell('on')", **fields) as other:
        assert other.line() == "on"
        other.finish()
    assert not leftovers(own.engine, client.owner)
    assert [item.kind for item in list_sandboxes()] == ["volume"]
