"""Every check of the conformance suite, on every deployment of the list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from swerex.testing import Check, NotApplicable, checks
from tests.conformance.deployments import DEPLOYMENTS

Attempts = dict[tuple[str, Check], Future[None]]


@pytest.fixture(scope="module")
def attempts(request: pytest.FixtureRequest) -> Iterator[Attempts]:
    """The checks that were selected, each being made or to be made soon: the deployments take their time
    waiting, and so they do it all at once, each with one check after the other."""
    found: Attempts = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.function is test_holds:
            found[item.callspec.params["name"], item.callspec.params["check"]] = Future()
    names = dict.fromkeys(name for name, _ in found)
    threads = [threading.Thread(target=make_all, args=[name, found]) for name in names]
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join()


def make_all(name: str, attempts: Attempts) -> None:
    wanted = {check: future for (other, check), future in attempts.items() if other == name}
    try:
        with DEPLOYMENTS[name]() as make, make() as deployment:
            for check, future in wanted.items():
                try:
                    check(make, deployment)
                    future.set_result(None)
                except Exception as error:
                    future.set_exception(error)
    except BaseException as error:
        # What stands in the way of the start, which may also be a skip, is told by every test.
        for future in wanted.values():
            if not future.done():
                future.set_exception(error)


@pytest.mark.parametrize("check", checks(), ids=str)
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_holds(name: str, check: Check, attempts: Attempts) -> None:
    try:
        attempts[name, check].result()
    except NotApplicable as reason:
        pytest.skip(str(reason))
