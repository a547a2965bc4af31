"""A sandbox on Modal."""

from __future__ import annotations

import atexit
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any, TypeVar

import modal
from modal.exception import AuthError, SandboxTimeoutError

from swerex.deployment.abstract import AbstractDeployment, stop_at_exit
from swerex.deployment.beat import Beat
from swerex.deployment.config import MODAL_PORT, ModalDeploymentConfig
from swerex.deployment.modal.calls import patiently, start_call
from swerex.deployment.modal.image import forget_build, sandbox_image, start_build
from swerex.deployment.modal.place import SandboxPlace, remove_at_exit
from swerex.deployment.modal.watch import SandboxWatch
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError, SandboxDiedError
from swerex.runtime.remote import RemoteRuntime

__all__ = ["ModalDeployment", "ModalDeploymentConfig"]

T = TypeVar("T")

# Once more, since the library, which is imported by now, closes its connections at exit, and what was
# registered last runs first.
atexit.register(remove_at_exit, stop_at_exit)


class ModalDeployment(AbstractDeployment[RemoteRuntime]):
    """Runs the server in a sandbox on Modal, and brings it along: the image needs no Python and no network.

    The account is that of the `modal` library: ``modal token new``, or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger | None = None,
        image: str | PurePath | modal.Image = "python:3.11",
        **kwargs: Any,
    ) -> None:
        """Keyword arguments are the fields of `ModalDeploymentConfig`. `image` may also be a `modal.Image`;
        its entry point, if it has one, has to run the command that it is given."""
        super().__init__(logger=logger)
        if not isinstance(image, modal.Image):
            kwargs["image"] = image
        self._image = image
        self._config = ModalDeploymentConfig(**kwargs)
        self._deadline = 0.0
        self._app: modal.App | None = None
        self._place: SandboxPlace | None = None
        self._sandbox: modal.Sandbox | None = None
        self._watch: SandboxWatch | None = None
        self._beat: Beat | None = None

    @property
    def app(self) -> modal.App:
        """The app that the sandbox belongs to.

        Raises:
            DeploymentNotStartedError: there is no sandbox.
        """
        return self._if_started(self._app)

    @property
    def sandbox(self) -> modal.Sandbox:
        """The sandbox, for what else the `modal` library can do with it.

        Raises:
            DeploymentNotStartedError: there is no sandbox.
        """
        return self._if_started(self._sandbox)

    @property
    def log_url(self) -> str:
        """The address of the sandbox's page, with its log, on Modal's web site.

        Raises:
            DeploymentNotStartedError: there is no sandbox.
        """
        return f"https://modal.com/id/{self.sandbox.object_id}"

    def _if_started(self, value: T | None) -> T:
        if self._runtime is None or value is None:
            raise DeploymentNotStartedError("ModalDeployment is not started: call start() first")
        return value

    def _create(self) -> RemoteRuntime:
        config = self._config
        self._deadline = time.monotonic() + config.startup_timeout
        self._step(f"Looking up the Modal app {config.app_name}")
        with self._explained(f"The app {config.app_name} could not be looked up"):
            self._app = app = self._patiently(
                lambda: start_call(lambda: modal.App.lookup(config.app_name, create_if_missing=True))
            )
        self._step(f"Building the image {self._image}")
        with self._explained(f"The image {self._image} could not be built"):
            found = sandbox_image(self._image, install_pipx=config.install_pipx, logger=self.logger)
            try:
                image = self._patiently(lambda: start_build(found, app))
            except TimeoutError:
                forget_build(found, app)
                raise
        self._step("Creating the sandbox")
        token = secrets.token_hex(32)
        with self._explained("The sandbox could not be created"):
            self._place = place = SandboxPlace(app)
            command = [*found.command, "--host", "0.0.0.0", "--port", str(MODAL_PORT)]
            options = {"app": app, "image": image, **self._options(place, token)}
            self._sandbox = sandbox = place.create(
                lambda: modal.Sandbox.create(*command, **options), self._deadline, self._check_wanted
            )
        self._watch = watch = SandboxWatch(sandbox)
        self._step(f"Waiting for the tunnel to the sandbox {sandbox.object_id}")
        with self._explained("The sandbox got no tunnel"):
            url = self._tunnel_url(sandbox, watch)
        return RemoteRuntime(
            logger=self.logger,
            obituary=self._unless_stopped(watch.ask),
            auth_token=token,
            host=url,
            timeout=config.runtime_timeout,
        )

    def _options(self, place: SandboxPlace, token: str) -> dict[str, Any]:
        """Keyword arguments for `modal.Sandbox.create`: those that were given, and ours."""
        given = dict(self._config.modal_sandbox_kwargs)
        # In the environment, and not in the command, which the web site shows.
        environment: dict[str, str | None] = {
            "SWEREX_AUTH_TOKEN": token,
            "SWEREX_LEASE": f"{self._config.auto_remove_after:g}",
        }
        both = {
            "secrets": [*(given.pop("secrets", None) or ()), modal.Secret.from_dict(environment)],
            "encrypted_ports": [*(given.pop("encrypted_ports", None) or ()), MODAL_PORT],
            "tags": {**(given.pop("tags", None) or {}), **place.tags},
            "name": given.pop("name", None) or place.name,
        }
        return {**given, **both, "timeout": max(1, round(self._config.deployment_timeout))}

    def _tunnel_url(self, sandbox: modal.Sandbox, watch: SandboxWatch) -> str:
        while True:
            # As long as the sandbox has not begun to run, there is none.
            with suppress(SandboxTimeoutError):
                tunnels = self._patiently(lambda: start_call(lambda: sandbox.tunnels(timeout=1)))
                if MODAL_PORT in tunnels:
                    return tunnels[MODAL_PORT].url
            self._check_wanted()
            if ended := watch.ask():
                raise SandboxDiedError(ended)
            if time.monotonic() > self._deadline:
                raise TimeoutError("Modal has none for it")
            time.sleep(0.1)

    def _wait_until_alive(self, runtime: RemoteRuntime) -> None:
        self._step("Waiting for the server in the sandbox")
        with self._explained("The server in the sandbox did not answer"):
            runtime.wait_until_alive(timeout=max(0.0, self._deadline - time.monotonic()))
        self._beat = Beat(runtime, self._config.auto_remove_after)
        self._beat.start()

    def _close(self, runtime: RemoteRuntime) -> None:
        # Its sessions end with the sandbox.
        runtime.disconnect()

    def _remove(self) -> None:
        if self._beat is not None:
            self._beat.stop()
        if self._place is not None:
            self._place.remove()
        self._app = self._place = self._sandbox = self._watch = self._beat = None

    def _last_words(self) -> str:
        watch = self._watch
        if watch is None or watch.ending:
            # Then it stands in what the runtime has said.
            return ""
        if ended := watch.ask(max_age=0):
            return ended
        log = watch.log()
        return f"The sandbox runs. Its log ends with:\n{log}" if log else ""

    def _patiently(self, start: Callable[[], Future[T]]) -> T:
        return patiently(start, self._deadline, self._check_wanted)

    @contextmanager
    def _explained(self, failure: str) -> Iterator[None]:
        """Turn whatever goes wrong into a `DeploymentStartupError` that begins with `failure`."""
        try:
            yield
        except DeploymentStartupError:
            raise
        except SandboxDiedError as error:
            raise DeploymentStartupError(f"The sandbox ended while it started. {error}") from error
        except AuthError as error:
            raise DeploymentStartupError(
                f"{failure}, since Modal does not know who asks: {error}\nRun `modal token new`, or set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
            ) from error
        except Exception as error:
            # The library passes on what its own libraries raise: of gRPC, HTTP/2 and HTTP.
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, TimeoutError):
                failure += f" within the startup_timeout of {self._config.startup_timeout:g} s"
                reason = str(error)
            raise DeploymentStartupError(f"{failure}: {reason}\n{self._last_words()}".rstrip()) from error
