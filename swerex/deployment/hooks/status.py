"""A hook that reports to a table or a progress bar of the caller's."""

from __future__ import annotations

from collections.abc import Callable

from swerex.deployment.hooks.abstract import DeploymentHook

__all__ = ["SetStatusDeploymentHook"]


class SetStatusDeploymentHook(DeploymentHook):
    """Calls ``callable(id, message)`` for every step."""

    def __init__(self, id: str, callable: Callable[[str, str], object]) -> None:
        self._id = id
        self._callable = callable

    def on_custom_step(self, message: str) -> None:
        self._callable(self._id, message)
