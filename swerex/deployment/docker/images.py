"""The image of a sandbox: there already, pulled, or built from a Dockerfile."""

from __future__ import annotations

import logging
import os
import platform
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests
from docker.errors import DockerException, ImageNotFound
from docker.utils import parse_repository_tag
from rich.console import Console
from rich.live import Live
from rich.text import Text

from swerex import __version__
from swerex.deployment.docker.engine import Engine, said
from swerex.deployment.docker.sandboxes import LABEL
from swerex.exceptions import DeploymentStartupError, DockerPullError

__all__ = ["Image", "build", "find_or_pull", "is_path", "remove_image"]

Tell = Callable[[str], None]
"""Takes a line for who watches."""

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}
"""What engines call the machines whose names differ from those of the kernel."""


class Image:
    """An image that the engine has."""

    def __init__(self, attributes: dict[str, Any], name: str) -> None:
        self.name = name
        self.id: str = attributes["Id"]
        self.os: str = attributes.get("Os") or "linux"
        architecture = attributes.get("Architecture") or ""
        self.machine = _MACHINES.get(architecture, architecture)
        """As ``uname -m`` says it on such a machine."""

    def runs_here(self) -> bool:
        """Whether it is for machines like the one this program runs on."""
        return self.os == "linux" and self.machine in ("", platform.machine())


def is_path(image: str) -> bool:
    """Whether `image` means a Dockerfile, or a folder with one, and not a name: it begins with ``/``, ``./``,
    ``../`` or ``~``, or is named Dockerfile."""
    return (
        image.startswith(("/", "./", "../", "~"))
        or image in (".", "..")
        or os.path.basename(image) == "Dockerfile"
    )


def find_or_pull(engine: Engine, name: str, pull: str, platform: str | None, tell: Tell) -> Image:
    """The image `name`, pulled if `pull` ("never", "missing" or "always") says so.

    Raises:
        DockerPullError: it is not there and was not to be pulled, or could not be.
    """
    if pull != "always":
        found = _find(engine, name)
        if found is not None:
            return found
        if pull == "never":
            raise DockerPullError(
                f"{engine.name} has no image {name!r}, and pull='never' forbids to pull it. Use "
                "pull='missing', or make the image first."
            )
    tell(f"Pulling {name}")
    repository, tag = parse_repository_tag(name)
    try:
        stream = engine.client.api.pull(
            repository, tag or "latest", stream=True, decode=True, platform=platform
        )
        _watch(stream, _layer_line, tell)
    except (DockerException, requests.RequestException, _StepFailedError) as error:
        raise DockerPullError(f"{engine.name} could not pull {name!r}: {said(error)}") from error
    found = _find(engine, name)
    if found is None:
        raise DockerPullError(f"{engine.name} says that it pulled {name!r}, but does not have it")
    return found


def build(engine: Engine, path: str, platform: str | None, tell: Tell) -> Image:
    """An image from the Dockerfile at `path`, or in that folder.

    Raises:
        DeploymentStartupError: there is no Dockerfile, or the build failed; with the end of its log.
    """
    place = Path(path).expanduser().resolve()
    dockerfile = place / "Dockerfile" if place.is_dir() else place
    if not dockerfile.is_file():
        raise DeploymentStartupError(f"There is no Dockerfile at {dockerfile}")
    name = f"swerex-build:{uuid.uuid4().hex[:12]}"
    tell(f"Building {dockerfile}")
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        tell(line)

    try:
        stream = engine.client.api.build(
            path=str(dockerfile.parent),
            dockerfile=dockerfile.name,
            tag=name,
            rm=True,
            forcerm=True,
            decode=True,
            platform=platform,
            labels={LABEL: __version__},
        )
        _watch(stream, _log_line, show)
    except (DockerException, requests.RequestException, _StepFailedError, OSError, TypeError) as error:
        log = "\n".join(lines[-30:])
        raise DeploymentStartupError(
            f"{engine.name} could not build {dockerfile}: {said(error)}\nThe end of its log:\n{log}"
        ) from error
    found = _find(engine, name)
    if found is None:
        raise DeploymentStartupError(f"{engine.name} built {dockerfile}, but has no image of it")
    return found


def remove_image(engine: Engine, image: Image, logger: logging.Logger) -> None:
    """Remove it, unless another container has it, which is for the log only."""
    try:
        engine.client.api.remove_image(image.name)
    except ImageNotFound:
        pass
    except (DockerException, requests.RequestException) as error:
        logger.warning("The image %s stays: %s", image.name, said(error))


class _StepFailedError(Exception):
    """The engine said so in the midst of its progress."""

    def __str__(self) -> str:
        return str(self.args[0])


def _find(engine: Engine, name: str) -> Image | None:
    try:
        return Image(engine.client.api.inspect_image(name), name)
    except ImageNotFound:
        return None
    except (DockerException, requests.RequestException) as error:
        raise DeploymentStartupError(
            f"{engine.name} does not tell of image {name!r}: {said(error)}"
        ) from error


def _layer_line(event: dict[str, Any]) -> tuple[str, str]:
    """A layer's id, and what there is to say of it now."""
    detail = event.get("progressDetail") or {}
    current, total = detail.get("current"), detail.get("total")
    size = f" {current / 1e6:.1f} of {total / 1e6:.1f} MB" if current is not None and total else ""
    return str(event.get("id", "")), f"{event.get('status', '')}{size}"


def _log_line(event: dict[str, Any]) -> tuple[str, str]:
    return "", str(event.get("stream") or event.get("status") or "").rstrip()


def _watch(
    events: Iterable[dict[str, Any]], line_of: Callable[[dict[str, Any]], tuple[str, str]], tell: Tell
) -> None:
    """Show what the engine tells of its work: on a terminal one line for each layer, that changes; elsewhere
    a line when something begins or ends."""
    console = Console(stderr=True)
    shown: dict[str, str] = {}
    live = Live(console=console, transient=True, refresh_per_second=8) if sys.stderr.isatty() else None
    if live:
        live.start()
    try:
        for event in events:
            if "error" in event:
                raise _StepFailedError(event["error"])
            key, line = line_of(event)
            if not line:
                continue
            if not key:
                tell(line)
                continue
            # The numbers are for a terminal alone.
            known, shown[key] = shown.get(key, ""), line
            if live:
                live.update(Text("\n".join(f"{key}: {text}" for key, text in shown.items())))
            if _phase(line) != _phase(known):
                tell(f"{key}: {_phase(line)}")
    finally:
        if live:
            live.stop()


def _phase(line: str) -> str:
    words = []
    for word in line.split():
        if word[0].isdigit():
            break
        words.append(word)
    return " ".join(words)
