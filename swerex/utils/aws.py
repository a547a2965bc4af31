"""AWS for the Fargate deployment: one set of clients for the whole process, within the account's rate limits.

Credentials and the region are found as everywhere in boto3.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, InvalidEndpointConfigurationError, NoCredentialsError

from swerex import __version__

__all__ = ["TAGS", "Aws", "Batcher", "RateLimiter", "connect"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TAGS = {"origin": "swe-rex-deployment-auto"}
"""What everything that is made in an account is tagged with."""

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=30,
    # For throttling, server errors and lost connections, with pauses of up to 1, 2, 4, 8 and 16 s, and fewer
    # attempts where many calls of one client fail. Where that may not be enough, the caller tries again.
    retries={"mode": "standard", "total_max_attempts": 6},
    max_pool_connections=200,
    user_agent_extra=f"swerex/{__version__}",
)
_RUN_TASK_RATE = 20
"""Calls a second that AWS accepts; see "AWS Fargate throttling quotas" in the ECS developer guide."""
_ECS_RATE, _ECS_BURST = 20, 50
"""The same for the other calls, see "Request throttling for the Amazon ECS API"; half of some buckets."""
_QUESTIONS_PAUSE = 0.2
"""Seconds between two calls that ask for the state of tasks, for all deployments of a cluster together."""


class RateLimiter:
    """Lets `rate` calls a second pass, of all threads together, and up to `burst` of them at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) / rate
        self._next = 0.0
        # Reentrant, since a signal handler may stop a deployment.
        self._lock = threading.RLock()

    def wait(self) -> None:
        """Return when the next call may be made."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now - self._slack)
            self._next = turn + self._interval
        time.sleep(max(0.0, turn - now))


class Batcher(Generic[K, V]):
    """Answers the questions of many threads with few calls of `ask`, which are `pause` seconds apart.

    `ask` is given up to `size` different keys, and returns what it found by key.
    """

    def __init__(self, ask: Callable[[list[K]], dict[K, V]], *, pause: float, size: int = 100) -> None:
        self._ask = ask
        self._pause = pause
        self._size = size
        self._lock = threading.Lock()
        self._round = _Round[K, V]()
        """That of the next call."""
        self._asking = threading.Lock()
        self._last = -pause

    def get(self, key: K) -> V | None:
        """What there is under `key`; None: nothing."""
        with self._lock:
            if len(self._round.keys) == self._size:
                self._round = _Round()
            mine = self._round
            mine.keys.add(key)
        # Whoever gets the lock asks for all of the round; and if that is interrupted, the next one does.
        with self._asking:
            if not mine.found.done():
                self._ask_for(mine)
        return mine.found.result().get(key)

    def _ask_for(self, round_: _Round[K, V]) -> None:
        time.sleep(max(0.0, self._last + self._pause - time.monotonic()))
        with self._lock:
            if self._round is round_:
                self._round = _Round()
        try:
            round_.found.set_result(self._ask(list(round_.keys)))
        except Exception as error:
            # It is raised in all threads that it concerns.
            round_.found.set_exception(error)
        finally:
            self._last = time.monotonic()


class _Round(Generic[K, V]):
    """Keys that are asked for together."""

    def __init__(self) -> None:
        self.keys: set[K] = set()
        self.found: Future[dict[K, V]] = Future()


class Aws:
    """The clients of one region, and what was found or made there. Get it from `connect`."""

    def __init__(self, session: Any, region: str | None) -> None:
        def client(name: str, config: Config = _CONFIG) -> Any:
            return session.client(name, region_name=region, config=config)

        self.ecs = client("ecs")
        self.ec2 = client("ec2")
        self.iam = client("iam")
        self.logs = client("logs")
        # What a presigned address needs to be good in all regions: a signature of version 4, and the region
        # in the name of the host, where boto3 puts it only if the style is given.
        style = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
        self.s3 = client("s3", _CONFIG.merge(style))
        self.region: str = self.ecs.meta.region_name
        self._limit_rates()
        self._known: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._interfaces = Batcher(self._ask_interfaces, pause=_QUESTIONS_PAUSE)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns; it is called once for each `key`, however many threads ask."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            known = self._known
            if key not in known:
                known[key] = make()
            found: T = known[key]
            return found

    def forget(self) -> None:
        """Look everything up again: somebody has removed what was found before."""
        self._known = {}

    def task(self, cluster: str, arn: str) -> dict[str, Any] | None:
        """The state of a task, as of now; None: ECS does not know it, any more or yet."""

        def ask(arns: list[str]) -> dict[str, dict[str, Any]]:
            tasks = self.ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"]
            return {task["taskArn"]: task for task in tasks}

        make: Callable[[], Batcher[str, dict[str, Any]]] = lambda: Batcher(ask, pause=_QUESTIONS_PAUSE)  # noqa: E731
        return self.once(("tasks", cluster), make).get(arn)

    def interface(self, interface_id: str) -> dict[str, Any] | None:
        """A network interface, as it is now; None: it does not exist, any more or yet."""
        return self._interfaces.get(interface_id)

    def _ask_interfaces(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        # A filter, since an id that is not known would be an error for all.
        filters = [{"Name": "network-interface-id", "Values": ids}]
        found = self.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return {interface["NetworkInterfaceId"]: interface for interface in found}

    def _limit_rates(self) -> None:
        run_task, others = RateLimiter(_RUN_TASK_RATE, _RUN_TASK_RATE), RateLimiter(_ECS_RATE, _ECS_BURST)

        def wait(event_name: str, **_: object) -> None:
            (run_task if event_name.endswith(".RunTask") else others).wait()

        # Sent for each attempt, so that the client's own repetitions count too.
        self.ecs.meta.events.register("before-send.ecs", wait)


_connected: WeakValueDictionary[Hashable, Aws]
_connecting: threading.Lock


def _begin() -> None:
    global _connected, _connecting
    _connected, _connecting = WeakValueDictionary(), threading.Lock()


_begin()
# A child must not share connections with its parent, nor wait for locks that threads of the parent hold.
os.register_at_fork(after_in_child=_begin)


def connect(region: str | None) -> Aws:
    """The clients of `region`, by default that of the environment; the same ones as long as they are used.

    Raises:
        BotoCoreError: there is no region, there are no credentials, or AWS_ENDPOINT_URL is no address.
    """
    # A change of the environment, or of boto3's default session, counts.
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    default = boto3.DEFAULT_SESSION
    with _connecting:
        # With the session itself in the key, no other can take its place in memory meanwhile.
        key = (region, environment, default)
        aws = _connected.get(key)
        if aws is None:
            session = default or boto3.Session()
            if session.get_credentials() is None:
                raise NoCredentialsError
            try:
                aws = _connected[key] = Aws(session, region)
            except BotoCoreError:
                raise
            except ValueError as error:
                raise InvalidEndpointConfigurationError(msg=str(error)) from error
        return aws
