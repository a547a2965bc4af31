"""What a task needs in an AWS account: found, or else made.

Everything is named by a prefix and a hash of what is in it, so that what is found under a name is what would
be made, and carries the tags of :data:`swerex.utils.aws.TAGS`. Two processes may make the same at once, and
AWS does not know everywhere at once what was made. So a step that meets a contradiction, as a name that is
taken by nothing that can be found, is repeated from its beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from botocore.exceptions import ClientError

from swerex.exceptions import DeploymentStartupError
from swerex.utils.aws import TAGS, Aws
from swerex.utils.aws_errors import error_code, is_unsettled, repeat_while

__all__ = [
    "SETTLING",
    "Network",
    "find_network",
    "find_or_make_cluster",
    "find_or_make_execution_role",
    "find_or_make_log_group",
    "find_or_make_security_group",
    "find_or_make_task_definition",
]

P = ParamSpec("P")
T = TypeVar("T")

SETTLING = 60.0
"""Seconds after which what was made must be known everywhere in AWS."""

_EXECUTION_POLICY = "service-role/AmazonECSTaskExecutionRolePolicy"
_ASSUME_ROLE_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
_SPOT = "FARGATE_SPOT"
_ECS_TAGS = [{"key": key, "value": value} for key, value in TAGS.items()]
_OTHER_TAGS = [{"Key": key, "Value": value} for key, value in TAGS.items()]


@dataclass(frozen=True)
class Network:
    """Where in the account's network tasks are to be attached."""

    vpc: str
    subnets: tuple[str, ...]


def _until_settled(step: Callable[P, T]) -> Callable[P, T]:
    """Repeat a step from its beginning as long as AWS is not of one mind about what it finds and makes."""

    @wraps(step)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        return repeat_while(is_unsettled, lambda: step(*args, **kwargs), SETTLING)

    return repeated


@_until_settled
def find_or_make_cluster(aws: Aws, name: str, *, spot: bool) -> None:
    """See to it that there is a cluster `name`, and that tasks can run on spot capacity if wanted."""
    clusters = aws.ecs.describe_clusters(clusters=[name])["clusters"]
    active = [cluster for cluster in clusters if cluster["status"] == "ACTIVE"]
    if not active:
        # For a name that is there already, ECS answers with that cluster.
        active = [
            aws.ecs.create_cluster(clusterName=name, capacityProviders=["FARGATE", _SPOT], tags=_ECS_TAGS)[
                "cluster"
            ]
        ]
    cluster = active[0]
    providers = cluster.get("capacityProviders", [])
    if spot and _SPOT not in providers:
        aws.ecs.put_cluster_capacity_providers(
            cluster=name,
            capacityProviders=[*providers, _SPOT],
            defaultCapacityProviderStrategy=cluster.get("defaultCapacityProviderStrategy", []),
        )


@_until_settled
def find_or_make_execution_role(aws: Aws, prefix: str) -> str:
    """The ARN of a role with which ECS may pull images and write logs for a task."""
    # Roles are the same in all regions. One for each region, so that cleaning up one leaves the others.
    name = _name(prefix, [_ASSUME_ROLE_POLICY, _EXECUTION_POLICY, aws.region])
    try:
        role = aws.iam.get_role(RoleName=name)["Role"]
    except aws.iam.exceptions.NoSuchEntityException:
        role = aws.iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(_ASSUME_ROLE_POLICY),
            Description=f"Lets ECS pull images and write logs for tasks of swerex in {aws.region}",
            Tags=[*_OTHER_TAGS, {"Key": "region", "Value": aws.region}],
        )["Role"]
    arn = str(role["Arn"])
    # The partition is another one in China and in the government's regions.
    policy = f"arn:{arn.split(':')[1]}:iam::aws:policy/{_EXECUTION_POLICY}"
    attached = aws.iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    if policy not in [item["PolicyArn"] for item in attached]:
        # Whoever has made the role may not have come to this yet.
        aws.iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    return arn


def find_network(aws: Aws, subnets: list[str] | None) -> Network:
    """The network of these subnets, or the default VPC with its subnets.

    Raises:
        DeploymentStartupError: there is none.
    """
    if subnets:
        found = aws.ec2.describe_subnets(SubnetIds=subnets)["Subnets"]
        return Network(found[0]["VpcId"], tuple(subnets))
    vpcs = aws.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise DeploymentStartupError(
            f"There is no default VPC in {aws.region}. Make one with `aws ec2 create-default-vpc`, or give "
            "subnets: fargate_args={'networkConfiguration': {'awsvpcConfiguration': {'subnets': [...]}}}"
        )
    vpc = vpcs[0]["VpcId"]
    found = _find_or_make_default_subnets(aws, vpc)
    # A task may get its place in any of them: where there is capacity.
    public = [subnet for subnet in found if subnet["MapPublicIpOnLaunch"]]
    return Network(vpc, tuple(sorted(subnet["SubnetId"] for subnet in public or found)))


@_until_settled
def _find_or_make_default_subnets(aws: Aws, vpc: str) -> list[dict[str, Any]]:
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "default-for-az", "Values": ["true"]}]
    found: list[dict[str, Any]] = aws.ec2.describe_subnets(Filters=filters)["Subnets"]
    if found:
        return found
    filters = [{"Name": "zone-type", "Values": ["availability-zone"]}]
    zones = aws.ec2.describe_availability_zones(Filters=filters)["AvailabilityZones"]
    zone = min(zone["ZoneName"] for zone in zones)
    subnet: dict[str, Any] = aws.ec2.create_default_subnet(AvailabilityZone=zone)["Subnet"]
    # By itself, since a repeated step would find the subnet, and leave it without its tag.
    repeat_while(
        is_unsettled,
        lambda: aws.ec2.create_tags(Resources=[subnet["SubnetId"]], Tags=_OTHER_TAGS),
        SETTLING,
    )
    return [subnet]


@_until_settled
def find_or_make_security_group(aws: Aws, prefix: str, *, vpc: str, port: int, cidr: str) -> str:
    """The id of a security group that lets `cidr` reach `port`, and nobody anything else."""
    rule = {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "IpRanges": [{"CidrIp": cidr, "Description": "the clients of swerex"}],
    }
    name = _name(prefix, [vpc, rule])
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if groups:
        group = str(groups[0]["GroupId"])
    else:
        group = aws.ec2.create_security_group(
            GroupName=name,
            Description=f"Lets {cidr} reach port {port} of tasks of swerex",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": _OTHER_TAGS}],
        )["GroupId"]
    if not groups or not groups[0]["IpPermissions"]:
        # Whoever has made the group may not have come to this yet.
        try:
            aws.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        except ClientError as error:
            if error_code(error) != "InvalidPermission.Duplicate":
                raise
    return group


@_until_settled
def find_or_make_log_group(aws: Aws, name: str) -> None:
    """See to it that there is a log group `name`."""
    groups = aws.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    if name in [group["logGroupName"] for group in groups]:
        return
    with suppress(aws.logs.exceptions.ResourceAlreadyExistsException):
        aws.logs.create_log_group(logGroupName=name, tags=TAGS)


@_until_settled
def find_or_make_task_definition(aws: Aws, prefix: str, definition: dict[str, Any]) -> str:
    """The ARN of a task definition with what stands in `definition`."""
    family = _name(prefix, definition)
    try:
        found = aws.ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
        if found["status"] == "ACTIVE":
            return str(found["taskDefinitionArn"])
    except aws.ecs.exceptions.ClientException:
        # There is none of this name.
        pass
    # Made by two at once, it has two revisions, which are the same, or one of the two is refused.
    made = aws.ecs.register_task_definition(family=family, tags=_ECS_TAGS, **definition)
    return str(made["taskDefinition"]["taskDefinitionArn"])


def _name(prefix: str, content: object) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{prefix}-{digest[:16]}"
