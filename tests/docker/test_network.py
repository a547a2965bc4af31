"""The networks of a sandbox, and the way to the server in each."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import UploadRequest
from swerex.utils.free_port import find_free_port
from tests.docker.engines import deployment_in, only_docker
from tests.util import wait_until


def look(deployment: DockerDeployment, command: str) -> str:
    with deployment.runtime.session() as session:
        return session.run(command, timeout=10, check="silent").output


def published(engine: Engine, deployment: DockerDeployment) -> dict[str, Any]:
    """Ports of the container, and where the engine's machine has them."""
    found = engine.client.api.inspect_container(deployment.container_name)
    return {port: places for port, places in (found["NetworkSettings"]["Ports"] or {}).items() if places}


@contextmanager
def network_in(engine: Engine) -> Iterator[str]:
    name = f"swerex-test-{os.getpid()}"
    engine.client.api.create_network(name)
    try:
        yield name
    finally:
        engine.client.api.remove_network(name)


def test_the_usual_one_is_reached_from_this_machine_only(start, engine, bare_image):
    deployment = start(image=bare_image)
    [(port, [place])] = published(engine, deployment).items()
    assert (port, place["HostIp"]) == ("8000/tcp", "127.0.0.1")
    with socket.create_connection(("127.0.0.1", int(place["HostPort"])), 5):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_address(), int(place["HostPort"])), 5)


def own_address() -> str:
    """An address of this machine that others can reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # Nothing is sent: the kernel only chooses a way.
        return str(probe.getsockname()[0])


def test_none(start, engine, bare_image, tmp_path):
    deployment = start(image=bare_image, network="none")
    assert look(deployment, "ls /sys/class/net; wc -l </proc/net/route") == "lo\n1\n"
    assert published(engine, deployment) == {}
    (tmp_path / "file").write_bytes(os.urandom(20 << 20))
    deployment.runtime.upload(UploadRequest(source_path=str(tmp_path), target_path="/uploaded"))
    assert look(deployment, "wc -c </uploaded/file") == f"{20 << 20}\n"
    mounts = engine.client.api.inspect_container(deployment.container_name)["Mounts"]
    [folder] = [Path(mount["Source"]).parent for mount in mounts if mount["Type"] == "bind"]
    assert folder.stat().st_mode & 0o777 == 0o700
    deployment.stop()
    assert not folder.exists()


@only_docker
def test_none_as_a_flag(start, bare_image):
    assert look(start(image=bare_image, docker_args=["--net=none"]), "ls /sys/class/net") == "lo\n"


SERVE = """python3 -c '
import socket
with socket.create_server(("", 9000)) as server:
    while True:
        server.accept()[0].sendall(b"hello")
' &
"""


def test_a_named_one(engine, image):
    """Two sandboxes in it know each other by name, and nothing is published."""
    with (
        network_in(engine) as network,
        deployment_in(engine, image=image, network=network) as one,
        deployment_in(engine, image=image, docker_args=["--network", network]) as other,
        other.runtime.session() as session,
    ):
        assert published(engine, one) == {}
        session.run(SERVE)
        ask = f"read -t 5 -N 5 answer </dev/tcp/{other.container_name}/9000; echo $answer"
        wait_until(lambda: look(one, ask) == "hello\n")


@only_docker
def test_a_named_one_and_a_port(start, engine, bare_image):
    port = find_free_port()
    with (
        network_in(engine) as network,
        deployment_in(engine, image=bare_image, network=network, port=port) as deployment,
    ):
        assert look(deployment, "echo reached") == "reached\n"
        assert published(engine, deployment)["8000/tcp"][0]["HostPort"] == str(port)


@only_docker
def test_one_that_is_not_there(start, bare_image):
    with pytest.raises(DeploymentStartupError, match="no-such-network"):
        start(image=bare_image, network="no-such-network")


def test_that_of_the_host(start, engine, bare_image):
    """The server opens no port there: anybody on that machine could try it."""
    deployment = start(image=bare_image, network="host")
    assert look(deployment, "readlink /proc/self/ns/net").strip() == os.readlink("/proc/self/ns/net")
    sockets = look(deployment, "ls -l /proc/1/fd | grep -o 'socket:.*' | tr -dc '0-9\\n'").split()
    assert sockets
    listening = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert not listening & set(sockets)


def test_that_of_another_container(start, bare_image):
    first = start(image=bare_image, network="none")
    second = start(image=bare_image, network=f"container:{first.container_name}")
    which = "readlink /proc/self/ns/net"
    assert look(first, which) == look(second, which)
    assert look(second, "ls /sys/class/net") == "lo\n"


def test_a_port_of_ones_own(start, engine, bare_image):
    port = find_free_port()
    deployment = start(image=bare_image, port=port)
    assert published(engine, deployment) == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    with pytest.raises(DeploymentStartupError, match=f"{port}.*(allocated|in use)"):
        start(image=bare_image, port=port)


@only_docker
def test_ports_of_the_sandbox_beside_the_servers(start, engine, image):
    deployment = start(image=image, docker_args=["-p", "127.0.0.1::9000"])
    port = int(published(engine, deployment)["9000/tcp"][0]["HostPort"])
    with deployment.runtime.session() as session:
        session.run(SERVE)
        wait_until(lambda: read_from(port) == b"hello")


def read_from(port: int) -> bytes:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        return connection.recv(100)
    return b""


@only_docker
def test_an_address_that_a_container_sees(start, engine, bare_image):
    """For programs that run in a container themselves: the port is bound where they can reach it."""
    deployment = start(image=bare_image, docker_internal_host=f"http://{own_address()}")
    [place, *_] = published(engine, deployment)["8000/tcp"]
    with socket.create_connection((own_address(), int(place["HostPort"])), 5):
        pass
    assert look(deployment, "echo reached") == "reached\n"


@only_docker
def test_an_engine_that_is_reached_over_a_network(engine, bare_image, monkeypatch):
    with forwarded(engine.url.removeprefix("unix://")) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{port}")
        with DockerDeployment(image=bare_image, pull="never") as deployment:
            assert look(deployment, "echo reached") == "reached\n"
        with pytest.raises(
            DeploymentStartupError, match=f"tcp://localhost:{port}: use an engine on this machine"
        ):
            DockerDeployment(image=bare_image, pull="never", network="none").start()


@contextmanager
def forwarded(path: str) -> Iterator[int]:
    """A port that leads to a unix socket."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(path)
                ends.extend([near, far])
                for ways in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ways, daemon=True).start()

    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for end in ends:
                end.close()
