"""What a config says of the container, as the SDK wants it."""

from __future__ import annotations

from typing import Any

from swerex.deployment.config import DockerDeploymentConfig
from swerex.deployment.docker.args import parse_docker_args

__all__ = ["container_options", "network_of"]


def container_options(config: DockerDeploymentConfig) -> dict[str, Any]:
    """Keyword arguments for the SDK's `containers.create`, from `docker_args` and the config's own fields.

    Raises:
        ValueError: an argument that isn't known, can't be used here, or says again what a field says.
    """
    args = [*config.docker_args, *(part for volume in config.volumes for part in ("--volume", volume))]
    if config.network is not None:
        if "network" in parse_docker_args(config.docker_args):
            raise ValueError("docker_args has a --network, and so has the field `network`: leave one out")
        args += ["--network", config.network]
    options = parse_docker_args(args)
    if options.get("restart_policy", {}).get("Name") in ("always", "unless-stopped"):
        raise ValueError(
            "--restart would start the sandbox anew, for ever, when this process is gone and it ends itself: "
            "leave it out, or use --restart=on-failure"
        )
    if "name" in options:
        raise ValueError("--name can't be given: each container gets a name of its own, see container_name")
    if options.pop("auto_remove", False) and not config.remove_container:
        raise ValueError("docker_args has --rm, and remove_container=False contradicts it: leave one out")
    fields = {
        "mem_limit": config.memory,
        "nano_cpus": None if config.cpus is None else round(config.cpus * 1e9),
        "working_dir": config.workdir,
        "user": config.user,
        "platform": config.platform,
    }
    for key, value in fields.items():
        if value is not None:
            if key in options:
                raise ValueError(f"docker_args says again what the field with {value!r} says: leave one out")
            options[key] = value
    options["environment"] = {**(options.get("environment") or {}), **config.env}
    return options


def network_of(options: dict[str, Any]) -> str | None:
    """A container's network: "none", "host", "container:NAME", or the name of one. None: the usual one."""
    found: str | None = options.get("network")
    return None if found in ("bridge", "default") else found
