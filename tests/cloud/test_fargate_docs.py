"""What the documentation says of AWS, held against what is called."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from swerex.utils.aws_teardown import main
from tests.cloud.fargate_cloud import fargate_cloud
from tests.util import wait_until

_PAGE = Path(__file__).parents[2] / "docs" / "fargate.rst"


def test_the_policies_allow_all_that_is_called(tmp_path):
    with fargate_cloud(tmp_path) as cloud:
        ecs, ec2 = cloud.aws_client("ecs"), cloud.aws_client("ec2")
        ecs.create_cluster(clusterName="swe-rex-cluster")
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        cloud.aws.calls.clear()
        deployment = cloud.deployment(spot=True)
        deployment.start()
        cloud.started[deployment.task_arn].process.kill()
        wait_until(lambda: not cloud.running())
        assert "exit code 137" in deployment.is_alive(timeout=0.1).message
        deployment.stop()
        running = set(cloud.aws.calls)
        ecs.create_cluster(clusterName="ours", tags=[{"key": "origin", "value": "swe-rex-deployment-auto"}])
        cloud.aws.calls.clear()
        assert main(["--yes"]) == 0
        removing = set(cloud.aws.calls)
    start, teardown = (actions(policy) for policy in policies())
    assert running - start == set()
    assert removing - start - teardown == set()
    # These are not calls of their own, or happen only when something else goes wrong.
    unseen = {"TagResource", "TagRole", "PassRole", "CreateServiceLinkedRole", "GetObject", "PutObject"}
    assert start - running == unseen | {"CreateCluster", "ListTasks"}
    assert teardown - removing == {"DeleteRolePolicy"}


def policies() -> list[dict[str, Any]]:
    """The policies on the page."""
    found = re.findall(r"code-block:: json\n\n((?:    .*\n|\n)+)", _PAGE.read_text())
    return [json.loads(policy) for policy in found]


def actions(policy: dict[str, Any]) -> set[str]:
    """What a policy allows, without the names of the services."""
    found = [statement["Action"] for statement in policy["Statement"]]
    flat = [action for item in found for action in ([item] if isinstance(item, str) else item)]
    return {action.partition(":")[2] for action in flat}
