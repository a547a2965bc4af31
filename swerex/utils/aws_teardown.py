"""Removes what Fargate deployments have made in an AWS account: ``python -m swerex.utils.aws_teardown``.

That is all that carries the tags of :data:`swerex.utils.aws.TAGS`, in one region: first what runs and costs,
then what nothing else needs any more. Bundles stay in their bucket, which is the user's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from swerex.utils.aws import TAGS, Aws, connect
from swerex.utils.aws_errors import AWS_ERRORS, error_code, explain_error, repeat_while

__all__ = ["Resource", "find_resources", "main", "remove_resources"]

T = TypeVar("T")

_PATIENCE = 120.0
"""Seconds for tasks to end, and for what they used to be released."""
_DEREGISTERING = 30.0
"""Seconds after which it must be known everywhere that a task definition was deregistered."""
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
    """What is there to remove, in the order in which it can be removed, and how often AWS did not tell.

    Why not, `report` is told.
    """
    found: list[Resource] = []
    failures = 0

    @contextmanager
    def going_on(what: str) -> Iterator[None]:
        nonlocal failures
        try:
            yield
        except AWS_ERRORS as error:
            if not _is_gone(error):
                failures += 1
                report(f"Whether {what} can't be told: {explain_error(error)}")

    for kind, (find, _) in _KINDS.items():
        with going_on(f"there is a {kind}"):
            # One by one, to keep what was found before an error.
            for where in find(aws, going_on):
                found.append(Resource(kind, *where))
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
                # What used it, and was removed before, may not have let go of it.
                repeat_while(_is_in_use, partial(remove, aws, resource), deadline - time.monotonic())
            except AWS_ERRORS as error:
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
    except AWS_ERRORS as error:
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


# How each kind is found. What is asked of one item goes on to the next one if it fails: the item may be gone.

_GoingOn = Callable[[str], AbstractContextManager[None]]


def _find_tasks(aws: Aws, going_on: _GoingOn) -> Iterator[tuple[str, str]]:
    for cluster in _active_clusters(aws):
        arn = cluster["clusterArn"]
        with going_on(f"there is a task in {arn}"):
            for batch in _batches(_pages(aws.ecs, "list_tasks", "taskArns", cluster=arn), 100):
                tasks = aws.ecs.describe_tasks(cluster=arn, tasks=batch, include=["TAGS"])["tasks"]
                yield from ((task["taskArn"], arn) for task in tasks if _is_ours(task.get("tags")))


def _find_clusters(aws: Aws, _: _GoingOn) -> Iterator[tuple[str]]:
    for cluster in _active_clusters(aws):
        if _is_ours(cluster.get("tags")):
            yield (cluster["clusterArn"],)


def _active_clusters(aws: Aws) -> Iterator[dict[str, Any]]:
    for batch in _batches(_pages(aws.ecs, "list_clusters", "clusterArns"), 100):
        for cluster in aws.ecs.describe_clusters(clusters=batch, include=["TAGS"])["clusters"]:
            if cluster["status"] == "ACTIVE":
                yield cluster


def _find_task_definitions(aws: Aws, going_on: _GoingOn) -> Iterator[tuple[str, str]]:
    for status in ("ACTIVE", "INACTIVE"):
        for arn in _pages(aws.ecs, "list_task_definitions", "taskDefinitionArns", status=status):
            with going_on(f"{arn} is ours"):
                found = aws.ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])
                if _is_ours(found.get("tags")):
                    yield arn, status


def _find_security_groups(aws: Aws, _: _GoingOn) -> Iterator[tuple[str]]:
    for group in _pages(aws.ec2, "describe_security_groups", "SecurityGroups", Filters=_FILTERS):
        yield (group["GroupId"],)


def _find_subnets(aws: Aws, _: _GoingOn) -> Iterator[tuple[str]]:
    for subnet in _pages(aws.ec2, "describe_subnets", "Subnets", Filters=_FILTERS):
        yield (subnet["SubnetId"],)


def _find_roles(aws: Aws, going_on: _GoingOn) -> Iterator[tuple[str]]:
    for role in _pages(aws.iam, "list_roles", "Roles"):
        with going_on(f"the role {role['RoleName']} is ours"):
            tags = list(_pages(aws.iam, "list_role_tags", "Tags", RoleName=role["RoleName"]))
            region = _as_dict(tags).get("region", aws.region)
            if _is_ours(tags) and region == aws.region:
                yield (role["RoleName"],)


def _find_log_groups(aws: Aws, going_on: _GoingOn) -> Iterator[tuple[str]]:
    for group in _pages(aws.logs, "describe_log_groups", "logGroups"):
        with going_on(f"the log group {group['logGroupName']} is ours"):
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
    repeat_while(
        lambda error: error_code(error) == _NOT_DELETED,
        lambda: _delete_task_definition(aws, definition.name),
        _DEREGISTERING,
    )


def _delete_task_definition(aws: Aws, arn: str) -> None:
    # A failure stands in an answer that says that all went well.
    for failure in aws.ecs.delete_task_definitions(taskDefinitions=[arn])["failures"]:
        raise ClientError(
            {"Error": {"Code": _NOT_DELETED, "Message": failure.get("reason", "unknown")}},
            "DeleteTaskDefinitions",
        )


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


_Find = Callable[[Aws, _GoingOn], Iterable[tuple[str, ...]]]
_Remove = Callable[[Aws, Resource], None]
_KINDS: dict[str, tuple[_Find, _Remove]] = {
    "task": (_find_tasks, _remove_task),
    "cluster": (_find_clusters, _remove_cluster),
    "task definition": (_find_task_definitions, _remove_task_definition),
    "security group": (_find_security_groups, _remove_security_group),
    "subnet": (_find_subnets, _remove_subnet),
    "role": (_find_roles, _remove_role),
    "log group": (_find_log_groups, _remove_log_group),
}
"""How each kind is found and removed. Those that others use come after these."""

_NOT_DELETED = "NotDeleted"
_IN_USE = (
    "ClusterContainsTasksException",
    "UpdateInProgressException",
    "DependencyViolation",
    "OperationAbortedException",
)


def _is_in_use(error: Exception) -> bool:
    return error_code(error) in _IN_USE


def _is_gone(error: Exception) -> bool:
    code, message = error_code(error), str(error).lower()
    return (
        code in ("ClusterNotFoundException", "NoSuchEntity", "ResourceNotFoundException")
        or code.endswith(".NotFound")
        or (code == "InvalidParameterException" and "not found" in message)
        or (code == "ClientException" and "unable to describe task definition" in message)
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
