"""Cleaning up an account, against moto, as a user calls it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from swerex.utils.aws_teardown import main
from tests.cloud.fargate_aws import answer, error
from tests.cloud.fargate_cloud import FargateCloud, Image, fargate_cloud

_TAGS = [{"key": "origin", "value": "swe-rex-deployment-auto"}]
_UPPER_TAGS = [{"Key": "origin", "Value": "swe-rex-deployment-auto"}]
_MANY = 150


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FargateCloud]:
    patch = pytest.MonkeyPatch()
    with fargate_cloud(tmp_path_factory.mktemp("account")) as cloud, patch.context():
        # Quick, since the real limits would make this take a minute.
        patch.setattr("swerex.utils.aws._ECS_RATE", 10_000)
        cloud.aws.limits_rates = False
        # A task of it does not come to run.
        cloud.images["large"] = Image(pull_seconds=600)
        yield cloud


@pytest.fixture
def empty(account: FargateCloud) -> Iterator[FargateCloud]:
    """An account with nothing of ours, also after a test that leaves something."""
    yield account
    main(["--yes"])


class Maker:
    """Makes things in the account, ours or those of somebody else."""

    def __init__(self, cloud: FargateCloud) -> None:
        self.ecs, self.ec2 = cloud.aws_client("ecs"), cloud.aws_client("ec2")
        self.iam, self.logs = cloud.aws_client("iam"), cloud.aws_client("logs")

    def cluster(self, name: str, tags: list[dict[str, str]] = _TAGS) -> str:
        return str(self.ecs.create_cluster(clusterName=name, tags=tags)["cluster"]["clusterArn"])

    def definition(self, family: str, tags: list[dict[str, str]] = _TAGS) -> str:
        container = {"name": "a", "image": "large", "cpu": 256, "memory": 512}
        made = self.ecs.register_task_definition(
            family=family,
            containerDefinitions=[container],
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            **({"tags": tags} if tags else {}),
        )
        return str(made["taskDefinition"]["taskDefinitionArn"])

    def task(self, cluster: str, definition: str, count: int = 1, tags: list[dict[str, str]] = _TAGS) -> None:
        subnet = self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        network: dict[str, Any] = {"subnets": [subnet], "securityGroups": []}
        self.ecs.run_task(
            cluster=cluster,
            taskDefinition=definition,
            count=count,
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": network},
            tags=tags,
        )

    def group(self, name: str, tags: list[dict[str, str]] = _UPPER_TAGS) -> str:
        specification = [{"ResourceType": "security-group", "Tags": tags}] if tags else []
        made = self.ec2.create_security_group(
            GroupName=name, Description="test", TagSpecifications=specification
        )
        return str(made["GroupId"])

    def role(self, name: str, tags: list[dict[str, str]] = _UPPER_TAGS) -> None:
        statement = {"Effect": "Allow", "Action": "logs:PutLogEvents", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}", Tags=tags)
        managed = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
        self.iam.attach_role_policy(RoleName=name, PolicyArn=managed)
        self.iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=policy)

    def log_group(self, name: str, tags: list[dict[str, str]] = _UPPER_TAGS) -> None:
        self.logs.create_log_group(logGroupName=name, tags={tag["Key"]: tag["Value"] for tag in tags})


@pytest.fixture
def make(empty: FargateCloud) -> Maker:
    return Maker(empty)


def names(cloud: FargateCloud) -> set[str]:
    """What is in the account beside the tasks."""
    ecs, ec2 = cloud.aws_client("ecs"), cloud.aws_client("ec2")
    iam, logs = cloud.aws_client("iam"), cloud.aws_client("logs")
    clusters = [
        cluster
        for page in ecs.get_paginator("list_clusters").paginate()
        for cluster in ecs.describe_clusters(clusters=page["clusterArns"])["clusters"]
    ]
    families = ecs.list_task_definitions()["taskDefinitionArns"]
    return {
        *(cluster["clusterName"] for cluster in clusters if cluster["status"] == "ACTIVE"),
        *(arn.rpartition("/")[2] for arn in families),
        *(group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]),
        *(role["RoleName"] for role in iam.list_roles()["Roles"]),
        *(group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]),
    } - {"default"}


def test_nothing_found(empty, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == "Nothing found in us-east-1.\n"


def test_what_is_not_ours_stays(empty, make):
    make.cluster("theirs", [])
    make.definition("theirs", [])
    make.group("theirs", [{"Key": "origin", "Value": "theirs"}])
    make.role("theirs", [])
    make.log_group("/theirs", [])
    make.task("theirs", "theirs", tags=[{"key": "origin", "value": "theirs"}])
    make.cluster("ours")
    assert main(["--yes"]) == 0
    assert names(empty) == {"theirs", "theirs:1", "/theirs"}
    assert len(empty.running()) == 1


def test_our_task_in_a_cluster_of_somebody_else_is_stopped(empty, make):
    running = len(empty.running())
    make.cluster("shared", [])
    make.task("shared", make.definition("ours"))
    assert len(empty.running()) == running + 1
    assert main(["--yes"]) == 0
    assert "shared" in names(empty)
    assert empty.tasks()[-1].desired_status == "STOPPED"


def test_a_role_of_another_region_stays(empty, make):
    make.role("there", [*_UPPER_TAGS, {"Key": "region", "Value": "eu-west-1"}])
    make.role("here", [*_UPPER_TAGS, {"Key": "region", "Value": "us-east-1"}])
    main(["--yes"])
    assert {"there", "here"} & names(empty) == {"there"}


def test_the_region_is_that_of_the_option(empty, make, capsys):
    make.cluster("here")
    assert main(["--yes", "--region", "eu-west-1"]) == 0
    assert "eu-west-1" in capsys.readouterr().out
    assert "here" in names(empty)


def test_a_dry_run_lists_and_removes_nothing(empty, make, capsys):
    arn = make.cluster("kept")
    assert main(["--dry-run"]) == 0
    assert capsys.readouterr().out == f"Found in us-east-1:\n  cluster {arn}\n"
    assert "kept" in names(empty)


@pytest.mark.parametrize(("answer", "left"), [("y\n", set()), ("no\n", {"asked"}), ("", {"asked"})])
def test_asks_before_it_removes(empty, make, monkeypatch, answer, left):
    make.cluster("asked")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main([]) == (1 if left else 0)
    assert {"asked"} & names(empty) == left


def test_goes_on_past_errors_and_says_what_is_left(empty, make, capsys):
    arn = make.cluster("stuck")
    make.role("later")
    empty.aws.plan("DeleteCluster", error("AccessDeniedException", "not you"))
    assert main(["--yes"]) == 1
    out = capsys.readouterr().out
    assert f"Not removed: cluster {arn}: " in out
    assert "not you" in out
    assert out.endswith(f"What is left:\n  cluster {arn}\n")
    assert {"stuck", "later"} & names(empty) == {"stuck"}


def test_goes_on_past_a_kind_that_cannot_be_listed(empty, make, capsys):
    make.cluster("found")
    empty.aws.plan("ListRoles", error("AccessDenied", "no roles for you", 403))
    assert main(["--yes"]) == 1
    assert "Whether there is a role can't be told: " in capsys.readouterr().out
    assert "found" not in names(empty)


@pytest.mark.parametrize(
    ("operation", "gone"),
    [
        ("ListRoleTags", error("NoSuchEntity", "The role cannot be found.", 404)),
        (
            "ListTagsForResource",
            error("ResourceNotFoundException", "The specified log group does not exist."),
        ),
        ("ListTasks", error("ClusterNotFoundException", "Cluster not found.")),
        ("DescribeTaskDefinition", error("ClientException", "Unable to describe task definition.")),
    ],
)
def test_goes_on_past_an_item_that_vanishes_while_it_is_listed(empty, make, capsys, operation, gone):
    for name in ("one", "two"):
        make.task(make.cluster(name), make.definition(name))
        make.role(name)
        make.log_group(name)
    assert main(["--dry-run"]) == 0
    found = capsys.readouterr().out.splitlines()
    empty.aws.plan(operation, gone)
    assert main(["--dry-run"]) == 0
    missing = set(found) - set(capsys.readouterr().out.splitlines())
    assert len(missing) <= 1, "none, if what vanished is not ours"


def test_goes_on_past_an_item_of_which_nothing_is_told(empty, make, capsys):
    roles = {"one", "two"}
    for name in roles:
        make.role(name)
    empty.aws.plan("ListRoleTags", error("AccessDenied", "not this one", 403))
    assert main(["--yes"]) == 1
    told = re.search(r"Whether the role (\w+) is ours can't be told: .*not this one", capsys.readouterr().out)
    assert told
    assert roles & names(empty) == roles & {told[1]}


_STILL_ACTIVE = answer(
    {
        "taskDefinitions": [],
        "failures": [{"arn": "a", "reason": "The specified task definition is still in ACTIVE status."}],
    }
)


def test_a_definition_is_removed_as_soon_as_it_is_known_to_be_deregistered(empty, make):
    arn = make.definition("slow")
    empty.aws.plan("DeleteTaskDefinitions", _STILL_ACTIVE)
    assert main(["--yes"]) == 0
    assert arn not in make.ecs.list_task_definitions(status="INACTIVE")["taskDefinitionArns"]


def test_a_definition_that_is_not_removed_is_left(empty, make, monkeypatch, capsys):
    monkeypatch.setattr("swerex.utils.aws_teardown._DEREGISTERING", 0)
    arn = make.definition("stays")
    empty.aws.plan("DeleteTaskDefinitions", _STILL_ACTIVE)
    assert main(["--yes"]) == 1
    assert re.search(
        rf"Not removed: task definition {arn}: .*still in ACTIVE status", capsys.readouterr().out
    )


def test_waits_until_what_uses_it_has_ended(empty, make):
    group = make.group("busy")
    empty.aws.plan("DeleteSecurityGroup", error("DependencyViolation", "an interface uses it"))
    empty.aws.plan("DeleteCluster", error("ClusterContainsTasksException", "tasks are ending"))
    make.cluster("busy-too")
    assert main(["--yes"]) == 0
    assert {"busy", "busy-too"} & names(empty) == set(), group


def test_what_somebody_else_removes_meanwhile_is_no_error(empty, make):
    make.cluster("vanishing")
    empty.aws.plan("DeleteCluster", error("ClusterNotFoundException", "Cluster not found."))
    assert main(["--yes"]) == 0


def test_a_definition_that_was_deregistered_is_removed_too(empty, make):
    arn = make.definition("old")
    make.ecs.deregister_task_definition(taskDefinition=arn)
    assert main(["--yes"]) == 0
    assert arn not in make.ecs.list_task_definitions(status="INACTIVE")["taskDefinitionArns"]


def test_without_credentials_it_says_what_to_do(empty, monkeypatch, capsys):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert main(["--yes"]) == 1
    assert "Give credentials as" in capsys.readouterr().err
    monkeypatch.undo()


def test_all_pages_of_all_kinds_are_removed(account, capsys):
    make = Maker(account)
    theirs, their_tasks = names(account), account.running()
    for number in range(_MANY):
        make.cluster(f"cluster{number}")
        make.definition(f"task{number}")
        make.group(f"group{number}")
        make.role(f"role{number}")
        make.log_group(f"/log{number}")
    for _ in range(_MANY // 10):
        make.task("cluster0", "task0", count=10)
    before = len(account.running()) - len(their_tasks)
    assert main(["--yes"]) == 0
    out = capsys.readouterr().out
    assert before == _MANY
    for kind in ("task", "cluster", "task definition", "security group", "role", "log group"):
        assert len(re.findall(rf"^Removed: {kind} \S+$", out, re.MULTILINE)) == _MANY, kind
    assert names(account) == theirs
    assert account.running() == their_tasks
    removed = re.findall(r"^Removed: (.+) \S+$", out, re.MULTILINE)
    kinds = ["task", "cluster", "task definition", "security group", "role", "log group"]
    assert [kind for kind, _ in groupby(removed)] == kinds
