"""A sandbox that is a task on AWS Fargate."""

from __future__ import annotations

import logging
import random
import re
import secrets
import time
from typing import Any
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError

from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.beat import Beat
from swerex.deployment.config import FargateDeploymentConfig
from swerex.deployment.fargate.bundle import BucketBundle
from swerex.deployment.fargate.task import (
    CONTAINER,
    address_of,
    end_of_task,
    has_run,
    interface_id,
    is_stopped,
    run_task_args,
)
from swerex.exceptions import DeploymentStartupError, SwerexException
from swerex.runtime.remote import RemoteRuntime
from swerex.utils.aws import Aws, connect, error_code, explain_error, typed_errors
from swerex.utils.aws_resources import is_unsettled

__all__ = ["FargateDeployment", "FargateDeploymentConfig"]

_ALIVE_TIMEOUT = 5.0
"""Seconds that `is_alive` waits for an answer by default."""
_LOG_LINES = 30
_LOST_TASK_PATIENCE = 5.0
"""Seconds within which a task must be listed that was asked for, but whose ARN has not arrived."""

_FAILURE_THAT_PASSES = re.compile(r"capacity|resource|limit|try again|throttl|rate exceeded", re.IGNORECASE)
_MISSING = re.compile(r"not found|not exist|inactive", re.IGNORECASE)


class FargateDeployment(AbstractDeployment[RemoteRuntime]):
    """Runs a task of an image on AWS Fargate. Keyword arguments are the fields of `FargateDeploymentConfig`.

    The cluster, role, security group, log group and task definition that it needs are found or made. They
    cost nothing, and stay; ``python -m swerex.utils.aws_teardown`` removes them.
    """

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        super().__init__(logger=logger)
        self._config = FargateDeploymentConfig(**kwargs)
        self._aws: Aws | None = None
        self._beat: Beat | None = None
        self._cluster = ""
        self._task_arn: str | None = None
        # By it a task is found whose start was interrupted, so that its ARN has not arrived.
        self._started_by = ""
        self._asked_for_task = False

    @property
    def task_arn(self) -> str | None:
        """The ARN of the task; None: there is none."""
        return self._task_arn

    @property
    def log_url(self) -> str | None:
        """Where a person can read the task's log in the AWS console; None: there is no log."""
        aws, group = self._aws, self._config.log_group
        if aws is None or group is None or self._task_arn is None:
            return None
        # The console wants the names encoded twice, with $ in place of %.
        path = "/log-events/".join(
            quote(quote(name, safe=""), safe="").replace("%", "$")
            for name in (group, self._log_stream(self._task_arn))
        )
        return (
            f"https://{aws.region}.console.aws.amazon.com/cloudwatch/home?region={aws.region}"
            f"#logsV2:log-groups/log-group/{path}"
        )

    def _create(self) -> RemoteRuntime:
        config = self._config
        token = secrets.token_urlsafe(32)
        deadline = time.monotonic() + config.startup_timeout
        with typed_errors("AWS can't be used"):
            aws = self._aws = connect(config.region)
        with typed_errors(f"What a task needs in {aws.region} could not be found or made"):
            self._step(f"Looking for cluster, role, network and task definition in {aws.region}")
            bundle = BucketBundle(aws, config.bundle_bucket) if config.bundle_bucket else None
            args = run_task_args(aws, config, bundle, token)
        with typed_errors(f"No task of {config.image} could be started"):
            self._step(f"Starting a task of {config.image}")
            args = self._run_task(aws, bundle, token, args, deadline)
        with typed_errors(f"The task {self._task_arn} could not be watched"):
            self._step(f"Waiting until the task {self._task_arn} runs")
            network = args["networkConfiguration"]["awsvpcConfiguration"]
            host = self._wait_for_address(aws, deadline, public=network["assignPublicIp"] == "ENABLED")
        return RemoteRuntime(
            host=host, port=config.port, auth_token=token, timeout=_ALIVE_TIMEOUT, logger=self.logger
        )

    def _run_task(
        self, aws: Aws, bundle: BucketBundle | None, token: str, args: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        """Start a task, and return the arguments that it was started with.

        As long as AWS has no room for it, or limits the rate, try again, until `deadline`.
        """
        self._started_by = f"swerex-{secrets.token_hex(12)}"
        looked_again = False
        pause = 1.0
        while True:
            self._check_wanted()
            self._cluster = args["cluster"]
            try:
                self._asked_for_task = True
                # boto3 adds a client token, so that its own repetitions don't start another task.
                answer = aws.ecs.run_task(**{**args, "startedBy": self._started_by})
                if answer["tasks"]:
                    self._task_arn = answer["tasks"][0]["taskArn"]
                    return args
                self._asked_for_task = False
                reason = "; ".join(failure.get("reason", "unknown") for failure in answer["failures"])
                passes = bool(_FAILURE_THAT_PASSES.search(reason))
                if not passes:
                    raise DeploymentStartupError(f"ECS starts no task of {self._config.image}: {reason}")
            except ClientError as error:
                self._asked_for_task = False
                reason = str(error)
                if not looked_again and (_is_missing(error) or is_unsettled(error)):
                    # Somebody may have removed what was found, or made, earlier in this process's life.
                    looked_again = True
                    aws.forget()
                    args = run_task_args(aws, self._config, bundle, token)
                elif not is_unsettled(error) and not _FAILURE_THAT_PASSES.search(reason):
                    raise
            # Not all at the same time again, of those who were refused together.
            self._pause(pause * random.uniform(0.5, 1), deadline, f"ECS could not start a task: {reason}")
            pause = min(2 * pause, 20.0)

    def _wait_for_address(self, aws: Aws, deadline: float, *, public: bool) -> str:
        """The address of the task, as soon as the task runs."""
        arn = self._task_arn or ""
        interface = address = ""
        pause = 0.1
        while True:
            task = aws.task(self._cluster, arn)
            self._check(task)
            interface = interface or interface_id(task)
            if interface and not address:
                address = address_of(aws.interface(interface), public=public)
            status = task["lastStatus"] if task else "not known yet"
            if status == "RUNNING" and address:
                return address
            self._pause(
                pause,
                deadline,
                f"The task is {status}, {f'at {address}' if address else 'without an address'}, after "
                f"{self._config.startup_timeout:g} s. If its image takes longer to pull, give a larger "
                "startup_timeout.",
            )
            pause = min(1.5 * pause, 2.0)

    def _wait_until_alive(self, runtime: RemoteRuntime) -> None:
        aws, arn, config = self._aws, self._task_arn, self._config
        assert aws is not None and arn is not None
        self._step("Waiting for the server in the task")
        deadline = time.monotonic() + config.runtime_timeout
        pause = 0.5
        while True:
            try:
                runtime.wait_until_alive(timeout=pause)
                break
            except TimeoutError as error:
                reason = str(error)
            with typed_errors(f"The task {arn} could not be watched"):
                self._check(aws.task(self._cluster, arn))
            self._pause(
                0,
                deadline,
                f"The task runs, but no server answers within {config.runtime_timeout:g} s. {reason}\n"
                f"Check that port {config.port} of the task can be reached from here: the security group "
                f"admits {config.ingress_cidr}.",
            )
            pause = min(1.5 * pause, 2.0)
        self._beat = Beat(runtime, config.auto_remove_after)
        self._beat.start()

    def _pause(self, seconds: float, deadline: float, failure: str) -> None:
        self._check_wanted()
        if time.monotonic() + seconds > deadline:
            raise DeploymentStartupError("\n".join(filter(None, [failure, self._last_words()])))
        time.sleep(seconds)

    def _check(self, task: dict[str, Any] | None) -> None:
        """Raise if the task has ended."""
        if is_stopped(task):
            raise DeploymentStartupError(f"The task of {self._config.image} has ended.\n{self._last_words()}")

    def _close(self, runtime: RemoteRuntime) -> None:
        # Its sessions end with the sandbox.
        runtime.disconnect()

    def _remove(self) -> None:
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.stop()
        aws = self._aws
        if aws is None:
            return
        try:
            for arn in [self._task_arn] if self._task_arn else self._lost_tasks(aws):
                self._stop_task(aws, arn)
        except (BotoCoreError, ClientError) as error:
            raise SwerexException(
                f"The task {self._task_arn or f'that was started by {self._started_by}'} in the cluster "
                f"{self._cluster} could not be stopped: {explain_error(error)}\nIt ends by itself after "
                f"{min(self._config.auto_remove_after, self._config.container_timeout):g} s. To end it "
                "earlier, call stop() again."
            ) from error
        self._task_arn = None
        self._asked_for_task = False

    def _lost_tasks(self, aws: Aws) -> list[str]:
        """The tasks that were asked for, and whose ARN has not arrived."""
        deadline = time.monotonic() + _LOST_TASK_PATIENCE
        found: list[str] = []
        while self._asked_for_task and not found:
            try:
                found = aws.ecs.list_tasks(cluster=self._cluster, startedBy=self._started_by)["taskArns"]
            except aws.ecs.exceptions.ClusterNotFoundException:
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0 if found else 0.5)
        return found

    def _stop_task(self, aws: Aws, arn: str) -> None:
        try:
            aws.ecs.stop_task(cluster=self._cluster, task=arn, reason="stopped by its swerex deployment")
        except ClientError as error:
            if not _is_missing(error):
                raise
            self.logger.debug("The task %s is gone already: %s", arn, error)

    def _last_words(self) -> str:
        aws, arn = self._aws, self._task_arn
        if aws is None or arn is None:
            return ""
        try:
            task = aws.task(self._cluster, arn)
            return "\n".join(filter(None, [end_of_task(task), self._log_tail(aws, arn, task)]))
        except (BotoCoreError, ClientError) as error:
            return f"What became of the task {arn} can't be asked: {explain_error(error)}"

    def _log_tail(self, aws: Aws, arn: str, task: dict[str, Any] | None) -> str:
        group = self._config.log_group
        if group is None:
            return ""
        # The last lines of a container arrive a moment after its end.
        for attempt in range(4 if has_run(task) else 1):
            time.sleep(0.5 if attempt else 0)
            try:
                events = aws.logs.get_log_events(
                    logGroupName=group, logStreamName=self._log_stream(arn), limit=_LOG_LINES
                )["events"]
            except aws.logs.exceptions.ResourceNotFoundException:
                # Nothing has arrived from it.
                continue
            if events:
                lines = "\n".join(event["message"] for event in events)
                return f"The end of its log, which is at {self.log_url}:\n{lines}"
        return ""

    def _log_stream(self, arn: str) -> str:
        """What ECS calls the log of the container: by the prefix, the container and the task."""
        return f"{CONTAINER}/{CONTAINER}/{arn.rpartition('/')[2]}"


def _is_missing(error: ClientError) -> bool:
    """Whether the error says that the task, or something that it needs, is not there."""
    kinds = ("InvalidParameterException", "ClientException")
    return error_code(error) == "ClusterNotFoundException" or (
        error_code(error) in kinds and _MISSING.search(str(error)) is not None
    )
