"""What a Fargate deployment finds or makes in the account."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from pydantic import ValidationError

from swerex.deployment.config import FargateDeploymentConfig
from swerex.deployment.fargate.task import merge_args
from swerex.exceptions import DeploymentStartupError
from swerex.utils.aws import Aws, connect
from swerex.utils.aws_resources import (
    find_network,
    find_or_make_cluster,
    find_or_make_execution_role,
    find_or_make_log_group,
    find_or_make_security_group,
    find_or_make_task_definition,
)
from tests.cloud.fargate_aws import Fault, answer, error
from tests.cloud.fargate_cloud import FargateCloud, fargate_cloud
from tests.util import wait_until

_TAG = ("origin", "swe-rex-deployment-auto")
_DEFINITION = {
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "256",
    "memory": "512",
    "containerDefinitions": [{"name": "a", "image": "b", "cpu": 256, "memory": 512}],
}


@pytest.fixture
def aws(cloud: FargateCloud):
    return connect(None)


def xml(operation: str, content: str) -> Fault:
    """EC2's answer to a call, which is not served."""
    body = f"<{operation}Response>{content}</{operation}Response>".encode()
    return lambda environ, serve: ("200 OK", [("Content-Type", "text/xml")], body)


def tags_of(tags: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(tag.get("key") or tag["Key"], tag.get("value") or tag["Value"]) for tag in tags}


def rules_of(cloud: FargateCloud, group: str) -> list[tuple[int, int, list[str]]]:
    [found] = cloud.aws_client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return [
        (rule["FromPort"], rule["ToPort"], [item["CidrIp"] for item in rule["IpRanges"]])
        for rule in found["IpPermissions"]
    ]


def vpc_of(aws) -> str:
    return find_network(aws, None).vpc


# Clusters


def test_a_cluster_is_made_once_and_tagged(cloud, aws):
    find_or_make_cluster(aws, "one", spot=False)
    find_or_make_cluster(aws, "one", spot=True)
    [cluster] = aws.ecs.describe_clusters(clusters=["one"], include=["TAGS"])["clusters"]
    assert cluster["capacityProviders"] == ["FARGATE", "FARGATE_SPOT"]
    assert tags_of(cluster["tags"]) == {_TAG}


def test_a_cluster_of_somebody_else_is_used_and_gets_spot_capacity(cloud, aws):
    aws.ecs.create_cluster(clusterName="theirs", capacityProviders=["FARGATE", "mine"])
    find_or_make_cluster(aws, "theirs", spot=True)
    [cluster] = aws.ecs.describe_clusters(clusters=["theirs"], include=["TAGS"])["clusters"]
    assert cluster["capacityProviders"] == ["FARGATE", "mine", "FARGATE_SPOT"]
    assert not cluster.get("tags")


def test_a_removed_cluster_is_made_again(cloud, aws):
    find_or_make_cluster(aws, "gone", spot=False)
    aws.ecs.delete_cluster(cluster="gone")
    find_or_make_cluster(aws, "gone", spot=False)
    [cluster] = aws.ecs.describe_clusters(clusters=["gone"])["clusters"]
    assert cluster["status"] == "ACTIVE"


def test_the_first_cluster_of_an_account_waits_for_its_service_role(cloud, aws):
    message = "Unable to assume the service linked role. Please verify that it exists."
    cloud.aws.plan("CreateCluster", error("InvalidParameterException", message))
    before = cloud.aws.calls["CreateCluster"]
    find_or_make_cluster(aws, "first", spot=False)
    assert cloud.aws.calls["CreateCluster"] == before + 2


# Roles


def test_a_role_is_made_once_and_may_do_what_ecs_does(cloud, aws):
    arn = find_or_make_execution_role(aws, "role")
    assert find_or_make_execution_role(aws, "role") == arn
    name = arn.rpartition("/")[2]
    attached = aws.iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    assert [item["PolicyName"] for item in attached] == ["AmazonECSTaskExecutionRolePolicy"]
    role = aws.iam.get_role(RoleName=name)["Role"]
    assert tags_of(role["Tags"]) == {_TAG, ("region", "us-east-1")}
    principal = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
    assert principal == {"Service": "ecs-tasks.amazonaws.com"}


def test_a_role_that_another_process_makes_at_the_same_time(cloud, aws):
    arn = find_or_make_execution_role(aws, "contested")
    cloud.aws.plan("GetRole", error("NoSuchEntity", "not yet", 404))
    assert find_or_make_execution_role(aws, "contested") == arn


def test_a_role_whose_maker_did_not_come_to_its_policy(cloud, aws):
    name = find_or_make_execution_role(aws, "half").rpartition("/")[2]
    policy = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
    aws.iam.detach_role_policy(RoleName=name, PolicyArn=policy)
    find_or_make_execution_role(aws, "half")
    assert len(aws.iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]) == 1


# Security groups


def test_a_security_group_lets_only_those_addresses_reach_the_port(cloud, aws):
    vpc = vpc_of(aws)
    group = find_or_make_security_group(aws, "sg", vpc=vpc, port=8880, cidr="203.0.113.7/32")
    assert find_or_make_security_group(aws, "sg", vpc=vpc, port=8880, cidr="203.0.113.7/32") == group
    assert find_or_make_security_group(aws, "sg", vpc=vpc, port=8880, cidr="0.0.0.0/0") != group
    assert rules_of(cloud, group) == [(8880, 8880, ["203.0.113.7/32"])]
    [found] = aws.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert tags_of(found["Tags"]) == {_TAG}


def test_a_security_group_that_another_process_makes_at_the_same_time(cloud, aws):
    vpc = vpc_of(aws)
    group = find_or_make_security_group(aws, "contested", vpc=vpc, port=1, cidr="10.0.0.0/8")
    cloud.aws.plan(
        "DescribeSecurityGroups", xml("DescribeSecurityGroups", "<securityGroupInfo></securityGroupInfo>")
    )
    assert find_or_make_security_group(aws, "contested", vpc=vpc, port=1, cidr="10.0.0.0/8") == group
    assert rules_of(cloud, group) == [(1, 1, ["10.0.0.0/8"])]


def test_a_security_group_whose_maker_did_not_come_to_its_rule(cloud, aws):
    vpc = vpc_of(aws)
    group = find_or_make_security_group(aws, "half", vpc=vpc, port=1, cidr="10.0.0.0/8")
    [found] = aws.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    aws.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=found["IpPermissions"])
    find_or_make_security_group(aws, "half", vpc=vpc, port=1, cidr="10.0.0.0/8")
    assert rules_of(cloud, group) == [(1, 1, ["10.0.0.0/8"])]


@pytest.mark.parametrize("cidr", ["nonsense", "203.0.113.7/24", "::/0"])
def test_what_is_no_network_is_refused(cidr):
    with pytest.raises(ValidationError, match="give an IPv4 network such as"):
        FargateDeploymentConfig(ingress_cidr=cidr)


# The network


def test_all_public_subnets_of_the_default_vpc_are_used(cloud, aws):
    network = find_network(aws, None)
    found = aws.ec2.describe_subnets(SubnetIds=list(network.subnets))["Subnets"]
    assert len(found) > 1
    assert {subnet["VpcId"] for subnet in found} == {network.vpc}


def test_given_subnets_are_used_and_their_vpc_found(cloud, aws):
    vpc = aws.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    # moto can't run a task in a network without names.
    aws.ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    # Not in the first zone, where another test makes a default subnet: moto takes any, which is in its way.
    made = aws.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone="us-east-1b")
    subnet = made["Subnet"]["SubnetId"]
    args = {"networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet]}}}
    with cloud.deployment(fargate_args=args):
        used = cloud.tasks()[-1].network_configuration["awsvpcConfiguration"]
        assert used["subnets"] == [subnet]
        [group] = aws.ec2.describe_security_groups(GroupIds=used["securityGroups"])["SecurityGroups"]
        assert group["VpcId"] == vpc


def test_no_default_vpc_says_what_to_do(cloud, aws):
    cloud.aws.plan("DescribeVpcs", xml("DescribeVpcs", "<vpcSet></vpcSet>"))
    with pytest.raises(DeploymentStartupError, match=r"no default VPC in us-east-1.*create-default-vpc"):
        cloud.deployment().start()


def test_a_default_vpc_without_subnets_gets_one(cloud, aws):
    for subnet in find_network(aws, None).subnets:
        aws.ec2.delete_subnet(SubnetId=subnet)
    network = find_network(aws, None)
    [made] = aws.ec2.describe_subnets(SubnetIds=list(network.subnets))["Subnets"]
    assert tags_of(made["Tags"]) == {_TAG}
    cloud.aws.plan("DescribeSubnets", xml("DescribeSubnets", "<subnetSet></subnetSet>"))
    assert find_network(aws, None) == network


# Log groups and task definitions


def test_a_log_group_is_made_once_and_tagged(cloud, aws):
    find_or_make_log_group(aws, "/a")
    find_or_make_log_group(aws, "/a")
    assert aws.logs.list_tags_log_group(logGroupName="/a")["tags"] == dict([_TAG])


def test_a_log_group_that_another_process_makes_at_the_same_time(cloud, aws):
    find_or_make_log_group(aws, "/contested")
    cloud.aws.plan("DescribeLogGroups", answer({"logGroups": []}))
    find_or_make_log_group(aws, "/contested")


def test_a_task_definition_is_made_once_for_each_content(cloud, aws):
    arn = find_or_make_task_definition(aws, "task", _DEFINITION)
    assert find_or_make_task_definition(aws, "task", dict(_DEFINITION)) == arn
    assert find_or_make_task_definition(aws, "task", {**_DEFINITION, "cpu": "512"}) != arn
    assert tags_of(aws.ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])["tags"]) == {_TAG}


def test_a_task_definition_waits_until_its_role_is_known(cloud, aws):
    cloud.aws.plan("RegisterTaskDefinition", error("ClientException", "Role is not valid"))
    assert find_or_make_task_definition(aws, "waits", _DEFINITION)


# What AWS answers while others make the same, or before it knows everywhere what was made


_STEPS: dict[str, Callable[[Aws], object]] = {
    "cluster": lambda aws: find_or_make_cluster(aws, "unsettled", spot=False),
    "log group": lambda aws: find_or_make_log_group(aws, "/unsettled"),
    "role": lambda aws: find_or_make_execution_role(aws, "unsettled"),
    "security group": lambda aws: find_or_make_security_group(
        aws, "unsettled", vpc=vpc_of(aws), port=1, cidr="10.0.0.0/8"
    ),
    "task definition": lambda aws: find_or_make_task_definition(aws, "unsettled", _DEFINITION),
}


@pytest.mark.parametrize(
    ("step", "operation", "fault"),
    [
        ("cluster", "CreateCluster", error("UpdateInProgressException", "being made")),
        ("log group", "CreateLogGroup", error("OperationAbortedException", "A conflicting operation")),
        ("role", "CreateRole", error("ConcurrentModification", "multiple requests to change this", 409)),
        ("role", "CreateRole", error("EntityAlreadyExists", "There is a role of this name", 409)),
        ("role", "AttachRolePolicy", error("NoSuchEntity", "The role cannot be found.", 404)),
        ("security group", "CreateSecurityGroup", error("InvalidGroup.Duplicate", "already exists")),
        ("security group", "AuthorizeSecurityGroupIngress", error("InvalidGroup.NotFound", "not exist")),
        (
            "task definition",
            "RegisterTaskDefinition",
            error("ClientException", "Too many concurrent attempts to create a new revision of the family."),
        ),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_an_account_that_is_not_settled(tmp_path, step, operation, fault):
    with fargate_cloud(tmp_path) as cloud:
        aws = connect(None)
        cloud.aws.plan(operation, fault, fault)
        made = _STEPS[step](aws)
        assert _STEPS[step](aws) == made
        assert cloud.aws.calls[operation] == 3


def test_a_role_that_is_there_and_can_be_found_only_later(cloud, aws):
    arn = find_or_make_execution_role(aws, "later")
    cloud.aws.plan("GetRole", *[error("NoSuchEntity", "not yet", 404)] * 3)
    assert find_or_make_execution_role(aws, "later") == arn


def test_a_security_group_that_is_there_and_can_be_found_only_later(cloud, aws):
    group = _STEPS["security group"](aws)
    empty = xml("DescribeSecurityGroups", "<securityGroupInfo></securityGroupInfo>")
    cloud.aws.plan("DescribeSecurityGroups", *[empty] * 3)
    assert _STEPS["security group"](aws) == group


def test_what_never_settles_is_a_typed_error(cloud, monkeypatch):
    monkeypatch.setattr("swerex.utils.aws_resources.SETTLING", 1)
    empty = xml("DescribeSecurityGroups", "<securityGroupInfo></securityGroupInfo>")
    cloud.aws.plan("DescribeSecurityGroups", *[empty] * 9)
    cloud.aws.plan("CreateSecurityGroup", *[error("InvalidGroup.Duplicate", "already exists")] * 9)
    with pytest.raises(DeploymentStartupError, match=r"could not be found or made.*InvalidGroup.Duplicate"):
        cloud.deployment(security_group_prefix="never").start()
    cloud.aws.clear_plan("DescribeSecurityGroups")
    cloud.aws.clear_plan("CreateSecurityGroup")


# The clients


def test_each_default_session_has_clients_of_its_own(cloud, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    made = []
    for number in range(10):
        boto3.setup_default_session(aws_access_key_id=f"key{number}", aws_secret_access_key="x")
        made.append(connect(None))
        assert made[-1].ecs._request_signer._credentials.access_key == f"key{number}"
    assert connect(None) is made[-1]


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1"])
def test_a_presigned_address_names_the_region(cloud, monkeypatch, region):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = connect(region).s3.generate_presigned_url("get_object", Params={"Bucket": "mine", "Key": "a"})
    hosts = {"eu-central-1": "mine.s3.eu-central-1.amazonaws.com", "us-east-1": "mine.s3.amazonaws.com"}
    assert urlsplit(address).hostname == hosts[region]
    assert "AWS4-HMAC-SHA256" in address


def test_what_is_forgotten_at_any_moment_is_returned_nevertheless(aws):
    class Key:
        def __hash__(self) -> int:
            # Called whenever it is looked up.
            aws.forget()
            return 1

    assert aws.once(Key(), lambda: "made") == "made"


# All of it


def test_what_was_made_is_found_by_the_next_deployment(cloud):
    with cloud.deployment(), cloud.deployment(image="python:3.11"):
        pass
    made = {name: count for name, count in cloud.aws.calls.items() if name.startswith(("Create", "Register"))}
    with cloud.deployment():
        pass
    again = {
        name: count for name, count in cloud.aws.calls.items() if name.startswith(("Create", "Register"))
    }
    assert again == made


def test_two_processes_on_an_empty_account(tmp_path: Path):
    code = (
        "from swerex.deployment.fargate import FargateDeployment\n"
        "input()\n"
        "with FargateDeployment() as deployment, deployment.runtime.session() as session:\n"
        "    print(session.run('echo hello').output, end='')"
    )
    with fargate_cloud(tmp_path) as cloud:
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        for program in programs:
            program.stdin.write("\n")
            program.stdin.flush()
        assert [program.communicate(timeout=50)[0] for program in programs] == ["hello\n"] * 3
        wait_until(lambda: not cloud.running())
        ec2, iam = cloud.aws_client("ec2"), cloud.aws_client("iam")
        groups = [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]]
        assert len([name for name in groups if name.startswith("swe-rex-deployment-sg-")]) == 1
        roles = [role["RoleName"] for role in iam.list_roles()["Roles"]]
        assert len([name for name in roles if name.startswith("swe-rex-execution-role-")]) == 1
        assert len(cloud.aws_client("ecs").list_clusters()["clusterArns"]) == 1


# Merging


def test_merge_is_deep_and_leaves_both_as_they_were():
    mine = {"a": {"b": 1, "c": [1]}, "tags": [{"key": "x", "value": "1"}]}
    given = {"a": {"c": [2], "d": 3}, "tags": [{"key": "x", "value": "2"}, {"key": "y", "value": "3"}]}
    assert merge_args(mine, given) == {
        "a": {"b": 1, "c": [2], "d": 3},
        "tags": [{"key": "x", "value": "2"}, {"key": "y", "value": "3"}],
    }
    assert mine == {"a": {"b": 1, "c": [1]}, "tags": [{"key": "x", "value": "1"}]}


def test_merge_adds_to_the_environment_of_a_container():
    mine = {"containerOverrides": [{"name": "swerex", "environment": [{"name": "A", "value": "1"}]}]}
    given = {
        "containerOverrides": [
            {"name": "swerex", "memory": 5, "environment": [{"name": "B", "value": "2"}]},
            {"name": "other", "memory": 6},
        ]
    }
    assert merge_args(mine, given)["containerOverrides"] == [
        {
            "name": "swerex",
            "memory": 5,
            "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        },
        {"name": "other", "memory": 6},
    ]
