"""No sandbox at all: commands run on this machine, as the user of this program."""

from __future__ import annotations

import logging
from typing import Any

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.config import LocalDeploymentConfig
from swerex.runtime.abstract import IsAliveResponse
from swerex.runtime.local import LocalRuntime

__all__ = ["LocalDeployment", "LocalDeploymentConfig"]


class LocalDeployment(AbstractDeployment[LocalRuntime]):
    """Runs commands on this machine. Keyword arguments are the fields of `LocalDeploymentConfig`."""

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        super().__init__(logger=logger)
        self._config = LocalDeploymentConfig(**kwargs)

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether it is started."""
        if self._runtime is None:
            return IsAliveResponse(is_alive=False, message="the deployment is not started")
        return super().is_alive(timeout=timeout)

    def _create(self) -> LocalRuntime:
        self._step("Starting a runtime on this machine")
        return LocalRuntime(logger=self.logger)
