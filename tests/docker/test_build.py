"""Images that are built: from a Dockerfile of the user's, and from the one of this project."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from swerex import PACKAGE_NAME, __version__
from swerex.deployment.docker.engine import Engine
from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.deployment.remote import RemoteDeployment
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import ReadFileRequest
from tests.docker.engines import IMAGE, File, build_image, deployment_in, engine_of, only_docker
from tests.util import wait_until

TOP = Path(__file__).parents[2]


class Hook(DeploymentHook):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_custom_step(self, message: str) -> None:
        self.steps.append(message)


@pytest.fixture
def folder(tmp_path: Path, bare_image: str) -> Path:
    """One with a Dockerfile, and what it needs."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {bare_image}\nCOPY message /message\nRUN echo made of $(cat /message) | tee /made\n"
    )
    # No engine may know the step already, and not show it.
    (tmp_path / "message").write_text(f"{secrets.token_hex(8)}\n")
    return tmp_path


def start_and_look(engine: Engine, image: str, **fields: Any) -> tuple[str, list[str], str]:
    """What is in /made, the steps of the start, and the id of the image."""
    hook = Hook()
    deployment = deployment_in(engine, image=image, **fields)
    deployment.add_hook(hook)
    with deployment:
        made = deployment.runtime.read_file(ReadFileRequest(path="/made")).content
        return made, hook.steps, engine.client.api.inspect_container(deployment.container_name)["Image"]


def test_from_a_folder_with_its_log_shown(engine, folder):
    made, steps, image = start_and_look(engine, str(folder), remove_images=True)
    assert made == f"made of {(folder / 'message').read_text()}"
    assert steps[0] == f"Building {folder / 'Dockerfile'}"
    assert made.strip() in steps
    with pytest.raises(NotFound):
        engine.client.api.inspect_image(image)


@only_docker
@pytest.mark.parametrize("path", ["~/Dockerfile", "./other.docker", "."])
def test_ways_to_name_it(engine, folder, monkeypatch, path):
    shutil.copy(folder / "Dockerfile", folder / "other.docker")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")))
    monkeypatch.setenv("HOME", str(folder))
    assert start_and_look(engine, path, remove_images=True)[0].startswith("made of ")


@only_docker
def test_what_dockerignore_names_is_not_sent(engine, folder):
    (folder / "secret").write_text("secret")
    (folder / ".dockerignore").write_text("secret\n")
    (folder / "Dockerfile").open("a").write("COPY . /all\nRUN ls -A /all >/made\n")
    assert (
        start_and_look(engine, str(folder), remove_images=True)[0] == ".dockerignore\nDockerfile\nmessage\n"
    )


def test_a_step_that_fails(engine, folder):
    (folder / "Dockerfile").open("a").write("RUN echo some words first && exit 3\nRUN echo never\n")
    with pytest.raises(DeploymentStartupError) as caught:
        start_and_look(engine, str(folder))
    message = str(caught.value)
    assert f"could not build {folder / 'Dockerfile'}" in message
    assert "some words first" in message
    assert "3" in message.splitlines()[0]
    assert "echo never" not in message


def test_a_file_that_is_not_there(engine, tmp_path):
    with pytest.raises(DeploymentStartupError, match=f"no Dockerfile at {tmp_path}/Dockerfile"):
        start_and_look(engine, str(tmp_path))


@only_docker
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM 127.0.0.1:1/no/image\n", "refused"),
        ("NONSENSE\n", "NONSENSE"),
        ("", "empty"),
        ("FROM\n", "FROM"),
    ],
)
def test_a_dockerfile_that_is_wrong(engine, tmp_path, text, words):
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(DeploymentStartupError, match=f"could not build .*Dockerfile: [^_].*{words}"):
        start_and_look(engine, str(tmp_path))


@pytest.fixture(scope="module")
def python_image() -> str:
    """One that pip works in: with the certificates of this machine, which may have a proxy of its own."""
    certificates = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_bytes()
    files = {"etc/ssl/certs/ca-certificates.crt": File(certificates, 0o644)}
    return build_image(engine_of("docker"), "swerex-test/python", f"FROM {IMAGE}\nADD root.tar /\n", files)


@pytest.fixture(scope="module")
def baked(python_image: str) -> str:
    """An image from the project's Dockerfile."""
    log: list[str] = []
    for event in engine_of("docker").client.api.build(
        path=str(TOP),
        tag="swerex-test/baked",
        rm=True,
        decode=True,
        buildargs={"BASE_IMAGE": python_image, **settings_of_pip()},
        network_mode="host",
    ):
        log.append(str(event.get("stream") or event))
        assert "error" not in event, "".join(log)
    return "swerex-test/baked"


def settings_of_pip() -> dict[str, str]:
    """Those of this machine that are good in a container too."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        argument = f"PIP_{name.rpartition('.')[2].upper().replace('-', '_')}"
        if argument in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST") and "file:" not in value:
            found[argument] = value.strip("'")
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if value := os.environ.get(name) or os.environ.get(name.upper()):
            found[name] = value
    return found


@only_docker
def test_the_server_of_a_baked_image(engine, baked):
    """As it says in the first lines of the Dockerfile: run it, and let a program of one's own find it."""
    token = secrets.token_hex(16)
    container = engine.client.containers.run(
        baked, detach=True, environment={"SWEREX_AUTH_TOKEN": token}, ports={"8000/tcp": ("127.0.0.1", None)}
    )
    try:
        container.reload()
        port = int(container.ports["8000/tcp"][0]["HostPort"])
        with RemoteDeployment(auth_token=token, port=port) as deployment:
            wait_until(lambda: deployment.is_alive(timeout=1))
            with deployment.runtime.session() as session:
                assert session.run("hostname").output.strip() == container.short_id
                # The image's own Python is as it was.
                assert "/opt/swerex" not in session.run("command -v python3; env").output
                assert (
                    "No module named" in session.run("python3 -c 'import swerex' 2>&1", check="silent").output
                )
    finally:
        container.remove(force=True)


@only_docker
def test_a_baked_image_has_no_secret_and_no_leftovers(engine, baked, python_image):
    found, base = (engine.client.api.inspect_image(name) for name in (baked, python_image))
    assert found["Config"]["Env"] == base["Config"]["Env"]
    assert found["Config"]["User"] == base["Config"]["User"]
    assert list(found["Config"]["ExposedPorts"]) == ["8000/tcp"]
    history = str(engine.client.api.history(baked))
    assert "TOKEN" not in history.upper()
    assert len(found["RootFS"]["Layers"]) == len(base["RootFS"]["Layers"]) + 2


# Run where this machine calls itself another one, though it is the same: the bundle is not for the image
# then, which has to have the server.
ELSEWHERE = """
import json, sys
from swerex.deployment.docker import DockerDeployment
with DockerDeployment(pull="never", startup_timeout=50, **json.loads(sys.argv[1])) as deployment:
    with deployment.runtime.session() as session:
        session.run("x=kept")
        print(session.run("echo $x; ls -d /.swerex 2>&1; env", check="silent").output)
"""


def start_elsewhere(**fields: Any) -> subprocess.CompletedProcess[str]:
    command = ["setarch", "linux32", sys.executable, "-c", ELSEWHERE, json.dumps(fields)]
    return subprocess.run(command, capture_output=True, text=True, timeout=55)


@only_docker
def test_an_image_of_another_machine_with_a_server(engine, baked):
    result = start_elsewhere(image=baked, network="none")
    assert result.stdout.startswith("kept\nls: cannot access '/.swerex': No such file or directory\n"), (
        result.stderr
    )
    assert "VIRTUAL_ENV" not in result.stdout


@only_docker
def test_that_server_may_be_one_that_takes_the_token_in_its_command(engine, baked, make_image):
    """As that of swe-rex does."""
    script = """#!/bin/sh
[ "$1" = --help ] && exec echo 'usage: swerex-remote [--auth-token AUTH_TOKEN]'
unset SWEREX_AUTH_TOKEN
exec /opt/swerex/bin/swerex-remote "$@"
"""
    image = make_image(
        f"FROM {baked}\nADD root.tar /\n", {"usr/local/bin/swerex-remote": File(script.encode())}
    )
    result = start_elsewhere(image=image)
    assert result.stdout.startswith("kept\n"), result.stderr


@only_docker
def test_an_image_of_another_machine_with_pip(engine, python_image, tmp_path):
    """Which gets the server from an index, for want of anything better."""
    source = tmp_path / "source"
    shutil.copytree(TOP / "swerex", source / "swerex", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "README.rst", "LICENSE"):
        shutil.copy(TOP / name, source)
    # An archive of the sources, as an index has it.
    name = f"{tmp_path}/{PACKAGE_NAME}-{__version__}"
    source.rename(name)
    shutil.make_archive(name, "gztar", tmp_path, os.path.basename(name))
    env = {**settings_of_pip(), "PIP_FIND_LINKS": "/found"}
    result = start_elsewhere(image=python_image, network="host", env=env, volumes=[f"{tmp_path}:/found:ro"])
    assert result.stdout.startswith("kept\n"), result.stderr


@only_docker
def test_an_image_of_another_machine_with_nothing(engine, bare_image):
    result = start_elsewhere(image=bare_image)
    assert "the image has neither swerex-remote nor a Python with pip" in result.stderr
    assert "exit code 127" in result.stderr
