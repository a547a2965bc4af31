"""The environment of the other implementation, its server, and what its client gets from our server."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swerex.runtime.remote import RemoteRuntime
from tests.util import Server, running_server, wait_until

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent


def _environment() -> dict[str, str]:
    """Ours, less what would lead the other interpreter to our packages."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="session")
def their_python() -> str:
    """The interpreter that has swe-rex: of the variable `SWEREX_COMPAT_PYTHON`, or of an environment that is
    made now and kept."""
    if given := os.environ.get("SWEREX_COMPAT_PYTHON"):
        return given
    made = subprocess.run(
        [sys.executable, _ROOT / "benchmarks" / "other.py"], stdout=subprocess.PIPE, text=True, check=True
    )
    return made.stdout.strip()


@pytest.fixture(scope="session")
def their_results(their_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each scenario of `their_client.py` returned."""
    folder = tmp_path_factory.mktemp("their-client")
    with running_server(tmp_path_factory.mktemp("our-server")) as server:
        client = subprocess.run(
            [their_python, _HERE / "their_client.py", str(server.port), server.token, folder],
            env=_environment(),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=55,
        )
    assert client.returncode == 0, client.stderr
    results: dict[str, Any] = json.loads(client.stdout.splitlines()[-1])
    return results


@pytest.fixture(scope="session")
def their_server(their_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the other implementation."""
    folder = tmp_path_factory.mktemp("their-server")
    token, log = secrets.token_hex(), folder / "log"
    command = [
        their_python,
        "-m",
        "swerex.server",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--auth-token",
        token,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=_environment(), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:

        def address() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"http://127\.0\.0\.1:(\d+)\b", log.read_text())

        found = wait_until(address, timeout=30)
        assert found
        yield Server(process, found[0], int(found[1]), token, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def our_client(their_server: Server) -> RemoteRuntime:
    """A client of ours for that server. It is not closed, since that closes the sessions of all."""
    return RemoteRuntime(auth_token=their_server.token, host="http://127.0.0.1", port=their_server.port)
