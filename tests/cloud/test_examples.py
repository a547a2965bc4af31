"""The same example in each cloud, with nothing but the endpoint changed, which is in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cloud.fargate_cloud import fargate_cloud
from tests.cloud.modal_cloud import modal_deployments
from tests.test_examples import ANYWHERE, EXAMPLES


def anywhere(kind: str, folder: Path) -> list[str]:
    result = subprocess.run(
        [sys.executable, EXAMPLES / "anywhere.py", kind],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_on_fargate(tmp_path: Path) -> None:
    with fargate_cloud(tmp_path) as cloud:
        assert anywhere("fargate", tmp_path) == ANYWHERE
        assert cloud.running() == []


def test_on_modal(tmp_path: Path) -> None:
    with modal_deployments("process"):
        assert anywhere("modal", tmp_path) == ANYWHERE
