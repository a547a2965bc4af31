"""Start processes, wait for their end, and kill them with all their descendants.

The one place that does it, for sessions and for ``execute()``. Linux tells about other processes through
``/proc``; where that is missing only the process group can be killed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

__all__ = [
    "ExitWatch",
    "adopt_orphans",
    "exit_code",
    "inherited_environment",
    "kill_all",
    "kill_descendants",
    "members",
    "new_mark",
    "reap_orphans",
    "spawn",
    "with_interrupts",
]

_PR_SET_CHILD_SUBREAPER = 36
_RLIMIT_LOCKS = 10

_adopts = False
_spawning = threading.Lock()
# Another thread may hold it at the moment of a fork.
os.register_at_fork(
    before=_spawning.acquire, after_in_parent=_spawning.release, after_in_child=_spawning.release
)


def inherited_environment() -> dict[str, str]:
    """This process's environment, less what the Python interpreter itself put there.

    In a C locale Python sets LC_CTYPE at its start (PEP 538), and its children would see it.
    """
    env = dict(os.environ)
    if "LC_CTYPE" in env:
        with suppress(OSError):
            given = _read("/proc/self/environ")
            if not any(item.startswith(b"LC_CTYPE=") for item in given.split(b"\0")):
                del env["LC_CTYPE"]
    return env


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def with_interrupts() -> list[str]:
    """What to put before a command so that Ctrl-C can end it, and what it starts.

    A program that a script has started in the background ignores SIGINT, and all that it starts does so too:
    signals that were ignored stay so, and no shell changes that for its commands.
    """
    return _default_signals() if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else []


@cache
def _default_signals() -> list[str]:
    env = shutil.which("env")
    if env is None:
        return []
    # GNU's, of coreutils 8.31 or newer; others don't know the option.
    command = [env, "--default-signal=INT,QUIT"]
    known = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True)
    return [] if known.returncode else command


def exit_code(returncode: int) -> int:
    """What a shell reports for a `returncode` of `subprocess`: 128 + N for one that signal N ended."""
    return returncode if returncode >= 0 else 128 - returncode


class ExitWatch:
    """Makes the end of a child process something that `poll()` waits for, beside other descriptors.

    Where the system has no pidfd, `poll` returns at least every 20 ms and asks.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._poll = select.poll()
        self._pidfd: int | None = None
        with suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(process.pid)
            self._poll.register(self._pidfd, select.POLLIN)

    def register(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)

    def unregister(self, fd: int) -> None:
        self._poll.unregister(fd)

    def poll(self, timeout: float | None) -> tuple[list[int], bool]:
        """Wait at most `timeout` seconds: the registered descriptors with something to read, and whether
        the process has ended."""
        if self._pidfd is None:
            timeout = 0.02 if timeout is None else min(timeout, 0.02)
        # poll(2) takes no more than 24 days.
        ready = [fd for fd, _ in self._poll.poll(None if timeout is None else min(timeout, 86400) * 1000)]
        ended = self._pidfd in ready or (self._pidfd is None and self._process.poll() is not None)
        if ended:
            self._process.wait()
        return [fd for fd in ready if fd != self._pidfd], ended

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class _Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    group: int
    session: int


def _processes(*, zombies: bool = False) -> Iterator[_Stat]:
    """All processes; those that have ended and were not reaped only if asked for."""
    try:
        names = os.listdir("/proc")
    except OSError:
        # No such file system, or no descriptor left.
        return
    for name in names:
        if not name.isdigit():
            continue
        with suppress(OSError, ValueError):
            text = _read(f"/proc/{name}/stat")
            # The command's name stands in parentheses and may hold anything, parentheses too: proc(5).
            state, parent, group, session = text[text.rindex(b")") + 2 :].split(None, 4)[:4]
            if zombies or state not in (b"Z", b"X"):
                yield _Stat(int(name), state.decode(), int(parent), int(group), int(session))


def members(sessions: Iterable[int]) -> set[int]:
    """The living processes of these kernel sessions (the `setsid` kind)."""
    wanted = set(sessions)
    return {process.pid for process in _processes() if process.session in wanted}


def new_mark() -> int:
    """A mark to `spawn` a process with."""
    return (1 << 62) + secrets.randbits(60)


def spawn(args: str | list[str], *, mark: int = 0, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a process that leads a kernel session of its own; keyword arguments as for `Popen`.

    With a `mark` its descendants can be told wherever they went. The mark is a resource limit, since those
    are inherited and no program has a reason to touch this one: Linux keeps the limit on file locks but has
    not enforced it since 2.4.25, getrlimit(2).
    """
    with _spawning, _limited(mark):
        process = subprocess.Popen(args, start_new_session=True, **kwargs)
    if _adopts:
        # A server should outlive the commands that eat up the memory: proc(5).
        with suppress(OSError), open(f"/proc/{process.pid}/oom_score_adj", "wb") as file:
            file.write(b"500")
    return process


@contextmanager
def _limited(mark: int) -> Iterator[None]:
    """Have the mark for as long as it takes to pass it on: set later, a quick child could be without it."""
    if not mark or not hasattr(resource, "prlimit"):
        yield
        return
    soft, hard = resource.prlimit(0, _RLIMIT_LOCKS)
    with suppress(OSError, ValueError):
        resource.prlimit(0, _RLIMIT_LOCKS, (mark, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.prlimit(0, _RLIMIT_LOCKS, (soft, hard))


def _has_mark(pid: int, mark: int) -> bool:
    with suppress(OSError):
        return b" %d " % mark in _read(f"/proc/{pid}/limits")
    return False


def _descendants(root: int, mark: int) -> set[int]:
    """The living processes that `root` began: by their parents, by its kernel session, and by the mark."""
    table = list(_processes())
    found = _family({root}, table)
    # Another child that this program started in the moment of `_limited` has the mark too. Only a server
    # has children of its own that are somebody's orphans, and it starts nothing but by `spawn`.
    others = set() if _adopts else _family({p.pid for p in table if p.parent == os.getpid()} - found, table)
    if mark:
        found |= {p.pid for p in table if p.pid not in found | others and _has_mark(p.pid, mark)}
    return found & {p.pid for p in table} - {os.getpid()}


def _family(roots: set[int], table: list[_Stat]) -> set[int]:
    family = set(roots)
    while more := {p.pid for p in table if p.parent in family or p.session in roots} - family:
        family |= more
    return family


def kill_all(process: subprocess.Popen[bytes], mark: int, *, timeout: float = 2.0) -> None:
    """Kill `process`, which was spawned with `mark`, and all its descendants.

    Waits for their end, but not longer than `timeout` seconds, which only a process that the kernel itself
    holds up can reach.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Again and again, since a process may have forked between the look and the kill.
        alive = _descendants(process.pid, mark)
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        if not alive or time.monotonic() > deadline:
            return
        time.sleep(0.001)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none is out of reach: prctl(2)."""
    global _adopts
    with suppress(OSError, AttributeError):
        _adopts = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def reap_orphans(known: set[int]) -> set[int]:
    """Reap adopted children that have ended; to be called now and then, with what the last call returned.

    Only those that were zombies the last time too: a child that `subprocess` started is not ours to reap,
    and is waited for within that time.
    """
    own = os.getpid()
    zombies = {p.pid for p in _processes(zombies=True) if p.parent == own and p.state == "Z"}
    for pid in zombies & known:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return zombies - known


def kill_descendants() -> None:
    """Kill all that this process, as the parent of orphans too, has ever started."""
    own = os.getpid()
    for _ in range(100):
        # Again and again, since a process may have forked between the look and the kill.
        family = _family({own}, list(_processes()))
        if family == {own}:
            return
        for pid in family - {own}:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
