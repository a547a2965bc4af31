"""The image of a sandbox: there already, pulled, or built from a Dockerfile."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import parse_repository_tag
from rich.console import Console
from rich.live import Live
from rich.text import Text
from urllib3.exceptions import HTTPError

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
        self.os: str = attributes.get("Os") or "linux"
        architecture = attributes.get("Architecture") or ""
        self.machine = _MACHINES.get(architecture, architecture)
        """As ``uname -m`` says it on such a machine."""

    def is_for(self, platform: str | None) -> bool:
        """Whether it is for this platform, such as ``linux/arm64``."""
        if platform is None:
            return True
        system, _, machine = platform.partition("/")
        machine = machine.partition("/")[0]
        return system == self.os and _MACHINES.get(machine, machine) in ("", self.machine)

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


def find_or_pull(
    engine: Engine, name: str, pull: str, platform: str | None, tell: Tell, tell_aside: Tell
) -> Image:
    """The image `name`, pulled if `pull` ("never", "missing" or "always") says so.

    `tell_aside`, in place of `tell`, gets the progress of layers that a terminal shows already.

    Raises:
        DockerPullError: it is not there and was not to be pulled, or could not be.
    """
    if pull != "always":
        found = _find(engine, name)
        if found is not None and found.is_for(platform):
            return found
        if pull == "never":
            wanted = repr(name) if platform is None else f"{name!r} for {platform}"
            raise DockerPullError(
                f"{engine.name} has no image {wanted}, and pull='never' forbids to pull it. Use "
                "pull='missing', or make the image first."
            )
    tell(f"Pulling {name}")
    repository, tag = parse_repository_tag(name)
    try:
        # Somebody may have logged in since this process began.
        engine.client.api.reload_config()
        stream = engine.client.api.pull(
            repository, tag or "latest", stream=True, decode=True, platform=platform
        )
        _watch(stream, tell, tell_aside)
    except _FAILURES as error:
        raise DockerPullError(f"{engine.name} could not pull {name!r}: {said(error)}") from error
    found = _find(engine, name)
    if found is None:
        raise DockerPullError(f"{engine.name} says that it pulled {name!r}, but does not have it")
    return found


def build(engine: Engine, path: str, platform: str | None, tell: Tell, tell_aside: Tell) -> Image:
    """An image from the Dockerfile at `path`, or in that folder; `tell_aside` as for `find_or_pull`.

    Raises:
        DeploymentStartupError: there is no Dockerfile, or the build failed; with the end of its log.
    """
    place = Path(path).expanduser().resolve()
    dockerfile = place / "Dockerfile" if place.is_dir() else place
    if not dockerfile.is_file():
        raise DeploymentStartupError(f"There is no Dockerfile at {dockerfile}")
    # Built again it takes the place of what was built before.
    name = f"swerex-build:{hashlib.sha256(os.fsencode(dockerfile)).hexdigest()[:12]}"
    tell(f"Building {dockerfile}")
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        tell(line)

    try:
        engine.client.api.reload_config()
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
        _watch(stream, show, tell_aside)
    except (*_FAILURES, OSError, TypeError) as error:
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
    except NotFound:
        pass
    except (DockerException, requests.RequestException) as error:
        logger.warning("The image %s stays: %s", image.name, said(error))


_FAILURES = (DockerException, requests.RequestException, HTTPError)
"""Of an engine's work that is watched. The SDK reads the answer by itself, with urllib3."""


def _find(engine: Engine, name: str) -> Image | None:
    try:
        return Image(engine.client.api.inspect_image(name), name)
    except NotFound:
        return None
    except (DockerException, requests.RequestException) as error:
        raise DockerPullError(f"{engine.name} does not tell of image {name!r}: {said(error)}") from error


def _line_of(event: dict[str, Any]) -> tuple[str, str]:
    """A layer's id, and what there is to say of it now; no id for what is not about one layer."""
    if "stream" in event:
        return "", str(event["stream"]).rstrip()
    detail = event.get("progressDetail") or {}
    current, total = detail.get("current"), detail.get("total")
    size = f" {current / 1e6:.1f} of {total / 1e6:.1f} MB" if current is not None and total else ""
    key, status = event.get("id", ""), event.get("status", "")
    if status.startswith("Pulling from"):
        # The id is the tag here.
        return "", f"{key}: {status}"
    return key, f"{status}{size}"


def _watch(events: Iterable[dict[str, Any]], tell: Tell, tell_aside: Tell) -> None:
    """Show what the engine tells of its work: on a terminal one line for each layer, that changes; elsewhere
    a line when something begins or ends."""
    on_terminal = sys.stderr.isatty()
    shown: dict[str, str] = {}
    live: Live | None = None
    try:
        for event in events:
            if "error" in event:
                raise APIError("", explanation=event["error"])
            key, line = _line_of(event)
            if not key:
                if live:
                    live.stop()
                    live = None
                    shown.clear()
                if line:
                    tell(line)
                continue
            known, shown[key] = shown.get(key, ""), line
            if on_terminal:
                if live is None:
                    live = Live(console=Console(stderr=True), transient=True, refresh_per_second=8)
                    live.start()
                live.update(Text("\n".join(f"{key}: {text}" for key, text in shown.items())))
            # The numbers are for a terminal alone.
            if _phase(line) != _phase(known):
                (tell_aside if on_terminal else tell)(f"{key}: {_phase(line)}")
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
