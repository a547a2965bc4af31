"""The one list of deployments that the conformance suite passes through. A new one is added here.

Each entry prepares what a deployment needs, such as a server or an engine, and yields what makes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from swerex.deployment.config import (
    DockerDeploymentConfig,
    LocalDeploymentConfig,
    RemoteDeploymentConfig,
    get_deployment,
)
from swerex.testing import Make
from tests.cloud.fargate_cloud import fargate_cloud
from tests.cloud.modal_cloud import modal_deployments
from tests.docker.engines import IMAGE, engine_of
from tests.util import running_server


@contextmanager
def local() -> Iterator[Make]:
    yield lambda: get_deployment(LocalDeploymentConfig())


@contextmanager
def server() -> Iterator[Make]:
    """A server on the loopback address."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        config = RemoteDeploymentConfig(port=server.port, auth_token=server.token)
        yield lambda: get_deployment(config)


def docker() -> AbstractContextManager[Make]:
    return engine("docker")


def podman() -> AbstractContextManager[Make]:
    return engine("podman")


@contextmanager
def fargate() -> Iterator[Make]:
    """A stand-in for AWS that really runs the tasks."""
    with tempfile.TemporaryDirectory() as folder, fargate_cloud(Path(folder)) as cloud:
        yield cloud.deployment


def modal() -> AbstractContextManager[Make]:
    """A stand-in for Modal that really runs the sandboxes: in containers, if it can have some."""
    try:
        engine_of("docker")
    except pytest.skip.Exception:
        return modal_deployments("process")
    return modal_deployments("container")


DEPLOYMENTS: dict[str, Callable[[], AbstractContextManager[Make]]] = {
    "local": local,
    "server": server,
    "docker": docker,
    "podman": podman,
    "fargate": fargate,
    "modal": modal,
}


@contextmanager
def engine(name: Literal["docker", "podman"]) -> Iterator[Make]:
    """A container engine of this machine."""
    engine_of(name)
    config = DockerDeploymentConfig(image=IMAGE, pull="never", container_runtime=name)
    yield lambda: get_deployment(config)
