"""Clouds of this machine, for the tests of what runs in a cloud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.fargate_cloud import FargateCloud, fargate_cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FargateCloud]:
    """One AWS account for the tests of a module."""
    with fargate_cloud(tmp_path_factory.mktemp("fargate")) as cloud:
        yield cloud
