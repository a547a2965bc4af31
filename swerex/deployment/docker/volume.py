"""The server's bundle in an engine: a volume, filled through the engine's API, so that it may be remote."""

from __future__ import annotations

import fcntl
import secrets
import tempfile
from contextlib import suppress

import requests
from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount

from swerex import __version__
from swerex.deployment.bundle import Bundle
from swerex.deployment.docker.engine import Engine, interrupts_deferred, said
from swerex.deployment.docker.sandboxes import BUNDLE_LABEL, FILLED_LABEL, LABEL, Use, cache_folder, labels
from swerex.exceptions import DeploymentStartupError

__all__ = ["BUNDLE_ROOT", "bundle_mount", "ensure_volume"]

BUNDLE_ROOT = "/.swerex"
"""Where the bundle lies in a sandbox."""


def volume_name(bundle: Bundle) -> str:
    return f"swerex-bundle-{bundle.key[:20]}"


def bundle_mount(bundle: Bundle) -> Mount:
    """What a sandbox gets to see of the volume."""
    return Mount(BUNDLE_ROOT, volume_name(bundle), type="volume", read_only=True, no_copy=True)


def ensure_volume(engine: Engine, bundle: Bundle, image: str, *, again: bool = False) -> None:
    """Fill the volume if it is not there; `again`: even if it is, since what is in it does not work.

    Raises:
        DeploymentStartupError: the engine can't.
    """
    name = volume_name(bundle)
    try:
        # One at a time, of all threads and processes: they'd write the same files into the same volume. It
        # may be half full until then, and it may have been removed since the last time.
        with open(cache_folder() / f"{name}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if again or not _exists(engine, name):
                _fill(engine, bundle, name, image)
    except (DockerException, requests.RequestException, OSError) as error:
        raise DeploymentStartupError(
            f"The server's files could not be brought to {engine.name} (volume {name}): {said(error)}"
        ) from error


def _exists(engine: Engine, name: str) -> bool:
    try:
        engine.client.api.inspect_volume(name)
    except NotFound:
        return False
    return True


def _fill(engine: Engine, bundle: Bundle, name: str, image: str) -> None:
    api = engine.client.api
    filler = f"swerex-fill-{secrets.token_hex(6)}"
    use = Use(filler, engine)
    try:
        api.create_volume(name, labels={LABEL: __version__, BUNDLE_LABEL: bundle.key})
        with interrupts_deferred():
            # Never started: it is there because the API reaches into a volume only through a container.
            engine.client.containers.create(
                image,
                ["true"],
                name=filler,
                labels={**labels(), FILLED_LABEL: name},
                mounts=[Mount(BUNDLE_ROOT, name, type="volume", no_copy=True)],
            )
        with tempfile.TemporaryFile() as tar:
            bundle.tar_to(tar)
            tar.seek(0)
            api.put_archive(filler, BUNDLE_ROOT, tar)
    except BaseException:
        # What is half full must not be taken for full. Another sandbox may use it; it is whole then.
        with suppress(DockerException, requests.RequestException):
            api.remove_container(filler, force=True, v=True)
        with suppress(APIError, requests.RequestException):
            api.remove_volume(name)
        raise
    else:
        with suppress(NotFound):
            api.remove_container(filler, force=True, v=True)
    finally:
        use.end(removed=True)
