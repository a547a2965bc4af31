"""Fixtures of the tests of containers: both engines, and images in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine
from tests.docker.engines import (
    IMAGE,
    File,
    bare_files,
    build_image,
    deployment_in,
    engine_of,
    leftovers,
    no_leftovers,
)
from tests.util import alone

Start = Callable[..., DockerDeployment]
MakeImage = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def one_file_at_a_time() -> Iterator[None]:
    """These tests count what is left in an engine."""
    with alone("containers"):
        yield


@pytest.fixture(scope="session", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn; where there is none, the test is skipped."""
    return engine_of(request.param)


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """An image with Debian and its Python."""
    engine.client.api.inspect_image(IMAGE)
    return IMAGE


@pytest.fixture(scope="session")
def bare_image(engine: Engine) -> str:
    """An image with busybox and bash, without any library."""
    return build_image(engine, "swerex-test/bare", "FROM scratch\nADD root.tar /\n", bare_files())


@pytest.fixture(scope="session")
def nobash_image(engine: Engine) -> str:
    """An image with busybox alone."""
    return build_image(engine, "swerex-test/nobash", "FROM scratch\nADD root.tar /\n", bare_files(bash=False))


@pytest.fixture(scope="session")
def make_image(engine: Engine) -> Iterator[MakeImage]:
    """Builds an image from a Dockerfile's text and the `files` that it adds as ``root.tar``; removed in the
    end."""
    made: list[str] = []

    def make(dockerfile: str, files: dict[str, File] | None = None, **options: Any) -> str:
        name = f"swerex-test/variant-{os.getpid()}-{len(made)}"
        made.append(name)
        return build_image(engine, name, dockerfile, files, **options)

    yield make
    for name in made:
        engine.client.api.remove_image(name, force=True)


@pytest.fixture
def start(engine: Engine) -> Iterator[Start]:
    """Starts a sandbox in the engine, by the fields of `DockerDeploymentConfig`, and stops it in the end."""
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(deployment_in(engine, **fields))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test removes the containers that it makes."""
    if "engine" not in request.fixturenames:
        yield
        return
    engine: Engine = request.getfixturevalue("engine")
    before = leftovers(engine)
    yield
    no_leftovers(engine, but=before)
