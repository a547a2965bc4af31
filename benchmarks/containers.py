"""Measure sandboxes in containers next to bare ones: ``python benchmarks/containers.py --image IMAGE``.

Every figure is a median, and what is compared is measured in turns. ``--bare IMAGE`` is an image without
Python for the first rows; by default it is the same.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import docker
from compare import machine, table

from swerex.deployment.docker import DockerDeployment, prune
from swerex.runtime.abstract import AbstractRuntime, BashAction, CreateBashSessionRequest
from swerex.runtime.remote import RemoteRuntime

TRUE = BashAction(command="true")


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median(work: Callable[[], float], times: int) -> float:
    return statistics.median(work() for _ in range(times))


class Benchmark:
    def __init__(self, runtime: str, image: str, bare: str) -> None:
        self.kwargs = {"container_runtime": runtime, "pull": "never"}
        self.image, self.bare_image = image, bare
        url = os.environ.get("CONTAINER_HOST") if runtime == "podman" else None
        self.client = docker.DockerClient(base_url=url, timeout=120) if url else docker.from_env(timeout=120)

    def deployment(self, image: str | None = None) -> DockerDeployment:
        return DockerDeployment(image=image or self.image, **self.kwargs)

    def bare_run(self, image: str) -> float:
        """Create, start and remove a container that does nothing of ours."""

        def run() -> None:
            name = f"bare-{secrets.token_hex(6)}"
            self.client.containers.create(
                image,
                entrypoint=["/bin/sleep"],
                command=["60"],
                name=name,
                ports={"8000/tcp": ("127.0.0.1", None)},
            )
            self.client.api.start(name)
            self.client.api.remove_container(name, force=True)

        return seconds(run)

    def first_command(self) -> tuple[float, float, float]:
        """Seconds from start() to the first command's result, for stop(), and for a bare container."""
        starts, stops, bares = [], [], []
        for _ in range(7):
            bares.append(self.bare_run(self.bare_image))
            deployment = self.deployment(self.bare_image)

            def begin(deployment: DockerDeployment = deployment) -> None:
                deployment.start()
                deployment.runtime.create_session(CreateBashSessionRequest())
                deployment.runtime.run_in_session(TRUE)

            starts.append(seconds(begin))
            stops.append(seconds(deployment.stop))
        return statistics.median(starts), statistics.median(stops), statistics.median(bares)

    def first_time(self) -> float:
        """The same with nothing prepared on this machine: in a process, and with a cache, of its own."""
        prune(volumes=True, container_runtime=self.kwargs["container_runtime"])
        code = (
            "import sys; from swerex.deployment.docker import DockerDeployment\n"
            "from swerex.runtime.abstract import Command\n"
            f"with DockerDeployment(image={self.bare_image!r}, **{self.kwargs!r}) as deployment:\n"
            "    deployment.runtime.execute(Command(command=['true']))\n"
        )
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "XDG_CACHE_HOME": cache, "SWE_REX_LOG_STREAM_LEVEL": "ERROR"}
            return seconds(lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True))

    def at_once(self, number: int = 16) -> tuple[float, float]:
        """Seconds for `number` starts at once, and for as many bare containers."""
        ours, bares = [], []
        for _ in range(3):
            with ThreadPoolExecutor(number) as pool:
                bares.append(seconds(lambda: list(pool.map(self.bare_run, [self.image] * number))))
                deployments = [self.deployment() for _ in range(number)]
                ours.append(seconds(lambda: list(pool.map(DockerDeployment.start, deployments))))  # noqa: B023
                list(pool.map(DockerDeployment.stop, deployments))
        return statistics.median(ours), statistics.median(bares)

    def true(self) -> tuple[float, float]:
        """Seconds for a command in a container, and through a server on this machine's loopback."""
        with self.deployment() as deployment, _server() as loopback:
            runtimes: list[AbstractRuntime] = [deployment.runtime, loopback]
            times: list[list[float]] = [[], []]
            for runtime in runtimes:
                runtime.create_session(CreateBashSessionRequest())
                runtime.run_in_session(TRUE)
            for _ in range(40):
                for runtime, found in zip(runtimes, times, strict=True):
                    found += [seconds(lambda: runtime.run_in_session(TRUE)) for _ in range(10)]  # noqa: B023
            return statistics.median(times[0]), statistics.median(times[1])

    def memory(self, number: int = 50) -> float:
        """Megabytes of each of `number` sandboxes in use: their processes' share of what is in memory."""
        deployments = [self.deployment() for _ in range(number)]
        with ThreadPoolExecutor(8) as pool:
            try:
                list(pool.map(DockerDeployment.start, deployments))

                def use(deployment: DockerDeployment) -> float:
                    deployment.runtime.create_session(CreateBashSessionRequest())
                    deployment.runtime.run_in_session(TRUE)
                    top = self.client.api.top(deployment.container_name, ps_args="-o pid")
                    return sum(_private_memory(int(row[0])) for row in top["Processes"])

                return statistics.median(pool.map(use, deployments))
            finally:
                list(pool.map(DockerDeployment.stop, deployments))


def _private_memory(pid: int) -> float:
    """Its proportional share of what is in memory, in MB: proc(5)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    return 0.0


@contextmanager
def _server() -> Iterator[RemoteRuntime]:
    """A server on this machine's loopback."""
    token = secrets.token_hex(16)
    with subprocess.Popen(
        [sys.executable, "-m", "swerex", "--host", "127.0.0.1", "--port", "0"],
        env={**os.environ, "SWEREX_AUTH_TOKEN": token},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with RemoteRuntime(host=url, auth_token=token) as runtime:
            yield runtime
        process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure sandboxes in containers, and print a table.")
    parser.add_argument("--container-runtime", choices=["docker", "podman"], default="docker")
    parser.add_argument("--image", default="python:3.11")
    parser.add_argument("--bare", metavar="IMAGE", help="an image without Python, for the first rows")
    options = parser.parse_args()
    benchmark = Benchmark(options.container_runtime, options.image, options.bare or options.image)

    lines = [["work", "a bare container", "ours", "ratio", "limit", "held"]]

    def row(
        title: str, bare: float | None, ours: float, unit: str, most: float | None, ratio: float | None
    ) -> None:
        limits = [f"≤ {most:g} {unit}"] if most is not None else []
        limits += [f"≤ {ratio:g} times"] if ratio is not None else []
        held = (most is None or ours <= most) and (ratio is None or bare is None or ours <= ratio * bare)
        share = f"{ours / bare:.3g}" if bare else ""
        theirs = f"{bare:.3g} {unit}" if bare else ""
        lines.append([title, theirs, f"{ours:.3g} {unit}", share, ", ".join(limits), "yes" if held else "NO"])
        print(*lines[-1], sep=" | ", file=sys.stderr)

    first = benchmark.first_time()
    start, stop, bare = benchmark.first_command()
    row("start() to the first command's result", bare, start, "s", 0.9, 2)
    row("the same, for the first time on a machine", None, first, "s", 8, None)
    row("stop()", None, stop, "s", 0.3, None)
    ours, bare = benchmark.at_once()
    row("16 starts at once", bare, ours, "s", None, 1.5)
    ours, loopback = benchmark.true()
    row('run_in_session("true") (bare: a server on loopback)', 1000 * loopback, 1000 * ours, "ms", None, 1.3)
    row("memory of each of 50 sandboxes in use", None, benchmark.memory(), "MB", 50, None)
    print(table(lines), machine(), sep="\n\n")


if __name__ == "__main__":
    main()
