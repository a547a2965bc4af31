"""The list of checks, and running them on a deployment."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from swerex.deployment.abstract import AbstractDeployment
from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.areas import (
    concurrency,
    errors,
    execution,
    fidelity,
    files,
    framing,
    independence,
    interactive,
    interrupts,
    lifecycle,
    startup,
    state,
    survival,
    timeouts,
    uploads,
)
from swerex.testing.report import Outcome, Report, Result
from swerex.testing.tools import CheckFailed, Make, NotApplicable, background, new_name, scratch

__all__ = ["Check", "checks", "run"]

_AREAS: tuple[ModuleType, ...] = (
    framing,
    fidelity,
    independence,
    state,
    survival,
    startup,
    timeouts,
    interrupts,
    interactive,
    execution,
    files,
    uploads,
    concurrency,
    errors,
    lifecycle,
)

_TIME_LIMIT = 120.0
"""For how many seconds a check may run before it counts as hanging."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold of a deployment."""

    area: str
    name: str
    title: str
    """What holds, in a few words."""
    function: Callable[..., None]

    def __call__(self, make: Make, deployment: AbstractDeployment) -> None:
        """Make the check on `deployment`, which is started; it may need another one that `make` makes.

        Raises:
            CheckFailed: it does not hold. So does any exception but the next.
            NotApplicable: the sandbox lacks a tool that the check is about.
        """
        with ExitStack() as stack:
            given = _Given(make, deployment, stack)
            self.function(*(getattr(given, name) for name in inspect.signature(self.function).parameters))

    def __str__(self) -> str:
        return f"{self.area}-{self.name}"


class _Given:
    """What a check can ask for by the name of a parameter."""

    def __init__(self, make: Make, deployment: AbstractDeployment, stack: ExitStack) -> None:
        self.make = make
        self.deployment = deployment
        self._stack = stack

    @property
    def runtime(self) -> AbstractRuntime:
        return self.deployment.runtime

    @cached_property
    def folder(self) -> str:
        return self._stack.enter_context(scratch(self.runtime))

    @cached_property
    def session(self) -> Session:
        return self._stack.enter_context(self.runtime.session(new_name(), cwd=self.folder))


def checks(only: str = "") -> list[Check]:
    """All checks, or those that have the text `only` in their area, name or title."""
    found = [
        Check(area.__name__.rpartition(".")[2], name, _title(function), function)
        for area in _AREAS
        for name, function in vars(area).items()
        if inspect.isfunction(function) and function.__module__ == area.__name__ and not name.startswith("_")
    ]
    return [check for check in found if only.lower() in f"{check} {check.title}".lower()]


def _title(function: Callable[..., Any]) -> str:
    return (function.__doc__ or function.__name__).splitlines()[0].removesuffix(".")


def run(
    make: Make, *, name: str = "", only: str = "", on_result: Callable[[Result], object] = lambda _: None
) -> Report:
    """Start a deployment, make the checks on it, and stop it. Raises what `make` and the start raise.

    `name` stands at the head of the report. `on_result` gets each result as soon as it is there.
    """
    results: list[Result] = []
    with make() as deployment:
        dead = ""
        for check in checks(only):
            result = (
                Result(check.area, check.title, "failed", 0, dead)
                if dead
                else _attempt(check, make, deployment)
            )
            results.append(result)
            on_result(result)
            if result.outcome == "failed" and not dead:
                # The other checks would fail as well, and each would take its time to find out.
                alive = deployment.is_alive(timeout=20)
                dead = "" if alive else f"not tried, since the sandbox is dead: {alive.message}"
    return Report(name or type(deployment).__name__, results)


def _attempt(check: Check, make: Make, deployment: AbstractDeployment) -> Result:
    begin = time.monotonic()
    call = background(check, make, deployment)
    wait([call], _TIME_LIMIT)
    error = call.exception() if call.done() else CheckFailed(f"it hangs: {_TIME_LIMIT:g} s are over")
    outcome: Outcome = "held"
    message = ""
    if error:
        outcome = "not applicable" if isinstance(error, NotApplicable) else "failed"
        known = isinstance(error, CheckFailed | NotApplicable)
        message = str(error) if known else f"{type(error).__name__}: {error}"
    return Result(check.area, check.title, outcome, time.monotonic() - begin, message)
