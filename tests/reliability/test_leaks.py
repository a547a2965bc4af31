"""A runtime that worked for a long time holds no more than one that worked for a short time."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import AbstractRuntime, BashAction, Command
from swerex.runtime.local import LocalRuntime
from tests.reliability.processes import (
    client,
    descendants,
    descriptors,
    memory,
    session_folders,
    temporary_files,
    threads,
)
from tests.util import running_server

THREADS = 8
SESSIONS = 1000
COMMANDS = 5000
INTERRUPTS = 500
WARM_UP = 10
"""The first of so many parts of the work, after which nothing may grow any more."""
SLACK = THREADS
"""Pools of threads and connections grow to what was ever needed at once, and that is left to chance."""
MEMORY = 16_000_000
"""Bytes that may come from caches and from the ids of requests that a server remembers. Ten thousand requests
or a thousand sessions that are not forgotten take more."""


class Holdings(NamedTuple):
    """What a process holds, as it looks from outside."""

    processes: int
    threads: int
    descriptors: int
    folders: int
    files: int


def holdings(pid: int) -> Holdings:
    return Holdings(
        len(descendants(pid)),
        threads(pid),
        descriptors(pid),
        len(session_folders(pid)),
        temporary_files(pid),
    )


def work(runtime: AbstractRuntime, parts: int) -> None:
    """Do so many hundredths of the whole work, in several threads."""

    def share(number: int) -> None:
        for part in range(number, parts, THREADS):
            hundredth(runtime, part)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(share, range(THREADS)))


def hundredth(runtime: AbstractRuntime, part: int) -> None:
    sessions = SESSIONS // 100
    for number in range(sessions):
        with runtime.session(f"leak-{part}-{number}") as session:
            for command in range(COMMANDS // SESSIONS):
                assert session.run(f'echo "{command}"').output == f"{command}\n"
            if number % 2:
                continue
            for _ in range(2 * INTERRUPTS // SESSIONS):
                with pytest.raises(CommandTimeoutError):
                    session.run("sleep 60", timeout=0.01)
                session.interrupt()
            assert session.run("echo on").output == "on\n"
    runtime.execute(Command(command="echo out; echo err >&2"))
    with pytest.raises(CommandTimeoutError):
        runtime.execute(Command(command=["sleep", "60"], timeout=0.01))


def assert_no_more(pid: int, before: Holdings, timeout: float = 5) -> None:
    """What has just been given back may take a moment to be gone."""
    deadline = time.monotonic() + timeout
    allowed = before._replace(threads=before.threads + SLACK, descriptors=before.descriptors + SLACK)
    while any(now > then for now, then in zip(holdings(pid), allowed, strict=True)):
        assert time.monotonic() < deadline, f"{holdings(pid)} now, and {before} before"
        time.sleep(0.05)


def assert_nothing_grows(
    runtime: AbstractRuntime, pid: int, settle: Callable[[], object] = gc.collect
) -> None:
    work(runtime, WARM_UP)
    settle()
    # A session that was open all the time tells what one of them holds.
    with runtime.session("stays"):
        before = holdings(pid)
        assert before.folders, "the test does not see the session folders"
        warm = memory(pid)
        for _ in range(20):  # processes that lose their parent, which a server then is
            assert runtime.execute(Command(command="sleep 0.1 & echo out")).stdout == "out\n"
        work(runtime, 100)
        settle()
        assert runtime.run_in_session(BashAction(command="echo on", session="stays")).output == "on\n"
        assert_no_more(pid, before)
        assert memory(pid) - warm < MEMORY


def test_a_server_does_not_grow(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, client(server) as runtime:
        assert_nothing_grows(runtime, server.pid)
        folders = session_folders(server.pid)
    assert not [folder for folder in folders if folder.exists()]


def test_a_client_does_not_grow(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, client(server) as runtime:
        own = os.getpid()

        def many() -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda _: runtime.execute(Command(command=["true"])), range(1000)))

        many()
        gc.collect()
        before = (descriptors(own), threads(own), len(descendants(own)), memory(own))
        many()
        many()
        gc.collect()
        after = (descriptors(own), threads(own), len(descendants(own)), memory(own) - MEMORY)
        assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def test_a_local_runtime_does_not_grow() -> None:
    with LocalRuntime() as runtime:
        assert_nothing_grows(runtime, os.getpid())


def test_a_local_runtime_that_is_closed_leaves_nothing() -> None:
    own = os.getpid()
    before = holdings(own)
    runtime = LocalRuntime()
    for number in range(5):
        runtime.session(f"{number}")
    folders = session_folders(own)
    runtime.close()
    assert_no_more(own, before)
    assert len(folders) > before.folders
    assert len([folder for folder in folders if folder.exists()]) == before.folders
