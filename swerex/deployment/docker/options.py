"""What a config says of the container, as the SDK wants it."""

from __future__ import annotations

from typing import Any

from swerex.deployment.config import DockerDeploymentConfig
from swerex.deployment.docker_args import parse_docker_args

__all__ = ["container_options", "network_of"]


def container_options(config: DockerDeploymentConfig) -> dict[str, Any]:
    """Keyword arguments for the SDK's `containers.create`, from `docker_args` and the config's own fields.

    Raises:
        ValueError: an argument that isn't known, can't be used here, or says again what a field says.
    """
    options = parse_docker_args(config.docker_args)
    if options.pop("auto_remove", False) and not config.remove_container:
        raise ValueError(
            "docker_args has --rm, which remove_container=False contradicts: leave one of them out"
        )
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
                raise ValueError(f"docker_args says something else than the field with the value {value!r}")
            options[key] = value
    if config.network is not None:
        if network_of(options) is not None:
            raise ValueError(
                "docker_args has --network, and the config a field `network`: leave one of them out"
            )
        options.update(parse_docker_args(["--network", config.network]))
    more = parse_docker_args([part for volume in config.volumes for part in ("--volume", volume)])
    options["volumes"] = [*(options.get("volumes") or []), *(more.get("volumes") or [])]
    options["environment"] = {**(options.get("environment") or {}), **config.env}
    return options


def network_of(options: dict[str, Any]) -> str | None:
    """A container's network: "none", "host", "container:NAME", or the name of one. None: the usual one."""
    found: str | None = options.get("network") or options.get("network_mode")
    return None if found in ("bridge", "default") else found
