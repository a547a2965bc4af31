"""A private folder for a runtime's own small files, which does not outlive it."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["Workspace"]

_PREFIX = "swerex-"
_LOCK = ".swerex-lock"
_PROBE = 1 << 16
"""How many bytes must be free, so that commands of a usual size can be written."""


def _bases() -> Iterator[Path]:
    """Where the folder may be made, best first: memory, which a full disk does not reach, before disk."""
    yield Path("/dev/shm")
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir())
    yield Path("/run")
    yield Path.home()


class Workspace:
    """A folder that only this user can read, held by a lock for as long as its owner lives.

    A process that is killed can't remove its folder. The lock, which the kernel takes back from it, tells
    the next one on this machine that the folder may go.
    """

    def __init__(self) -> None:
        errors = []
        for base in _bases():
            try:
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
                try:
                    probe = self.path / "probe"
                    probe.write_bytes(b"\0" * _PROBE)
                    probe.unlink()
                    self._lock = _locked(self.path)
                except OSError:
                    shutil.rmtree(self.path, ignore_errors=True)
                    raise
                break
            except OSError as error:
                errors.append(f"{base}: {error.strerror}")
        else:
            raise OSError(
                "No folder can be written to, and a session needs one for its commands. "
                f"Set TMPDIR to one, or mount one at /tmp. Tried {'; '.join(errors)}"
            )
        _sweep(self.path.parent)

    def folder(self) -> Path:
        """Make a new folder inside."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.path))

    def close(self) -> None:
        """Remove the folder and all that is in it. Safe to call again."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _locked(folder: Path) -> int:
    """Lock the folder; the descriptor that holds the lock. BlockingIOError: somebody else has it."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sweep(base: Path) -> None:
    """Remove the folders of runtimes that were killed."""
    for folder in base.glob(f"{_PREFIX}*"):
        # Without its lock file a folder is being made or removed just now.
        with suppress(OSError):
            status = folder.lstat()
            private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
            if private and status.st_uid == os.getuid() and (folder / _LOCK).exists():
                fd = _locked(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(fd)
