"""Programs that use a sandbox, each in a process of its own that a test may kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swerex.deployment.bundle import get_bundle
from swerex.deployment.docker.engine import Engine
from tests.util import PYTHON

__all__ = ["Program", "own_cache", "program"]

_BEGIN = """
import json, os, signal, sys
from swerex.deployment.docker import DockerDeployment, prune
from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest

def deployment_in(engine, **fields):
    usual = {"container_runtime": engine, "pull": "never", "auto_remove_after": 20}
    return DockerDeployment(**{**usual, **fields})

def tell(line):
    print(line, flush=True)

def wait():
    sys.stdin.readline()

engine, fields = sys.argv[1], json.loads(sys.argv[2])
"""


class Program:
    """Its code may `tell` the test something, and `wait` until it is told to go on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.owner = f"{process.pid}@{socket.gethostname()}"
        """As in the label of what it makes."""

    def line(self) -> str:
        """What it tells next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        return line.rstrip("\n")

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Give it no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """It ends by itself, without an error."""
        assert self.process.wait(timeout=30) == 0

    def go_on_and_finish(self) -> None:
        self.go_on()
        self.finish()


@contextmanager
def program(engine: Engine, code: str, **fields: Any) -> Iterator[Program]:
    """Run `code`, which finds in `engine` and `fields` what `deployment_in` needs to make its deployments."""
    process = subprocess.Popen(
        [PYTHON, "-c", _BEGIN + code, engine.name.lower(), json.dumps(fields)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SWE_REX_LOG_STREAM_LEVEL": "WARNING"},
    )
    with process:
        try:
            yield Program(process)
        finally:
            process.kill()


def own_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Let this process and its programs keep in `folder` what others do in the user's cache: they can't tell
    then what is in use. The bundles are shared. Returns where the locks of the sandboxes lie."""
    (folder / "swerex").mkdir()
    (folder / "swerex" / "bundles").symlink_to(get_bundle().path.parent)
    patch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "swerex" / "sandboxes"
