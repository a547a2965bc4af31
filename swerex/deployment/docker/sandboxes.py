"""Find the sandboxes in an engine, and tidy up what nobody uses any more."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import requests
from docker.errors import APIError, DockerException, NotFound

from swerex import __version__
from swerex.deployment.docker.engine import Engine, connect, said
from swerex.deployment.docker.reach import Reach
from swerex.exceptions import SwerexException
from swerex.utils.cache import cache_path

__all__ = ["Sandbox", "Use", "labels", "list_sandboxes", "prune", "remove_abandoned", "remove_container"]

_REMOVAL_TIMEOUT = 30.0
"""Seconds that the engine may take to remove a container which ends by itself just now."""
LABEL = "swerex"
"""The label of all that is made here; its value is the version that made it."""
OWNER_LABEL = "swerex.owner"
KEPT_LABEL = "swerex.kept"
BUNDLE_LABEL = "swerex.bundle"
FILLED_LABEL = "swerex.filled"
"""Of the container through which a volume is filled; its value is the volume's name."""


@dataclass(frozen=True)
class Sandbox:
    """A container, or the volume with the server's files, as `list_sandboxes` and `prune` see it."""

    name: str
    kind: str
    """"container" or "volume"."""
    version: str
    """The version of this package that made it."""
    owner: str
    """The process and host that made it, as ``PID@HOST``."""
    created: str
    """When, as the engine says."""
    status: str
    """As the engine says: "running", "exited", "created" ..."""
    in_use: bool | None
    """Whether a process holds it. None: that can't be seen from here, since it was made on another machine,
    or by another user."""
    kept: bool
    """It is to be kept: made with ``remove_container=False``."""


def labels() -> dict[str, str]:
    """For what this process makes."""
    return {LABEL: __version__, OWNER_LABEL: f"{os.getpid()}@{socket.gethostname()}"}


def cache_folder() -> Path:
    """The user's folder for what processes of this machine share. Raises OSError if it can't be made."""
    folder = cache_path("sandboxes")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Use:
    """This process uses a sandbox, until `end`, or until it dies and the kernel gives its lock back."""

    def __init__(self, name: str, engine: Engine, reach: str = "") -> None:
        """`reach` is the label of the way to it: if this process is killed, others remove what that has."""
        self._fd = -1
        self._path: Path | None = None
        # Without a lock nobody but the lease can tell that it is not used any more.
        with suppress(OSError):
            self._path = cache_folder() / name
            while not self._locked(self._path):
                pass
            os.pwrite(self._fd, f"{engine.url}\n{reach}\n".encode(), 0)

    def _locked(self, path: Path) -> bool:
        """False: it was just being removed."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), path.stat()):
                return True
        os.close(self._fd)
        self._fd = -1
        return False

    def end(self, *, removed: bool) -> None:
        """`removed`: the sandbox is no more, and nobody will ask."""
        if self._fd >= 0:
            if removed and self._path is not None:
                self._path.unlink(missing_ok=True)
            # A child that was forked since has the descriptor too.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1


def _in_use(name: str) -> bool | None:
    try:
        with open(cache_folder() / name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def list_sandboxes(*, container_runtime: str = "docker") -> list[Sandbox]:
    """All sandboxes in the engine, of every process and host, and the volumes with the server's files.

    Raises:
        SwerexException: the engine does not answer.
    """
    engine = connect(container_runtime)
    try:
        return list(_find(engine))
    except (DockerException, requests.RequestException) as error:
        raise SwerexException(f"{engine.name} did not list its containers: {said(error)}") from error


def _find(engine: Engine) -> Iterator[Sandbox]:
    api = engine.client.api
    only = {"label": [LABEL]}
    for item in api.containers(all=True, filters=only):
        name = item["Names"][0].lstrip("/")
        created = datetime.fromtimestamp(item["Created"], timezone.utc).isoformat()
        yield _sandbox(name, "container", item["Labels"], created, item["State"], _in_use(name))
    used = {mount.get("Name") for item in api.containers(all=True) for mount in item.get("Mounts") or []}
    for item in (api.volumes(filters=only) or {}).get("Volumes") or []:
        in_use = item["Name"] in used
        state = "mounted" if in_use else "idle"
        yield _sandbox(item["Name"], "volume", item["Labels"], item.get("CreatedAt", ""), state, in_use)


def _sandbox(
    name: str, kind: str, found: dict[str, str], created: str, status: str, in_use: bool | None
) -> Sandbox:
    return Sandbox(
        name, kind, found[LABEL], found.get(OWNER_LABEL, ""), created, status, in_use, KEPT_LABEL in found
    )


def prune(
    *, container_runtime: str = "docker", dry_run: bool = False, kept: bool = False, volumes: bool = False
) -> list[Sandbox]:
    """Remove the sandboxes that no process uses any more, and return them; `dry_run`: only return them.

    A sandbox that another process uses is left alone, and so is one of which this can't be seen from here:
    its lease ends it. `kept`: also those that were kept by ``remove_container=False``.
    `volumes`: also the server's files, if no container has them; they are made again when they are needed.

    Raises:
        SwerexException: the engine does not answer, or refuses to remove one; the others are removed.
    """
    engine = connect(container_runtime)
    found = list_sandboxes(container_runtime=container_runtime)
    doomed = [item for item in found if _is_idle(item, kept=kept, volumes=volumes)]
    if dry_run:
        return doomed
    removed: list[Sandbox] = []
    refused: list[str] = []
    # Containers first: they have the volumes.
    for item in sorted(doomed, key=lambda item: item.kind):
        if item.kind == "container" and _in_use(item.name):
            # Somebody has attached to it since.
            continue
        try:
            _remove(engine, item)
            removed.append(item)
        except (DockerException, requests.RequestException) as error:
            refused.append(f"{item.kind} {item.name}: {said(error)}")
    if refused:
        raise SwerexException(
            f"{len(removed)} removed, but not these: {'; '.join(refused)}",
            extra_info={"removed": [item.name for item in removed], "refused": refused},
        )
    return removed


_swept: set[tuple[int, str]] = set()


def remove_abandoned(engine: Engine) -> None:
    """Remove, once in a process, what killed ones have left and no lease ends: containers that were created
    and not started, volumes that were not yet filled, and on this machine what belonged to sandboxes that are
    gone."""
    key = (os.getpid(), engine.url)
    if key in _swept:
        return
    _swept.add(key)
    api = engine.client.api
    with suppress(DockerException, requests.RequestException, OSError):
        # In this order: whoever uses a sandbox has locked its file before it is there.
        unused = [path for path in cache_folder().glob("swerex-*") if _in_use(path.name) is False]
        found = {
            item["Names"][0].lstrip("/"): item
            for item in api.containers(all=True, filters={"label": [LABEL]})
        }
        for name, item in found.items():
            if item["State"] == "created" and KEPT_LABEL not in item["Labels"] and _in_use(name) is False:
                api.remove_container(name, v=True)
                if FILLED_LABEL in item["Labels"]:
                    api.remove_volume(item["Labels"][FILLED_LABEL])
        for path in unused:
            if path.name not in found:
                _forget(engine, path)


def _forget(engine: Engine, path: Path) -> None:
    """Remove what belonged on this machine to a sandbox of the engine that is gone."""
    url, _, reach = path.read_text().partition("\n")
    if url == engine.url:
        Reach(reach.rstrip("\n")).close()
        path.unlink()


def remove_container(engine: Engine, name: str) -> None:
    """Remove a container that runs, has ended, or is being removed by its own end. NotFound: it is gone."""
    api = engine.client.api
    deadline = time.monotonic() + _REMOVAL_TIMEOUT
    while True:
        try:
            api.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code != 409 or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _is_idle(item: Sandbox, *, kept: bool, volumes: bool) -> bool:
    if item.kind == "volume":
        return volumes and not item.in_use
    return item.in_use is False and (kept or not item.kept)


def _remove(engine: Engine, item: Sandbox) -> None:
    with suppress(NotFound):
        if item.kind == "volume":
            engine.client.api.remove_volume(item.name)
        else:
            remove_container(engine, item.name)
    if item.kind == "container":
        with suppress(OSError):
            _forget(engine, cache_folder() / item.name)
