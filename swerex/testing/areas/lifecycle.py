"""A deployment can be started and stopped in any order, and says what it does."""

from __future__ import annotations

import logging
import threading

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.exceptions import DeploymentNotStartedError
from swerex.testing.tools import Make, equal, new_name, next_is_right, raised, true


def alive(deployment: AbstractDeployment) -> None:
    """`is_alive` is true of a deployment that is started."""
    response = deployment.is_alive(timeout=20)
    true(response, f"is_alive says: {response.message}")
    equal(response.is_alive, True)


def before_the_start(make: Make) -> None:
    """Before the start there is no runtime, and stop does nothing."""
    deployment = make()
    raised(DeploymentNotStartedError, lambda: deployment.runtime)
    deployment.stop()
    raised(DeploymentNotStartedError, lambda: deployment.runtime)


def second_start(make: Make) -> None:
    """A second start warns and does nothing; the hooks hear of the steps of the first."""
    deployment = make()
    steps: list[str] = []
    deployment.add_hook(_Hook(steps))
    warnings: list[str] = []
    with _Warnings(deployment.logger, warnings), deployment as entered:
        true(entered is deployment, "with gives another object than the deployment")
        true(steps and all(steps), f"the hooks heard of {steps}")
        heard, runtime = list(steps), deployment.runtime
        equal(warnings, [], "the warnings of the first start")
        deployment.start()
        equal(len(warnings), 1, "the number of warnings of the second start")
        true(deployment.runtime is runtime, "the runtime is another one now")
        equal(steps, heard, "the steps after the second start")
        with runtime.session(new_name()) as session:
            next_is_right(session)


def after_the_stop(make: Make) -> None:
    """After stop there is no runtime, a second one does nothing, and start starts anew."""
    deployment = make()
    deployment.start()
    try:
        deployment.stop()
        raised(DeploymentNotStartedError, lambda: deployment.runtime)
        deployment.stop()
        deployment.start()
        with deployment.runtime.session(new_name()) as session:
            next_is_right(session)
    finally:
        deployment.stop()
    raised(DeploymentNotStartedError, lambda: deployment.runtime)


def errors_inside_of_with(make: Make) -> None:
    """An error inside of with comes out as it is, and the deployment is stopped."""
    deployment = make()
    expected = ZeroDivisionError("of the check")

    def fail() -> None:
        with deployment:
            deployment.runtime.session(new_name())
            raise expected

    true(raised(ZeroDivisionError, fail) is expected, "another error came out")
    raised(DeploymentNotStartedError, lambda: deployment.runtime)


class _Hook(DeploymentHook):
    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    def on_custom_step(self, message: str) -> None:
        self._steps.append(message)


class _Warnings(logging.Handler):
    """Collects the warnings of a logger inside of a ``with``, those of this thread alone."""

    def __init__(self, logger: logging.Logger, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._logger, self._warnings = logger, warnings
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._warnings.append(record.getMessage())

    def __enter__(self) -> None:
        self._level = self._logger.level
        if self._logger.getEffectiveLevel() > logging.WARNING:
            # Somebody wants to see less; here they are counted.
            self._logger.setLevel(logging.WARNING)
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
