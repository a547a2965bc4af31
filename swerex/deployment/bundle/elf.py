"""The little that must be known of programs and shared libraries: what they need, and from where."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["forget_search_path", "is_elf", "loader_of", "shared_libraries"]

# elf(5)
_MAGIC = b"\x7fELF"
_PT_DYNAMIC = 2
_PT_INTERP = 3
_DT_NULL = 0
_DT_RPATH = 15
_DT_RUNPATH = 29
_DT_UNUSED = 0x60000FFF
"""Of the tags that are left to operating systems; none has a use for it, and loaders pass over it."""


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def loader_of(program: Path) -> Path | None:
    """The dynamic loader that a program of a 64-bit Linux asks for; None if it is none, or needs none."""
    with program.open("rb") as file:
        for offset, size in _segments(file, _PT_INTERP):
            file.seek(offset)
            return Path(os.fsdecode(file.read(size).rstrip(b"\0")))
    return None


def shared_libraries(path: Path, loader: Path) -> dict[str, Path | None]:
    """All libraries that a program or library needs, and those need: name to path, None if it is not there.

    The loader itself tells, so they are searched as always; nothing of them is run.
    """
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    listed = subprocess.run(
        [loader, "--list", path], env=env, capture_output=True, text=True, errors="replace"
    )
    found: dict[str, Path | None] = {}
    for line in listed.stdout.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        place = (place if arrow else name).partition(" (")[0]
        if "/" in place:
            found[os.path.basename(name if arrow else place)] = Path(place)
        elif arrow:
            found[name] = None
    found.pop(loader.name, None)
    return found


def forget_search_path(path: Path) -> None:
    """Have the loader search the libraries of this file only where it is told to."""
    with path.open("r+b") as file:
        for offset, size in _segments(file, _PT_DYNAMIC):
            entry = _format(file, "qQ")
            file.seek(offset)
            table = file.read(size)
            for at in range(0, len(table) - entry.size + 1, entry.size):
                tag, _ = entry.unpack_from(table, at)
                if tag == _DT_NULL:
                    break
                if tag in (_DT_RPATH, _DT_RUNPATH):
                    file.seek(offset + at)
                    file.write(_format(file, "q").pack(_DT_UNUSED))


def _format(file: BinaryIO, layout: str) -> struct.Struct:
    """`layout` in the byte order of the file."""
    position = file.tell()
    file.seek(5)
    order = {b"\1": "<", b"\2": ">"}.get(file.read(1), "<")
    file.seek(position)
    return struct.Struct(order + layout)


def _segments(file: BinaryIO, wanted: int) -> Iterator[tuple[int, int]]:
    """The segments of this type, offset and size; none in what is no 64-bit ELF file."""
    header = file.read(64)
    if len(header) < 64 or header[:5] != _MAGIC + b"\2":
        return
    start = _format(file, "Q").unpack_from(header, 32)[0]
    size, number = _format(file, "HH").unpack_from(header, 54)
    segment = _format(file, "IIQQQQ")
    for index in range(number):
        file.seek(start + index * size)
        kind, _, offset, _, _, length = segment.unpack(file.read(segment.size))
        if kind == wanted:
            yield offset, length
