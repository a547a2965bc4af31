"""The life of a Fargate task: real boto3, moto behind it, and the task's command run for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from swerex.deployment.config import FargateDeploymentConfig, get_deployment
from swerex.deployment.fargate import FargateDeployment
from swerex.exceptions import DeploymentStartupError, SandboxDiedError
from swerex.runtime.abstract import Command
from tests.cloud.fargate_aws import answer, error, held, interrupted, lost, unreachable
from tests.cloud.fargate_cloud import Image
from tests.util import wait_until

_THROTTLED = error("ThrottlingException", "Rate exceeded")
_DENIED = error(
    "AccessDeniedException",
    "User: arn:aws:iam::123456789012:user/x is not authorized to perform: ecs:RunTask on resource: "
    "arn:aws:ecs:us-east-1:123456789012:task-definition/swe-rex-task-0:1 because no identity-based policy "
    "allows the ecs:RunTask action",
)
_NO_ROLE = error(
    "ClientException", "ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided"
)


@pytest.fixture(autouse=True)
def nothing_is_left(cloud):
    """Whatever a test does, no task runs after it."""
    yield
    wait_until(lambda: not cloud.running())


@pytest.fixture
def attempts(monkeypatch):
    """Sets how often boto3 itself tries, in a test that is not to wait for its pauses."""

    def set_attempts(number):
        retries = {"mode": "standard", "total_max_attempts": number}
        monkeypatch.setattr("swerex.utils.aws._CONFIG.retries", retries)
        # So that other clients than those of other tests are made.
        monkeypatch.setenv("AWS_OF_TEST", str(number))

    return set_attempts


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
    with pytest.raises(DeploymentStartupError, match="TaskFailedToStart; no such image"):
        cloud.deployment(image="nonsense").start()


def test_a_container_that_exits_fails_with_its_status_and_log(cloud):
    folder = cloud.executables("echo a strange tale; exit 42")
    cloud.images["empty"] = Image({"PATH": f"{folder}:{os.environ['PATH']}"})
    before = cloud.aws.calls["DescribeTasks"]
    with pytest.raises(DeploymentStartupError, match=r"(?s)exit code 42.*a strange tale"):
        cloud.deployment(image="empty").start()
    assert cloud.aws.calls["DescribeTasks"] - before < 30, "it is told long before runtime_timeout"


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


def test_a_task_that_is_stopped_from_outside_ends_its_calls_with_the_reason(cloud):
    with cloud.deployment() as deployment:
        command = Command(command="echo begun >&2; sleep 60", shell=True)
        begun = threading.Event()
        with ThreadPoolExecutor() as pool:
            call = pool.submit(deployment.runtime.execute, command, on_output=lambda *_: begun.set())
            assert begun.wait(40)
            cloud.aws_client("ecs").stop_task(
                cluster="swe-rex-cluster", task=deployment.task_arn, reason="Your Spot Task was interrupted."
            )
            with pytest.raises(
                SandboxDiedError, match=r"(?s)Your Spot Task was interrupted.; exit code 137.*listens at"
            ):
                call.result(20)


def test_aws_is_asked_once_for_all_calls_in_trouble(cloud):
    with cloud.deployment() as deployment:
        watch = deployment._watch
        wait_until(lambda: time.monotonic() > watch._asked + 1)
        before = cloud.aws.calls["DescribeTasks"]
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda _: watch.ask(), range(20))) == [""] * 20
        assert cloud.aws.calls["DescribeTasks"] <= before + 2


def test_an_aws_that_does_not_answer_holds_nobody_up(cloud):
    begun, released = threading.Event(), threading.Event()
    with cloud.deployment() as deployment:
        cloud.started[deployment.task_arn].process.kill()
        cloud.aws.plan("DescribeTasks", held(begun, released))
        begin = time.monotonic()
        assert not deployment.is_alive(timeout=0.5)
        assert begun.is_set()
        assert time.monotonic() - begin < 15, "AWS is waited for as long as it takes"
        released.set()
        wait_until(lambda: "exit code 137" in deployment.is_alive(timeout=0.1).message, timeout=20)


def test_a_log_group_that_was_removed_is_made_again_by_the_next_start(cloud):
    with cloud.deployment(log_group="/fleeting"):
        cloud.aws_client("logs").delete_log_group(logGroupName="/fleeting")
        with pytest.raises(DeploymentStartupError, match="log group does not exist"):
            cloud.deployment(log_group="/fleeting").start()
        with cloud.deployment(log_group="/fleeting") as other:
            assert other.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_sandboxes_of_its_own(cloud):
    begun, released = threading.Event(), threading.Event()
    cloud.aws.plan("DescribeTasks", held(begun, released))
    with ThreadPoolExecutor() as pool:
        deployment = cloud.deployment()
        starting = pool.submit(deployment.start)
        assert begun.wait(40)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            try:
                with cloud.deployment() as own:
                    os._exit(0 if own.is_alive() and own.stop() is None else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        released.set()
        starting.result(40)
        assert cloud.running() == [deployment.task_arn]
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
    cloud.aws.plan("StopTask", _DENIED)
    with pytest.raises(Exception, match=r"(?s)could not be stopped.*not authorized.*call stop\(\) again"):
        deployment.stop()
    deployment.stop()
    assert cloud.running() == [] or wait_until(lambda: not cloud.running())


@pytest.mark.parametrize(
    "fault",
    [
        _THROTTLED,
        answer({"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time."}]}),
        error("ClientException", "Capacity is unavailable at this time. Please try again later"),
        _NO_ROLE,
        error("ServerException", "internal", 500),
        unreachable(),
    ],
    ids=["throttled", "no capacity", "none, as an error", "no role yet", "server error", "unreachable"],
)
def test_a_failure_that_passes_is_outlived(cloud, attempts, fault):
    attempts(1)
    cloud.aws.plan("RunTask", fault, fault)
    with cloud.deployment() as deployment:
        assert deployment.is_alive()


@pytest.mark.parametrize("operation", ["DescribeTasks", "DescribeNetworkInterfaces"])
@pytest.mark.parametrize("fault", [_THROTTLED, error("ServerException", "internal", 500), unreachable()])
def test_trouble_of_aws_while_the_task_comes_is_outlived(cloud, attempts, operation, fault):
    attempts(1)
    cloud.aws.plan(operation, fault, fault)
    with cloud.deployment() as deployment:
        assert deployment.is_alive()


def test_trouble_of_aws_for_long_fails_in_time(cloud, attempts):
    attempts(1)
    cloud.aws.plan("DescribeTasks", *[_THROTTLED] * 50)
    with pytest.raises(DeploymentStartupError, match=r"AWS does not tell.*Rate exceeded.*after 2 s"):
        cloud.deployment(startup_timeout=2).start()
    cloud.aws.clear_plan("DescribeTasks")


def test_trouble_of_aws_does_not_keep_a_task_from_being_stopped(cloud, attempts):
    attempts(1)
    with cloud.deployment():
        cloud.aws.plan("StopTask", unreachable(), _THROTTLED)


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


def test_a_lost_answer_starts_no_second_task_after_boto3_has_given_up(cloud, attempts):
    attempts(2)
    tasks = len(cloud.tasks())
    cloud.aws.plan("RunTask", lost(), _THROTTLED, unreachable(), error("ServerException", "internal", 500))
    with cloud.deployment() as deployment:
        assert deployment.is_alive()
        assert len(cloud.tasks()) == tasks + 1


@pytest.mark.parametrize("between", [[], [_THROTTLED]], ids=["at once", "later"])
def test_a_task_whose_answer_was_lost_is_stopped_when_the_start_fails(cloud, attempts, between):
    attempts(2)
    tasks = len(cloud.tasks())
    cloud.aws.plan("RunTask", lost(), *between, _DENIED)
    with pytest.raises(DeploymentStartupError, match="not authorized"):
        cloud.deployment().start()
    assert len(cloud.tasks()) == tasks + 1
    assert last(cloud).desired_status == "STOPPED"


def test_a_task_whose_answer_was_lost_is_stopped_besides_the_one_that_runs(cloud, attempts):
    attempts(2)
    tasks = len(cloud.tasks())
    cloud.aws.plan("RunTask", lost(), error("ClientException", "TaskDefinition is inactive"))
    with cloud.deployment():
        assert len(cloud.tasks()) == tasks + 2
    wait_until(lambda: not cloud.running())


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
    cloud.aws.plan("RunTask", _DENIED)
    with pytest.raises(DeploymentStartupError, match=r"(?s)not authorized.*ecs:RunTask.*lack a permission"):
        cloud.deployment().start()


def test_a_role_that_cannot_be_assumed_for_long(cloud, monkeypatch):
    monkeypatch.setattr("swerex.deployment.fargate.deployment.SETTLING", 1)
    cloud.aws.plan("RunTask", *[_NO_ROLE] * 10)
    with pytest.raises(DeploymentStartupError, match=r"(?s)unable to assume the role.*iam:PassRole"):
        cloud.deployment().start()
    cloud.aws.clear_plan("RunTask")


@pytest.mark.parametrize("name", ["count", "startedBy", "clientToken"])
def test_fargate_args_that_are_not_free(name):
    with pytest.raises(ValidationError, match=f"'{name}' can't be given"):
        FargateDeploymentConfig(fargate_args={name: 2})


def test_an_environment_that_is_too_large(cloud):
    tasks = len(cloud.tasks())
    with cloud.deployment(env={"LARGE": "x" * 7000}):
        pass
    with pytest.raises(DeploymentStartupError, match=r"has 8\d\d\d characters as JSON, and ECS takes 8192"):
        cloud.deployment(env={"LARGE": "x" * 8100}).start()
    assert len(cloud.tasks()) == tasks + 1


def test_an_endpoint_that_is_no_address(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(DeploymentStartupError, match=r"AWS can't be used.*nonsense"):
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


def test_the_task_ends_with_its_time_where_there_is_no_date(cloud):
    folder = cloud.executables()
    for name in ("sh", "sleep", "bash"):
        (folder / name).symlink_to(f"/bin/{name}")
    cloud.images["dateless"] = Image({"PATH": str(folder)})
    with cloud.deployment(image="dateless", container_timeout=4) as deployment:
        assert deployment.is_alive()
        wait_until(lambda: not cloud.running(), timeout=15)
        assert "container_timeout, 4 s, is over" in deployment.is_alive(timeout=0.5).message


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
