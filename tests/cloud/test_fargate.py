"""The life of a Fargate task: real boto3, moto behind it, and the task's command run for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from swerex.deployment.config import FargateDeploymentConfig, get_deployment
from swerex.deployment.fargate import FargateDeployment
from swerex.exceptions import DeploymentStartupError, SandboxDiedError
from swerex.runtime.abstract import Command
from tests.cloud.fargate_aws import answer, error, interrupted, lost, unreachable
from tests.cloud.fargate_cloud import Image
from tests.util import wait_until


@pytest.fixture(autouse=True)
def nothing_is_left(cloud):
    """Whatever a test does, no task runs after it."""
    yield
    wait_until(lambda: not cloud.running())


def last(cloud):
    """The task that was asked for last, as moto knows it."""
    return cloud.tasks()[-1]


def test_runs_commands(cloud):
    with cloud.deployment() as deployment, deployment.runtime.session() as session:
        assert session.run("echo hello").output == "hello\n"


def test_is_made_from_a_config(cloud):
    deployment = get_deployment(FargateDeploymentConfig(port=9001))
    assert isinstance(deployment, FargateDeployment)
    with deployment:
        assert deployment.is_alive()
        assert cloud.running() == [deployment.task_arn]


def test_token_is_in_the_environment_of_the_one_task_only(cloud):
    with cloud.deployment() as deployment:
        token = deployment.runtime._config.auth_token
        task = cloud.started[deployment.task_arn]
        assert task.env["SWEREX_AUTH_TOKEN"] == token
        assert token not in " ".join(task.argv)
        definitions = cloud.aws_client("ecs").describe_task_definition(
            taskDefinition=last(cloud).task_definition_arn
        )
        assert token not in str(definitions)


def test_nothing_of_the_start_is_in_the_environment_of_commands(cloud):
    with cloud.deployment() as deployment:
        env = deployment.runtime.execute(Command(command=["env"])).stdout
    assert "SWEREX" not in env


def test_env_reaches_commands(cloud):
    with cloud.deployment(env={"COLOUR": "blue green"}) as deployment:
        command = Command(command=["printenv", "COLOUR"])
        assert deployment.runtime.execute(command).stdout == "blue green\n"


def test_size_and_capacity_are_those_of_the_config(cloud):
    with cloud.deployment(cpu=2048, memory=4096, ephemeral_storage=40, spot=True):
        task = last(cloud)
        assert task.capacity_provider_name == "FARGATE_SPOT"
        definition = cloud.aws_client("ecs").describe_task_definition(taskDefinition=task.task_definition_arn)
        found = definition["taskDefinition"]
        assert (found["cpu"], found["memory"]) == ("2048", "4096")
        assert found["ephemeralStorage"] == {"sizeInGiB": 40}


def test_fargate_args_are_merged_in(cloud):
    args = {
        "platformVersion": "1.4.0",
        "tags": [{"key": "team", "value": "red"}],
        "overrides": {
            "containerOverrides": [{"name": "swerex", "environment": [{"name": "EXTRA", "value": "yes"}]}]
        },
    }
    with cloud.deployment(fargate_args=args) as deployment:
        task = last(cloud)
        assert task.platform_version == "1.4.0"
        tags = {tag["key"]: tag["value"] for tag in task.tags}
        assert (tags["team"], tags["origin"]) == ("red", "swe-rex-deployment-auto")
        assert deployment.runtime.execute(Command(command=["printenv", "EXTRA"])).stdout == "yes\n"


def test_a_task_without_public_address_is_reached_at_its_private_one(cloud):
    args = {"networkConfiguration": {"awsvpcConfiguration": {"assignPublicIp": "DISABLED"}}}
    with cloud.deployment(fargate_args=args) as deployment:
        assert deployment.is_alive()


def test_log_is_found_by_its_address(cloud):
    with cloud.deployment() as deployment:
        task_id = deployment.task_arn.rpartition("/")[2]
        assert deployment.log_url.endswith(
            "region=us-east-1#logsV2:log-groups/log-group/$252Fecs$252Fswe-rex-deployment"
            f"/log-events/swerex$252Fswerex$252F{task_id}"
        )
    assert deployment.log_url is None


def test_without_a_log_group_nothing_is_logged(cloud):
    with cloud.deployment(log_group=None) as deployment:
        assert deployment.log_url is None


# How the server gets in


def test_a_server_of_the_other_implementation_is_given_its_token(cloud):
    script = f'[ "$1" = --help ] && exit; [ -z "$SWEREX_AUTH_TOKEN" ] && exec {sys.executable} -m swerex "$@"'
    cloud.images["other"] = Image({"PATH": f"{cloud.executables(script)}:{os.environ['PATH']}"})
    with cloud.deployment(image="other") as deployment:
        assert deployment.is_alive()


# What goes wrong


def test_an_image_that_cannot_be_pulled_fails_with_the_reason(cloud):
    begin = time.monotonic()
    with pytest.raises(DeploymentStartupError, match="TaskFailedToStart; no such image"):
        cloud.deployment(image="nonsense").start()
    assert time.monotonic() - begin < 2


def test_a_container_that_exits_fails_with_its_status_and_log(cloud):
    cloud.images["empty"] = Image({"PATH": str(cloud.executables("echo a strange tale; exit 42"))})
    begin = time.monotonic()
    with pytest.raises(DeploymentStartupError, match=r"(?s)exit code 42.*a strange tale"):
        cloud.deployment(image="empty").start()
    assert time.monotonic() - begin < 3


def test_an_image_in_which_no_server_can_be_had_says_what_to_do(cloud):
    folder = cloud.folder / "bare"
    folder.mkdir()
    for name in ("sh", "mkdir", "sleep", "date"):
        (folder / name).symlink_to(f"/bin/{name}")
    cloud.images["bare"] = Image({"PATH": str(folder)})
    with pytest.raises(DeploymentStartupError, match=r"neither swerex-remote.*give a bundle_bucket"):
        cloud.deployment(image="bare").start()


def test_a_server_that_never_answers_fails_in_time(cloud):
    script = '[ "$1" = --help ] && echo SWEREX_AUTH_TOKEN && exit; echo I am silent; exec sleep 60'
    cloud.images["silent"] = Image({"PATH": f"{cloud.executables(script)}:{os.environ['PATH']}"})
    deployment = cloud.deployment(image="silent", runtime_timeout=1, ingress_cidr="10.0.0.0/8")
    with pytest.raises(
        DeploymentStartupError, match=r"(?s)no server answers within 1 s.*admits 10.0.0.0/8.*I am silent"
    ):
        deployment.start()


def test_a_task_that_does_not_come_to_run_fails_in_time(cloud):
    cloud.images["large"] = Image(cloud.images["python:3.11"].env, pull_seconds=30)
    with pytest.raises(DeploymentStartupError, match=r"The task is PENDING, at 127[0-9.]+, after 1 s"):
        cloud.deployment(image="large", startup_timeout=1).start()


def test_a_task_that_died_is_not_alive_and_the_reason_is_told(cloud):
    deployment = cloud.deployment()
    deployment.start()
    cloud.started[deployment.task_arn].process.kill()
    with pytest.raises(SandboxDiedError):
        deployment.runtime.execute(Command(command="true"))
    response = deployment.is_alive(timeout=1)
    assert not response
    assert "EssentialContainerExited; Essential container in task exited; exit code 137" in response.message
    assert "listens at" in response.message
    deployment.stop()


def test_a_task_that_nobody_knows_any_more_can_be_stopped(cloud):
    deployment = cloud.deployment()
    deployment.start()
    cloud.started[deployment.task_arn].process.kill()
    wait_until(lambda: not cloud.running())
    cloud.aws.plan("StopTask", error("InvalidParameterException", "The referenced task was not found."))
    deployment.stop()
    assert deployment.task_arn is None


def test_a_stop_that_fails_can_be_repeated(cloud):
    deployment = cloud.deployment()
    deployment.start()
    cloud.aws.plan("StopTask", error("AccessDeniedException", "not you"))
    with pytest.raises(Exception, match=r"(?s)could not be stopped.*not you.*call stop\(\) again"):
        deployment.stop()
    deployment.stop()
    assert cloud.running() == [] or wait_until(lambda: not cloud.running())


@pytest.mark.parametrize(
    "fault",
    [
        error("ThrottlingException", "Rate exceeded"),
        answer({"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time."}]}),
        error("ClientException", "ECS was unable to assume the role 'arn:aws:iam::1:role/x'"),
        error("ServerException", "internal", 500),
        unreachable(),
    ],
    ids=["throttled", "no capacity", "role not known yet", "server error", "connection refused"],
)
def test_a_failure_that_passes_is_outlived(cloud, fault):
    cloud.aws.plan("RunTask", fault, fault)
    with cloud.deployment() as deployment:
        assert deployment.is_alive()


@pytest.mark.parametrize(
    "fault",
    [
        answer({"tasks": [], "failures": [{"reason": "LOCATION"}]}),
        error("InvalidParameterException", "No Fargate configuration exists for given values."),
    ],
    ids=["in the answer", "as the answer"],
)
def test_a_failure_that_stays_is_told_at_once(cloud, fault):
    cloud.aws.plan("RunTask", fault)
    with pytest.raises(DeploymentStartupError, match=r"LOCATION|No Fargate configuration"):
        cloud.deployment().start()


def test_no_capacity_for_long_fails_in_time(cloud):
    full = answer({"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time."}]})
    cloud.aws.plan("RunTask", full, full)
    with pytest.raises(DeploymentStartupError, match="ECS could not start a task: Capacity is unavailable"):
        cloud.deployment(startup_timeout=1).start()
    cloud.aws.clear_plan("RunTask")


def test_a_lost_answer_starts_no_second_task(cloud):
    tasks = len(cloud.tasks())
    cloud.aws.plan("RunTask", lost(), lost())
    with cloud.deployment() as deployment:
        assert deployment.is_alive()
        assert len(cloud.tasks()) == tasks + 1


@pytest.mark.parametrize("operation", ["RunTask", "DescribeTasks", "DescribeNetworkInterfaces"])
def test_an_interrupted_start_leaves_no_task(cloud, operation):
    tasks = len(cloud.tasks())
    cloud.aws.plan(operation, interrupted(lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        cloud.deployment().start()
    assert len(cloud.tasks()) == tasks + 1
    assert last(cloud).desired_status == "STOPPED"


def test_what_was_removed_meanwhile_is_made_again(cloud):
    with cloud.deployment() as deployment:
        ecs = cloud.aws_client("ecs")
        definition = last(cloud).task_definition_arn
        other = cloud.deployment()
        ecs.deregister_task_definition(taskDefinition=definition)
        cloud.aws.plan("RunTask", error("ClientException", "TaskDefinition is inactive"))
        with other:
            assert last(cloud).task_definition_arn != definition
        assert deployment.is_alive()


# What can't be used


def test_no_credentials(cloud, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(DeploymentStartupError, match="Unable to locate credentials\nGive credentials as"):
        cloud.deployment().start()


def test_no_region(cloud, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(DeploymentStartupError, match=r"(?s)You must specify a region.*Set `region`"):
        cloud.deployment().start()


def test_region_of_the_config(cloud, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with cloud.deployment(region="us-east-1") as deployment:
        assert ":us-east-1:" in deployment.task_arn


def test_no_permission(cloud):
    cloud.aws.plan("RunTask", error("AccessDeniedException", "User x may not do ecs:RunTask"))
    with pytest.raises(DeploymentStartupError, match=r"(?s)may not do ecs:RunTask.*lack a permission"):
        cloud.deployment().start()


def test_no_aws_at_its_address(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("swerex.utils.aws._CONFIG.retries", {"mode": "standard", "total_max_attempts": 1})
    with pytest.raises(DeploymentStartupError, match=r"(?s)Could not connect.*Check the name of the region"):
        cloud.deployment().start()


# Its end without stop()


def test_the_task_ends_with_its_time_even_if_sleep_is_killed(cloud):
    with cloud.deployment(container_timeout=5) as deployment:
        deployment.runtime.execute(Command(command=["pkill", "sleep"]))
        assert deployment.is_alive(), "the end must not come before its time"
        wait_until(lambda: not cloud.running(), timeout=10)
        assert "container_timeout, 5 s, is over" in deployment.is_alive(timeout=0.5).message


def test_the_task_ends_when_its_client_was_killed(cloud):
    code = (
        "import sys; from swerex.deployment.fargate import FargateDeployment; "
        "deployment = FargateDeployment(auto_remove_after=1); deployment.start(); print('up', flush=True); "
        "sys.stdin.read()"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with client:
        assert client.stdout.readline() == b"up\n"
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() > begin + 2)
        assert cloud.running(), "a client that lives keeps its task"
        client.kill()
    wait_until(lambda: not cloud.running(), timeout=10)
