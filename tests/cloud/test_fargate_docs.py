"""What the documentation says of AWS, held against what is called."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from swerex.utils.aws_teardown import main
from tests.cloud.fargate_cloud import fargate_cloud
from tests.util import wait_until

_PAGE = Path(__file__).parents[2] / "docs" / "fargate.rst"


def test_the_policies_allow_all_that_is_called(tmp_path):
    with fargate_cloud(tmp_path) as cloud:
        ecs, ec2 = cloud.aws_client("ecs"), cloud.aws_client("ec2")
        cloud.aws_client("s3").create_bucket(Bucket="my-bucket")
        ecs.create_cluster(clusterName="swe-rex-cluster")
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        cloud.aws.used.clear()
        deployment = cloud.deployment(spot=True, bundle_bucket="my-bucket")
        deployment.start()
        cloud.started[deployment.task_arn].process.kill()
        wait_until(lambda: not cloud.running())
        assert "exit code 137" in deployment.is_alive(timeout=0.1).message
        deployment.stop()
        running = set(cloud.aws.used)
        ecs.create_cluster(clusterName="ours", tags=[{"key": "origin", "value": "swe-rex-deployment-auto"}])
        cloud.aws.used.clear()
        assert main(["--yes"]) == 0
        removing = set(cloud.aws.used)
    start, teardown = policies()
    assert not_allowed(running, start) == set()
    assert not_allowed(removing, start, teardown) == set()
    # These are not calls of their own, or happen only when something else goes wrong.
    unseen = {
        "ecs:TagResource",
        "logs:TagResource",
        "iam:TagRole",
        "iam:PassRole",
        "iam:CreateServiceLinkedRole",
        "ecs:CreateCluster",
        "ecs:ListTasks",
    }
    assert actions(start) - {action for action, _ in running} == unseen
    assert actions(teardown) - {action for action, _ in removing} == {"iam:DeleteRolePolicy"}


def not_allowed(used: set[tuple[str, str]], *policies: dict[str, Any]) -> set[tuple[str, str]]:
    """What was used, and no statement of the policies is for."""
    statements = [statement for policy in policies for statement in policy["Statement"]]
    return {
        (action, resource)
        for action, resource in used
        if not any(
            action in actions({"Statement": [statement]}) and fnmatchcase(resource, statement["Resource"])
            for statement in statements
        )
    }


def policies() -> list[dict[str, Any]]:
    """The policies on the page."""
    found = re.findall(r"code-block:: json\n\n((?:    .*\n|\n)+)", _PAGE.read_text())
    return [json.loads(policy) for policy in found]


def actions(policy: dict[str, Any]) -> set[str]:
    """What a policy allows."""
    found = [statement["Action"] for statement in policy["Statement"]]
    return {action for item in found for action in ([item] if isinstance(item, str) else item)}
