"""The image of a sandbox on Modal: named, built from a Dockerfile, or given; with the server added."""

from __future__ import annotations

import os
import platform
import re
import shlex
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from logging import Logger
from pathlib import Path, PurePath
from typing import NamedTuple

import modal

from swerex import PACKAGE_NAME, REMOTE_EXECUTABLE_NAME, __version__
from swerex.deployment.bundle import Bundle, get_bundle
from swerex.deployment.modal.calls import start_call
from swerex.exceptions import DeploymentStartupError

__all__ = ["SandboxImage", "forget_build", "sandbox_image", "start_build"]

_ROOT = "/opt/swerex"
"""Where the bundle lies in the sandbox."""
_MACHINE = "x86_64"
_ECR = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/")
_FROM = re.compile(r"^[ \t]*FROM[ \t]", re.IGNORECASE | re.MULTILINE)


class SandboxImage(NamedTuple):
    """An image, not yet built, and the command that starts the server in it."""

    image: modal.Image
    command: list[str]
    key: Hashable
    """Images of one key, which is not None, are the same, so that one need be built."""


def sandbox_image(
    source: str | PurePath | modal.Image, *, install_pipx: bool, logger: Logger
) -> SandboxImage:
    """The image that `source` is or names, with the server in it.

    Raises:
        DeploymentStartupError: there is no such Dockerfile, or there are no credentials for the registry.
    """
    image = source if isinstance(source, modal.Image) else _find(source)
    bundle = _bundle(logger)
    if bundle is None:
        install = _install(pipx=install_pipx)
        return SandboxImage(image.run_commands(install), [REMOTE_EXECUTABLE_NAME], None)
    # Not copied into a layer: added when the sandbox starts, to any image, without a build.
    image = image.add_local_dir(bundle.path, _ROOT)
    # The content of a name is Modal's to remember, and that of its own object does not change. Files may.
    fixed = isinstance(source, modal.Image) or (isinstance(source, str) and not os.path.isfile(source))
    return SandboxImage(image, bundle.command(_ROOT), (source, bundle.key) if fixed else None)


_builds: dict[Hashable, Future[modal.Image]] = {}
_lock = threading.Lock()


def start_build(found: SandboxImage, app: modal.App) -> Future[modal.Image]:
    """Build the image. What many deployments ask for is built once, or looked up, by one of them."""

    def build() -> modal.Image:
        return found.image.build(app)

    if found.key is None:
        return start_call(build)
    key = _build_key(found, app)
    with _lock:
        future = _builds.get(key)
        if future is None or (future.done() and future.exception()):
            future = _builds[key] = start_call(build)
        return future


def forget_build(found: SandboxImage, app: modal.App) -> None:
    """Build the image anew the next time: this build did not end in time, and may never do so."""
    with _lock:
        _builds.pop(_build_key(found, app), None)


def _build_key(found: SandboxImage, app: modal.App) -> Hashable:
    # A forked child has none of the threads that build.
    return os.getpid(), app.app_id, found.key


def _bundle(logger: Logger) -> Bundle | None:
    """What brings the server into the sandbox. None: the image has to have one, or is given one."""
    if platform.machine() != _MACHINE:
        logger.info("This machine is no %s, as Modal's are: installing the server in the image", _MACHINE)
        return None
    try:
        return get_bundle()
    except DeploymentStartupError as error:
        logger.warning("Installing the server in the image: %s", error)
        return None


def _find(source: str | PurePath) -> modal.Image:
    path = Path(source)
    if path.is_file():
        image = modal.Image.from_dockerfile(
            path, context_dir=path.resolve().parent, registry_secret=_dockerfile_secret(path)
        )
    elif isinstance(source, PurePath):
        raise DeploymentStartupError(
            f"There is no Dockerfile {source}. The name of an image must be a string."
        )
    elif found := _ECR.match(source):
        image = modal.Image.from_aws_ecr(source, secret=_aws_secret(source, found["region"]))
    else:
        image = modal.Image.from_registry(source, secret=_registry_secret())
    # Else the command would be an argument of the image's own entry point.
    return image.entrypoint([])


def _registry_secret() -> modal.Secret | None:
    username, password = os.environ.get("DOCKER_USERNAME"), os.environ.get("DOCKER_PASSWORD")
    if not username or not password:
        return None
    return modal.Secret.from_dict({"REGISTRY_USERNAME": username, "REGISTRY_PASSWORD": password})


def _dockerfile_secret(path: Path) -> modal.Secret | None:
    # Modal takes none for a Dockerfile with several stages.
    return _registry_secret() if len(_FROM.findall(path.read_text())) == 1 else None


def _aws_secret(image: str, region: str) -> modal.Secret:
    try:
        import boto3
    except ModuleNotFoundError as error:
        raise DeploymentStartupError(
            f"The registry of {image} wants AWS credentials, which need a package: pip install boto3"
        ) from error
    found = boto3.Session().get_credentials()
    if found is None:
        raise DeploymentStartupError(
            f"The registry of {image} wants AWS credentials, and boto3 finds none: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    keys = found.get_frozen_credentials()
    return modal.Secret.from_dict(
        {
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token,
            "AWS_REGION": region,
        }
    )


def _install(*, pipx: bool) -> str:
    """What installs the server in an image that lacks it."""
    package = shlex.quote(f"{PACKAGE_NAME}=={__version__}")
    install = f"python3 -m pip install {package}"
    if pipx:
        # Outside of the home folder, which a sandbox's user need not share.
        install = (
            "python3 -m pip install pipx && "
            f"PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin python3 -m pipx install {package}"
        )
    # The image is this sandbox's own, also where its Python says that a package manager manages it: PEP 668.
    return f"command -v {REMOTE_EXECUTABLE_NAME} || ( export PIP_BREAK_SYSTEM_PACKAGES=1; {install} )"
