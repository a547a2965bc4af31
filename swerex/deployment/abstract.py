"""The life of a sandbox: start, wait until it answers, fail with a reason, stop.

All of that is in :class:`AbstractDeployment`. A backend says only how a place is made, reached and removed.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from abc import ABC
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic

from pydantic import BaseModel
from typing_extensions import Self, TypeVar

from swerex.deployment.hooks.abstract import CombinedDeploymentHook, DeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError, SwerexException
from swerex.runtime.abstract import AbstractRuntime, IsAliveResponse
from swerex.utils.log import get_logger

__all__ = ["AbstractDeployment", "patience", "stop_all", "stop_at_exit"]

RuntimeT = TypeVar("RuntimeT", bound=AbstractRuntime, default=AbstractRuntime, covariant=True)


class AbstractDeployment(ABC, Generic[RuntimeT]):
    """A sandbox that can be started and stopped. All methods may be called from many threads at once.

    Use it with ``with``: it is started at the beginning and stopped at the end. What was started and not
    stopped is stopped when the interpreter exits.
    """

    # The process that may have to remove a place: from before one is made until it is removed. Its forked
    # children inherit the object, but the place is not theirs to remove.
    _owner: int | None = None

    def __init__(self, *, logger: logging.Logger | None = None) -> None:
        self.logger = logger or get_logger("rex-deploy")
        self._hooks = CombinedDeploymentHook()
        self._runtime: RuntimeT | None = None
        # Reentrant, and with a note for start(): a signal handler may call stop() in the middle of start().
        self._lock = threading.RLock()
        self._stop_called = False
        self._starting = False

    @classmethod
    def from_config(cls, config: BaseModel) -> Self:
        """A deployment as `config` describes it. Later changes of `config` have no effect on it."""
        # Not `model_dump()`, which takes apart what another library is to be given, nor a deep copy of that.
        return cls(**{name: _copied(value) for name, value in config})

    def add_hook(self, hook: DeploymentHook) -> None:
        """Tell `hook` of every step of the start."""
        self._hooks.add_hook(hook)

    @property
    def runtime(self) -> RuntimeT:
        """What runs commands in the sandbox.

        Raises:
            DeploymentNotStartedError: there is no sandbox.
        """
        runtime = self._runtime
        if runtime is None:
            raise DeploymentNotStartedError(f"{type(self).__name__} is not started: call start() first")
        return runtime

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether the sandbox answers within `timeout` seconds; if not, the message says why.

        Raises:
            DeploymentNotStartedError: there is no sandbox.
        """
        response = self.runtime.is_alive(timeout=timeout)
        if not response:
            response.message = _paragraphs(response.message, self._last_words())
        return response

    def start(self) -> None:
        """Start the sandbox and wait until it answers. On a started deployment: a warning, and nothing else.

        If it fails, or is interrupted, what was made until then is removed.

        Raises:
            DeploymentStartupError: the sandbox did not start; the message says what was tried, and why.
        """
        with self._lock:
            if self._runtime is not None:
                self.logger.warning("%s is started already", type(self).__name__)
                return
            self._stop_called = False
            self._starting = True
            self._owner = os.getpid()
            with _started_lock:
                _started.add(self)
            try:
                self._runtime = self._bring_up()
            except BaseException:
                self._starting = False
                self._stop_and_log_errors()
                raise
            finally:
                self._starting = False

    def stop(self) -> None:
        """Close the runtime and remove the sandbox. Safe to call again, before `start`, and for a sandbox
        that is gone."""
        self._stop_called = True
        if self._owner != os.getpid():
            # And in a forked child a thread that it does not have may hold the lock for ever.
            return
        with self._lock:
            # In a signal handler in the midst of start(), that one sees the note and removes what it made.
            if self._owner != os.getpid() or self._starting:
                return
            runtime, self._runtime = self._runtime, None
            try:
                if runtime is not None:
                    self._close(runtime)
            except (OSError, SwerexException) as error:
                # Most likely the sandbox is gone, which is what stop() is for.
                self.logger.debug("%s: its runtime could not be closed: %s", type(self).__name__, error)
            finally:
                self._remove()
            self._owner = None

    def _bring_up(self) -> RuntimeT:
        try:
            runtime = self._create()
            self._wait_until_alive(runtime)
        except (OSError, SwerexException) as error:
            # Whatever it says: it may say so since stop() was called.
            self._check_wanted()
            if isinstance(error, DeploymentStartupError):
                raise
            reason = _paragraphs(str(error) or type(error).__name__, self._last_words())
            raise DeploymentStartupError(f"{type(self).__name__} did not start: {reason}") from error
        self._check_wanted()
        return runtime

    def _check_wanted(self) -> None:
        """Raise DeploymentStartupError if stop() was called since the start began."""
        if self._stop_called:
            raise DeploymentStartupError(f"{type(self).__name__} was stopped while it started")

    def _unless_stopped(self, ending: Callable[[], str]) -> Callable[[], str]:
        """The `obituary` for a runtime: what `ending` says; or that stop() was called, so that no call, nor a
        start, goes on waiting for an answer."""
        # The runtime must not keep the deployment from being collected.
        reference = weakref.ref(self)

        def obituary() -> str:
            deployment = reference()
            if deployment is not None and deployment._stop_called:
                return f"{type(deployment).__name__} was stopped."
            return ending()

        return obituary

    # Not abstract, since a class may have a start() and a stop() of its own.
    def _create(self) -> RuntimeT:
        """Make the place, and return the runtime that reaches it, without waiting for an answer.

        Note on `self` what is to be made before it is made, so that `_remove` finds it after an interrupt.
        """
        raise TypeError(f"{type(self).__name__} must define _create(), or a start() and stop() of its own")

    # A covariant parameter is sound here: it is only ever what `_create` of the same class returned.
    def _wait_until_alive(self, runtime: RuntimeT) -> None:  # type: ignore[misc]
        """Return when `runtime` answers. Raise as soon as it is sure that it never will."""

    # As above.
    def _close(self, runtime: RuntimeT) -> None:  # type: ignore[misc]
        """End what runs in the sandbox. Where `_remove` does that too, closing the connections is enough."""
        runtime.close()

    def _remove(self) -> None:
        """Remove the place, or as much of it as there is: all, a half, or nothing any more."""

    def _last_words(self) -> str:
        """What the place tells of its own end: its exit status, the tail of its log. Must not raise."""
        return ""

    def _step(self, message: str) -> None:
        """Tell the log and the hooks that a step of the start begins. Raises DeploymentStartupError if stop()
        was called meanwhile."""
        self._check_wanted()
        self.logger.info(message)
        self._hooks.on_custom_step(message)

    def _stop_and_log_errors(self) -> None:
        """Stop, for those who have no use for another exception: they have one, or nobody to raise it to."""
        try:
            self.stop()
        except Exception:
            self.logger.exception("%s could not be removed", type(self).__name__)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self._stop_and_log_errors()

    def __del__(self) -> None:
        # What is left when the interpreter is taken down could not be stopped at its exit.
        if self._owner == os.getpid() and not sys.is_finalizing():
            _collected.add(self)
            # Not here: this may be any thread, also one that others wait for, or one that holds their locks.
            try:
                _thread.start_new_thread(self._stop_collected, ())
            except RuntimeError:
                # Python 3.12 starts no threads at the exit of the interpreter.
                self._stop_collected()
            warnings.warn(f"{type(self).__name__} was not stopped", ResourceWarning, stacklevel=2)

    def _stop_collected(self) -> None:
        self._stop_and_log_errors()
        _collected.discard(self)


def _copied(value: Any) -> Any:
    """A copy of dicts and lists, with the same things in them."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _paragraphs(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


# Weak, so that a deployment which nobody holds any more is collected, and stopped by that.
_started: weakref.WeakSet[AbstractDeployment] = weakref.WeakSet()
_started_lock = threading.Lock()
_collected: set[AbstractDeployment] = set()
"""Those that are being stopped since nobody holds them any more."""


_EXIT_TIMEOUT = 20.0
"""For how many seconds, in all, deployments may hold up the exit of the interpreter."""
_exit_deadline = float("inf")


def patience(seconds: float) -> float:
    """For how many seconds a removal that takes so many at the most may go on; 0 when the interpreter has to
    exit now."""
    return max(0.0, min(seconds, _exit_deadline - time.monotonic()))


def stop_all() -> None:
    """Stop all deployments of this process."""
    with _started_lock:
        deployments = [*_started, *_collected]
    for deployment in deployments:
        deployment._stop_and_log_errors()


@atexit.register
def stop_at_exit() -> None:
    """Stop all deployments, as the last thing that is done with them."""
    global _exit_deadline
    _exit_deadline = min(_exit_deadline, time.monotonic() + _EXIT_TIMEOUT)
    stop_all()
