"""Sandboxes that do not start, or die: what their callers learn, and how soon."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import APIError, NotFound

from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine
from swerex.exceptions import DeploymentStartupError, DockerPullError, SandboxDiedError, SwerexException
from swerex.runtime.abstract import AbstractRuntime, BashAction, Command
from swerex.utils.free_port import find_free_port
from tests.docker.engines import File, deployment_in, leftovers, only_docker
from tests.util import PYTHON, wait_until

SOON = 2.0
"""Seconds in which a caller learns of a death."""


def shell(script: str) -> list[str]:
    """An `exec_shell` that runs the script, with the command line that starts the server as its ``$0``."""
    return ["/bin/bash", "-c", script]


# A sandbox that does not start.


@only_docker
def test_a_container_that_exits_at_once(engine, bare_image):
    deployment = deployment_in(
        engine, image=bare_image, exec_shell=shell("echo no space; echo at $EPOCHREALTIME; exit 3")
    )
    with pytest.raises(DeploymentStartupError, match=r"(?s)exit code 3.*no space") as caught:
        deployment.start()
    died = re.search(r"at (\d+\.\d+)", str(caught.value))
    assert died
    assert time.time() - float(died[1]) < SOON


def test_a_container_that_exits_later(engine, bare_image):
    deployment = deployment_in(
        engine, image=bare_image, exec_shell=shell("sleep 1; echo no space; echo at $EPOCHREALTIME; exit 3")
    )
    with pytest.raises(DeploymentStartupError, match=r"(?s)exit code 3.*no space") as caught:
        deployment.start()
    died = re.search(r"at (\d+\.\d+)", str(caught.value))
    assert died
    assert time.time() - float(died[1]) < SOON


@only_docker
def test_only_the_end_of_a_long_log_is_told(engine, bare_image):
    script = "for ((i = 0; i < 5000; i++)); do echo line $i; done; exit 3"
    deployment = deployment_in(engine, image=bare_image, exec_shell=shell(script))
    with pytest.raises(DeploymentStartupError, match="line 4999") as caught:
        deployment.start()
    assert len(str(caught.value)) < 40_000
    assert "line 10\n" not in str(caught.value)


def test_a_server_that_never_answers(engine, bare_image):
    deployment = deployment_in(
        engine, image=bare_image, exec_shell=shell("echo waiting; exec sleep 60"), startup_timeout=1.5
    )
    begin = time.monotonic()
    with pytest.raises(DeploymentStartupError, match=r"(?s)within .* s.*waiting"):
        deployment.start()
    # Removing the container takes its time too.
    assert 1 < time.monotonic() - begin < 6


def test_a_server_with_another_token(engine, bare_image):
    deployment = deployment_in(
        engine, image=bare_image, exec_shell=shell('SWEREX_AUTH_TOKEN=another eval "$0"')
    )
    begin = time.monotonic()
    with pytest.raises(DeploymentStartupError, match=r"refuses the token \(401\)"):
        deployment.start()
    assert time.monotonic() - begin < 10


@only_docker
def test_a_start_that_failed_can_be_repeated(engine, bare_image, tmp_path):
    script = '[ -e /here/ready ] || { echo not yet; exit 3; }; eval "$0"'
    deployment = deployment_in(
        engine, image=bare_image, exec_shell=shell(script), volumes=[f"{tmp_path}:/here"]
    )
    with pytest.raises(DeploymentStartupError, match="not yet"):
        deployment.start()
    assert deployment.container_name is None
    (tmp_path / "ready").touch()
    with deployment:
        assert deployment.runtime.execute(Command(command="echo on")).stdout == "on\n"


def test_an_image_that_is_missing(engine):
    with pytest.raises(DockerPullError, match=r"'swerex-test/missing'.*pull='missing'"):
        deployment_in(engine, image="swerex-test/missing").start()


def test_a_program_for_another_machine(engine, make_image):
    """Such as all of an image for another architecture; the engine's machine can't run it."""
    other = 183 if os.uname().machine == "x86_64" else 62  # EM_AARCH64 and EM_X86_64
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + bytes([2, 0, other, 0, 1, 0, 0, 0]) + bytes(100)
    image = make_image("FROM scratch\nADD root.tar /\n", {"bin/bash": File(header)})
    with pytest.raises(DeploymentStartupError, match=r"(?is)exec format error.*platform"):
        deployment_in(engine, image=image, exec_shell=shell("true")).start()


# An engine that is not there.


@pytest.fixture(params=["docker", "podman"])
def engine_at(request, monkeypatch) -> Callable[[str], str]:
    """Makes an engine's usual variable lead somewhere, and returns the engine's name."""

    def lead(url: str) -> str:
        name: str = request.param
        monkeypatch.setenv("DOCKER_HOST" if name == "docker" else "CONTAINER_HOST", url)
        return name

    return lead


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users can reach, unlike `tmp_path`, and with a path short enough for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def start_at(engine_at: Callable[[str], str], url: str) -> str:
    """Start a sandbox in an engine that is not there; what the error says, which comes soon."""
    begin = time.monotonic()
    with pytest.raises(DeploymentStartupError, match=re.escape(url)) as caught:
        DockerDeployment(container_runtime=engine_at(url)).start()
    assert time.monotonic() - begin < 5
    return str(caught.value)


def test_no_engine_since_there_is_no_socket(engine_at, folder):
    words = start_at(engine_at, f"unix://{folder}/absent")
    assert "start it with" in words
    assert "_HOST" in words


def test_no_engine_since_nobody_serves_the_socket(engine_at, folder):
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(f"{folder}/dead")
        words = start_at(engine_at, f"unix://{folder}/dead")
    assert "start it with" in words
    assert "_HOST" in words


def test_no_engine_at_a_port(engine_at):
    words = start_at(engine_at, f"tcp://127.0.0.1:{find_free_port()}")
    assert "start it with" in words


def test_something_else_in_place_of_an_engine(engine_at, folder):
    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/other")
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            start_at(engine_at, f"unix://{folder}/other")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


NOBODY = """
import os, sys
from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine
from swerex.exceptions import DeploymentStartupError
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    DockerDeployment(container_runtime=sys.argv[1]).start()
except DeploymentStartupError as error:
    print(error)
"""


@pytest.mark.parametrize("forbidden", ["the socket", "its folder"])
def test_a_socket_without_permission(engine_at, folder, forbidden):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/engine")
        listener.listen()
        os.chmod(f"{folder}/engine" if forbidden == "the socket" else folder, 0)
        try:
            name = engine_at(f"unix://{folder}/engine")
            words = subprocess.run(
                [PYTHON, "-c", NOBODY, name], capture_output=True, text=True, check=True, timeout=30
            ).stdout
        finally:
            os.chmod(folder, 0o755)
    assert f"no permission for {name.capitalize()}'s socket {folder}/engine" in words
    assert ("usermod -aG docker" in words) == (name == "docker")


# A sandbox that is killed while it is used.

CALLS: dict[str, Callable[[AbstractRuntime, str], object]] = {
    "run_in_session": lambda runtime, begin: runtime.run_in_session(
        BashAction(command=f"{begin}; sleep 60", session="s")
    ),
    "run_in_session with a timeout": lambda runtime, begin: runtime.run_in_session(
        BashAction(command=f"{begin}; sleep 60", session="t", timeout=50)
    ),
    "execute": lambda runtime, begin: runtime.execute(Command(command=f"{begin}; exec sleep 60")),
}
"""Calls that take long, and run a command as soon as the server works on them."""


@pytest.fixture(params=["killed", "removed"])
def end_of(request, engine) -> Callable[[str], float]:
    """Ends a container from outside, and returns when the engine knew of it."""

    def end(name: str) -> float:
        if request.param == "killed":
            engine.client.api.kill(name)
        else:
            # It removes itself, too, and is faster now and then.
            with suppress(APIError):
                engine.client.api.remove_container(name, force=True)
        return ended(engine, name)

    return end


def ended(engine: Engine, name: str) -> float:
    """When the engine knows that a container has ended."""

    def has() -> bool:
        try:
            return not engine.client.api.inspect_container(name)["State"]["Running"]
        except NotFound:
            return True

    wait_until(has)
    return time.monotonic()


def test_calls_in_a_container_that_is_ended_from_outside(start, bare_image, tmp_path, end_of):
    deployment = start(image=bare_image, volumes=[f"{tmp_path}:/here"])
    runtime = deployment.runtime
    name = deployment.container_name
    for session in ("s", "t"):
        runtime.session(session)
    runtime.execute(Command(command="echo these are its last words > /proc/1/fd/1"))
    with ThreadPoolExecutor(len(CALLS)) as pool:
        calls = [
            pool.submit(call, runtime, f"touch /here/{number}") for number, call in enumerate(CALLS.values())
        ]
        wait_until(lambda: len(os.listdir(tmp_path)) == len(CALLS))
        died = end_of(name)
        for call in calls:
            error = call.exception(timeout=20)
            assert isinstance(error, SandboxDiedError)
            assert f"{name} has ended" in str(error)
            assert "these are its last words" in str(error)
        assert time.monotonic() - died < SOON
    answer = deployment.is_alive()
    assert not answer
    assert name in answer.message
    assert "these are its last words" in answer.message
    with pytest.raises(SandboxDiedError, match=name):
        runtime.execute(Command(command="true"))
    begin = time.monotonic()
    deployment.stop()
    assert time.monotonic() - begin < 3


def test_a_call_in_a_container_that_is_stopped_from_outside(engine, start, bare_image, tmp_path):
    """Its server has the time to end its sessions, and to say so."""
    deployment = start(image=bare_image, volumes=[f"{tmp_path}:/here"])
    session = deployment.runtime.session("s")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(session.run, "touch /here/begun; sleep 60")
        wait_until((tmp_path / "begun").exists)
        engine.client.api.stop(deployment.container_name, timeout=5)
        died = ended(engine, deployment.container_name)
        error = call.exception(timeout=20)
        assert isinstance(error, SwerexException)
        assert time.monotonic() - died < SOON, error
    wait_until(lambda: "has ended with exit code 0" in deployment.is_alive().message)


def test_the_exit_code_of_a_killed_container_is_told(engine, start, bare_image):
    deployment = start(image=bare_image)
    engine.client.api.kill(deployment.container_name)
    first = next(answer for answer in iter(deployment.is_alive, None) if not answer)
    assert "exit code 137" in first.message


@only_docker
def test_a_kept_container_that_is_killed_tells_why_too(engine, bare_image):
    with deployment_in(engine, image=bare_image, remove_container=False) as deployment:
        name = deployment.container_name
        engine.client.api.kill(name)
        wait_until(lambda: "exit code 137" in deployment.is_alive().message, timeout=SOON)
    engine.client.api.remove_container(name)


@only_docker
def test_a_sandbox_can_be_started_again_after_its_death(engine, bare_image):
    deployment = deployment_in(engine, image=bare_image)
    deployment.start()
    first = deployment.container_name
    engine.client.api.kill(first)
    deployment.stop()
    with deployment:
        assert deployment.container_name != first
        assert deployment.is_alive()
    assert not leftovers(engine)


@only_docker
def test_a_paused_container_is_not_alive(engine, start, bare_image):
    deployment = start(image=bare_image)
    engine.client.api.pause(deployment.container_name)
    answer = deployment.is_alive(timeout=0.5)
    engine.client.api.unpause(deployment.container_name)
    assert not answer
    assert "does not answer" in answer.message
    assert deployment.is_alive()
