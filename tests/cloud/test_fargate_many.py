"""A hundred sandboxes at once, in an account that limits rates, and where things fail now and then."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.exceptions import DeploymentStartupError, SwerexException
from swerex.utils.aws import Batcher, RateLimiter
from tests.cloud.fargate_aws import answer
from tests.cloud.fargate_cloud import FargateCloud, fargate_cloud
from tests.util import alone, wait_until

_MANY = 100


def use(cloud: FargateCloud, number: int) -> str:
    """Start a sandbox, use it, and stop it; return what came of it."""
    deployment = cloud.deployment(runtime_timeout=150)
    try:
        with deployment, deployment.runtime.session() as session:
            assert session.run(f"echo {number}").output == f"{number}\n"
        return "worked"
    except DeploymentStartupError as error:
        return "failed" if "Timeout waiting for network interface" in str(error) else str(error)


def test_a_hundred_at_once_work_or_fail_typed_and_nothing_is_left(tmp_path: Path):
    # A hundred servers take half a minute to start on two cores.
    signal.alarm(600)
    full = answer({"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time."}]})
    with fargate_cloud(tmp_path) as cloud:
        cloud.aws.failure_rate = 0.05
        cloud.deaths = 5
        cloud.aws.plan("RunTask", *[full] * 5)
        with alone("hundreds"), ThreadPoolExecutor(_MANY) as pool:
            outcomes = Counter(pool.map(lambda number: use(cloud, number), range(_MANY)))
        assert outcomes == {"worked": _MANY - 5, "failed": 5}, "only what could not be helped fails"
        wait_until(lambda: not cloud.running(), timeout=20)
        assert cloud.aws.throttled["RunTask"] <= 5, "the rate of AWS is respected"
        assert sum(cloud.aws.throttled.values()) <= 0.05 * sum(cloud.aws.calls.values())
        # With the calls of each for itself, these would be some hundreds.
        assert cloud.aws.calls["CreateCluster"] + cloud.aws.calls["RegisterTaskDefinition"] < 10


def test_a_limiter_lets_a_burst_pass_and_then_its_rate():
    limiter = RateLimiter(rate=5, burst=10)
    begin = time.monotonic()
    passed = []
    with ThreadPoolExecutor(20) as pool:
        for _ in pool.map(lambda _: limiter.wait(), range(12)):
            passed.append(time.monotonic() - begin)
    assert max(passed) >= 0.35
    assert sorted(passed)[9] < 1, "without the burst it were 1.8"


def test_a_batcher_asks_once_for_all_who_wait():
    asked: list[list[int]] = []

    def ask(keys: list[int]) -> dict[int, str]:
        asked.append(keys)
        return {key: f"found {key}" for key in keys if key != 7}

    batcher = Batcher(ask, pause=0.2)
    assert batcher.get(0) == "found 0"
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(batcher.get, range(50)))
    assert found == [None if key == 7 else f"found {key}" for key in range(50)]
    assert len(asked) <= 10


def test_a_batcher_asks_for_as_many_as_allowed():
    sizes: list[int] = []

    def ask(keys: list[int]) -> dict[int, int]:
        sizes.append(len(keys))
        return dict.fromkeys(keys, 0)

    batcher = Batcher(ask, pause=0.1, size=10)
    with ThreadPoolExecutor(35) as pool:
        assert list(pool.map(batcher.get, range(35))) == [0] * 35
    assert max(sizes) == 10


def test_a_batcher_hands_an_error_to_all_whom_it_concerns_and_goes_on():
    broken = threading.Event()
    broken.set()

    def ask(keys: list[int]) -> dict[int, int]:
        if broken.is_set():
            raise SwerexException("broken")
        return dict.fromkeys(keys, 1)

    batcher = Batcher(ask, pause=0.05)
    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(batcher.get, key) for key in range(5)]:
            with pytest.raises(SwerexException, match="broken"):
                future.result()
    broken.clear()
    assert batcher.get(1) == 1


def test_a_batcher_whose_caller_is_interrupted_still_answers_the_others():
    interrupt = [KeyboardInterrupt()]

    def ask(keys: list[int]) -> dict[int, int]:
        if interrupt:
            raise interrupt.pop()
        return dict.fromkeys(keys, 1)

    batcher = Batcher(ask, pause=0)
    with pytest.raises(KeyboardInterrupt):
        batcher.get(1)
    assert (batcher.get(1), batcher.get(2)) == (1, 1)


def test_a_batcher_whose_caller_is_interrupted_asks_again_for_those_who_wait_with_it(monkeypatch):
    interrupts = [KeyboardInterrupt()]

    class InterruptedFuture(Future[object]):
        def set_result(self, result: object) -> None:
            if interrupts:
                raise interrupts.pop()
            super().set_result(result)

    monkeypatch.setattr("swerex.utils.aws.Future", InterruptedFuture)
    batcher: Batcher[int, int] = Batcher(lambda keys: dict.fromkeys(keys, 1), pause=0.3)
    # Both come in the pause before the first call.
    batcher._last = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(batcher.get, key) for key in (1, 2)]
        outcomes = [call.exception(10) or call.result() for call in calls]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyboardInterrupt", "int"]
