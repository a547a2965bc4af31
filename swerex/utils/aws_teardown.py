"""Removes what Fargate deployments have made in an AWS account: ``python -m swerex.utils.aws_teardown``.

That is all that carries the tags of :data:`swerex.utils.aws.TAGS`, in one region: first what runs and costs,
then what nothing else needs any more. Bundles stay in their bucket, which is the user's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from swerex.utils.aws import TAGS, Aws, connect, error_code, explain_error

__all__ = ["Resource", "find_resources", "main", "remove_resources"]

T = TypeVar("T")

_PATIENCE = 120.0
"""Seconds for tasks to end, and for what they used to be released."""
_FILTERS = [{"Name": f"tag:{key}", "Values": [value]} for key, value in TAGS.items()]

Report = Callable[[str], None]


@dataclass(frozen=True)
class Resource:
    """Something in the account."""

    kind: str
    name: str
    """Its ARN, id or name: what its service knows it by."""
    detail: str = ""
    """Of a task its cluster, of a task definition its status."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def find_resources(aws: Aws, report: Report) -> tuple[list[Resource], int]:
    """What is there to remove, in the order in which it can be removed, and how many kinds can't be listed.

    Why not, `report` is told.
    """
    found: list[Resource] = []
    failures = 0
    for kind, (find, _) in _KINDS.items():
        try:
            found += [Resource(kind, *where) for where in find(aws)]
        except (BotoCoreError, ClientError) as error:
            failures += 1
            report(f"Whether there is a {kind} can't be told: {explain_error(error)}")
    return found, failures


def remove_resources(aws: Aws, resources: Iterable[Resource], report: Report) -> list[Resource]:
    """Remove `resources`, which are in the order of `find_resources`; return what could not be removed.

    What happens to each, `report` is told.
    """
    left = []
    for kind, resources_of_kind in groupby(resources, lambda resource: resource.kind):
        _, remove = _KINDS[kind]
        deadline = time.monotonic() + _PATIENCE
        for resource in resources_of_kind:
            try:
                _when_free(remove, aws, resource, deadline)
            except (BotoCoreError, ClientError) as error:
                if _is_gone(error):
                    continue
                left.append(resource)
                report(f"Not removed: {resource}: {explain_error(error)}")
            else:
                report(f"Removed: {resource}")
    return left


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 if nothing is left, or nothing was to be removed."""
    parser = argparse.ArgumentParser(
        "python -m swerex.utils.aws_teardown", description="Remove what Fargate deployments have made in AWS."
    )
    parser.add_argument("--yes", action="store_true", help="remove it without asking")
    parser.add_argument("--dry-run", action="store_true", help="list it, and remove nothing")
    parser.add_argument("--region", help="the region to look in (default: that of the environment)")
    options = parser.parse_args(argv)
    try:
        aws = connect(options.region)
    except (BotoCoreError, ClientError) as error:
        print(f"AWS can't be used: {explain_error(error)}", file=sys.stderr)
        return 1
    resources, failures = find_resources(aws, print)
    if not resources:
        print(f"Nothing found in {aws.region}.")
        return 1 if failures else 0
    print(f"Found in {aws.region}:", *resources, sep="\n  ")
    if options.dry_run:
        return 1 if failures else 0
    if not options.yes and not _confirmed(len(resources)):
        print("Nothing was removed.")
        return 1
    left = remove_resources(aws, resources, print)
    if left:
        print("What is left:", *left, sep="\n  ")
    return 1 if left or failures else 0


def _confirmed(number: int) -> bool:
    try:
        return input(f"Remove these {number}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


# How each kind is found


def _find_tasks(aws: Aws) -> Iterator[tuple[str, str]]:
    for cluster in _active_clusters(aws):
        arn = cluster["clusterArn"]
        for batch in _batches(_pages(aws.ecs, "list_tasks", "taskArns", cluster=arn), 100):
            tasks = aws.ecs.describe_tasks(cluster=arn, tasks=batch, include=["TAGS"])["tasks"]
            yield from ((task["taskArn"], arn) for task in tasks if _is_ours(task.get("tags")))


def _find_clusters(aws: Aws) -> Iterator[tuple[str]]:
    for cluster in _active_clusters(aws):
        if _is_ours(cluster.get("tags")):
            yield (cluster["clusterArn"],)


def _active_clusters(aws: Aws) -> Iterator[dict[str, Any]]:
    for batch in _batches(_pages(aws.ecs, "list_clusters", "clusterArns"), 100):
        for cluster in aws.ecs.describe_clusters(clusters=batch, include=["TAGS"])["clusters"]:
            if cluster["status"] == "ACTIVE":
                yield cluster


def _find_task_definitions(aws: Aws) -> Iterator[tuple[str, str]]:
    for status in ("ACTIVE", "INACTIVE"):
        for arn in _pages(aws.ecs, "list_task_definitions", "taskDefinitionArns", status=status):
            found = aws.ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])
            if _is_ours(found.get("tags")):
                yield arn, status


def _find_security_groups(aws: Aws) -> Iterator[tuple[str]]:
    for group in _pages(aws.ec2, "describe_security_groups", "SecurityGroups", Filters=_FILTERS):
        yield (group["GroupId"],)


def _find_subnets(aws: Aws) -> Iterator[tuple[str]]:
    for subnet in _pages(aws.ec2, "describe_subnets", "Subnets", Filters=_FILTERS):
        yield (subnet["SubnetId"],)


def _find_roles(aws: Aws) -> Iterator[tuple[str]]:
    for role in _pages(aws.iam, "list_roles", "Roles"):
        tags = list(_pages(aws.iam, "list_role_tags", "Tags", RoleName=role["RoleName"]))
        region = _as_dict(tags).get("region", aws.region)
        if _is_ours(tags) and region == aws.region:
            yield (role["RoleName"],)


def _find_log_groups(aws: Aws) -> Iterator[tuple[str]]:
    for group in _pages(aws.logs, "describe_log_groups", "logGroups"):
        tags = aws.logs.list_tags_for_resource(resourceArn=group["arn"].removesuffix(":*"))["tags"]
        if TAGS.items() <= tags.items():
            yield (group["logGroupName"],)


# How each kind is removed


def _remove_task(aws: Aws, task: Resource) -> None:
    aws.ecs.stop_task(cluster=task.detail, task=task.name, reason="stopped by aws_teardown")


def _remove_cluster(aws: Aws, cluster: Resource) -> None:
    aws.ecs.delete_cluster(cluster=cluster.name)


def _remove_task_definition(aws: Aws, definition: Resource) -> None:
    if definition.detail == "ACTIVE":
        aws.ecs.deregister_task_definition(taskDefinition=definition.name)
    # It stays listed for as long as there are tasks of it.
    aws.ecs.delete_task_definitions(taskDefinitions=[definition.name])


def _remove_security_group(aws: Aws, group: Resource) -> None:
    aws.ec2.delete_security_group(GroupId=group.name)


def _remove_subnet(aws: Aws, subnet: Resource) -> None:
    aws.ec2.delete_subnet(SubnetId=subnet.name)


def _remove_role(aws: Aws, role: Resource) -> None:
    # All pages first, since what is removed between two pages moves the others.
    for policy in list(
        _pages(aws.iam, "list_attached_role_policies", "AttachedPolicies", RoleName=role.name)
    ):
        aws.iam.detach_role_policy(RoleName=role.name, PolicyArn=policy["PolicyArn"])
    for name in list(_pages(aws.iam, "list_role_policies", "PolicyNames", RoleName=role.name)):
        aws.iam.delete_role_policy(RoleName=role.name, PolicyName=name)
    aws.iam.delete_role(RoleName=role.name)


def _remove_log_group(aws: Aws, group: Resource) -> None:
    aws.logs.delete_log_group(logGroupName=group.name)


_KINDS: dict[str, tuple[Callable[[Aws], Iterable[tuple[str, ...]]], Callable[[Aws, Resource], None]]] = {
    "task": (_find_tasks, _remove_task),
    "cluster": (_find_clusters, _remove_cluster),
    "task definition": (_find_task_definitions, _remove_task_definition),
    "security group": (_find_security_groups, _remove_security_group),
    "subnet": (_find_subnets, _remove_subnet),
    "role": (_find_roles, _remove_role),
    "log group": (_find_log_groups, _remove_log_group),
}
"""How each kind is found and removed. Those that others use come after these."""

_IN_USE = (
    "ClusterContainsTasksException",
    "UpdateInProgressException",
    "DependencyViolation",
    "OperationAbortedException",
)


def _when_free(
    remove: Callable[[Aws, Resource], None], aws: Aws, resource: Resource, deadline: float
) -> None:
    """Remove it as soon as what used it, and was removed before, has let go of it."""
    pause = 1.0
    while True:
        try:
            return remove(aws, resource)
        except ClientError as error:
            if error_code(error) not in _IN_USE or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def _is_gone(error: BotoCoreError | ClientError) -> bool:
    code = error_code(error)
    return (
        code in ("ClusterNotFoundException", "NoSuchEntity", "ResourceNotFoundException")
        or code.endswith(".NotFound")
        or (code == "InvalidParameterException" and "not found" in str(error).lower())
    )


def _is_ours(tags: list[dict[str, str]] | None) -> bool:
    return TAGS.items() <= _as_dict(tags).items()


def _as_dict(tags: list[dict[str, str]] | None) -> dict[str, str]:
    # ECS begins the names of its fields with a small letter, and IAM with a capital one.
    return {tag.get("key", tag.get("Key", "")): tag.get("value", tag.get("Value", "")) for tag in tags or []}


def _pages(client: Any, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
    """The items of all pages of a list."""
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page[key]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


if __name__ == "__main__":
    sys.exit(main())
