"""The engines and images of the tests of containers, and what a test may have left behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine, connect
from swerex.deployment.docker.sandboxes import OWNER_LABEL, labels
from swerex.exceptions import DeploymentStartupError
from tests.util import needs, wait_until

__all__ = [
    "IMAGE",
    "File",
    "bare_files",
    "build_image",
    "deployment_in",
    "engine_of",
    "leftovers",
    "load_image",
    "no_leftovers",
    "only_docker",
]

IMAGE = os.environ.get("SWEREX_TEST_IMAGE", "python:3.11")
"""An image with Debian and its Python; the engines have it."""

only_docker = pytest.mark.parametrize("engine", ["docker"], indirect=True)
"""For what differs in nothing between the engines, or is there in one only."""


@dataclass
class File:
    """A file of an image: bytes, or a link to somewhere else."""

    content: bytes = b""
    mode: int = 0o755
    link: str = ""


def engine_of(container_runtime: str) -> Engine:
    """The engine. Skips the test where there is none; in CI there are both."""
    try:
        return connect(container_runtime)
    except DeploymentStartupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def bare_files(*, bash: bool = True) -> dict[str, File]:
    """Busybox with its commands, and maybe a bash, both without a libc: Debian's static ones."""
    needs("busybox")
    needs("bash-static")
    files = {"bin/busybox": File(Path("/bin/busybox").read_bytes())}
    listed = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        files.setdefault(f"bin/{applet}", File(link="busybox"))
    if bash:
        files["bin/bash"] = File(Path("/bin/bash-static").read_bytes())
    return files


def build_image(
    engine: Engine, name: str, dockerfile: str, files: dict[str, File] | None = None, **options: Any
) -> str:
    """Build the image `name`. `files` lie in the context as ``root.tar``."""
    context = _tar(
        {"Dockerfile": File(dockerfile.encode(), 0o644), "root.tar": File(_tar(files or {}), 0o644)}
    )
    log: list[str] = []
    for event in engine.client.api.build(
        fileobj=io.BytesIO(context),
        custom_context=True,
        tag=name,
        rm=True,
        forcerm=True,
        decode=True,
        **options,
    ):
        log.append(str(event.get("stream") or event))
        assert "error" not in event, "".join(log)
    return name


def load_image(engine: Engine, name: str, files: dict[str, File], architecture: str) -> str:
    """An image `name` of these files, that says it is for machines of `architecture`."""
    layer = _tar(files)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}]
    content = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    content["layer.tar"] = layer
    engine.client.api.load_image(_tar({path: File(data, 0o644) for path, data in content.items()}))
    return name


def _tar(files: dict[str, File]) -> bytes:
    """The same files make the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, file in files.items():
            info = tarfile.TarInfo(name)
            info.mode = file.mode
            if file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.link
            else:
                info.size = len(file.content)
            tar.addfile(info, io.BytesIO(file.content))
    return buffer.getvalue()


def deployment_in(engine: Engine, **fields: Any) -> DockerDeployment:
    """A deployment in the engine, not yet started, by the fields of its config; nothing is pulled."""
    return DockerDeployment(**{"container_runtime": engine.name.lower(), "pull": "never", **fields})


def leftovers(engine: Engine, owner: str | None = None) -> set[str]:
    """The names of the containers that this process made, or another one (``PID@HOST``)."""
    label = f"{OWNER_LABEL}={owner or labels()[OWNER_LABEL]}"
    found = engine.client.api.containers(all=True, filters={"label": [label]})
    return {item["Names"][0].lstrip("/") for item in found}


def no_leftovers(engine: Engine, owner: str | None = None, but: Set[str] = frozenset()) -> None:
    """Fail if there are some in two seconds still; `but` those that are to be there."""
    wait_until(lambda: leftovers(engine, owner) <= but, timeout=2)
