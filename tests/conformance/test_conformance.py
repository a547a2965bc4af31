"""Every check of the conformance suite, on every deployment of the list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from swerex.testing import Check, Make, NotApplicable, checks
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
    # What they need is prepared here, and given back in the reverse order: some of it is in the environment.
    with ExitStack() as stack:
        threads: dict[str, threading.Thread] = {}
        for name in names:
            wanted = {check: future for (other, check), future in found.items() if other == name}
            try:
                make = stack.enter_context(DEPLOYMENTS[name]())
            except (Exception, pytest.skip.Exception) as error:
                give_up(wanted, error)
            else:
                threads[name] = threading.Thread(target=make_all, args=[make, wanted])
        for thread in threads.values():
            thread.start()
        if "local" in threads:
            # Its commands see the environment of this process, which pytest changes with each test.
            threads["local"].join()
        yield found
        for thread in threads.values():
            thread.join()


def make_all(make: Make, wanted: dict[Check, Future[None]]) -> None:
    try:
        with make() as deployment:
            for check, future in wanted.items():
                try:
                    check(make, deployment)
                    future.set_result(None)
                except Exception as error:
                    future.set_exception(error)
    except Exception as error:
        give_up(wanted, error)


def give_up(wanted: dict[Check, Future[None]], error: BaseException) -> None:
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
