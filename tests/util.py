"""What the tests share: waiting for an event, a server process of one's own, and the usual questions."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from swerex.runtime.abstract import Session

T = TypeVar("T")
Check = Literal["silent", "raise", "ignore"]

PYTHON = sys.executable
CHECKS: list[Check] = ["silent", "raise", "ignore"]
TERMS = ["unset", "dumb", "xterm-256color"]

every_term = pytest.mark.parametrize("term", TERMS, indirect=True)
"""Run the test in sessions with each kind of terminal; see the fixture `term`."""
every_check = pytest.mark.parametrize("check", CHECKS)


def wait_until(predicate: Callable[[], T], timeout: float = 5.0) -> T:
    """Ask until the answer is true, and return it; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"did not come true within {timeout} s"
        time.sleep(0.005)


def stays(predicate: Callable[[], object], seconds: float) -> bool:
    """Whether the answer is true each time that it is asked for, for so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not predicate():
            return False
        time.sleep(0.005)
    return True


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Wait until no other process is in here for the same thing, also with ``-n``."""
    with open(f"{tempfile.gettempdir()}/swerex-tests-of-{what}-{os.getuid()}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_running(pid: int) -> bool:
    """Whether there is such a process; a zombie does not count."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def read_pid(path: Path) -> int:
    """The process id that a command writes into `path`, as soon as it stands there in full."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def needs(command: str) -> None:
    """Skip the test where this program is not installed; in CI everything is, or the test fails."""
    program = next(word for word in shlex.split(command) if "=" not in word)
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} is not installed")


def peak_memory(pid: int) -> int:
    """The largest resident size that the process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def assert_next_is_right(session: Session) -> None:
    """The session is at its prompt, and the next commands return their own output and status only."""
    for word in ("one", "two"):
        observation = session.run(f"echo {word}", timeout=5)
        assert (observation.output, observation.exit_code) == (f"{word}\n", 0)


@dataclass
class Server:
    """A server process of this machine, and how to reach it."""

    process: subprocess.Popen[bytes]
    url: str
    port: int
    token: str
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def running_server(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Start a server on a free port of the loopback address, with `env` as its whole environment if given.

    What it prints goes into a file in `folder`.
    """
    token = secrets.token_hex(16)
    log = folder / f"server-{token[:8]}.log"
    command = [PYTHON, "-m", "swerex", "--host", "127.0.0.1", "--port", "0", *options]
    environment = {**(os.environ if env is None else env), "SWEREX_AUTH_TOKEN": token}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:

        def address() -> re.Match[str] | None:
            text = log.read_text()
            assert process.poll() is None, f"the server ended: {text}"
            return re.search(r"http://127\.0\.0\.1:(\d+)\b", text)

        found = wait_until(address, timeout=15)
        assert found
        yield Server(process, found[0], int(found[1]), token, log)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
