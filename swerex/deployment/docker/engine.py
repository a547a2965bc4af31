"""The way to an engine: Docker, or Podman through its API service."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException

from swerex.exceptions import DeploymentStartupError

__all__ = ["Engine", "connect", "interrupts_deferred", "said"]

_TIMEOUT = 120
"""Seconds that the engine may take for one call: a busy one starts many containers at once."""


class Engine:
    """One engine, for all threads and deployments of this process."""

    def __init__(self, name: str, url: str, client: docker.DockerClient) -> None:
        self.name = name
        """As a person calls it: Docker or Podman."""
        self.url = url
        self.client = client
        parts = urlsplit(url)
        self.is_local = parts.scheme in ("unix", "http+unix", "npipe")
        """It runs on this machine, as far as the address tells."""
        self.host = None if self.is_local else parts.hostname
        """The machine it runs on, if another."""


_engines: dict[tuple[int, str, str], Engine] = {}
_lock = threading.Lock()


def connect(container_runtime: str) -> Engine:
    """The engine that the environment tells of: DOCKER_HOST, the current context of the ``docker`` command,
    or the usual socket; for Podman CONTAINER_HOST or the usual sockets.

    Raises:
        DeploymentStartupError: none answers; the message says what to do.
    """
    url = _podman_url() if container_runtime == "podman" else _docker_url()
    # Connections can't be shared with a forked child.
    key = (os.getpid(), container_runtime, url)
    name = container_runtime.capitalize()
    try:
        with _lock:
            if key not in _engines:
                _engines[key] = Engine(name, url, _open(url))
        engine = _engines[key]
        # It may have gone since.
        engine.client.ping()
    except (DockerException, OSError, ValueError) as error:
        raise DeploymentStartupError(_why_not(name, url, error)) from error
    return engine


def _open(url: str) -> docker.DockerClient:
    options: dict[str, Any] = {}
    if url == os.environ.get("DOCKER_HOST"):
        # With the certificates of DOCKER_CERT_PATH, if they are asked for.
        options = docker.utils.kwargs_from_env()
    options["base_url"] = url
    return docker.DockerClient(version="auto", timeout=_TIMEOUT, max_pool_size=100, **options)


def _why_not(name: str, url: str, error: Exception) -> str:
    path = urlsplit(url).path if url.startswith("unix:") else None
    start = (
        "`podman system service --time=0 unix:///run/podman/podman.sock`, or "
        "`systemctl --user start podman.socket`"
        if name == "Podman"
        else "`systemctl start docker`, or Docker Desktop"
    )
    variable = "CONTAINER_HOST" if name == "Podman" else "DOCKER_HOST"
    if path is not None and _is_forbidden(path):
        group = "" if name == "Podman" else " Add it to the group docker (`sudo usermod -aG docker $USER`),"
        return (
            f"This user has no permission for {name}'s socket {path}.{group} run a rootless engine, or name "
            f"another with {variable}."
        )
    return (
        f"No {name} engine answers at {url}: start it with {start}, or set {variable} to another. ({error})"
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _is_forbidden(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(path, os.R_OK | os.W_OK)


def _docker_url() -> str:
    if url := os.environ.get("DOCKER_HOST"):
        return url
    try:
        context = docker.ContextAPI.get_current_context()
    except (DockerException, OSError, ValueError):
        context = None
    if context is not None and context.Name != "default" and (url := context.Host):
        return str(url)
    return _first_socket("/var/run/docker.sock", f"{_runtime_folder()}/docker.sock")


def _podman_url() -> str:
    return os.environ.get("CONTAINER_HOST") or _first_socket(
        f"{_runtime_folder()}/podman/podman.sock", "/run/podman/podman.sock"
    )


def _first_socket(*paths: str) -> str:
    found = [path for path in paths if _is_socket(path)]
    return f"unix://{(found or paths)[0]}"


def _runtime_folder() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid() if sys.platform != 'win32' else 0}"


def said(error: Exception) -> str:
    """The engine's own words in `error`."""
    if isinstance(error, APIError):
        return str(error.explanation or error)
    if isinstance(error, DockerException):
        return str(error)
    return f"{type(error).__name__}: {error}"


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Keep what SIGINT and SIGTERM do back until the end of the block, for calls that must not be left half
    done: an engine goes on with what a lost caller has asked for. The second signal is not kept back."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in former.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield
        return
    came: list[tuple[int, Any]] = []

    def note(number: int, frame: Any) -> None:
        came.append((number, frame))
        if len(came) > 1:
            handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if len(came) == 1:
            handlers[signal.Signals(came[0][0])](*came[0])
