"""Sandboxes from any Linux image, whatever it holds."""

from __future__ import annotations

import os

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import Command, ReadFileRequest, WriteFileRequest
from tests.docker.engines import File, bare_files, load_image, only_docker


def say(deployment: DockerDeployment, command: str) -> str:
    """What a command prints in a session of its own."""
    with deployment.runtime.session() as session:
        return session.run(command, timeout=10, check="silent").output


def works(deployment: DockerDeployment) -> None:
    """A session keeps its state, a command runs, and a file is written and read."""
    runtime = deployment.runtime
    with runtime.session() as session:
        session.run("x=kept")
        assert session.run("echo $x").output == "kept\n"
    assert runtime.execute(Command(command=["/bin/echo", "done"])).stdout == "done\n"
    runtime.write_file(WriteFileRequest(path="/dev/shm/file", content="text"))
    assert runtime.read_file(ReadFileRequest(path="/dev/shm/file")).content == "text"


def test_no_libc_and_no_python(start, bare_image):
    deployment = start(image=bare_image)
    works(deployment)
    assert (
        say(deployment, "ls -d /lib /usr /etc/ld* /tmp 2>/dev/null; command -v python3 python pip ldd") == ""
    )


def test_no_bash(start, nobash_image):
    deployment = start(image=nobash_image)
    works(deployment)
    # The session's shell is not in the image, and yet nothing of it is in the way.
    assert (
        say(deployment, "command -v bash; echo $BASH_VERSION; env | grep -c swerex")
        == "5.2.15(1)-release\n0\n"
    )


def test_no_shell_at_all(start, make_image):
    image = make_image("FROM scratch\nADD root.tar /\n", {"program": bare_files()["bin/bash"]})
    deployment = start(image=image)
    runtime = deployment.runtime
    response = runtime.execute(Command(command=["/program", "-c", "echo $0 $1", "a", "b c"]))
    assert (response.stdout, response.exit_code) == ("a b c\n", 0)
    there = say(deployment, "for x in /*; do [ $x = /run ] || echo $x; done").split()
    assert there == ["/dev", "/etc", "/proc", "/program", "/sys"]
    with pytest.raises(FileNotFoundError, match="/bin/sh"):
        runtime.execute(Command(command="echo a line needs a shell"))


@only_docker
def test_a_python_that_is_broken(start, make_image, bare_image):
    broken = {
        "usr/bin/python3": File(b"#!/bin/sh\necho I am broken\nexit 1\n"),
        "usr/bin/python": File(b"\x7fELF nonsense"),
        "bin/python3": File(link="/nowhere"),
        "lib64/ld-linux-x86-64.so.2": File(b"nonsense"),
        "lib/x86_64-linux-gnu/libc.so.6": File(b"nonsense"),
        "etc/ld.so.preload": File(b"/lib/x86_64-linux-gnu/libc.so.6\n", 0o644),
    }
    deployment = start(image=make_image(f"FROM {bare_image}\nADD root.tar /\n", broken))
    works(deployment)
    assert say(deployment, "/usr/bin/python3") == "I am broken\n"


def test_hostile_settings(start, make_image, bare_image):
    """An ENTRYPOINT that ends at once, and variables that would break an interpreter which heeds them."""
    image = make_image(
        f'FROM {bare_image}\nENTRYPOINT ["/bin/false"]\nCMD ["nonsense"]\nVOLUME /data\nSTOPSIGNAL SIGUSR1\n'
        "ENV PYTHONHOME=/nowhere PYTHONPATH=/nowhere LD_LIBRARY_PATH=/nowhere LD_PRELOAD=/nowhere.so "
        "PYTHONSTARTUP=/x PYTHONIOENCODING=utf-16 LC_ALL=xx_XX.nonsense TMPDIR=/nowhere HOME=/nowhere "
        'SHELL=/bin/false ENV=/x BASH_ENV=/x PROMPT_COMMAND="echo prompt" HTTP_PROXY=http://127.0.0.1:9 '
        "FLASK_DEBUG=1 SWEREX_LEASE=1\n"
        "HEALTHCHECK CMD false\nEXPOSE 8000 9000\n"
    )
    deployment = start(image=image)
    works(deployment)
    assert say(deployment, "echo $PYTHONHOME $LD_PRELOAD $LC_ALL $TMPDIR $SHELL; ls -d /data") == (
        "/nowhere /nowhere.so xx_XX.nonsense /nowhere /bin/false\n/data\n"
    )


@only_docker
@pytest.mark.parametrize(("user", "who"), [("1234:99", "1234 99"), ("nobody", "65534 65534")])
def test_a_user_that_is_not_root(start, make_image, bare_image, user, who):
    passwd = {"etc/passwd": File(b"nobody:x:65534:65534::/home/nobody:/bin/false\n", 0o644)}
    deployment = start(image=make_image(f"FROM {bare_image}\nADD root.tar /\nUSER {user}\n", passwd))
    works(deployment)
    assert say(deployment, "id -u; id -g").split() == who.split()
    assert say(deployment, "touch /x 2>&1; echo $?") == "touch: /x: Permission denied\n1\n"


@only_docker
def test_the_workdir_of_the_image(start, make_image, bare_image):
    deployment = start(image=make_image(f"FROM {bare_image}\nWORKDIR /some/where\n"))
    assert say(deployment, "pwd") == "/some/where\n"
    assert deployment.runtime.execute(Command(command="pwd")).stdout == "/some/where\n"
    deployment.runtime.write_file(WriteFileRequest(path="relative", content=""))
    assert say(deployment, "ls") == "relative\n"


@only_docker
def test_a_read_only_root(start, bare_image):
    deployment = start(image=bare_image, docker_args=["--read-only"])
    works(deployment)
    assert say(deployment, "touch /x") == "touch: /x: Read-only file system\n"


def test_all_at_once(start, make_image, nobash_image):
    image = make_image(f'FROM {nobash_image}\nENTRYPOINT ["/bin/false"]\nWORKDIR /w\nUSER 4321\n')
    deployment = start(
        image=image,
        network="none",
        docker_args=["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=100"],
    )
    works(deployment)
    assert say(deployment, "id -u; pwd") == "4321\n/w\n"


@only_docker
def test_the_bundle_is_read_only(start, bare_image):
    deployment = start(image=bare_image)
    assert say(deployment, "touch /.swerex/x; rm -rf /.swerex 2>/dev/null; ls /.swerex | grep -c lib") == (
        "touch: /.swerex/x: Read-only file system\n1\n"
    )


def test_an_image_for_another_machine_without_a_server(engine, start):
    name = load_image(engine, f"swerex-test/foreign-{os.getpid()}", bare_files(), "arm64")
    try:
        with pytest.raises(DeploymentStartupError, match="neither swerex-remote nor a Python with pip"):
            start(image=name)
    finally:
        engine.client.api.remove_image(name)
