"""How the server in a container is reached: the narrowest way that works with the container's network."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

import requests
from docker.errors import DockerException, NotFound
from docker.types import Mount

from swerex.deployment.config import DockerDeploymentConfig
from swerex.deployment.docker.container import ContainerWatch
from swerex.deployment.docker.engine import Engine, said
from swerex.deployment.docker.options import network_of
from swerex.exceptions import DeploymentStartupError, SandboxDiedError

__all__ = ["REACH_LABEL", "Reach", "reach_for"]

REACH_LABEL = "swerex.reach"
_PREFIX = "swerex-socket-"
_PORT = 8000
"""The server's port in the container."""
_FOLDER = "/.swerex-run"
"""Where a container that has no network sees the folder with the server's socket."""


class Reach:
    """One of these ways, written as in the container's label:

    ``published HOST``  a port of the engine's machine, which is called HOST from here
    ``own NETWORK``     the container's own address in that network
    ``socket FOLDER``   a socket in a folder of this machine, which the container sees too
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._way, _, self._where = label.partition(" ")

    def server_options(self) -> list[str]:
        """What the server has to be told."""
        if self._way == "socket":
            return ["--host", f"unix://{_FOLDER}/socket"]
        return ["--host", "0.0.0.0", "--port", str(_PORT)]

    def prepare(self, options: dict[str, Any], port: int | None) -> None:
        """Add to a container's options what it needs. `port`: the one to publish; None: any."""
        if self._way == "published":
            narrow = _is_loopback(self._where)
            binding = ("127.0.0.1", port) if narrow else port
            ports = options.get("ports") or {}
            key = f"{_PORT}/tcp"
            # The first one is the server's, should the port be published again.
            options["ports"] = {**ports, key: [binding, *(ports.get(key) or [])]}
        elif self._way == "socket":
            # Anybody in the container may write here, but nobody else on this machine gets to it.
            os.mkdir(f"{self._where}/run")
            os.chmod(f"{self._where}/run", 0o777)
            options["mounts"].append(Mount(_FOLDER, f"{self._where}/run", type="bind"))

    def address(self, engine: Engine, watch: ContainerWatch, timeout: float) -> str:
        """Where the server of a container that runs is, or soon will be.

        Raises:
            SandboxDiedError: the container has ended.
            DeploymentStartupError: the engine does not tell, or not within `timeout` seconds.
        """
        if self._way == "socket":
            return f"unix://{self._where}/run/socket"
        found = self._ask(engine, watch.name, timeout)
        if found is None:
            ended = watch.wait_for_end(2)
            if ended:
                raise SandboxDiedError(ended)
            raise DeploymentStartupError(
                f"{engine.name} does not tell the address of {watch.name}\n{watch.log()}"
            )
        return found

    def _ask(self, engine: Engine, name: str, timeout: float) -> str | None:
        deadline = time.monotonic() + min(timeout, 10.0)
        while True:
            try:
                container = engine.client.api.inspect_container(name)
            except NotFound:
                return None
            except (DockerException, requests.RequestException) as error:
                raise DeploymentStartupError(
                    f"{engine.name} does not tell of {name}: {said(error)}"
                ) from error
            found = self._address_in(container["NetworkSettings"])
            if found is not None or not container["State"]["Running"] or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def _address_in(self, settings: dict[str, Any]) -> str | None:
        if self._way == "own":
            networks: dict[str, Any] = settings.get("Networks") or {}
            # It may have been given by its id, and stands here by its name.
            found: dict[str, Any] = networks.get(self._where) or next(iter(networks.values()), {})
            own = found.get("IPAddress")
            return f"http://{own}:{_PORT}" if own else None
        bindings = (settings.get("Ports") or {}).get(f"{_PORT}/tcp")
        return f"{self._where}:{bindings[0]['HostPort']}" if bindings else None

    def is_in(self, mounts: list[dict[str, Any]]) -> bool:
        """Whether a container with these mounts was made by `prepare`: anybody may write a label."""
        ours = {mount.get("Source") for mount in mounts if mount.get("Destination") == _FOLDER}
        return self._way != "socket" or ours == {f"{self._where}/run"}

    def close(self) -> None:
        """Remove what `reach_for` made. Not for a container that still runs."""
        if self._way == "socket" and os.path.basename(self._where).startswith(_PREFIX):
            shutil.rmtree(self._where, ignore_errors=True)


def reach_for(config: DockerDeploymentConfig, options: dict[str, Any], engine: Engine) -> Reach:
    """The way for a container that is to be made with these options. `Reach.close` it after use.

    Raises:
        DeploymentStartupError: there is none.
    """
    network = network_of(options)
    if network in ("none", "host") or (network or "").startswith("container:"):
        if not engine.is_local:
            raise DeploymentStartupError(
                f"A sandbox with the network {network!r} is reached by a socket in a folder that it shares "
                f"with this machine, but {engine.name} runs at {engine.url}: use an engine on this machine, "
                "or another network"
            )
        # A socket's path may have about 100 characters.
        return Reach(f"socket {tempfile.mkdtemp(prefix=_PREFIX, dir=_short_folder())}")
    if network is not None and config.port is None:
        return Reach(f"own {network}")
    host = config.docker_internal_host.rstrip("/")
    if engine.host and _is_loopback(host):
        host = f"http://{engine.host}"
    return Reach(f"published {host}")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) < 50 else "/tmp"
