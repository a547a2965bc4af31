"""Fixtures for all tests: a server, a runtime here and through that server, and a session in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.runtime.local import LocalRuntime
from swerex.runtime.remote import RemoteRuntime
from tests.util import Server, running_server

_numbers = count()


@pytest.fixture(scope="session", autouse=True)
def no_terminal() -> Iterator[None]:
    """The tests, and the servers they start, know no TERM; a session gets one where a test asks for it."""
    term = os.environ.pop("TERM", None)
    yield
    if term is not None:
        os.environ["TERM"] = term


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """A test that hangs fails after a minute."""

    def stop(*_: object) -> None:
        raise AssertionError("the test hangs: a minute is over")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server process for all tests."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session", params=["local", "server"])
def runtime(request: pytest.FixtureRequest) -> Iterator[AbstractRuntime]:
    """A runtime in this process, then one that reaches the server."""
    if request.param == "local":
        with LocalRuntime() as local:
            yield local
    else:
        server: Server = request.getfixturevalue("server")
        with RemoteRuntime(auth_token=server.token, host="http://127.0.0.1", port=server.port) as remote:
            yield remote


@pytest.fixture
def name() -> str:
    """The name of a session that nobody else has."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def term(request: pytest.FixtureRequest) -> str:
    """The TERM of `session`: unset, unless the test is marked with `every_term`."""
    return str(getattr(request, "param", "unset"))


@pytest.fixture
def session(runtime: AbstractRuntime, name: str, term: str, tmp_path: Path) -> Iterator[Session]:
    """An open session whose working directory is `tmp_path`."""
    env = {} if term == "unset" else {"TERM": term}
    with runtime.session(name, env=env, cwd=tmp_path) as session:
        yield session
