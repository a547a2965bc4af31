"""Pulling images: from a registry on the loopback address, with and without credentials."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from swerex.deployment.docker.engine import Engine
from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.exceptions import DockerPullError
from swerex.runtime.abstract import ReadFileRequest
from tests.docker.engines import File, bare_files, build_image, deployment_in, engine_of, only_docker
from tests.util import needs, wait_until

# That of the password "secret".
HTPASSWD = "somebody:$2y$05$kPtgKKpm7JMAa2cSKSKZqu0DJLXXS.ZD0XKSypHvLM0Kplk76pe1W\n"
DENIED = r"unauthorized|no basic auth credentials|authentication required"
CREDENTIALS = {"username": "somebody", "password": "secret"}


@contextmanager
def running_registry(folder: Path, *, private: bool = False) -> Iterator[str]:
    """A registry, as ``127.0.0.1:PORT``."""
    needs("docker-registry")
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": "127.0.0.1:0"},
    }
    if private:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    # JSON is YAML.
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        found = wait_until(lambda: re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text()))
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)


def push(registry: str, version: str, auth: dict[str, str] | None = None) -> str:
    """Push an image of two layers whose file /version says `version`, and return its name there."""
    docker, path = engine_of("docker"), "swerex-test/pulled"
    # Another name for the same: an engine that has the image to push does not have the one to pull.
    name = f"{registry.replace('127.0.0.1', 'localhost')}/{path}"
    base = {**bare_files(), "filler": filler()}
    build_image(docker, f"{name}-base", "FROM scratch\nADD root.tar /\n", base)
    build_image(docker, name, f"FROM {name}-base\nADD root.tar /\n", {"version": File(version.encode())})
    for event in docker.client.api.push(name, "latest", stream=True, decode=True, auth_config=auth):
        assert "error" not in event, event
    docker.client.api.remove_image(name)
    docker.client.api.remove_image(f"{name}-base")
    return f"{registry}/{path}"


def filler() -> File:
    """Something that can't be packed, so that there is progress to see."""
    return File(os.urandom(4 << 20))


@contextmanager
def podman_that_trusts(registry: str, folder: Path) -> Iterator[str]:
    """The address of a Podman service that takes the registry without TLS, as Docker does on the loopback."""
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    url = f"unix://{folder}/podman.sock"
    process = subprocess.Popen(
        ["podman", "system", "service", "--time=0", url],
        # CONTAINER_HOST would make this command a client of that.
        env={
            **{name: value for name, value in os.environ.items() if name != "CONTAINER_HOST"},
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        },
    )
    try:
        wait_until(lambda: _answers(f"{folder}/podman.sock"))
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(path: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        return True
    return False


class Hook(DeploymentHook):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_custom_step(self, message: str) -> None:
        self.steps.append(message)


@dataclass
class Place:
    """A registry, and an engine that pulls from it."""

    registry: str
    engine: Engine
    images: set[str] = field(default_factory=set)

    def pull(self, name: str, **fields: Any) -> tuple[str, list[str]]:
        """What /version says in a sandbox from the image, and the steps of its start."""
        hook = Hook()
        deployment = deployment_in(self.engine, image=name, **fields)
        deployment.add_hook(hook)
        with deployment:
            self.images.add(self.engine.client.api.inspect_container(deployment.container_name)["Image"])
            return deployment.runtime.read_file(ReadFileRequest(path="/version")).content, hook.steps

    def forget(self) -> None:
        """Remove what was pulled."""
        while self.images:
            with suppress(NotFound):
                self.engine.client.api.remove_image(self.images.pop(), force=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[str]:
    with running_registry(folder) as registry:
        yield registry


@pytest.fixture(scope="module")
def place(engine: Engine, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with trusting(engine, registry, tmp_path_factory.mktemp("podman")) as place:
        yield place


@contextmanager
def trusting(engine: Engine, registry: str, folder: Path) -> Iterator[Place]:
    if engine.name == "Docker":
        yield Place(registry, engine)
        return
    with pytest.MonkeyPatch.context() as patch, podman_that_trusts(registry, folder) as url:
        patch.setenv("CONTAINER_HOST", url)
        yield Place(registry, engine_of("podman"))


@pytest.fixture
def pulled(place: Place) -> Iterator[str]:
    """The name of an image that the registry has, of version one, and the engine not."""
    name = push(place.registry, "one")
    place.images.add(name)
    yield name
    place.forget()


def test_missing_pulls_what_is_not_there(place, pulled):
    version, steps = place.pull(pulled, pull="missing")
    assert version == "one"
    assert steps[0] == f"Pulling {pulled}"
    assert any("Starting" in step for step in steps)
    version, steps = place.pull(pulled, pull="missing")
    assert (version, [step for step in steps if "Pull" in step]) == ("one", [])


def test_always_gets_the_newest(place, pulled):
    place.pull(pulled, pull="missing")
    push(place.registry, "two")
    assert place.pull(pulled, pull="missing")[0] == "one"
    assert place.pull(pulled, pull="always")[0] == "two"


@only_docker
def test_never(place, pulled):
    with pytest.raises(DockerPullError, match=rf"no image '{pulled}'.*pull='never'"):
        place.pull(pulled, pull="never")
    place.pull(pulled, pull="missing")
    assert place.pull(pulled, pull="never")[0] == "one"


@only_docker
def test_never_for_another_platform(place, pulled):
    place.pull(pulled, pull="missing")
    other = "linux/s390x"
    with pytest.raises(DockerPullError, match=f"no image '{pulled}' for {other}"):
        place.pull(pulled, pull="never", platform=other)


@only_docker
def test_a_name_with_a_digest(place, pulled):
    place.pull(pulled, pull="missing")
    [digest] = place.engine.client.api.inspect_image(pulled)["RepoDigests"]
    place.forget()
    assert place.pull(digest, pull="missing")[0] == "one"


def test_remove_images(place, pulled):
    place.pull(pulled, pull="missing", remove_images=True)
    with pytest.raises(NotFound):
        place.engine.client.api.inspect_image(pulled)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{registry}/swerex-test/pulled:nosuchtag", "manifest unknown"),
        ("{registry}/no/such/image", "unknown"),
        ("not a name", "invalid reference format"),
        ("UPPER/Case", "must be lowercase"),
    ],
)
def test_what_can_not_be_pulled(place, name, words):
    name = name.format(registry=place.registry)
    with pytest.raises(DockerPullError, match=re.escape(repr(name))) as caught:
        place.pull(name, pull="missing")
    assert words in str(caught.value)


@only_docker
def test_no_registry(place):
    with pytest.raises(DockerPullError, match="connection refused"):
        place.pull("127.0.0.1:1/image", pull="missing")


@only_docker
def test_progress_in_the_log(place, pulled):
    _, steps = place.pull(pulled, pull="missing")
    layers = {step.partition(":")[0] for step in steps if step.endswith(": Pull complete")}
    assert len(layers) == 2
    for layer in layers:
        # A line when something begins or ends, and none for each megabyte.
        told = [step for step in steps if step.startswith(layer)]
        assert len(told) == len(set(told)) <= 8
        assert told[0] == f"{layer}: Pulling fs layer"


PROGRAM = """
import sys
from swerex.deployment.docker import DockerDeployment
with DockerDeployment(image=sys.argv[1]) as deployment:
    print("started")
"""


@only_docker
def test_progress_elsewhere_is_plain_lines(place, pulled):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, pulled], capture_output=True, text=True, timeout=50, check=True
    )
    assert result.stdout == "started\n"
    assert result.stderr.count(": Pull complete") == 2
    assert "\x1b" not in result.stderr


@only_docker
def test_progress_on_a_terminal_is_a_line_for_each_layer(place, pulled):
    near, far = pty.openpty()
    termios.tcsetwinsize(far, (40, 120))
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, pulled],
            env={**os.environ, "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=far,
        )
        os.close(far)
        shown = b""
        with suppress(OSError):
            while piece := os.read(near, 65536):
                shown += piece
        assert process.communicate(timeout=50)[0] == b"started\n"
    finally:
        os.close(near)
    text = shown.decode()
    assert len(re.findall(r"INFO .*(Pulling |Status: Downloaded|Starting |Waiting )", text)) == 5
    # Each frame of the moving part begins where the last one was erased.
    frames = [re.findall(r"^([0-9a-f]{12}): (.*?)\s*$", frame, re.M) for frame in text.split("\x1b[2K")]
    layers = {key for frame in frames for key, _ in frame}
    assert len(layers) == 2
    assert all(len(frame) == len(dict(frame)) for frame in frames)
    assert re.search(r"(Downloading|Extracting) [\d.]+ of [\d.]+ MB", text)
    assert "Pull complete" not in re.sub(r".*\x1b\[2K", "", text, flags=re.S)


def test_a_private_registry(engine, tmp_path, monkeypatch):
    """With the credentials of ``docker login``, also when that was after the first use of the engine."""

    def log_in(registry: str) -> None:
        auth = base64.b64encode(f"{CREDENTIALS['username']}:{CREDENTIALS['password']}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with running_registry(tmp_path, private=True) as registry, trusting(engine, registry, tmp_path) as place:
        name = push(registry, "private", CREDENTIALS)
        log_in("registry.example.com")
        with pytest.raises(DockerPullError, match=DENIED):
            place.pull(name, pull="missing")
        log_in(registry)
        try:
            assert place.pull(name, pull="missing")[0] == "private"
        finally:
            place.forget()


@only_docker
def test_a_registry_that_breaks_off(engine, tmp_path):
    """In the midst of a layer."""
    with running_registry(tmp_path) as registry:
        name = push(registry, "half")
        layer = max(tmp_path.rglob("data"), key=lambda path: path.stat().st_size)
        os.truncate(layer, layer.stat().st_size // 2)
        with pytest.raises(DockerPullError, match=f"Docker could not pull '{name}'"):
            Place(registry, engine).pull(name, pull="missing")
