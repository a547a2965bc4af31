"""What is in an engine, and what may go."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from docker.errors import NotFound

import swerex
from swerex.deployment.bundle import get_bundle
from swerex.deployment.docker import Sandbox, list_sandboxes, prune
from swerex.exceptions import SwerexException
from swerex.runtime.abstract import Command
from tests.docker.engines import build_image, deployment_in, leftovers, only_docker
from tests.docker.programs import own_cache, program

START = """
deployment = deployment_in(engine, **fields)
deployment.start()
tell(deployment.container_name)
wait()
tell(deployment.runtime.execute(Command(command="echo on")).stdout.strip())
deployment.stop()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they lie. Sandboxes of others than these tests and their programs seem to be another user's."""
    return own_cache(tmp_path, monkeypatch)


@pytest.fixture
def runtime_name(engine) -> str:
    return engine.name.lower()


def find(engine, name: str) -> Sandbox | None:
    return next(
        (item for item in list_sandboxes(container_runtime=engine.name.lower()) if item.name == name), None
    )


def names(sandboxes: list[Sandbox]) -> set[str]:
    return {item.name for item in sandboxes}


@pytest.fixture
def abandoned(engine, bare_image) -> Iterator[str]:
    """A sandbox that runs still, though its client was killed."""
    with program(engine, START, image=bare_image) as client:
        name = client.line()
        client.kill()
    yield name
    if name in leftovers(engine, client.owner):
        engine.client.api.remove_container(name, force=True)


def test_what_is_made_has_labels(engine, start, bare_image):
    api = engine.client.api
    found = api.inspect_container(start(image=bare_image).container_name)
    assert found["Config"]["Labels"]["swerex"] == swerex.__version__
    assert found["Config"]["Labels"]["swerex.owner"] == f"{os.getpid()}@{socket.gethostname()}"
    volume = next(mount["Name"] for mount in found["Mounts"] if mount["Destination"] == "/.swerex")
    assert api.inspect_volume(volume)["Labels"]["swerex"] == swerex.__version__


@only_docker
def test_labels_of_the_caller_are_kept(engine, start, bare_image):
    deployment = start(image=bare_image, docker_args=["--label", "job=7"])
    assert engine.client.api.inspect_container(deployment.container_name)["Config"]["Labels"]["job"] == "7"


def test_a_sandbox_of_this_process_in_the_list(engine, start, bare_image):
    name = start(image=bare_image).container_name
    found = find(engine, name)
    assert found is not None
    assert (found.kind, found.status, found.in_use, found.kept) == ("container", "running", True, False)
    assert (found.version, found.owner) == (swerex.__version__, f"{os.getpid()}@{socket.gethostname()}")
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found.created)
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)


def test_the_volume_of_a_sandbox_in_the_list(engine, start, bare_image):
    start(image=bare_image)
    name = f"swerex-bundle-{get_bundle().key[:20]}"
    found = find(engine, name)
    assert found is not None
    assert (found.kind, found.status, found.in_use) == ("volume", "mounted", True)


def test_a_stopped_sandbox_is_not_in_the_list(engine, bare_image):
    with deployment_in(engine, image=bare_image) as deployment:
        name = deployment.container_name
    assert find(engine, name) is None


def test_prune_leaves_alone_what_another_process_uses(engine, runtime_name, bare_image):
    with program(engine, START, image=bare_image) as client:
        name = client.line()
        found = find(engine, name)
        assert found is not None
        assert found.in_use is True
        assert found.owner == client.owner
        assert name not in names(prune(container_runtime=runtime_name, dry_run=True, kept=True))
        assert name not in names(prune(container_runtime=runtime_name, kept=True))
        client.go_on()
        assert client.line() == "on"
        client.finish()


@only_docker
def test_prune_in_another_process_leaves_alone_what_this_one_uses(engine, runtime_name, start, bare_image):
    deployment = start(image=bare_image)
    with program(engine, "tell(len(prune(container_runtime=engine)))") as other:
        assert other.line() == "0"
    assert deployment.runtime.execute(Command(command="echo on")).stdout == "on\n"


def test_prune_leaves_alone_what_an_attached_process_uses(engine, runtime_name, abandoned):
    code = (
        "deployment = DockerDeployment.attach(fields['name'], container_runtime=engine)\ntell('on')\nwait()"
    )
    with program(engine, code, name=abandoned) as client:
        client.line()
        assert prune(container_runtime=runtime_name) == []
        client.go_on_and_finish()


def test_dry_run_only_tells(engine, runtime_name, abandoned):
    would = prune(container_runtime=runtime_name, dry_run=True)
    assert names(would) == {abandoned}
    found = find(engine, abandoned)
    assert found is not None
    assert (found.status, found.in_use) == ("running", False)
    assert names(prune(container_runtime=runtime_name)) == {abandoned}


def test_prune_removes_what_nobody_uses(engine, runtime_name, abandoned, locks):
    assert names(prune(container_runtime=runtime_name)) == {abandoned}
    assert find(engine, abandoned) is None
    assert not (locks / abandoned).exists()
    assert prune(container_runtime=runtime_name) == []


def test_prune_leaves_alone_what_was_made_elsewhere(engine, runtime_name, abandoned, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user's"))
    found = find(engine, abandoned)
    assert found is not None
    assert found.in_use is None
    assert prune(container_runtime=runtime_name, kept=True) == []


@only_docker
def test_many_prune_at_once(engine, runtime_name, abandoned):
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(prune, container_runtime=runtime_name) for _ in range(4)]
        done = [call.result(timeout=30) for call in calls]
    assert any(names(removed) == {abandoned} for removed in done)
    assert find(engine, abandoned) is None


def test_a_kept_container(engine, runtime_name, bare_image):
    with deployment_in(engine, image=bare_image, remove_container=False) as deployment:
        name = deployment.container_name
        deployment.runtime.execute(Command(command="echo kept > /file"))
    assert deployment.container_name == name
    found = find(engine, name)
    assert found is not None
    assert (found.status, found.in_use, found.kept) == ("exited", False, True)
    assert prune(container_runtime=runtime_name) == []
    assert engine.client.api.inspect_container(name)["State"]["ExitCode"] == 0
    assert b"kept" in b"".join(engine.client.api.get_archive(name, "/file")[0])
    assert names(prune(container_runtime=runtime_name, kept=True)) == {name}
    assert find(engine, name) is None


@only_docker
def test_a_kept_container_can_be_started_again(engine, runtime_name, bare_image):
    """A new one: each start has its own."""
    deployment = deployment_in(engine, image=bare_image, remove_container=False)
    kept = []
    for _ in range(2):
        with deployment:
            kept.append(deployment.container_name)
    assert names(prune(container_runtime=runtime_name, kept=True)) == set(kept)
    assert len(set(kept)) == 2


@pytest.fixture
def own_image(engine, bare_image) -> Iterator[str]:
    """An image that nobody else uses."""
    name = build_image(
        engine, f"swerex-test/own-{os.getpid()}", f"FROM {bare_image}\nENV own={os.getpid()}\n"
    )
    yield name
    with suppress(NotFound):
        engine.client.api.remove_image(name)


def test_remove_images(engine, own_image):
    with deployment_in(engine, image=own_image, remove_images=True):
        assert image_is_there(engine, own_image)
    assert not image_is_there(engine, own_image)


@only_docker
def test_an_image_that_another_container_has_stays(engine, own_image):
    with deployment_in(engine, image=own_image) as other:
        with deployment_in(engine, image=own_image, remove_images=True):
            pass
        assert image_is_there(engine, own_image)
        assert other.is_alive()


def image_is_there(engine, name: str) -> bool:
    return bool(engine.client.images.list(name))


def test_an_engine_that_is_not_there(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/absent.sock")
    with pytest.raises(SwerexException, match="absent"):
        list_sandboxes()
    with pytest.raises(SwerexException, match="absent"):
        prune()
