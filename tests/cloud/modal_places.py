"""Where the stand-in for Modal runs a sandbox: a process of this machine, or a container; and its tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
from itertools import count
from pathlib import Path
from typing import Protocol

import docker

from tests.util import needs

__all__ = ["ContainerPlace", "Place", "ProcessPlace", "Tunnel", "make_certificate"]


class Place(Protocol):
    """A sandbox that has been started."""

    def address(self, port: int) -> tuple[str, int]:
        """Where this port of it can be reached from this machine."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def kill(self) -> None: ...

    def log(self) -> str: ...

    def remove(self) -> None:
        """Leave nothing of it."""


_network = random.randrange(2, 250)
_hosts = count(random.randrange(1, 50_000))


class ProcessPlace:
    """A process in a folder of its own, with a loopback address of its own, so that all can use one port.

    In its command, paths into the mounts and the address 0.0.0.0 are replaced.
    """

    def __init__(
        self, command: list[str], env: dict[str, str], mounts: dict[str, Path], folder: Path
    ) -> None:
        number = next(_hosts)
        self._host = f"127.{_network}.{number // 250}.{number % 250 + 1}"
        self._log = folder / "log"
        home = folder / "home"
        home.mkdir(parents=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [_here(argument, mounts, self._host) for argument in command],
                env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def address(self, port: int) -> tuple[str, int]:
        return self._host, port

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        # Gently at first: in a container the processes of the sessions would end with it.
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def remove(self) -> None:
        if self.poll() is None:
            self.kill()
        shutil.rmtree(self._log.parent, ignore_errors=True)


def _here(argument: str, mounts: dict[str, Path], host: str) -> str:
    if argument == "0.0.0.0":
        return host
    for target, folder in mounts.items():
        if argument.startswith(f"{target}/"):
            return f"{folder}{argument.removeprefix(target)}"
    return argument


class ContainerPlace:
    """A container of Docker, with the image that was built and the mounts as read-only volumes."""

    def __init__(
        self, image: str, command: list[str], env: dict[str, str], mounts: dict[str, Path], ports: list[int]
    ) -> None:
        self._client = docker.from_env()
        self._container = self._client.containers.run(
            image,
            command,
            environment=env,
            volumes={str(folder): {"bind": target, "mode": "ro"} for target, folder in mounts.items()},
            ports={f"{port}/tcp": ("127.0.0.1", None) for port in ports},
            detach=True,
            init=True,
        )

    def address(self, port: int) -> tuple[str, int]:
        self._container.reload()
        bindings = self._container.attrs["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        # One that has ended has none.
        return "127.0.0.1", int(bindings[0]["HostPort"]) if bindings else 0

    def poll(self) -> int | None:
        self._container.reload()
        state = self._container.attrs["State"]
        return None if state["Running"] else int(state["ExitCode"])

    def kill(self) -> None:
        with contextlib.suppress(docker.errors.APIError):
            self._container.kill()

    def log(self) -> str:
        return self._container.logs().decode(errors="replace")

    def remove(self) -> None:
        self._container.remove(force=True, v=True)
        self._client.close()


class Tunnel:
    """TLS on one side, the sandbox's port on the other. Where nobody answers there, it says so: 502."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.host = socket.gethostname()
        self.port = 0

    async def open(self, context: ssl.SSLContext) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                to_reader, to_writer = await asyncio.open_connection(*self._address)
            except OSError:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            try:
                await asyncio.gather(_relay(reader, to_writer), _relay(to_reader, writer))
            finally:
                to_writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    finally:
        # TLS knows no half-closed connection.
        writer.close()


def make_certificate(folder: Path) -> Path:
    """A file with a key and a certificate for this machine's name, which vouches for itself."""
    needs("openssl")
    name, file = socket.gethostname(), folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", folder / "key.pem", "-out", file),
        ],
        check=True,
        capture_output=True,
    )
    with file.open("ab") as certificate:
        certificate.write((folder / "key.pem").read_bytes())
    return file
