from __future__ import annotations

import subprocess
import sys

from tests.test_examples import EXAMPLES


def test_docker_container(engine, image, tmp_path):
    options = ["--podman"] if engine.name == "Podman" else []
    result = subprocess.run(
        [sys.executable, EXAMPLES / "docker_container.py", image, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "tests: exit code 1 AssertionError",
        "tests: exit code 0",
        "network: lo",
        "result: 1.5",
        "the container is gone",
    ]
