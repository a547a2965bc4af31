"""A container as a sandbox, with no network and little memory: python examples/docker_container.py [IMAGE]

Needs Docker, or with --podman the API service of Podman. The image has a Python for the project's sake only:
the sandbox needs none.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from swerex.deployment import get_deployment
from swerex.deployment.config import DockerDeploymentConfig
from swerex.runtime.abstract import AbstractRuntime, ReadFileRequest, Session, UploadRequest, WriteFileRequest

MEDIAN = """
def median(numbers):
    return sorted(numbers)[len(numbers) // 2]
"""
TEST = """
from median import median

assert median([3, 1, 2]) == 2
assert median([1, 2, 3, 4]) == 2.5
"""
FIXED = "from statistics import median\n"


def upload_project(runtime: AbstractRuntime, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "median.py").write_text(MEDIAN)
        Path(folder, "test_median.py").write_text(TEST)
        runtime.upload(UploadRequest(source_path=folder, target_path=target))


def test_project(session: Session) -> None:
    """Run its tests, which may fail, and say how they did."""
    observation = session.run("python3 test_median.py", timeout=30, check="silent")
    last = observation.output.strip().splitlines()[-1:]
    print(f"tests: exit code {observation.exit_code}", *last)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the tests of a small project in a container.")
    parser.add_argument("image", nargs="?", default="python:3.11")
    parser.add_argument("--podman", action="store_true", help="use Podman in place of Docker")
    options = parser.parse_args()

    config = DockerDeploymentConfig(
        image=options.image,
        container_runtime="podman" if options.podman else "docker",
        memory="512m",
        network="none",
    )
    with get_deployment(config) as deployment:
        runtime = deployment.runtime
        upload_project(runtime, "/project")
        with runtime.session("work", cwd="/project") as session:
            test_project(session)
            runtime.write_file(WriteFileRequest(path="/project/median.py", content=FIXED))
            test_project(session)
            print("network:", session.run("ls /sys/class/net").output.strip())
            session.run("python3 -c 'from median import median; print(median([1, 2]))' >result.txt")
        print("result:", runtime.read_file(ReadFileRequest(path="/project/result.txt")).content.strip())
    print("the container is gone")


if __name__ == "__main__":
    main()
