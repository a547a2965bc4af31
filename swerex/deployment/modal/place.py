"""The sandbox of one start: asked for, made and removed, whatever answer is lost on the way."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

import modal
from modal.exception import AlreadyExistsError, NotFoundError

from swerex import __version__
from swerex.deployment.modal.calls import CREATE_PACE, patiently, start_call
from swerex.exceptions import DeploymentStartupError, SwerexException

__all__ = ["SandboxPlace"]

_CREATION_TIMEOUT = 5.0
"""How many seconds a creation that nobody wants any more is waited for."""
_TERMINATION_TIMEOUT = 30.0


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
        self._made: list[modal.Sandbox] = []
        self._unwanted = threading.Event()

    def create(self, create: Callable[[], modal.Sandbox], deadline: float) -> modal.Sandbox:
        """Call `create`, which gives the sandbox the name and the tags, until it succeeds or `deadline`."""

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
                sandbox.terminate()
            return sandbox

        def start() -> Future[modal.Sandbox]:
            self._creation = start_call(run)
            return self._creation

        return patiently(start, deadline, CREATE_PACE)

    def remove(self) -> None:
        """Terminate the sandbox, if there is one. What is created only later is terminated then.

        Raises:
            SwerexException: Modal did not do it. This may be called again.
        """
        self._unwanted.set()
        if self._creation is not None:
            wait([self._creation], _CREATION_TIMEOUT)
        deadline = time.monotonic() + _TERMINATION_TIMEOUT
        try:
            for sandbox in list(self._made) or patiently(lambda: start_call(self._find), deadline):
                with suppress(NotFoundError):
                    patiently(partial(start_call, sandbox.terminate), deadline)
        except (modal.Error, TimeoutError) as error:
            raise SwerexException(
                f"The sandbox with the tag swerex-id={self._id} could not be terminated: {error}\n"
                "It ends itself when its lease runs out (auto_remove_after). Call stop() again, or stop it "
                f"at https://modal.com/id/{self._app.app_id}."
            ) from error

    def _find(self) -> list[modal.Sandbox]:
        """What Modal knows of and runs, whether its creation was answered or not."""
        return list(modal.Sandbox.list(app_id=self._app.app_id, tags={"swerex-id": self._id}))
