"""A container of Docker or Podman as a sandbox, whatever its image holds."""

from __future__ import annotations

import logging
import re
import secrets
import shlex
import time
from contextlib import suppress
from typing import Any

import requests
from docker.errors import DockerException, NotFound
from typing_extensions import Self

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.beat import Beat
from swerex.deployment.bundle import Bundle, get_bundle
from swerex.deployment.config import DockerDeploymentConfig
from swerex.deployment.docker.container import ContainerWatch
from swerex.deployment.docker.engine import Engine, connect, interrupts_deferred, said
from swerex.deployment.docker.images import Image, build, find_or_pull, is_path, remove_image
from swerex.deployment.docker.options import container_options
from swerex.deployment.docker.reach import REACH_LABEL, Reach, reach_for
from swerex.deployment.docker.sandboxes import KEPT_LABEL, Use, labels, remove_abandoned, remove_container
from swerex.deployment.docker.volume import BUNDLE_ROOT, bundle_mount, ensure_volume
from swerex.deployment.fallback import server_in_image
from swerex.exceptions import DeploymentStartupError, SandboxDiedError, SwerexException
from swerex.runtime.remote import RemoteRuntime

__all__ = ["DockerDeployment"]

_TIMEOUT = 10.0
"""Seconds that `is_alive` waits by default. A container that has ended refuses at once."""


class DockerDeployment(AbstractDeployment[RemoteRuntime]):
    """A container. Keyword arguments are the fields of `DockerDeploymentConfig`.

    The server comes along with it: the image needs neither Python nor a network. However this process ends,
    the container ends too, and is removed.
    """

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        """Raises ValueError for `docker_args` that can't be used."""
        super().__init__(logger=logger)
        self._config = DockerDeploymentConfig(**kwargs)
        self._options = container_options(self._config)
        self._attach_to: str | None = None
        self._container_name: str | None = None
        self._started_at = 0.0
        self._engine: Engine | None = None
        self._reach: Reach | None = None
        self._image: Image | None = None
        self._watch: ContainerWatch | None = None
        self._use: Use | None = None
        self._beat: Beat | None = None

    @property
    def container_name(self) -> str | None:
        """The container's name. None: there is none."""
        return self._container_name

    @classmethod
    def attach(
        cls, container_name: str, *, container_runtime: str = "docker", logger: logging.Logger | None = None
    ) -> Self:
        """Take up a sandbox that runs, also one that another process made. It is started already, and `stop`
        ends it for everybody; `detach` lets it run.

        Raises:
            DeploymentStartupError: there is no such sandbox, or it does not run.
        """
        deployment = cls(logger=logger, container_runtime=container_runtime)
        deployment._attach_to = container_name
        deployment.start()
        assert deployment._watch is not None
        # Not before: if it can't be taken up, it is not removed either.
        deployment._container_name = deployment._watch.name
        return deployment

    def detach(self) -> None:
        """Let go of the sandbox and leave it running, for another process to `attach` to. It ends when its
        lease runs out, `auto_remove_after` seconds after the last request."""
        with self._lock:
            self._runtime = None
            self._owner = None
            self._let_go(removed=False)
            self._container_name = None

    def _create(self) -> RemoteRuntime:
        self._engine = engine = connect(self._config.container_runtime)
        if self._attach_to is not None:
            return self._take_up(engine, self._attach_to)
        remove_abandoned(engine)
        if self._config.python_standalone_dir:
            self.logger.debug("python_standalone_dir is not needed: the server brings its own Python")
        self._image = image = self._get_image(engine)
        bundle = self._bundle(image)
        token = secrets.token_urlsafe(32)
        if bundle is None:
            self._start_container(engine, image, bundle, token)
        else:
            ensure_volume(engine, bundle, image.name)
            try:
                self._start_container(engine, image, bundle, token)
            except _NoServerFoundError:
                self.logger.warning(
                    "The server's files in %s were not whole: bringing them again", engine.name
                )
                self._remove_container()
                ensure_volume(engine, bundle, image.name, again=True)
                self._start_container(engine, image, bundle, token)
        try:
            return self._runtime_of(engine, token, self._config.auto_remove_after)
        except SandboxDiedError as error:
            raise self._did_not_start(error) from error

    def _get_image(self, engine: Engine) -> Image:
        config = self._config
        if is_path(config.image):
            return build(engine, config.image, config.platform, self._step, self._step_on_terminal)
        return find_or_pull(
            engine, config.image, config.pull, config.platform, self._step, self._step_on_terminal
        )

    def _step_on_terminal(self, message: str) -> None:
        """A step that a terminal shows already: for the hooks, and for a detailed log."""
        self._check_wanted()
        self.logger.debug(message)
        self._hooks.on_custom_step(message)

    def _bundle(self, image: Image) -> Bundle | None:
        """What brings the server into the container. None: the image has to have one."""
        if not image.runs_here():
            self.logger.info("%s is for %s: using the server that it has", image.name, image.machine)
            return None
        try:
            return get_bundle()
        except DeploymentStartupError as error:
            self.logger.warning("Using the server that the image has: %s", error)
            return None

    def _start_container(self, engine: Engine, image: Image, bundle: Bundle | None, token: str) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", image.name.lower()).strip("-")[:30]
        self._container_name = name = f"swerex-{slug}-{secrets.token_hex(6)}"
        self._step(f"Starting the container {name} from {image.name}")
        self._started_at = time.monotonic()
        try:
            with interrupts_deferred():
                self._reach = reach_for(self._config, self._options, engine)
                self._use = Use(name, engine, self._reach.label)
                options = self._container(image, bundle, token, self._reach)
                engine.client.containers.create(image.name, name=name, **options)
            self._watch = ContainerWatch(engine, name, tty=bool(options.get("tty")))
            with interrupts_deferred():
                engine.client.api.start(name)
        except (DockerException, requests.RequestException) as error:
            words = said(error)
            if bundle is not None and BUNDLE_ROOT in words and "no such file" in words.lower():
                raise _NoServerFoundError(words) from error
            raise DeploymentStartupError(
                f"{engine.name} could not start a container from {image.name}: {words}{_advice(words, image)}"
            ) from error

    def _container(self, image: Image, bundle: Bundle | None, token: str, reach: Reach) -> dict[str, Any]:
        """Keyword arguments for the SDK's `containers.create`."""
        config, options = self._config, dict(self._options)
        options["environment"] = {
            **options["environment"],
            "SWEREX_AUTH_TOKEN": token,
            "SWEREX_LEASE": f"{config.auto_remove_after:g}",
        }
        options["labels"] = {**(options.get("labels") or {}), **labels(), REACH_LABEL: reach.label}
        options["mounts"] = [*(options.get("mounts") or [])]
        reach.prepare(options, config.port)
        entrypoint = options.get("entrypoint")
        if bundle is None:
            command = [*config.exec_shell, server_in_image(reach.server_options())]
        else:
            options["mounts"].append(bundle_mount(bundle))
            command = [*bundle.command(BUNDLE_ROOT), *reach.server_options()]
            if config.exec_shell != DockerDeploymentConfig.model_fields["exec_shell"].default:
                # Somebody wants a shell first, such as one that reads a profile.
                command = [*config.exec_shell, f"exec {shlex.join(command)}"]
        if entrypoint is None:
            # In place of that of the image, which may be anything.
            options["entrypoint"], options["command"] = command[:1], command[1:]
        else:
            options["command"] = command
        if not config.remove_container:
            options["labels"][KEPT_LABEL] = "yes"
        elif options.get("restart_policy", {}).get("Name", "no") == "no":
            options["auto_remove"] = True
        return options

    def _runtime_of(self, engine: Engine, token: str, lease: float) -> RemoteRuntime:
        assert self._watch is not None
        assert self._reach is not None
        address = self._reach.address(engine, self._watch, self._left())
        runtime = RemoteRuntime(
            logger=self.logger,
            obituary=self._unless_stopped(self._watch.ending),
            host=address,
            auth_token=token,
            timeout=_TIMEOUT,
            # A proxy of the environment's is for what lies outside, and no way to an engine's own network.
            proxies={"no_proxy": "*"},
        )
        self._beat = Beat(runtime, lease)
        self._beat.start()
        return runtime

    def _left(self) -> float:
        return max(0.0, self._started_at + self._config.startup_timeout - time.monotonic())

    def _wait_until_alive(self, runtime: RemoteRuntime) -> None:
        self._step("Waiting for the server in the container")
        try:
            runtime.wait_until_alive(timeout=self._left())
        except SandboxDiedError as error:
            raise self._did_not_start(error) from error

    def _did_not_start(self, error: SandboxDiedError) -> DeploymentStartupError:
        advice = "" if self._image is None else _advice(str(error), self._image)
        return DeploymentStartupError(f"The sandbox did not start. {error}{advice}")

    def _take_up(self, engine: Engine, name: str) -> RemoteRuntime:
        try:
            found = engine.client.api.inspect_container(name)
        except NotFound as error:
            raise DeploymentStartupError(f"{engine.name} has no container {name}") from error
        except (DockerException, requests.RequestException) as error:
            raise DeploymentStartupError(f"{engine.name} does not tell of {name}: {said(error)}") from error
        environment = dict(item.split("=", 1) for item in found["Config"]["Env"] or [] if "=" in item)
        found_labels = found["Config"]["Labels"] or {}
        reach = Reach(found_labels.get(REACH_LABEL, ""))
        if REACH_LABEL not in found_labels or not reach.is_in(found["Mounts"]):
            raise DeploymentStartupError(f"{engine.name}'s container {name} was not made by this package")
        if not found["State"]["Running"]:
            raise DeploymentStartupError(f"The sandbox {name} does not run: it is {found['State']['Status']}")
        # It may have been given by its id.
        name = found["Name"].lstrip("/")
        self._use = Use(name, engine, reach.label)
        self._watch = ContainerWatch(engine, name, tty=found["Config"]["Tty"], running=True)
        self._config.remove_container = KEPT_LABEL not in found_labels
        self._started_at = time.monotonic()
        self._reach = reach
        lease = float(environment.get("SWEREX_LEASE", self._config.auto_remove_after))
        return self._runtime_of(engine, environment.get("SWEREX_AUTH_TOKEN", ""), lease)

    def _close(self, runtime: RemoteRuntime) -> None:
        # Its sessions end with the container.
        runtime.disconnect()

    def _remove(self) -> None:
        if self._container_name is not None:
            self._remove_container()
        else:
            self._let_go(removed=False)
        if self._config.remove_images and self._image is not None and self._engine is not None:
            remove_image(self._engine, self._image, self.logger)
        self._image = None

    def _remove_container(self) -> None:
        engine, name = self._engine, self._container_name
        assert engine is not None
        assert name is not None
        api = engine.client.api
        removed = False
        try:
            with interrupts_deferred(), suppress(NotFound):
                if self._config.remove_container:
                    remove_container(engine, name)
                else:
                    api.stop(name, timeout=3)
            removed = self._config.remove_container
        except (DockerException, requests.RequestException) as error:
            raise SwerexException(
                f"{engine.name} did not remove the container {name}: {said(error)}. If it is still there, it "
                "ends when its lease runs out; swerex.deployment.docker.prune() removes it."
            ) from error
        finally:
            self._let_go(removed=removed)
        if removed:
            self._container_name = None

    def _let_go(self, *, removed: bool) -> None:
        """Give back what this process holds of the sandbox."""
        if self._beat is not None:
            self._beat.stop()
        if self._watch is not None:
            self._watch.close()
        if self._use is not None:
            self._use.end(removed=removed)
        if self._reach is not None and removed:
            self._reach.close()
        self._beat = self._watch = self._use = self._reach = None

    def _last_words(self) -> str:
        watch = self._watch
        # The end, with the log, is in the runtime's own answer.
        log = watch.log().strip() if watch is not None and not watch.ending() else ""
        return f"The end of the container's log:\n{log}" if log else ""


class _NoServerFoundError(DeploymentStartupError):
    """The container has no server where the bundle should be."""


def _advice(words: str, image: Image) -> str:
    if "exec format error" not in words and "no matching manifest" not in words:
        return ""
    return (
        f"\nThe image is for {image.machine or 'another machine'}, which the engine's machine can't run: use "
        "one for that, name the `platform`, or install an emulator (qemu-user-static with binfmt)."
    )
