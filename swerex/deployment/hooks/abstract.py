"""What a deployment tells of its progress, and to whom."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CombinedDeploymentHook", "DeploymentHook"]


class DeploymentHook:
    """Override what you want to hear of. An exception in a hook makes the start fail."""

    def on_custom_step(self, message: str) -> None:
        """A step of the start begins."""


class CombinedDeploymentHook(DeploymentHook):
    """Hands everything on to several hooks, in the order in which they were added."""

    def __init__(self, hooks: Iterable[DeploymentHook] = ()) -> None:
        self._hooks = list(hooks)

    def add_hook(self, hook: DeploymentHook) -> None:
        self._hooks.append(hook)

    def on_custom_step(self, message: str) -> None:
        for hook in self._hooks:
            hook.on_custom_step(message)
