"""A task of a Fargate deployment, as boto3 wants it described, and as ECS describes it."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from typing import Any

from swerex import __version__
from swerex.deployment.config import FargateDeploymentConfig
from swerex.deployment.fargate.bootstrap import image_script
from swerex.deployment.fargate.bundle import BucketBundle
from swerex.exceptions import DeploymentStartupError
from swerex.utils.aws import TAGS, Aws
from swerex.utils.aws_resources import (
    Network,
    find_network,
    find_or_make_cluster,
    find_or_make_execution_role,
    find_or_make_log_group,
    find_or_make_security_group,
    find_or_make_task_definition,
)

__all__ = [
    "CONTAINER",
    "address_of",
    "end_of_task",
    "has_run",
    "interface_id",
    "is_stopped",
    "merge_args",
    "run_task_args",
]

CONTAINER = "swerex"
"""The name of the container in the task definition, for `fargate_args` that override something of it."""
_MOST_OVERRIDES = 8192
"""Characters, as JSON."""


def run_task_args(
    aws: Aws, config: FargateDeploymentConfig, bundle: BucketBundle | None, token: str
) -> dict[str, Any]:
    """The arguments for `run_task`, with `fargate_args` in them. What they name is there, or is made.

    Raises:
        DeploymentStartupError: the environment is larger than ECS takes, or there is no network.
    """
    given = config.fargate_args
    cluster = given.get("cluster", config.cluster_name)
    aws.once(("cluster", cluster, config.spot), lambda: find_or_make_cluster(aws, cluster, spot=config.spot))
    given_network = given.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    subnets = given_network.get("subnets")
    network = aws.once(("network", tuple(subnets or ())), lambda: find_network(aws, subnets))
    args: dict[str, Any] = {
        "cluster": cluster,
        "count": 1,
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": list(network.subnets),
                "securityGroups": given_network.get("securityGroups")
                or [_security_group(aws, config, network)],
                "assignPublicIp": "ENABLED",
            }
        },
        "overrides": {
            "containerOverrides": [{"name": CONTAINER, "environment": _environment(config, bundle, token)}]
        },
        "tags": [
            {"key": key, "value": value}
            for key, value in {**TAGS, "swerex": __version__, "owner": _owner()}.items()
        ],
    }
    if "taskDefinition" not in given:
        args["taskDefinition"] = _task_definition(aws, config, bundle)
    if "capacityProviderStrategy" not in given and "launchType" not in given:
        if config.spot:
            args["capacityProviderStrategy"] = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        else:
            args["launchType"] = "FARGATE"
    merged = merge_args(args, given)
    size = len(json.dumps(merged["overrides"]))
    if size > _MOST_OVERRIDES:
        raise DeploymentStartupError(
            f"The environment of the task, with what fargate_args override, has {size} characters as JSON, "
            f"and ECS takes {_MOST_OVERRIDES}. Give less in `env`, and bring what is large in as a file."
        )
    return merged


def merge_args(args: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`args` with `given` merged into it: dicts key by key, the items of tags, of container overrides and of
    their environments by name. All else is replaced."""
    merged = dict(args)
    for key, value in given.items():
        mine = merged.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            merged[key] = merge_args(mine, value)
        elif key in _NAMED_BY and isinstance(mine, list) and isinstance(value, list):
            items = {item.get(_NAMED_BY[key]): item for item in mine}
            for item in value:
                name = item.get(_NAMED_BY[key])
                items[name] = merge_args(items.get(name, {}), item)
            merged[key] = list(items.values())
        else:
            merged[key] = value
    return merged


_NAMED_BY = {"containerOverrides": "name", "environment": "name", "tags": "key"}


def _environment(
    config: FargateDeploymentConfig, bundle: BucketBundle | None, token: str
) -> list[dict[str, str]]:
    env = {
        **config.env,
        "SWEREX_AUTH_TOKEN": token,
        "SWEREX_LEASE": f"{config.auto_remove_after:g}",
        "SWEREX_TIMEOUT": str(math.ceil(config.container_timeout)),
        # The task may be asked for, and then wait, for so long until it runs; then it fetches the bundle.
        **(bundle.env(2 * config.startup_timeout + config.runtime_timeout) if bundle else {}),
    }
    return [{"name": key, "value": value} for key, value in env.items()]


def _owner() -> str:
    """Which process has started a task, in the characters that a tag may have."""
    return re.sub(r"[^\w.:/=+@-]", "-", f"{socket.gethostname()}:{os.getpid()}", flags=re.ASCII)


def _security_group(aws: Aws, config: FargateDeploymentConfig, network: Network) -> str:
    prefix, port, cidr = config.security_group_prefix, config.port, config.ingress_cidr
    return aws.once(
        ("security group", prefix, network.vpc, port, cidr),
        lambda: find_or_make_security_group(aws, prefix, vpc=network.vpc, port=port, cidr=cidr),
    )


def _task_definition(aws: Aws, config: FargateDeploymentConfig, bundle: BucketBundle | None) -> str:
    prefix, role_prefix = config.task_definition_prefix, config.execution_role_prefix
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": config.image,
        "cpu": config.cpu,
        "memory": config.memory,
        "essential": True,
        "entryPoint": ["/bin/sh", "-c"],
        "command": [bundle.script(config.port) if bundle else image_script(config.port)],
        "portMappings": [{"containerPort": config.port, "protocol": "tcp"}],
        # With the server as the first process, nothing could end it by force at the end of its time.
        "linuxParameters": {"initProcessEnabled": True},
        "stopTimeout": 5,
    }
    if config.log_group is not None:
        container["logConfiguration"] = _log_configuration(aws, config.log_group)
    definition: dict[str, Any] = {
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": str(config.cpu),
        "memory": str(config.memory),
        "executionRoleArn": aws.once(
            ("role", role_prefix), lambda: find_or_make_execution_role(aws, role_prefix)
        ),
        "containerDefinitions": [container],
    }
    if config.ephemeral_storage is not None:
        definition["ephemeralStorage"] = {"sizeInGiB": config.ephemeral_storage}
    if bundle is not None:
        definition["runtimePlatform"] = {
            "operatingSystemFamily": "LINUX",
            "cpuArchitecture": bundle.architecture,
        }
    return aws.once(
        ("task definition", prefix, repr(definition)),
        lambda: find_or_make_task_definition(aws, prefix, definition),
    )


def _log_configuration(aws: Aws, group: str) -> dict[str, Any]:
    aws.once(("log group", group), lambda: find_or_make_log_group(aws, group))
    return {
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": group,
            "awslogs-region": aws.region,
            "awslogs-stream-prefix": CONTAINER,
            # What prints more than can be sent is not to wait for that.
            "mode": "non-blocking",
        },
    }


# What ECS says of a task: its answer to DescribeTasks, or None where it does not know the task.


def is_stopped(task: dict[str, Any] | None) -> bool:
    """Whether the task has ended, or is about to."""
    return task is not None and (task["desiredStatus"] == "STOPPED" or task["lastStatus"] == "STOPPED")


def has_run(task: dict[str, Any] | None) -> bool:
    """Whether the task's container was started, and has ended."""
    return any(_exit_code(container) is not None for container in (task or {}).get("containers", []))


def end_of_task(task: dict[str, Any] | None) -> str:
    """Why the task has ended; empty for one that has not."""
    if task is None or not is_stopped(task):
        return ""
    words = [task.get("stopCode"), task.get("stoppedReason")]
    for container in task.get("containers", []):
        if _exit_code(container) is not None:
            words.append(f"exit code {container['exitCode']}")
        words.append(container.get("reason"))
    return f"The task {task['taskArn']} stopped: {'; '.join(word for word in words if word)}"


def interface_id(task: dict[str, Any] | None) -> str:
    """The id of the task's network interface; empty: it has none yet."""
    for attachment in (task or {}).get("attachments", []):
        for detail in attachment.get("details", []):
            if detail["name"] == "networkInterfaceId":
                return str(detail["value"])
    return ""


def address_of(interface: dict[str, Any] | None, *, public: bool) -> str:
    """The address at which what EC2 says of an interface is reached; empty: it has none yet."""
    if interface is None:
        return ""
    if public:
        return str(interface.get("Association", {}).get("PublicIp", ""))
    return str(interface.get("PrivateIpAddress", ""))


def _exit_code(container: dict[str, Any]) -> int | None:
    return container.get("exitCode") if container.get("lastStatus") == "STOPPED" else None
