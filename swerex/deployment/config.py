"""What a deployment can be told, as data: to build one from a file, a command line or another program.

A config may be copied and changed; it is checked again when a deployment is made from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from ipaddress import IPv4Network
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from swerex.deployment.abstract import AbstractDeployment
from swerex.runtime.config import RemoteRuntimeConfig

__all__ = [
    "DeploymentConfig",
    "DockerDeploymentConfig",
    "DummyDeploymentConfig",
    "FargateDeploymentConfig",
    "LocalDeploymentConfig",
    "ModalDeploymentConfig",
    "RemoteDeploymentConfig",
    "get_deployment",
]

MODAL_PORT = 8000
"""The port at which the server listens in a sandbox on Modal."""

_Port = Annotated[int, Field(ge=1, le=65535)]
_Seconds = Annotated[float, Field(ge=0)]


class LocalDeploymentConfig(BaseModel):
    """No sandbox: commands run on this machine."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["local"] = "local"
    """Tells the configs apart. Do not change."""

    def get_deployment(self) -> AbstractDeployment:
        from swerex.deployment.local import LocalDeployment

        return LocalDeployment.from_config(self)


class DockerDeploymentConfig(BaseModel):
    """A container of Docker or Podman."""

    model_config = ConfigDict(extra="forbid")

    image: str = "python:3.11"
    """The name of the image to run; or the path of a Dockerfile, or of a folder with one, to build it from. A
    path begins with ``/``, ``./``, ``../`` or ``~``, or ends in ``Dockerfile``."""
    port: _Port | None = None
    """The port of the engine's machine that leads to the server. None: the engine picks one."""
    docker_args: list[str] = []
    """More options for the container, as for ``docker run``. A ``--platform`` moves to `platform`. An option
    that isn't known is a ValueError when the deployment is made."""
    startup_timeout: _Seconds = 180.0
    """Seconds from the start of the container until the server must answer."""
    pull: Literal["never", "always", "missing"] = "missing"
    """When to pull the image."""
    remove_images: bool = False
    """Remove the image when the deployment is stopped."""
    python_standalone_dir: str | None = None
    """Where in the image to install a Python of its own. Not needed: the server brings its own."""
    platform: str | None = None
    """The platform of the image, such as ``linux/amd64``. None: the engine's own."""
    remove_container: bool = True
    """Remove the container when it ends, or is stopped. If not, it is stopped and kept."""
    container_runtime: Literal["docker", "podman"] = "docker"
    """The engine to use."""
    exec_shell: list[str] = ["/bin/sh", "-c"]
    """What runs the command line that starts the server in the container: a shell that reads a profile, for
    one. The default is needed only by images whose own server is used."""
    docker_internal_host: str = "http://127.0.0.1"
    """The address at which the ports of the engine's machine can be reached from here: another one where this
    program runs in a container itself."""
    memory: int | str | None = None
    """The most memory the container may use: bytes, or as in ``512m`` and ``2g``. None: no limit."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    """How many CPUs it may use. None: all."""
    env: dict[str, str] = {}
    """Environment variables, added to those of the image."""
    volumes: list[str] = []
    """As for ``docker run --volume``: ``/here:/there``, ``/here:/there:ro`` or ``name:/there``."""
    workdir: str | None = None
    """The working directory. None: that of the image."""
    user: str | None = None
    """The user, and maybe group: ``name``, ``1000`` or ``1000:1000``. None: that of the image."""
    network: str | None = None
    """The network. ``none``: the sandbox has no network at all, and yet is driven, through a socket. A named
    one: the sandbox is reached at its own address there. None: the engine's usual one."""
    auto_remove_after: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a sign of life from this process after which the sandbox ends itself."""
    type: Literal["docker"] = "docker"
    """Tells the configs apart. Do not change."""

    @model_validator(mode="after")
    def _move_platform(self) -> Self:
        kept: list[str] = []
        args = iter(self.docker_args)
        for arg in args:
            if arg != "--platform" and not arg.startswith("--platform="):
                kept.append(arg)
                continue
            platform = next(args, "") if arg == "--platform" else arg.removeprefix("--platform=")
            if not platform:
                raise ValueError("--platform in docker_args has no value")
            if self.platform is not None:
                raise ValueError(f"the platform is given twice: {self.platform!r} and {platform!r}")
            self.platform = platform
        self.docker_args = kept
        return self

    def get_deployment(self) -> AbstractDeployment:
        return _import_backend("docker", "DockerDeployment").from_config(self)


class ModalDeploymentConfig(BaseModel):
    """A sandbox on Modal."""

    model_config = ConfigDict(extra="forbid")

    image: str | PurePath = "python:3.11"
    """The name of an image in a registry, or the path of a Dockerfile, whose folder is its build context."""
    startup_timeout: _Seconds = 180.0
    """Seconds that the start may take in all: building the image, and until the server answers."""
    runtime_timeout: _Seconds = 60.0
    """Seconds that one request to the sandbox may take by default."""
    deployment_timeout: Annotated[_Seconds, Field(allow_inf_nan=False)] = 3600.0
    """Seconds after which the sandbox ends in any case, so that a forgotten one does not cost for ever."""
    modal_sandbox_kwargs: dict[str, Any] = {}
    """More arguments for `modal.Sandbox.create`; not ``app``, ``image`` and ``timeout``, which have fields
    here, nor ``block_network``, with which there is no way to the server. Port 8000 is the server's."""
    install_pipx: bool = True
    """Install pipx in the image, to install the server with where neither a bundle can serve nor the image
    has it."""
    app_name: str = "swe-rex"
    """The app of Modal that the sandbox belongs to; made if it is not there."""
    auto_remove_after: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a sign of life from this process after which the sandbox ends itself."""
    type: Literal["modal"] = "modal"
    """Tells the configs apart. Do not change."""

    @field_validator("modal_sandbox_kwargs")
    @classmethod
    def _leaves_ours(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name, field in (("app", "app_name"), ("image", "image"), ("timeout", "deployment_timeout")):
            if name in kwargs:
                raise ValueError(f"{name!r} can't be given here: use the field `{field}`")
        if kwargs.get("block_network"):
            raise ValueError(
                "with 'block_network' Modal makes no tunnel to the server: give `outbound_cidr_allowlist=[]` "
                "for a sandbox that reaches nothing"
            )
        for name in ("encrypted_ports", "h2_ports", "unencrypted_ports"):
            ports = kwargs.get(name) or ()
            if not isinstance(ports, Collection):
                raise ValueError(f"{name!r} is {ports!r}, and has to be a list of ports")
            if MODAL_PORT in ports:
                raise ValueError(f"port {MODAL_PORT} in {name!r} is the server's: take another one")
        return kwargs

    def get_deployment(self) -> AbstractDeployment:
        return _import_backend("modal", "ModalDeployment").from_config(self)


class FargateDeploymentConfig(BaseModel):
    """A task on AWS Fargate."""

    model_config = ConfigDict(extra="forbid")

    image: str = "python:3.11"
    """The image to run."""
    port: _Port = 8880
    """The port of the task at which the server listens."""
    cluster_name: str = "swe-rex-cluster"
    """The cluster to run in; made if it is not there."""
    execution_role_prefix: str = "swe-rex-execution-role"
    """How the name of the task's execution role begins."""
    task_definition_prefix: str = "swe-rex-task"
    """How the name of the task definition begins."""
    log_group: str | None = "/ecs/swe-rex-deployment"
    """The log group of CloudWatch that the task writes to. None: no log."""
    security_group_prefix: str = "swe-rex-deployment-sg"
    """How the name of the security group begins."""
    fargate_args: dict[str, Any] = {}
    """More arguments for boto3's ``run_task``, merged into those that it is called with: all but ``count``,
    ``startedBy`` and ``clientToken``."""
    container_timeout: Annotated[float, Field(gt=0)] = 60 * 15
    """Seconds after which the task ends in any case, so that a forgotten one does not cost for ever."""
    startup_timeout: _Seconds = 600.0
    """Seconds until the task must run: until there is capacity for it and its image is pulled."""
    runtime_timeout: _Seconds = 60
    """Seconds from then until the server must answer."""
    region: str | None = None
    """The region to run in. None: the one that boto3 finds in its environment or configuration."""
    cpu: Annotated[int, Field(gt=0)] = 1024
    """CPU units of the task: 1024 for each vCPU."""
    memory: Annotated[int, Field(gt=0)] = 2048
    """Memory of the task in MiB. Fargate has certain sizes for each `cpu`."""
    ephemeral_storage: Annotated[int, Field(ge=21, le=200)] | None = None
    """Disk space of the task in GiB. None: 20, which cost nothing extra."""
    env: dict[str, str] = Field(default={}, repr=False)
    """Environment variables of the container: with the server's own, up to 8192 characters as JSON. Whoever
    may describe tasks in the account can read them."""
    spot: bool = False
    """Run on spare capacity (FARGATE_SPOT), which is cheaper, and may be taken away at any time."""
    ingress_cidr: str = "0.0.0.0/0"
    """The addresses from which the server can be reached, such as ``203.0.113.7/32``."""
    bundle_bucket: str | None = None
    """The bucket of S3 through which the server is brought into the task. None: the image has the server, or
    pip installs it there."""
    auto_remove_after: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a sign of life from this process after which the task ends itself."""
    type: Literal["fargate"] = "fargate"
    """Tells the configs apart. Do not change."""

    @field_validator("fargate_args")
    @classmethod
    def _are_not_ours(cls, args: dict[str, Any]) -> dict[str, Any]:
        for name in ("count", "startedBy", "clientToken"):
            if name in args:
                raise ValueError(
                    f"{name!r} can't be given: a deployment starts one task, and finds it again by it"
                )
        return args

    @field_validator("ingress_cidr")
    @classmethod
    def _is_a_network(cls, cidr: str) -> str:
        try:
            return str(IPv4Network(cidr))
        except ValueError as error:
            raise ValueError(f"{error}: give an IPv4 network such as 203.0.113.7/32") from None

    def get_deployment(self) -> AbstractDeployment:
        return _import_backend("fargate", "FargateDeployment").from_config(self)


class RemoteDeploymentConfig(RemoteRuntimeConfig):
    """A server that runs already; the fields say how to reach it."""

    def get_deployment(self) -> AbstractDeployment:
        from swerex.deployment.remote import RemoteDeployment

        return RemoteDeployment.from_config(self)


class DummyDeploymentConfig(BaseModel):
    """A deployment that does nothing, for tests of what stands above it."""

    model_config = ConfigDict(extra="forbid")

    outputs: list[str] = []
    """What `run_in_session` returns, in order, and then `DummyOutputsExhaustedError`. With none given it
    returns an empty observation for ever."""
    type: Literal["dummy"] = "dummy"
    """Tells the configs apart. Do not change."""

    def get_deployment(self) -> AbstractDeployment:
        from swerex.deployment.dummy import DummyDeployment

        return DummyDeployment.from_config(self)


DeploymentConfig = Annotated[
    LocalDeploymentConfig
    | DockerDeploymentConfig
    | ModalDeploymentConfig
    | FargateDeploymentConfig
    | RemoteDeploymentConfig
    | DummyDeploymentConfig,
    Field(discriminator="type"),
]


def get_deployment(config: DeploymentConfig) -> AbstractDeployment:
    """The deployment that `config` describes, not yet started."""
    return config.get_deployment()


def _import_backend(name: str, class_name: str) -> type[AbstractDeployment]:
    """The class of a backend, whose client library may be an extra of the package."""
    try:
        module = importlib.import_module(f"swerex.deployment.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ImportError(
            f"{class_name} needs the package {package!r}: pip install 'swerex[{name}]'", name=package
        ) from error
    backend: type[AbstractDeployment] = getattr(module, class_name)
    return backend
