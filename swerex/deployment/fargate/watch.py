"""What AWS tells of a task: whether it has ended, why, and what it printed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from swerex.deployment.fargate.task import CONTAINER, end_of_task, has_run, is_stopped
from swerex.utils.aws import Aws
from swerex.utils.aws_errors import AWS_ERRORS, explain_error

__all__ = ["TaskWatch"]

_MAX_AGE = 1.0
_TIMEOUT = 4.0
_PAUSES = (0, 0.5, 0.5, 0.5)
"""Seconds between questions about a task that has ended: its exit code and last lines come a little later."""
_LOG_LINES = 30


class TaskWatch:
    """Asks AWS about a task, for all threads. No method raises, nor waits for AWS for longer than `_TIMEOUT`
    seconds, and as long for each who has asked before."""

    def __init__(self, aws: Aws, cluster: str, arn: str, log_group: str | None) -> None:
        self._aws = aws
        self._cluster = cluster
        self._arn = arn
        # So ECS calls it: by the prefix, the container and the task.
        self._log_stream = f"{CONTAINER}/{CONTAINER}/{arn.rpartition('/')[2]}"
        self._log_group = log_group
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._asked = float("-inf")
        self._log = ""
        self.ending = ""
        """How the task ended, with the tail of its log. Nothing as long as it runs, for all that is known."""

    @property
    def log_url(self) -> str | None:
        """Where a person can read the log in the AWS console; None: there is no log."""
        if self._log_group is None:
            return None
        region = self._aws.region
        # The console wants the names encoded twice, with $ in place of %.
        path = "/log-events/".join(
            quote(quote(name, safe=""), safe="").replace("%", "$")
            for name in (self._log_group, self._log_stream)
        )
        return (
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
            f"#logsV2:log-groups/log-group/{path}"
        )

    def ask(self, max_age: float = _MAX_AGE) -> str:
        """The `ending`, for which AWS was asked at most `max_age` seconds ago."""
        with self._lock:
            if not self.ending and time.monotonic() - self._asked >= max_age:
                self._in_time(self._ask_ending)
                self._asked = time.monotonic()
            return self.ending

    def log(self) -> str:
        """The tail of what it printed, as far as AWS has it."""
        with self._lock:
            self._in_time(self._ask_log)
            return self._log

    def _in_time(self, ask: Callable[[], None]) -> None:
        # While AWS is slow, one thread waits for it, and nobody else.
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=ask, name="swerex-watch", daemon=True)
            # Python 3.12 starts no threads at the exit of the interpreter, where nobody asks any more.
            with suppress(RuntimeError):
                self._asking.start()
                self._asking.join(_TIMEOUT)

    def _ask_ending(self) -> None:
        try:
            for pause in _PAUSES:
                time.sleep(pause)
                task = self._aws.task(self._cluster, self._arn)
                if task is None or not is_stopped(task):
                    return
                self._ask_log()
                self.ending = "\n".join(filter(None, [end_of_task(task), self._log]))
                has_log = self._log or self._log_group is None or not has_run(task)
                if task["lastStatus"] == "STOPPED" and has_log:
                    return
        except AWS_ERRORS:
            # What AWS does not tell now, it may tell when it is asked again.
            return

    def _ask_log(self) -> None:
        if self._log_group is None:
            return
        try:
            events = self._aws.logs.get_log_events(
                logGroupName=self._log_group, logStreamName=self._log_stream, limit=_LOG_LINES
            )["events"]
        except self._aws.logs.exceptions.ResourceNotFoundException:
            # Nothing has arrived from it.
            return
        except AWS_ERRORS as error:
            self._log = f"Its log can't be read: {explain_error(error)}"
            return
        if events:
            lines = "\n".join(event["message"] for event in events)
            self._log = f"The end of its log, which is at {self.log_url}:\n{lines}"
