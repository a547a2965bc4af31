"""A stand-in for Modal, behind Modal's own protocol: the real `modal` library talks to it over gRPC, and it
really runs the command of a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import shutil
import socket
import ssl
import string
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import docker
import modal
from aiohttp import web
from grpclib import GRPCError, Status
from grpclib.protocol import H2Protocol
from grpclib.server import Server
from modal_proto import api_pb2

from swerex.deployment.modal import ModalDeployment
from tests.cloud.modal_places import ContainerPlace, Place, ProcessPlace, Tunnel, make_certificate
from tests.cloud.modal_service import ResetError, make_service

__all__ = [
    "ModalCloud",
    "Sandbox",
    "environment",
    "forget_client",
    "modal_cloud",
    "modal_deployments",
]

_ALPHABET = string.ascii_letters + string.digits
_PATIENCE = 90


class _Server(Server):
    """A server of gRPC that can cut its connections."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.append(protocol)
        return protocol

    async def cut(self) -> None:
        for protocol in self._protocols:
            # One that was not made yet, or is closed, has none.
            if transport := getattr(getattr(protocol, "connection", None), "_transport", None):
                transport.abort()
        self._protocols.clear()


class Sandbox:
    """A sandbox that was created, and what is known of it."""

    def __init__(
        self, sandbox_id: str, app_id: str, definition: api_pb2.Sandbox, tags: dict[str, str], place: Place
    ) -> None:
        self.id, self.app_id, self.definition, self.tags, self.place = (
            sandbox_id,
            app_id,
            definition,
            tags,
            place,
        )
        self.task_id = sandbox_id.replace("sb-", "ta-")
        self.created_at = time.time()
        self.tunnels: dict[int, Tunnel] = {}
        self._result: api_pb2.GenericResult | None = None

    def result(self) -> api_pb2.GenericResult | None:
        """How it ended, or None while it runs."""
        if self._result is None and (code := self.place.poll()) is not None:
            success = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
            failure = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
            status = failure if code else success
            self._result = api_pb2.GenericResult(status=status, exitcode=code)
        return self._result

    async def end(self, status: api_pb2.GenericResult.GenericStatus.ValueType) -> None:
        if self.result() is None:
            self._result = api_pb2.GenericResult(status=status)
            await asyncio.to_thread(self.place.kill)


class ModalCloud:
    """What the stand-in has, and how it is to misbehave."""

    def __init__(self, folder: Path, kind: Literal["process", "container"]) -> None:
        self.token_id, self.token_secret = "ak-test", "as-test"
        self.apps: dict[str, str] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.files = folder / "files"
        self._mounts: dict[str, dict[str, Path]] = {}
        self._folder, self._kind = folder, kind
        self._dice = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self.url = self.blob_url = ""
        self.behave()

    def behave(self) -> None:
        """Forget all that was set to go wrong, and what was counted."""
        self.build_error = ""
        self.build_seconds = 0.0
        self.create_seconds = 0.0
        self.tunnel_delay = self.log_delay = 0.0
        self.command: list[str] = []
        """What a sandbox runs instead of its own command."""
        self.creates_per_second = float("inf")
        self.error_rate = 0.0
        """The share of requests that fail; half of them after they were carried out."""
        self.death_every = 0
        """Of so many sandboxes one ends at once. 0: none."""
        self._numbers = itertools.count(1)
        self._faults: list[tuple[str, Status | None, str]] = []
        self._tokens, self._refilled = 0.0, time.monotonic()
        self.calls.clear()

    def fail(
        self,
        name: str,
        status: Status | None,
        *,
        times: int = 1,
        when: Literal["before", "after"] = "before",
    ) -> None:
        """Answer the next requests of this name with an error, before or after they are carried out.

        None: with nothing, by resetting the stream.
        """
        self._faults += [(name, status, when)] * times

    def running(self) -> list[Sandbox]:
        return [sandbox for sandbox in self.sandboxes.values() if sandbox.result() is None]

    def dockerfile(self, image_id: str) -> list[str]:
        """The commands of an image and of those it is based on, the first first."""
        image = self.images[image_id]
        return [
            *(line for base in image.base_images for line in self.dockerfile(base.image_id)),
            *image.dockerfile_commands,
        ]

    def cut_connections(self) -> None:
        """As a network does that was idle, or away, for too long."""
        self._run(self._server.cut)

    # What the service asks for

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{''.join(random.choices(_ALPHABET, k=22))}"

    def enter(self, name: str) -> None:
        self.calls[name] += 1
        self._raise_fault(name, "before")
        if name.startswith("SandboxCreate") and self.creates_per_second < float("inf"):
            now = time.monotonic()
            self._tokens += (now - self._refilled) * self.creates_per_second
            self._tokens, self._refilled = min(self._tokens, self.creates_per_second), now
            if self._tokens < 1:
                self.calls["throttled"] += 1
                raise GRPCError(Status.RESOURCE_EXHAUSTED, "Rate limit exceeded")
            self._tokens -= 1

    def leave(self, name: str) -> None:
        self._raise_fault(name, "after")

    def _raise_fault(self, name: str, when: str) -> None:
        for fault in self._faults:
            if fault[0] == name and fault[2] == when:
                self._faults.remove(fault)
                if fault[1] is None:
                    raise ResetError
                raise GRPCError(fault[1], "injected")
        if self._dice.random() < self.error_rate / 2:
            raise GRPCError(Status.UNAVAILABLE, "injected")

    def sandbox(self, sandbox_id: str) -> Sandbox:
        try:
            return self.sandboxes[sandbox_id]
        except KeyError:
            raise GRPCError(Status.NOT_FOUND, f"There is no sandbox {sandbox_id}") from None

    def add_mount(self, files: Iterable[api_pb2.MountFile]) -> str:
        """Lay the files out as they will lie in a sandbox; those of one content once."""
        content = sorted((file.filename, file.sha256_hex, file.mode) for file in files)
        mount_id = "mo-" + hashlib.sha256(repr(content).encode()).hexdigest()[:22]
        root = self._folder / mount_id
        if mount_id not in self._mounts:
            for filename, key, mode in content:
                target = root / filename.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.files / key, target)
                target.chmod(mode or 0o644)
            top = os.path.commonpath([os.path.dirname(filename) for filename, _, _ in content])
            self._mounts[mount_id] = {top: root / top.lstrip("/")}
        return mount_id

    def build(self, image_id: str) -> str:
        """Build an image if it is to run in a container; return what went wrong."""
        if self._kind == "process":
            return ""
        image = self.images[image_id]
        text = "\n".join(image.dockerfile_commands)
        for base in image.base_images:
            text = text.replace(f"FROM {base.docker_tag}", f"FROM {_tag(base.image_id)}")
        context = Path(tempfile.mkdtemp(dir=self._folder))
        for folder in self._mounts.get(image.context_mount_id, {}).values():
            shutil.copytree(folder, context, dirs_exist_ok=True)
        (context / "Dockerfile").write_text(text)
        client = docker.from_env()
        try:
            client.images.build(path=str(context), tag=_tag(image_id), rm=True)
        except docker.errors.DockerException as error:
            return str(error)
        finally:
            client.close()
        return ""

    async def create(
        self,
        app_id: str,
        definition: api_pb2.Sandbox,
        env: dict[str, str],
        tags: Iterable[api_pb2.SandboxTag],
        *,
        version: int,
    ) -> Sandbox:
        name = definition.name
        if name and any(sandbox.definition.name == name for sandbox in self.running()):
            raise GRPCError(Status.ALREADY_EXISTS, f"There is a sandbox {name}")
        sandbox_id = self.new_id("sb") + ("" if version == 1 else "-v2")
        await asyncio.sleep(self.create_seconds)
        place = await asyncio.to_thread(self._start, sandbox_id, definition, env)
        labels = {tag.tag_name: tag.tag_value for tag in tags}
        sandbox = self.sandboxes[sandbox_id] = Sandbox(sandbox_id, app_id, definition, labels, place)
        for spec in definition.open_ports.ports:
            sandbox.tunnels[spec.port] = tunnel = Tunnel(place.address(spec.port))
            await tunnel.open(self._context)
        timeout = api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
        self._loop.call_later(
            definition.timeout_secs, lambda: asyncio.ensure_future(sandbox.end(timeout), loop=self._loop)
        )
        return sandbox

    def _start(self, sandbox_id: str, definition: api_pb2.Sandbox, env: dict[str, str]) -> Place:
        mounts: dict[str, Path] = {}
        for mount_id in definition.mount_ids:
            mounts.update(self._mounts[mount_id])
        command = self.command or list(definition.entrypoint_args)
        if self.death_every and next(self._numbers) % self.death_every == 0:
            command = ["sh", "-c", "echo out of luck; exit 7"]
        if self._kind == "process":
            return ProcessPlace(command, env, mounts, self._folder / sandbox_id)
        ports = [spec.port for spec in definition.open_ports.ports]
        return ContainerPlace(_tag(definition.image_id), command, env, mounts, ports)

    # Its own life

    @contextmanager
    def open(self) -> Iterator[None]:
        self.files.mkdir()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.certificate = make_certificate(self._folder)
        self._context.load_cert_chain(self.certificate)
        # As many sandboxes as there are may be started, waited for and ended at once.
        self._loop.set_default_executor(ThreadPoolExecutor(64))
        thread = threading.Thread(target=self._loop.run_forever, name="modal-cloud", daemon=True)
        thread.start()
        stop = self._run(self._serve)
        try:
            yield
        finally:
            for sandbox in self.sandboxes.values():
                sandbox.place.remove()
            self._run(stop)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()
            self._remove_images()

    def _run(self, function: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(_PATIENCE)

    async def _serve(self) -> Callable[[], Any]:
        listener = socket.create_server(("127.0.0.1", 0))
        self._server = server = _Server([make_service(self)])
        await server.start(sock=listener)
        # A name, as Modal's own.
        self.url = f"http://localhost:{listener.getsockname()[1]}"

        async def put(request: web.Request) -> web.Response:
            data = await request.read()
            self.blobs[request.match_info["id"]] = data
            return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

        app = web.Application(client_max_size=1 << 30)
        app.router.add_put("/{id}", put)
        runner = web.AppRunner(app)
        await runner.setup()
        store = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, store).start()
        self.blob_url = f"http://127.0.0.1:{store.getsockname()[1]}"

        async def stop() -> None:
            for sandbox in self.sandboxes.values():
                for tunnel in sandbox.tunnels.values():
                    tunnel.close()
            server.close()
            await runner.cleanup()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        return stop

    def _remove_images(self) -> None:
        if self._kind == "container":
            client = docker.from_env()
            for image_id in reversed(self.images):
                with contextlib.suppress(docker.errors.APIError):
                    client.images.remove(_tag(image_id))
            client.close()


def _tag(image_id: str) -> str:
    return f"swerex-test-modal:{image_id.lower()}"


@contextmanager
def modal_cloud(kind: Literal["process", "container"] = "process") -> Iterator[ModalCloud]:
    """A stand-in that the `modal` library of this process talks to."""
    with tempfile.TemporaryDirectory(prefix="modal-cloud-") as folder:
        cloud = ModalCloud(Path(folder), kind)
        with cloud.open(), mock.patch.dict(os.environ, environment(cloud)):
            forget_client()
            try:
                yield cloud
            finally:
                forget_client()


def forget_client() -> None:
    """Make the `modal` library, which keeps one client for the process, read the environment anew."""
    modal.Client.from_env().close()


def environment(cloud: ModalCloud) -> Mapping[str, str]:
    """What leads the `modal` library, and the runtime, of a process to the stand-in."""
    return {
        "MODAL_SERVER_URL": cloud.url,
        "MODAL_TOKEN_ID": cloud.token_id,
        "MODAL_TOKEN_SECRET": cloud.token_secret,
        "MODAL_CONFIG_PATH": os.devnull,
        "REQUESTS_CA_BUNDLE": str(cloud.certificate),
        "NO_PROXY": f"127.0.0.1,{socket.gethostname()}",
    }


@contextmanager
def modal_deployments(
    kind: Literal["process", "container"] = "process",
) -> Iterator[Callable[..., ModalDeployment]]:
    """What makes deployments, not yet started, on a stand-in."""
    with modal_cloud(kind):
        yield ModalDeployment
