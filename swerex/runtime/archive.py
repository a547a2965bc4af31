"""Folders and files as a stream of bytes, out of one machine and into another.

`pack` makes a tar stream and `unpack` takes it apart, both piece by piece, whatever the size. The zip form is
for the other implementation, which knows nothing else.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

__all__ = ["pack", "pack_zip", "unpack", "unpack_zip"]

_PIECE = 1 << 20
_ROOT = "."
"""The name of what is packed itself, be it a folder or a file."""


def pack(source: str) -> Iterator[bytes]:
    """The tar stream of a file or a folder, in pieces of about a megabyte.

    Raises FileNotFoundError at once if there is no such source. Sockets, pipes and devices stay out.
    """
    if not os.path.isfile(source) and not os.path.isdir(source):
        raise FileNotFoundError(errno.ENOENT, "There is no file or folder to upload", source)
    return _pack(source)


def _pack(source: str) -> Iterator[bytes]:
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        yield from _entry(tar, os.path.realpath(source), _ROOT)
        for folder, folders, files in os.walk(source, onerror=_raise) if os.path.isdir(source) else ():
            for name in folders + files:
                path = os.path.join(folder, name)
                yield from _entry(tar, path, os.path.relpath(path, source))
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error


def _entry(tar: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    # Files with several names become several files: names outside of the source mean nothing elsewhere.
    tar.inodes = {}  # type: ignore[attr-defined]
    info = tar.gettarinfo(path, name)
    if info is None or not (info.isreg() or info.isdir() or info.issym()):
        return
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if info.isreg():
        left = info.size
        with open(path, "rb") as file:
            while left:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise OSError(errno.EIO, "The file became shorter while it was uploaded", path)
                left -= len(piece)
                yield piece
        yield b"\0" * (-info.size % tarfile.BLOCKSIZE)


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file to read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size:
            if not self._left:
                self._left = memoryview(next(self._pieces, b""))
                if not self._left:
                    break
            parts.append(self._left[:size])
            self._left = self._left[len(parts[-1]) :]
            size -= len(parts[-1])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def unpack(pieces: Iterable[bytes], target: str) -> None:
    """Take the stream of `pack` apart: a file is written as `target`, a folder merged into it.

    Nothing outside of `target` is touched. Raises PermissionError for an entry that a name or a symbolic
    link would lead out of it, and ValueError for a stream that is broken off.
    """
    stream = cast("IO[bytes]", _Stream(pieces))
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as tar:
            _unpack(tar, target)
    except tarfile.TarError as error:
        raise ValueError(f"The upload to {target!r} is not complete: {error}") from error


def _unpack(tar: tarfile.TarFile, target: str) -> None:
    late = []
    for info in tar:
        if info.name == _ROOT and not info.isdir():
            _write_file(tar, info, target)
            continue
        if info.isdir():
            path = os.path.dirname(_inside(target, f"{info.name}/x"))
            made = not os.path.isdir(path)
            os.makedirs(path, exist_ok=True)
            if made or info.name != _ROOT:
                late.append((path, info))
            continue
        path = _inside(target, info.name)
        if info.issym():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _remove(path)
            os.symlink(info.linkname, path)
            os.utime(path, (info.mtime, info.mtime), follow_symlinks=False)
        elif info.isreg():
            _write_file(tar, info, path)
        else:
            raise ValueError(f"The upload holds {info.name!r}, which is neither a file, folder nor link")
    for path, info in reversed(late):
        # Now that nothing is written into them any more: a folder may well forbid that.
        os.chmod(path, info.mode & 0o7777)
        os.utime(path, (info.mtime, info.mtime))


def _write_file(tar: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if os.path.isdir(path) and not os.path.islink(path):
        raise IsADirectoryError(errno.EISDIR, "A file can't be uploaded in the place of a folder", path)
    source = tar.extractfile(info)
    assert source
    with _new_file(path) as file:
        shutil.copyfileobj(source, file, _PIECE)
        file.flush()
        # By its descriptor: another upload may have put its own file there by now.
        os.fchmod(file.fileno(), info.mode & 0o7777)
        os.utime(file.fileno(), (info.mtime, info.mtime))


def _new_file(path: str) -> IO[bytes]:
    """Open a file of our own in the place of what is there; another upload's stays another file."""
    while True:
        _remove(path)
        with suppress(FileExistsError):
            return open(path, "xb")


def _remove(path: str) -> None:
    """Make way for a file or a link. What is written next must not go through a link."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _inside(target: str, name: str) -> str:
    """The path of an entry. Links on the way to it are followed as long as they stay inside."""
    root = os.path.realpath(target)
    path = os.path.normpath(os.path.join(root, name))
    if path == root:
        return root
    folder = os.path.realpath(os.path.dirname(path))
    if os.path.commonpath([root, path]) != root or os.path.commonpath([root, folder]) != root:
        raise PermissionError(
            errno.EPERM,
            f"The upload to {target!r} would be written outside of it",
            os.path.join(target, name),
        )
    return os.path.join(folder, os.path.basename(path))


def pack_zip(folder: str) -> IO[bytes]:
    """A temporary file with a zip archive of the folder, at its begin. Modes come along, links do not."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is the result
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() or path.is_dir():
                archive.write(path, path.relative_to(folder))
    file.seek(0)
    return file


def unpack_zip(file: IO[bytes], target: str) -> None:
    """Unpack a zip archive into the folder `target`, and nothing outside of it.

    Raises PermissionError for an entry that would leave it, ValueError for what is no zip archive.
    """
    if not hasattr(file, "seekable"):
        # Before Python 3.11 a SpooledTemporaryFile, as forms have it, was not file enough for zipfile.
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last reference
        shutil.copyfileobj(file, copy)
        file = copy
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                path = _inside(target, info.filename)
                if info.is_dir():
                    os.makedirs(path, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with archive.open(info) as source, _new_file(path) as out:
                    shutil.copyfileobj(source, out, _PIECE)
                # The upper half holds what stat() says, if the archive was made on a Unix.
                if mode := stat.S_IMODE(info.external_attr >> 16):
                    os.chmod(path, mode & 0o777)
    except zipfile.BadZipFile as error:
        raise ValueError(f"The upload to {target!r} is not a zip archive: {error}") from error
    os.makedirs(target, exist_ok=True)
