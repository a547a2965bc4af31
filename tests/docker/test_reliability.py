"""Many starts, interrupts at any moment, sandboxes that use up what they have: nothing hangs or is left."""

from __future__ import annotations

import errno
import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from swerex.exceptions import DeploymentStartupError, NonZeroExitCodeError, SwerexException
from swerex.runtime.abstract import BashAction, Command, ReadFileRequest, WriteFileRequest
from tests.docker.engines import deployment_in, leftovers, only_docker
from tests.docker.programs import own_cache, program
from tests.reliability.processes import descriptors, memory, threads
from tests.util import wait_until

MB = 1_000_000


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], set[str]]]:
    """Tells what files there are of the sandboxes of this test: their locks and their sockets."""
    locks = own_cache(tmp_path, monkeypatch)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory() as sockets:
        monkeypatch.setenv("TMPDIR", sockets)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield lambda: {name for name in [*os.listdir(locks), *os.listdir(sockets)] if "-bundle-" not in name}


def count() -> tuple[int, int]:
    """How many descriptors and threads this process has."""
    gc.collect()
    return descriptors(os.getpid()), threads(os.getpid())


@only_docker
def test_fifty_starts_and_stops_leave_nothing(engine, bare_image, files):
    def start_and_stop(number: int) -> None:
        network = "none" if number % 5 == 0 else None
        with deployment_in(engine, image=bare_image, network=network) as deployment:
            output = deployment.runtime.execute(Command(command=f"echo {number}")).stdout
            assert output == f"{number}\n"
            assert files()

    def assert_no_more() -> bool:
        # The SDK keeps connections for later.
        engine.client.close()
        return all(now <= then for now, then in zip(count(), before, strict=True))

    start_and_stop(0)
    engine.client.close()
    before = count()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start_and_stop, range(50)))
    assert not leftovers(engine)
    assert not files()
    wait_until(assert_no_more, timeout=10)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_the_volumes_of_an_image_go_with_the_container(engine, make_image, bare_image, way):
    api = engine.client.api
    image = make_image(f"FROM {bare_image}\nVOLUME /data\n")
    with deployment_in(engine, image=image) as deployment:
        mounts = api.inspect_container(deployment.container_name)["Mounts"]
        volume = next(mount["Name"] for mount in mounts if mount["Destination"] == "/data")
        if way == "kill":
            api.kill(deployment.container_name)
    wait_until(lambda: volume not in {item["Name"] for item in api.volumes()["Volumes"] or []})


INTERRUPTED = """
import random, threading, time
random.seed(fields.pop("seed"))
rounds = fields.pop("rounds")
deployment = deployment_in(engine, **fields)
begin = time.monotonic()
with deployment:
    length = time.monotonic() - begin
for _ in range(rounds):
    timer = threading.Timer(random.uniform(0, 1.2 * length), os.kill, (os.getpid(), signal.SIGINT))
    how = "interrupted"
    try:
        timer.start()
        deployment.start()
        how = "started"
        timer.join()
        time.sleep(1)
    except KeyboardInterrupt:
        pass
    timer.join()
    deployment.stop()
    tell(how)
    wait()
"""


@pytest.mark.parametrize(
    ("engine", "network", "rounds"),
    [("docker", None, 12), ("docker", "none", 8), ("podman", None, 6)],
    indirect=["engine"],
)
def test_interrupts_at_random_points_of_a_start_leave_nothing(engine, bare_image, files, network, rounds):
    ends = []
    with program(engine, INTERRUPTED, image=bare_image, network=network, seed=7, rounds=rounds) as client:
        for _ in range(rounds):
            ends.append(client.line())
            assert not leftovers(engine, client.owner)
            assert not files()
            client.go_on()
        client.finish()
    assert "interrupted" in ends


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.6])
@only_docker
def test_ctrl_c_ends_a_program_that_starts_a_sandbox(engine, bare_image, delay):
    code = "tell('begin')\nwith deployment_in(engine, **fields):\n    wait()"
    with program(engine, code, image=bare_image) as client:
        client.line()
        time.sleep(delay)
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(timeout=15) in (1, -signal.SIGINT)
        assert not leftovers(engine, client.owner)


@only_docker
def test_a_stop_while_it_starts_leaves_nothing(engine, bare_image):
    for delay in (0.0, 0.1, 0.3, 0.5):
        deployment = deployment_in(engine, image=bare_image)
        stopper = threading.Timer(delay, deployment.stop)
        stopper.start()
        with suppress(DeploymentStartupError):
            # If it was not yet over, it is over now.
            deployment.start()
        stopper.join()
        deployment.stop()
        assert not leftovers(engine)


@pytest.fixture
def full(start, bare_image):
    """A sandbox whose disks are full."""
    options = ["--read-only", "--tmpfs", "/tmp:size=1m", "--shm-size", "1m", "--tmpfs", "/run:size=1m"]
    runtime = start(image=bare_image, docker_args=options).runtime
    session = runtime.session("before")
    session.run("x=kept")
    for folder in ("/tmp", "/dev/shm", "/run"):
        done = runtime.execute(Command(command=f"cat /dev/zero > {folder}/fill"))
        assert "No space left" in done.stderr
    return runtime


def test_a_disk_that_is_full(full):
    assert full.is_alive()
    assert full.execute(Command(command="echo on")).stdout == "on\n"
    assert full.read_file(ReadFileRequest(path="/proc/version")).content.startswith("Linux")
    with pytest.raises(OSError, match="No space left") as caught:
        full.write_file(WriteFileRequest(path="/tmp/more", content="x" * 100_000))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises((OSError, SwerexException), match=r"(?i)no space left"):
        full.session("after")


def test_a_session_in_which_the_disk_was_full(full):
    def run(command: str) -> str:
        return full.run_in_session(BashAction(command=command, session="before", timeout=20)).output

    with pytest.raises((OSError, SwerexException), match=r"(?i)no space left"):
        run(f"echo {'x' * 200_000} | wc -c")
    full.execute(Command(command="rm /tmp/fill /dev/shm/fill /run/fill", check=True))
    assert run("echo $x") == "kept\n"
    assert run(f"echo {'x' * 200_000} | wc -c") == "200001\n"


def test_much_output_of_the_first_process(start, bare_image):
    """Nobody reads what a container prints, but for its tail; it must not stop for that."""
    deployment = start(image=bare_image)
    before = memory(os.getpid())
    begin = time.monotonic()
    deployment.runtime.execute(
        Command(command="yes 0123456789 | dd bs=1M count=50 iflag=fullblock > /proc/1/fd/1", timeout=30)
    )
    deployment.runtime.execute(Command(command="echo these are its last words > /proc/1/fd/1"))
    assert time.monotonic() - begin < 30
    assert deployment.is_alive()
    wait_until(lambda: "these are its last words" in deployment._last_words(), timeout=20)
    assert memory(os.getpid()) - before < 20 * MB


def test_a_command_that_uses_up_the_memory(start, bare_image):
    deployment = start(image=bare_image, memory="96m")
    eat = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}"
    with pytest.raises(NonZeroExitCodeError, match=r"Out of memory.*memory limit"):
        deployment.runtime.execute(Command(command=["/bin/bash", "-c", eat], check=True, timeout=30))
    assert deployment.is_alive()
    assert deployment.runtime.execute(Command(command="echo on")).stdout == "on\n"


def test_a_session_that_uses_up_the_memory(start, bare_image):
    deployment = start(image=bare_image, memory="96m")
    session = deployment.runtime.session()
    eat = "bash -c 'x=$(head -c 300000000 /dev/zero | tr \"\\\\0\" x)'"
    with pytest.raises(NonZeroExitCodeError, match="Out of memory"):
        session.run(eat, timeout=30)
    assert "Out of memory" in session.run(eat, timeout=30, check="silent").failure_reason
    assert session.run("echo on", timeout=10).output == "on\n"


@only_docker
def test_a_hundred_threads_on_one_deployment(start, bare_image):
    runtime = start(image=bare_image).runtime
    together = threading.Barrier(100)

    def use(number: int) -> str:
        together.wait()
        with runtime.session(f"{number}") as session:
            session.run(f"x={number}")
            path = f"/tmp/{number}"
            runtime.write_file(WriteFileRequest(path=path, content=f"{number}"))
            content = runtime.read_file(ReadFileRequest(path=path)).content
            return session.run("echo $x").output + content

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(use, range(100), timeout=50)) == [f"{number}\n{number}" for number in range(100)]
