"""The server as a folder that runs in any Linux sandbox of this machine's architecture.

It holds an interpreter, the server with its dependencies, and all libraries down to the loader, and uses
nothing of the image. It is made once, of the Python that runs here, and kept in the user's cache directory.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from swerex.deployment.bundle.contents import Contents, server_command
from swerex.exceptions import DeploymentStartupError
from swerex.utils.cache import cache_path

__all__ = ["Bundle", "get_bundle"]

_COMPLETE = ".complete"
_PACKED = ".tar.gz"
_LOCK = "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSED_AFTER = 30 * 86400
"""Seconds after which a bundle that nobody has used is removed."""
_MTIME = 946684800
"""The time of all files in an archive, so that the same files make the same archive."""


@dataclass(frozen=True)
class Bundle:
    """A folder with the server and all that it needs."""

    path: Path
    """The folder. It must not be changed."""
    key: str
    """A hash of what is in it."""
    machine: str
    """The architecture it runs on, such as ``x86_64``."""
    loader: str
    """The name of the dynamic loader, which stands in the folder's ``lib``."""

    def command(self, root: str) -> list[str]:
        """What starts the server where the bundle lies at `root`, an absolute path; options may follow."""
        return [*server_command(root, self.loader), "-m", "swerex"]

    def tar_to(self, file: IO[bytes], prefix: str = "") -> None:
        """Write a tar of it to `file`, its entries below the folder `prefix`.

        All belongs to root, and the loader comes last: nothing starts before all is there.
        """
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(self.path.rglob("*"), key=lambda path: (path.name == self.loader, path)):
                name = path.relative_to(self.path)
                info = tar.gettarinfo(path, str(Path(prefix, name)))
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = _MTIME
                if info.isreg():
                    with path.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)

    def tar_gz(self) -> Path:
        """A packed tar of it, kept beside it, for as long as it is kept.

        Raises DeploymentStartupError if it can't be written.
        """
        packed = _beside(self, _PACKED)
        if packed.exists():
            return packed
        with _making(self.path.parent) as new:
            if not packed.exists():
                with (new / "packed").open("wb") as raw:
                    with gzip.GzipFile("", "wb", 6, raw, _MTIME) as file:
                        self.tar_to(cast("IO[bytes]", file))
                    # Unlike the folder it is not looked at again, so it must survive a loss of power.
                    raw.flush()
                    os.fsync(raw.fileno())
                    os.replace(raw.name, packed)
        return packed


def get_bundle() -> Bundle:
    """The bundle of this Python and this version of swerex; made if it is not there yet, which takes seconds.

    May be called from many threads and processes at once.

    Raises:
        DeploymentStartupError: it can't be made; the message says why, and what to do.
    """
    global _last
    bundle = _last
    if bundle is None or not _is_complete(bundle):
        bundle = _find_or_make()
        _last = bundle
    with suppress(OSError):
        os.utime(_beside(bundle, _COMPLETE))
    return bundle


_last: Bundle | None = None


def _find_or_make() -> Bundle:
    contents = Contents.find()
    key = contents.key()
    folder = _folder()
    bundle = Bundle(folder / key, key, os.uname().machine, contents.loader.name)
    if _is_complete(bundle):
        return bundle
    with _making(folder) as new:
        if not _is_complete(bundle):
            for path in (_beside(bundle, _COMPLETE), _beside(bundle, _PACKED), bundle.path):
                _discard(path)
            root = new / key
            root.mkdir()
            contents.write(root)
            root.rename(bundle.path)
            # Last, and at once: a bundle is complete when this is there.
            marker = new / "marker"
            marker.write_bytes(_fingerprint(bundle.path))
            marker.rename(_beside(bundle, _COMPLETE))
    return bundle


def _beside(bundle: Bundle, suffix: str) -> Path:
    return bundle.path.with_name(bundle.key + suffix)


def _is_complete(bundle: Bundle) -> bool:
    try:
        return _beside(bundle, _COMPLETE).read_bytes() == _fingerprint(bundle.path)
    except OSError:
        return False


def _fingerprint(root: Path) -> bytes:
    """A hash of what the file system knows of each file, which is quick, and tells if one was changed."""
    found = []
    start = len(str(root))
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    found.append((entry.path[start:], status.st_mode, 0, 0))
                else:
                    found.append((entry.path[start:], status.st_mode, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest().encode()


def _folder() -> Path:
    """Where bundles are kept: the user's cache, or where that can't be written, one among temporary files."""
    folder = cache_path("bundles")
    try:
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    except OSError as error:
        if error.errno in _FULL:
            raise _cannot_write(folder, error) from error
    return _temporary_folder(folder)


def _temporary_folder(instead_of: Path) -> Path:
    folder = Path(tempfile.gettempdir(), f"swerex-bundles-{os.getuid()}")
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise _cannot_write(instead_of, error) from error
    # In a folder that all can write to, it may be anybody's, and what lies in it is to be run.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise _cannot_write(instead_of, f"{folder}, which would do, is not this user's own folder")
    return folder


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A new folder in `folder` to make something in, for one process at a time; removed at the end."""
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                _tidy(folder)
                new = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
                try:
                    yield new
                finally:
                    shutil.rmtree(new, ignore_errors=True)
            finally:
                # A child that was forked meanwhile has the file open too, and closing it is not enough.
                fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _tidy(folder: Path) -> None:
    """Remove bundles that nobody uses any more, and what makers left that were killed."""
    kept = {_LOCK}
    for marker in folder.glob(f"*{_COMPLETE}"):
        if time.time() - marker.stat().st_mtime < _UNUSED_AFTER:
            kept.add(marker.name.removesuffix(_COMPLETE))
    for path in folder.iterdir():
        if path.name.partition(".")[0] not in kept:
            _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _cannot_write(folder: Path, reason: OSError | str) -> DeploymentStartupError:
    full = isinstance(reason, OSError) and reason.errno in _FULL
    advice = "Free 200 MB there" if full else "Make it writable"
    return DeploymentStartupError(
        f"The bundle that brings the server into a sandbox can't be made in {folder}: {reason}. "
        f"{advice}, or let XDG_CACHE_HOME lead to another folder"
    )
