"""A sandbox that is a task on AWS Fargate."""

from __future__ import annotations

import logging
import random
import re
import secrets
import time
from typing import Any

from botocore.exceptions import ClientError

from swerex.deployment.abstract import AbstractDeployment, patience
from swerex.deployment.beat import Beat
from swerex.deployment.config import FargateDeploymentConfig
from swerex.deployment.fargate.bundle import BucketBundle
from swerex.deployment.fargate.task import (
    address_of,
    end_of_task,
    interface_id,
    is_stopped,
    run_task_args,
)
from swerex.deployment.fargate.watch import TaskWatch
from swerex.exceptions import DeploymentStartupError, SandboxDiedError, SwerexException
from swerex.runtime.remote import RemoteRuntime
from swerex.utils.aws import Aws, connect
from swerex.utils.aws_errors import (
    AWS_ERRORS,
    explain_error,
    is_missing,
    is_transient,
    is_unsettled,
    repeat_while,
    typed_errors,
)
from swerex.utils.aws_resources import SETTLING

__all__ = ["FargateDeployment", "FargateDeploymentConfig"]

_ALIVE_TIMEOUT = 5.0
"""Seconds that `is_alive` waits for an answer by default."""
_STOP_PATIENCE = 30.0
"""Seconds for which a task is tried to be stopped while AWS can't be reached, or limits the rate."""
_LOST_TASK_PATIENCE = 5.0
"""Seconds within which a task must be listed that was asked for, but whose ARN has not arrived."""

_FAILURE_THAT_PASSES = re.compile(r"capacity|resource|limit|try again|throttl|rate exceeded", re.IGNORECASE)
"""In the failures that RunTask returns."""
_NO_ROOM = ("Capacity is unavailable", "You've reached the limit on the number of")
"""In the errors that it raises."""


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
        # By it a task is found whose ARN has not arrived, since its start was interrupted, or an answer lost.
        self._started_by = ""
        self._may_be_lost = False
        self._watch: TaskWatch | None = None

    @property
    def task_arn(self) -> str | None:
        """The ARN of the task; None: there is none."""
        return self._task_arn

    @property
    def log_url(self) -> str | None:
        """Where a person can read the task's log in the AWS console; None: there is no log."""
        return self._watch.log_url if self._watch is not None else None

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
        arn = self._task_arn or ""
        self._watch = watch = TaskWatch(aws, self._cluster, arn, config.log_group)
        with typed_errors(f"The task {arn} could not be watched"):
            self._step(f"Waiting until the task {arn} runs")
            network = args["networkConfiguration"]["awsvpcConfiguration"]
            public = network["assignPublicIp"] == "ENABLED"
            host = self._wait_for_address(aws, watch, deadline, public=public)
        return RemoteRuntime(
            logger=self.logger,
            obituary=self._unless_stopped(watch.ask),
            auth_token=token,
            host=host,
            port=config.port,
            timeout=_ALIVE_TIMEOUT,
        )

    def _run_task(
        self, aws: Aws, bundle: BucketBundle | None, token: str, args: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        """Start a task, and return the arguments that it was started with.

        As long as AWS has no room for it, limits the rate or can't be reached, try again, until `deadline`.
        """
        self._started_by = f"swerex-{secrets.token_hex(12)}"
        client_token = secrets.token_hex(16)
        settled = 0.0
        pause = 1.0
        while True:
            self._check_wanted()
            self._cluster = args["cluster"]
            try:
                failures = self._ask_for_task(aws, args, client_token)
                if self._task_arn is not None:
                    return args
                reason = "; ".join(failure.get("reason", "unknown") for failure in failures)
                if not _FAILURE_THAT_PASSES.search(reason):
                    raise DeploymentStartupError(f"ECS starts no task of {self._config.image}: {reason}")
                # By the old one, ECS would answer the same again.
                client_token = secrets.token_hex(16)
            except AWS_ERRORS as error:
                reason = str(error)
                unsettled = is_unsettled(error)
                if not settled and (unsettled or is_missing(error)):
                    # Somebody may have removed what was found, or made, earlier in this process's life.
                    aws.forget()
                    args = run_task_args(aws, self._config, bundle, token)
                    client_token = secrets.token_hex(16)
                    settled = time.monotonic() + SETTLING
                elif not (
                    is_transient(error)
                    or any(words in reason for words in _NO_ROOM)
                    or (unsettled and time.monotonic() < settled)
                ):
                    raise
            # Not all at the same time again, of those who were refused together.
            self._pause(pause * random.uniform(0.5, 1), deadline, f"ECS could not start a task: {reason}")
            pause = min(2 * pause, 20.0)

    def _ask_for_task(self, aws: Aws, args: dict[str, Any], client_token: str) -> list[dict[str, str]]:
        """Ask once, and note the task's ARN; or return why there is no task.

        What is asked again by the same client token starts no second task.
        """
        before, self._may_be_lost = self._may_be_lost, True
        try:
            answer = aws.ecs.run_task(**{**args, "startedBy": self._started_by, "clientToken": client_token})
        except ClientError as error:
            if _is_final(error.response):
                self._may_be_lost = before
            raise
        if answer["tasks"]:
            self._task_arn = answer["tasks"][0]["taskArn"]
        if _is_final(answer):
            self._may_be_lost = before
        failures: list[dict[str, str]] = answer["failures"]
        return failures

    def _wait_for_address(self, aws: Aws, watch: TaskWatch, deadline: float, *, public: bool) -> str:
        """The address of the task, as soon as the task runs."""
        arn = self._task_arn or ""
        interface = address = ""
        pause = 0.1
        while True:
            try:
                task = aws.task(self._cluster, arn)
                if is_stopped(task):
                    raise self._has_ended(watch.ask(max_age=0) or end_of_task(task))
                interface = interface or interface_id(task)
                if interface and not address:
                    address = address_of(aws.interface(interface), public=public)
                status = task["lastStatus"] if task else "not known yet"
                if status == "RUNNING" and address:
                    return address
            except AWS_ERRORS as error:
                if not is_transient(error):
                    raise
                status = f"in a state that AWS does not tell ({error})"
            self._pause(
                pause,
                deadline,
                f"The task is {status}, {f'at {address}' if address else 'without an address'}, after "
                f"{self._config.startup_timeout:g} s. If its image takes longer to pull, give a larger "
                "startup_timeout.",
            )
            pause = min(1.5 * pause, 2.0)

    def _wait_until_alive(self, runtime: RemoteRuntime) -> None:
        config = self._config
        self._step("Waiting for the server in the task")
        try:
            runtime.wait_until_alive(timeout=config.runtime_timeout)
        except SandboxDiedError as error:
            self._check_wanted()
            raise self._has_ended(str(error)) from error
        except TimeoutError as error:
            raise self._failure(
                f"The task runs, but no server answers within {config.runtime_timeout:g} s. {error}\n"
                f"Check that port {config.port} of the task can be reached from here: the security group "
                f"admits {config.ingress_cidr}."
            ) from error
        self._beat = Beat(runtime, config.auto_remove_after)
        self._beat.start()

    def _pause(self, seconds: float, deadline: float, failure: str) -> None:
        self._check_wanted()
        if time.monotonic() + seconds > deadline:
            raise self._failure(failure)
        time.sleep(seconds)

    def _failure(self, reason: str) -> DeploymentStartupError:
        return DeploymentStartupError("\n".join(filter(None, [reason, self._last_words()])))

    def _has_ended(self, ending: str) -> DeploymentStartupError:
        # For want of its log group or bundle, maybe, which somebody has removed since they were found.
        if self._aws is not None:
            self._aws.forget()
        return DeploymentStartupError(f"The task of {self._config.image} has ended.\n{ending}")

    def _close(self, runtime: RemoteRuntime) -> None:
        # Its sessions end with the sandbox.
        runtime.disconnect()

    def _remove(self) -> None:
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.stop()
        aws = self._aws
        if aws is None or not (self._task_arn or self._may_be_lost):
            return
        if not patience(_STOP_PATIENCE):
            raise self._not_stopped("there is no time left at the exit of the interpreter")
        try:
            if self._task_arn is not None:
                self._stop_task(aws, self._task_arn)
            for arn in self._lost_tasks(aws) if self._may_be_lost else ():
                self._stop_task(aws, arn)
        except AWS_ERRORS as error:
            raise self._not_stopped(explain_error(error)) from error
        self._task_arn = self._watch = None
        self._may_be_lost = False

    def _not_stopped(self, reason: str) -> SwerexException:
        return SwerexException(
            f"The task {self._task_arn or f'that was started by {self._started_by}'} in the cluster "
            f"{self._cluster} could not be stopped: {reason}\nIt ends by itself after "
            f"{min(self._config.auto_remove_after, self._config.container_timeout):g} s. To end it "
            "earlier, call stop() again."
        )

    def _lost_tasks(self, aws: Aws) -> list[str]:
        """The tasks that were asked for, with the one whose ARN has arrived."""
        deadline = time.monotonic() + _LOST_TASK_PATIENCE
        while True:
            try:
                found: list[str] = repeat_while(
                    is_transient,
                    lambda: aws.ecs.list_tasks(cluster=self._cluster, startedBy=self._started_by)["taskArns"],
                    patience(_STOP_PATIENCE),
                )
            except aws.ecs.exceptions.ClusterNotFoundException:
                return []
            if found or self._task_arn is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def _stop_task(self, aws: Aws, arn: str) -> None:
        try:
            repeat_while(
                is_transient,
                lambda: aws.ecs.stop_task(
                    cluster=self._cluster, task=arn, reason="stopped by its swerex deployment"
                ),
                patience(_STOP_PATIENCE),
            )
        except ClientError as error:
            if not is_missing(error):
                raise
            self.logger.debug("The task %s is gone already: %s", arn, error)

    def _last_words(self) -> str:
        watch = self._watch
        if watch is None or watch.ending:
            # Then it stands in what the runtime has said.
            return ""
        return watch.ask(max_age=0) or watch.log()


def _is_final(response: dict[str, Any]) -> bool:
    """Whether AWS has answered the first attempt of a call, and not with a failure of its own."""
    metadata = response.get("ResponseMetadata", {})
    return bool(metadata.get("HTTPStatusCode", 500) < 500 and metadata.get("RetryAttempts") == 0)
