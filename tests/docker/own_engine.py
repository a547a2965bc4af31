"""A Docker engine of a test's own, which may be stopped, killed and started again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from docker.errors import DockerException

from swerex.deployment.docker.engine import Engine, connect
from swerex.exceptions import DeploymentStartupError
from tests.util import is_running, needs, wait_until

__all__ = ["OwnEngine", "own_engine"]


class OwnEngine:
    """Its sandboxes have no network, for it has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"engine-{secrets.token_hex(6)}"
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._options: tuple[str, ...] = ()

    @property
    def engine(self) -> Engine:
        """The way to it."""
        return connect("docker")

    def run(self, *options: str) -> None:
        """Have it run with these options, and answer."""
        if self._runs() and options == self._options:
            return
        self.end(signal.SIGTERM)
        self._options = options
        command = [
            # Its own network too: without a bridge it removes that of the machine's engine. And its own
            # mounts: one that is killed leaves them.
            *(
                "unshare",
                "--net",
                "--mount",
                "dockerd",
                "--host",
                self.url,
                "--bridge",
                "none",
                "--iptables=false",
            ),
            *("--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec"),
            *("--pidfile", f"{self._folder}/docker.pid", "--containerd-namespace", self._name),
            *("--containerd-plugins-namespace", f"plugins.{self._name}", *options),
        ]
        with open(f"{self._folder}/log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._answers, timeout=30)

    def end(self, number: int) -> None:
        """End it with this signal, if it runs."""
        if self._process is None or not self._runs():
            return
        self._process.send_signal(number)
        self._process.wait()
        # Its containerd dies with it, and must not be taken for alive until somebody has reaped it.
        file = Path(f"{self._folder}/exec/containerd/containerd.pid")
        if file.exists():
            pid = int(file.read_text())
            wait_until(lambda: not is_running(pid), timeout=10)
            file.unlink()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        assert self._runs(), Path(f"{self._folder}/log").read_text()[-2000:]
        with suppress(DeploymentStartupError, DockerException, requests.RequestException):
            return bool(self.engine.client.ping())
        return False


@contextmanager
def own_engine(patch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """One that is not started yet, and that DOCKER_HOST leads to."""
    needs("dockerd")
    needs("unshare")
    if os.geteuid() != 0:
        pytest.skip("an engine of its own needs root")
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:
        engine = OwnEngine(Path(folder))
        patch.setenv("DOCKER_HOST", engine.url)
        try:
            yield engine
        finally:
            engine.end(signal.SIGTERM)
