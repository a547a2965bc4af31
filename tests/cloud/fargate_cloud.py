"""A stand-in for AWS with Fargate: the API is moto's, and a task's command runs for real, on this machine.

Each task has an address of its own in 127.0.0.0/8, and processes of its own: it sees no others, and all of
them end with the first. Its files are this machine's.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import requests
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.ecs import ecs_backends
from moto.logs import logs_backends
from moto.moto_api import state_manager

from swerex.deployment.fargate import FargateDeployment
from tests.cloud.fargate_aws import Answer, FakeAws

__all__ = ["REGION", "FargateCloud", "Image", "RunningTask", "fargate_cloud"]

REGION = "us-east-1"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The first process stays, so that the command is not the one that no signal ends.
_NAMESPACE = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_INIT = ["/bin/sh", "-c", '"$@"; exit $?', "init"]


@dataclass
class Image:
    """What a task of an image finds: the environment, or why the image can't be pulled."""

    env: dict[str, str] = field(default_factory=dict)
    pull_error: str = ""
    pull_seconds: float = 0.0


@dataclass
class RunningTask:
    """A task whose command was started."""

    arn: str
    address: str
    argv: list[str]
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path


class FargateCloud:
    """An AWS account with nothing in it but the default network, and images by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = {"python:3.11": Image({"PATH": f"{self.executables()}:{_PATH}"})}
        self.started: dict[str, RunningTask] = {}
        self.deaths = 0
        """How many of the next tasks end before their command is started."""
        self._threads: list[threading.Thread] = []
        self._net = f"127.{random.randrange(1, 255)}.{random.randrange(255)}"
        self._closed = False
        self.aws = FakeAws(self._on_answer)

    def executables(self, script: str = f'exec {sys.executable} -m swerex "$@"') -> Path:
        """A folder with a swerex-remote that is this script."""
        folder = self.folder / f"bin{len(list(self.folder.glob('bin*')))}"
        folder.mkdir()
        executable = folder / "swerex-remote"
        executable.write_text(f"#!/bin/sh\n{script}\n")
        executable.chmod(0o755)
        return folder

    def deployment(self, **kwargs: Any) -> FargateDeployment:
        """A deployment whose tasks run here."""
        return FargateDeployment(**kwargs)

    def aws_client(self, service: str) -> Any:
        """A client of boto3 for what is in the account."""
        return boto3.Session().client(service)

    def running(self) -> list[str]:
        """The tasks whose command runs, or that are still to run or said to run."""
        with self.aws.lock:
            tasks = [task for tasks in self._ecs.tasks.values() for task in tasks.values()]
            return [
                task.task_arn
                for task in tasks
                if task.last_status != "STOPPED"
                or (task.task_arn in self.started and self.started[task.task_arn].process.poll() is None)
            ]

    def tasks(self) -> list[Any]:
        """All that moto knows of tasks, in the order in which they were asked for."""
        with self.aws.lock:
            return [task for tasks in self._ecs.tasks.values() for task in tasks.values()]

    def close(self) -> None:
        self._closed = True
        for thread in self._threads:
            thread.join(10)
        self.aws.close()

    @property
    def _ecs(self) -> Any:
        return ecs_backends[DEFAULT_ACCOUNT_ID][REGION]

    def _on_answer(self, operation: str, arguments: dict[str, Any], answer: Answer) -> None:
        if operation == "StopTask" and arguments["task"] in self.started:
            self.started[arguments["task"]].process.kill()
        for task in self.tasks():
            if not hasattr(task, "number"):
                task.number = len(self._threads) + 1
                attachments, task.attachments = task.attachments, []
                task.last_status = "PROVISIONING"
                task.containers[0].exitCode = None
                thread = threading.Thread(target=self._run, args=(task, attachments), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, task: Any, attachments: list[dict[str, Any]]) -> None:
        """The life of a task."""
        with self.aws.lock:
            definition = self._ecs.describe_task_definition(task.task_definition_arn)
            dies = self.deaths > 0
            self.deaths -= dies
        container = definition.container_definitions[0]
        image = self.images.get(container["image"], Image(pull_error="no such image"))
        details = {detail["name"]: detail["value"] for detail in attachments[0]["details"]}
        interface = ec2_backends[DEFAULT_ACCOUNT_ID][REGION].get_network_interface(
            details["networkInterfaceId"]
        )
        address = f"{self._net}.{task.number}"
        with self.aws.lock:
            task.attachments = attachments
            task.last_status = "PENDING"
            interface.private_ip_address = interface.public_ip = address
        end = time.monotonic() + image.pull_seconds
        while time.monotonic() < end and not self._is_over(task):
            time.sleep(0.01)
        failure = image.pull_error or self._log_error(container)
        if failure or dies or self._is_over(task):
            self._end(task, "TaskFailedToStart", failure or "Timeout waiting for network interface")
            return
        running = self._start(task, image, container, address)
        with self.aws.lock:
            task.last_status = task.containers[0].last_status = "RUNNING"
        sent = 0
        ended = select.poll()
        pidfd = os.pidfd_open(running.process.pid)
        ended.register(pidfd, select.POLLIN)
        while not ended.poll(300):
            sent = self._send_log(container, running, sent)
            if self._is_over(task):
                running.process.kill()
        os.close(pidfd)
        code = running.process.wait()
        self._send_log(container, running, sent)
        with self.aws.lock:
            task.containers[0].exitCode = code if code >= 0 else 128 - code
        self._end(task, "EssentialContainerExited", "Essential container in task exited")

    def _start(self, task: Any, image: Image, container: dict[str, Any], address: str) -> RunningTask:
        overrides = task.overrides.get("containerOverrides", [{}])[0]
        folder = self.folder / f"task{task.number}"
        folder.mkdir()
        env = {
            "PATH": _PATH,
            "HOME": str(folder),
            "TMPDIR": str(folder),
            **image.env,
            **{
                item["name"]: item["value"]
                for item in [*container["environment"], *overrides.get("environment", [])]
            },
        }
        # All addresses of a task are just its one.
        argv = [
            word.replace("0.0.0.0", address) for word in [*container["entryPoint"], *container["command"]]
        ]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*_NAMESPACE, *([] if os.getuid() == 0 else ["--map-root-user"]), *_INIT, *argv],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = RunningTask(task.task_arn, address, argv, env, process, log)
        self.started[task.task_arn] = running
        return running

    def _log_error(self, container: dict[str, Any]) -> str:
        group = container.get("logConfiguration", {}).get("options", {}).get("awslogs-group")
        with self.aws.lock:
            if group is None or group in logs_backends[DEFAULT_ACCOUNT_ID][REGION].groups:
                return ""
        return (
            "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 "
            "times: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log "
            "group does not exist. : exit status 1"
        )

    def _send_log(self, container: dict[str, Any], running: RunningTask, sent: int) -> int:
        options = container.get("logConfiguration", {}).get("options")
        text = running.log.read_bytes()[sent:]
        if options and text:
            group = options["awslogs-group"]
            task_id = running.arn.rpartition("/")[2]
            stream = f"{options['awslogs-stream-prefix']}/{container['name']}/{task_id}"
            now = int(time.time() * 1000)
            events = [
                {"timestamp": now, "message": line} for line in text.decode(errors="replace").splitlines()
            ]
            with self.aws.lock:
                logs = logs_backends[DEFAULT_ACCOUNT_ID][REGION]
                logs.ensure_log_stream(group, stream)
                logs.put_log_events(group, stream, events)
        return sent + len(text)

    def _is_over(self, task: Any) -> bool:
        return self._closed or task.desired_status == "STOPPED"

    def _end(self, task: Any, code: str, reason: str) -> None:
        with self.aws.lock:
            if not task.stopped_reason:
                task.stopCode, task.stopped_reason = code, reason
            else:
                task.stopCode = "UserInitiated"
            task.desired_status = task.last_status = task.containers[0].last_status = "STOPPED"


@contextmanager
def fargate_cloud(folder: Path) -> Iterator[FargateCloud]:
    """The stand-in, and an environment in which boto3 uses it. Its tasks end with it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    }
    with mock.patch.dict(os.environ, env, clear=True):
        cloud = FargateCloud(folder)
        os.environ["AWS_ENDPOINT_URL"] = cloud.aws.url
        try:
            requests.post(f"{cloud.aws.url}/moto-api/reset", timeout=30)
            # Tasks go through their states as their processes do.
            state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1 << 60})
            yield cloud
        finally:
            cloud.close()
