"""AWS for the Fargate deployment: one set of clients for the whole process, within the account's rate limits.

Credentials and the region are found as everywhere in boto3.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from swerex import __version__
from swerex.exceptions import DeploymentStartupError

__all__ = ["TAGS", "Aws", "Batcher", "RateLimiter", "connect", "error_code", "explain_error", "typed_errors"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TAGS = {"origin": "swe-rex-deployment-auto"}
"""What everything that is made in an account is tagged with."""

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=30,
    # With a pause that grows up to 20 s, and for throttling, server errors and lost connections only.
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
        self._waiting: dict[K, Future[V | None]] = {}
        self._lock = threading.Lock()
        self._round = threading.Lock()
        self._last = -pause

    def get(self, key: K) -> V | None:
        """What there is under `key`; None: nothing."""
        with self._lock:
            future = self._waiting.setdefault(key, Future())
        while not future.done():
            # Whoever gets the lock asks for all who wait; to the others their answers have then come.
            with self._round:
                if not future.done():
                    self._ask_once()
        return future.result()

    def _ask_once(self) -> None:
        time.sleep(max(0.0, self._last + self._pause - time.monotonic()))
        with self._lock:
            keys = list(self._waiting)[: self._size]
            futures = [self._waiting[key] for key in keys]
        try:
            found = self._ask(keys)
        except Exception as error:
            # It is raised in all threads that it concerns.
            self._settle(keys)
            for future in futures:
                future.set_exception(error)
            return
        finally:
            self._last = time.monotonic()
        self._settle(keys)
        for key, future in zip(keys, futures, strict=True):
            future.set_result(found.get(key))

    def _settle(self, keys: list[K]) -> None:
        with self._lock:
            for key in keys:
                del self._waiting[key]


class Aws:
    """The clients of one region, and what was found or made there. Get it from `connect`."""

    def __init__(self, session: Any, region: str | None) -> None:
        def client(name: str, config: Config = _CONFIG) -> Any:
            return session.client(name, region_name=region, config=config)

        self.ecs = client("ecs")
        self.ec2 = client("ec2")
        self.iam = client("iam")
        self.logs = client("logs")
        # Version 4 signatures are what all regions accept in a presigned address.
        self.s3 = client("s3", _CONFIG.merge(Config(signature_version="s3v4")))
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
            if key not in self._known:
                self._known[key] = make()
            found: T = self._known[key]
            return found

    def forget(self) -> None:
        """Look everything up again: somebody has removed what was found before."""
        self._known.clear()

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


_connected: WeakValueDictionary[Hashable, Aws] = WeakValueDictionary()
_connecting = threading.Lock()


def connect(region: str | None) -> Aws:
    """The clients of `region`, by default that of the environment; the same ones as long as they are used.

    Raises:
        BotoCoreError: there is no region, or there are no credentials.
    """
    # A change of the environment, or of boto3's default session, counts.
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (region, environment, id(boto3.DEFAULT_SESSION))
    with _connecting:
        aws = _connected.get(key)
        if aws is None:
            session = boto3.DEFAULT_SESSION or boto3.Session()
            if session.get_credentials() is None:
                raise NoCredentialsError
            aws = _connected[key] = Aws(session, region)
        return aws


@contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn errors of boto3 into a `DeploymentStartupError` that says `what` could not be done."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise DeploymentStartupError(f"{what}: {explain_error(error)}") from error


def error_code(error: BaseException) -> str:
    """The code of an error with which AWS has answered; empty for all others."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def explain_error(error: BotoCoreError | ClientError) -> str:
    """The error's message, and what to do about it."""
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind):
            return f"{error}\n{advice}"
    code = error_code(error)
    for codes, advice in _ADVICE_BY_CODE.items():
        if code in codes:
            return f"{error}\n{advice}"
    return str(error)


_CREDENTIALS_ADVICE = (
    "Give credentials as for every program that uses AWS: `aws configure`, a profile in AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)
_ADVICE: dict[type[Exception], str] = {
    NoRegionError: "Set `region`, or the variable AWS_DEFAULT_REGION, or a region in ~/.aws/config.",
    NoCredentialsError: _CREDENTIALS_ADVICE,
    PartialCredentialsError: _CREDENTIALS_ADVICE,
    CredentialRetrievalError: _CREDENTIALS_ADVICE,
    ProfileNotFound: _CREDENTIALS_ADVICE,
    EndpointConnectionError: "Check the name of the region, AWS_ENDPOINT_URL, and the network.",
}
_ADVICE_BY_CODE: dict[tuple[str, ...], str] = {
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthFailure",
    ): "AWS does not accept the credentials; they are wrong or have expired. " + _CREDENTIALS_ADVICE,
    (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
    ): "The credentials lack a permission; the documentation of the Fargate deployment lists all it needs.",
    ("NoSuchBucket",): "Make the bucket that `bundle_bucket` names, in the same region.",
}
