"""What /proc says of a process from outside, and a client for a server of a test's own."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from swerex.runtime.remote import RemoteRuntime
from tests.util import Server

__all__ = ["client", "descendants", "descriptors", "memory", "session_folders", "temporary_files", "threads"]


def client(server: Server, port: int | None = None) -> RemoteRuntime:
    """A client of the server; `port` is that of a proxy in between."""
    return RemoteRuntime(auth_token=server.token, host="http://127.0.0.1", port=port or server.port)


def descendants(pid: int) -> set[int]:
    """The processes that a process started, and those that they started."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), set()).add(int(stat.parent.name))
    found: set[int] = set()
    new = children.get(pid, set())
    while new:
        found |= new
        new = {child for parent in new for child in children.get(parent, set())} - found
    return found


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def session_folders(pid: int) -> set[Path]:
    """The temporary folders of a process: it holds a file open in each of them."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = Path(os.readlink(link))
            found |= {folder for folder in target.parents if folder.name.startswith("swerex-")}
    return found


def temporary_files(pid: int) -> int:
    """How many files and folders there are in those folders."""
    return sum(1 for folder in session_folders(pid) for _ in folder.rglob("*"))
