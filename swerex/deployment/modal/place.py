"""The sandbox of one start: asked for, made and removed, whatever answer is lost on the way."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress

import modal
from modal.exception import AlreadyExistsError, ClientClosed, NotFoundError

from swerex import __version__
from swerex.deployment.abstract import patience
from swerex.deployment.modal.calls import CREATE_PACE, patiently, start_call
from swerex.exceptions import DeploymentStartupError, SwerexException

__all__ = ["SandboxPlace", "remove_at_exit"]

_logger = logging.getLogger(__name__)

_CREATION_TIMEOUT = 5.0
"""How many seconds a creation that nobody wants any more is waited for."""
_TERMINATION_TIMEOUT = 15.0
_LAST_TIMEOUT = 20.0
"""How many seconds `_TERMINATE` may take at the exit of the interpreter."""
_TERMINATE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import modal

def terminate(sandbox_id):
    try:
        modal.Sandbox.from_id(sandbox_id).terminate()
    except modal.exception.NotFoundError:
        pass
    except Exception as error:
        print(f"{sandbox_id}: {error!r}", flush=True)

with ThreadPoolExecutor(16) as pool:
    list(pool.map(terminate, sys.argv[1:]))
"""
_exiting = False
_left: list[str] = []
"""The sandboxes that could not be terminated at the exit of the interpreter."""


class SandboxPlace:
    """At most one sandbox. Its `name` makes Modal refuse a second one, where only the answer was lost that
    there is a first; its `tags` find it."""

    def __init__(self, app: modal.App) -> None:
        self._app = app
        self._id = uuid.uuid4().hex
        self.name = f"swerex-{self._id}"
        self.tags = {
            "swerex": __version__,
            "swerex-id": self._id,
            "swerex-owner": f"{os.getpid()}-{socket.gethostname()}",
        }
        self._creation: Future[modal.Sandbox] | None = None
        self._creations = 0
        self._made: list[modal.Sandbox] = []
        self._unwanted = threading.Event()

    def create(
        self, create: Callable[[], modal.Sandbox], deadline: float, check: Callable[[], object]
    ) -> modal.Sandbox:
        """Call `create`, which gives the sandbox the name and the tags, until it succeeds, or `deadline`, or
        `check` raises."""

        def run() -> modal.Sandbox:
            if self._unwanted.is_set():
                raise DeploymentStartupError("The sandbox was to be removed before it was created")
            try:
                sandbox = create()
            except AlreadyExistsError:
                # By a request whose answer was lost. Or the caller has given a name, and has given it twice.
                found = self._find()
                if not found:
                    raise
                sandbox = found[0]
            self._made.append(sandbox)
            # In this order, and in the other in `remove`, so that one of them sees what the other did.
            if self._unwanted.is_set():
                _terminate(sandbox, time.monotonic() + _TERMINATION_TIMEOUT)
            return sandbox

        def start() -> Future[modal.Sandbox]:
            self._creations += 1
            self._creation = start_call(run)
            return self._creation

        return patiently(start, deadline, check, CREATE_PACE)

    def remove(self) -> None:
        """Terminate the sandbox, if there is one. What is created only later is terminated then.

        Raises:
            SwerexException: Modal did not do it. This may be called again.
        """
        self._unwanted.set()
        if self._creation is not None:
            wait([self._creation], patience(_CREATION_TIMEOUT))
        left = patience(_TERMINATION_TIMEOUT)
        deadline = time.monotonic() + left
        try:
            if not left:
                raise TimeoutError("the interpreter exits")
            for sandbox in list(self._made):
                _terminate(sandbox, deadline)
            if self._creations > len(self._made):
                # Of some there was no answer, or it was lost.
                for sandbox in patiently(lambda: start_call(self._find), deadline):
                    _terminate(sandbox, deadline)
        except Exception as error:
            # The library passes on what its own libraries raise: of gRPC, HTTP/2 and HTTP.
            if _exiting and self._made:
                _left.extend(sandbox.object_id for sandbox in self._made)
                return
            raise SwerexException(
                f"The sandbox with the tag swerex-id={self._id} could not be terminated: {error}\n"
                "It ends itself when its lease runs out (auto_remove_after). Call stop() again, or stop it "
                f"at https://modal.com/id/{self._app.app_id}."
            ) from error

    def _find(self) -> list[modal.Sandbox]:
        """What Modal knows of and runs, whether its creation was answered or not."""
        return list(modal.Sandbox.list(app_id=self._app.app_id, tags={"swerex-id": self._id}))


def _terminate(sandbox: modal.Sandbox, deadline: float) -> None:
    """Terminate it, until Modal has taken that, or `deadline`. One that is gone is fine."""

    def terminate() -> None:
        try:
            sandbox.terminate()
        except ClientClosed:
            # Somebody has called its detach().
            modal.Sandbox.from_id(sandbox.object_id).terminate()

    with suppress(NotFoundError):
        patiently(lambda: start_call(terminate), deadline)


def remove_at_exit(stop: Callable[[], None]) -> None:
    """Call `stop`, which removes all places, as the last thing that this process does with Modal.

    What could not be terminated is left to a process of its own. In one that exits, the event loop of the
    library has no more threads to look a host up, and so no way to a new connection if the old one is gone.
    """
    global _exiting
    _exiting = True
    try:
        stop()
    finally:
        if _left:
            _terminate_elsewhere()


def _terminate_elsewhere() -> None:
    command = [sys.executable, "-c", _TERMINATE, *_left]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LAST_TIMEOUT
        )
        failures = (done.stdout + done.stderr).strip()
    except subprocess.TimeoutExpired:
        failures = f"{_left}: Modal did not answer in time"
    except OSError as error:
        failures = f"{_left}: {error}"
    if failures:
        _logger.error("These sandboxes end only when their lease runs out: %s", failures)
