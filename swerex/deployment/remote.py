"""A server that somebody else started, seen as a deployment."""

from __future__ import annotations

import logging
from typing import Any

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.config import RemoteDeploymentConfig
from swerex.exceptions import DeploymentStartupError, SwerexException
from swerex.runtime.remote import RemoteRuntime

__all__ = ["RemoteDeployment", "RemoteDeploymentConfig"]

# For a server that runs already, or is just being started.
_STARTUP_TIMEOUT = 10.0


class RemoteDeployment(AbstractDeployment[RemoteRuntime]):
    """Connects to a running ``swerex-remote``. Keyword arguments are the fields of `RemoteDeploymentConfig`.

    `stop` closes the sessions of that server, and leaves the server itself running.
    """

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        super().__init__(logger=logger)
        self._config = RemoteDeploymentConfig(**kwargs)

    def _create(self) -> RemoteRuntime:
        return RemoteRuntime(logger=self.logger, **self._config.model_dump())

    def _wait_until_alive(self, runtime: RemoteRuntime) -> None:
        self._step(f"Waiting for the server at {self._config.url}")
        try:
            runtime.wait_until_alive(timeout=_STARTUP_TIMEOUT)
        except (OSError, SwerexException) as error:
            raise DeploymentStartupError(
                f"The server at {self._config.url} can't be used: {error}\n"
                "Check that `swerex-remote` runs there with the same token (`auth_token`, or the variable "
                "SWEREX_AUTH_TOKEN), and that `host` and `port` are right."
            ) from error
