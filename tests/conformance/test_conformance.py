"""Every check of the conformance suite, on every deployment of the list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swerex.deployment.abstract import AbstractDeployment
from swerex.testing import Check, Make, NotApplicable, checks
from tests.conformance.deployments import DEPLOYMENTS


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    with DEPLOYMENTS[request.param]() as make:
        yield make


@pytest.fixture(scope="module")
def deployment(make: Make) -> Iterator[AbstractDeployment]:
    with make() as deployment:
        yield deployment


@pytest.mark.parametrize("check", checks(), ids=str)
def test_holds(check: Check, make: Make, deployment: AbstractDeployment) -> None:
    try:
        check(make, deployment)
    except NotApplicable as reason:
        pytest.skip(str(reason))
