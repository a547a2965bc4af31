"""A deployment that does nothing, for tests of what stands above it."""

from __future__ import annotations

import logging
from typing import Any

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.config import DummyDeploymentConfig
from swerex.runtime.dummy import DummyRuntime

__all__ = ["DummyDeployment", "DummyDeploymentConfig"]


class DummyDeployment(AbstractDeployment[DummyRuntime]):
    """Hands out a `DummyRuntime`. Keyword arguments are the fields of `DummyDeploymentConfig`."""

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        super().__init__(logger=logger)
        self._config = DummyDeploymentConfig(**kwargs)
        self._given: DummyRuntime | None = None

    @property
    def runtime(self) -> DummyRuntime:
        """What answers in the place of a sandbox; may be set, before or after the start."""
        return super().runtime

    @runtime.setter
    def runtime(self, runtime: DummyRuntime) -> None:
        with self._lock:
            self._given = runtime
            if self._runtime is not None:
                self._runtime = runtime

    def _create(self) -> DummyRuntime:
        self._step("Starting a runtime that does nothing")
        return self._given or DummyRuntime(logger=self.logger, outputs=self._config.outputs)
