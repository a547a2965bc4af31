"""The options of a container: the fields of the config, and `docker_args`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swerex.deployment.docker import DockerDeployment
from swerex.deployment.docker.engine import Engine
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import Command
from tests.docker.engines import File, deployment_in, leftovers, only_docker
from tests.util import wait_until

SEEN = [
    (["--hostname=box"], "hostname", "box\n"),
    (
        ["--env", "FIRST=a b", "-e", "SECOND=$x"],
        "env | grep -E '^(FIRST|SECOND)=' | sort",
        "FIRST=a b\nSECOND=$x\n",
    ),
    (["--env-file", "{folder}/variables"], "echo $FROM_FILE", "yes\n"),
    (
        ["--volume={folder}:/here:ro"],
        "cat /here/file; touch /here/x",
        "text\ntouch: /here/x: Read-only file system\n",
    ),
    (["--mount", "type=bind,source={folder},target=/there,readonly"], "cat /there/file", "text\n"),
    (["--mount", "type=tmpfs,target=/scratch"], "grep -c ' /scratch tmpfs ' /proc/mounts", "1\n"),
    (["--tmpfs", "/fast:size=1m"], "df -k /fast | awk 'NR==2 {{print $2}}'", "1024\n"),
    (["--shm-size", "32m"], "df -k /dev/shm | awk 'NR==2 {{print $2}}'", "32768\n"),
    (["--add-host=db:10.0.0.9"], "awk '$2==\"db\" {{print $1}}' /etc/hosts", "10.0.0.9\n"),
    (["--dns", "10.1.2.3"], "grep -c 'nameserver 10.1.2.3' /etc/resolv.conf", "1\n"),
    (["--ulimit", "nofile=512:600", "--ulimit=nproc=1000"], "ulimit -Hn; ulimit -Hu", "600\n1000\n"),
    (["--cap-drop=MKNOD"], "mknod /null c 1 3", "mknod: /null: Operation not permitted\n"),
    (
        ["--cap-add", "SYS_NICE"],
        "mask=$(awk '/CapBnd/ {{print $2}}' /proc/self/status); echo $((0x$mask >> 23 & 1))",
        "1\n",
    ),
    (["--device=/dev/null:/dev/void"], "stat -c %F /dev/void", "character special file\n"),
    (["--security-opt", "no-new-privileges"], "awk '/NoNewPrivs/ {{print $2}}' /proc/self/status", "1\n"),
    (["-w", "/srv/dir"], "pwd", "/srv/dir\n"),
    (["--rm"], "echo still here", "still here\n"),
]
TOLD: list[tuple[list[str], str, Any]] = [
    (["--memory=256m"], "HostConfig.Memory", 256 << 20),
    (["--memory-swap", "512m"], "HostConfig.MemorySwap", 512 << 20),
    (["--cpus", "1.5"], "HostConfig.NanoCpus", 1_500_000_000),
    (["--cpu-shares=512"], "HostConfig.CpuShares", 512),
    (["--pids-limit", "200"], "HostConfig.PidsLimit", 200),
    (["--label", "purpose=test"], "Config.Labels.purpose", "test"),
]


def _flag(value: object) -> str:
    """The name of a test that has this parameter."""
    return value[0].lstrip("-") if isinstance(value, list) else ""


@pytest.fixture(scope="module")
def flagged(
    engine: Engine, bare_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerDeployment]:
    """A sandbox with all flags of `SEEN`, and with those of `TOLD`."""
    folder = tmp_path_factory.mktemp("volume")
    (folder / "file").write_text("text\n")
    (folder / "variables").write_text("# A comment\nFROM_FILE=yes\n")
    flags = [flag.format(folder=folder) for flags, *_ in [*SEEN, *TOLD] for flag in flags]
    with deployment_in(engine, image=bare_image, docker_args=flags) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def inspected(engine: Engine, flagged: DockerDeployment) -> dict[str, Any]:
    found: dict[str, Any] = engine.client.api.inspect_container(flagged.container_name)
    return found


def look(deployment: DockerDeployment, command: str) -> str:
    with deployment.runtime.session() as session:
        return session.run(command, timeout=10, check="silent").output


@pytest.mark.parametrize(("flags", "command", "output"), SEEN, ids=_flag)
def test_the_sandbox_sees_it(flagged, flags, command, output):
    assert look(flagged, command.format()) == output


@pytest.mark.parametrize(("flags", "path", "value"), TOLD, ids=_flag)
def test_the_engine_was_told(inspected, flags, path, value):
    found = inspected
    for key in path.split("."):
        found = found[key]
    assert found == value


@pytest.mark.parametrize("arg", ["--no-such-flag=1", "--no-such-flag", "-X", "image"])
def test_an_unknown_flag_is_named_before_anything_starts(arg):
    with pytest.raises(ValueError, match=re.escape(arg.partition("=")[0])):
        DockerDeployment(docker_args=["--init", arg])


@pytest.mark.parametrize(
    ("args", "fields", "match"),
    [
        (["--memory=2g"], {"memory": "1g"}, "memory|1g"),
        (["--cpus=2"], {"cpus": 1}, "leave one out"),
        (["--workdir=/a"], {"workdir": "/b"}, "/b"),
        (["-u", "1"], {"user": "2"}, "'2'"),
        (["--net=none"], {"network": "host"}, "network"),
        (["--platform=linux/amd64"], {"platform": "linux/arm64"}, "platform"),
        (["--rm"], {"remove_container": False}, "--rm"),
        (["--name=mine"], {}, "--name"),
    ],
)
def test_what_is_said_twice_or_contradicts(args, fields, match):
    with pytest.raises(ValueError, match=match):
        DockerDeployment(docker_args=args, **fields)


def test_fields(start, engine, image, tmp_path):
    (tmp_path / "file").write_text("text\n")
    tmp_path.chmod(0o755)
    deployment = start(
        image=image,
        memory="300m",
        cpus=0.75,
        env={"GREETING": "a 'b' $c\nd"},
        volumes=[f"{tmp_path}:/project:ro"],
        workdir="/project",
        user="1000:100",
        platform="linux/amd64" if os.uname().machine == "x86_64" else "linux/arm64",
        docker_args=["--env=OTHER=1"],
    )
    assert look(deployment, "echo $GREETING-$OTHER; pwd; id -u; id -g; cat file") == (
        "a 'b' $c d-1\n/project\n1000\n100\ntext\n"
    )
    assert look(deployment, "touch new") == "touch: cannot touch 'new': Read-only file system\n"
    told = engine.client.api.inspect_container(deployment.container_name)["HostConfig"]
    assert (told["Memory"], told["NanoCpus"]) == (300 << 20, 750_000_000)


@only_docker
def test_a_standalone_python_is_not_needed(start, bare_image, tmp_path):
    """Which is said once, and quietly."""
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    start(image=bare_image, python_standalone_dir="/root", logger=logger)
    assert (tmp_path / "log").read_text().count("python_standalone_dir") == 1
    logger.handlers[0].close()


@only_docker
def test_memory_in_bytes(start, engine, bare_image):
    deployment = start(image=bare_image, memory=100 << 20)
    told = engine.client.api.inspect_container(deployment.container_name)["HostConfig"]
    assert told["Memory"] == 100 << 20


@only_docker
def test_a_named_volume_outlives_the_sandbox(start, engine, bare_image):
    name = f"swerex-test-{os.getpid()}"
    try:
        for expected in ("", "kept\n"):
            with deployment_in(engine, image=bare_image, volumes=[f"{name}:/data"]) as deployment:
                assert look(deployment, "cat /data/file 2>/dev/null; echo kept >/data/file") == expected
    finally:
        engine.client.api.remove_volume(name)


def test_an_anonymous_volume_does_not(engine, make_image, bare_image):
    image = make_image(f"FROM {bare_image}\nVOLUME /data\n")
    with deployment_in(engine, image=image, docker_args=["-v", "/more"]) as deployment:
        assert look(deployment, "echo x >/data/x; echo x >/more/x; cat /data/x /more/x") == "x\nx\n"
        mounts = engine.client.api.inspect_container(deployment.container_name)["Mounts"]
    volumes = {item["Name"] for item in mounts if item["Destination"] in ("/data", "/more")}
    assert len(volumes) == 2
    there = {item["Name"] for item in engine.client.api.volumes()["Volumes"]}
    assert not volumes & there


@only_docker
def test_a_profile_that_exec_shell_reads(start, make_image, image):
    profile = {"etc/profile.d/tools.sh": File(b"export TOOLS='/opt/my tools'\n", 0o644)}
    name = make_image(f"FROM {image}\nADD root.tar /\n", profile)
    deployment = start(image=name, exec_shell=["/bin/bash", "-lc"])
    assert look(deployment, "echo $TOOLS") == "/opt/my tools\n"
    assert deployment.runtime.execute(Command(command=["printenv", "TOOLS"])).stdout == "/opt/my tools\n"


@only_docker
def test_an_exec_shell_that_is_not_there(start, bare_image):
    with pytest.raises(DeploymentStartupError, match="/bin/nosuchshell"):
        start(image=bare_image, exec_shell=["/bin/nosuchshell", "-c"])


@only_docker
def test_an_entrypoint_that_sets_things_up(start, make_image, bare_image):
    wrap = {"wrap": File(b'#!/bin/sh\nexport WRAPPED=yes\nexec "$@"\n')}
    deployment = start(
        image=make_image(f"FROM {bare_image}\nADD root.tar /\n", wrap), docker_args=["--entrypoint=/wrap"]
    )
    assert look(deployment, "echo $WRAPPED") == "yes\n"


@only_docker
def test_the_spaces_of_the_host(start, bare_image):
    deployment = start(image=bare_image, docker_args=["--pid=host", "--ipc=host"])
    assert look(deployment, f"cat /proc/{os.getpid()}/comm") == Path("/proc/self/comm").read_text()


@only_docker
def test_init_reaps(start, bare_image):
    deployment = start(image=bare_image, docker_args=["--init"])
    assert look(deployment, "cat /proc/1/comm") == "docker-init\n"


@only_docker
@pytest.mark.parametrize("flags", [["-t"], ["-it"], ["--detach", "--interactive"]], ids=" ".join)
def test_flags_that_people_are_used_to(start, bare_image, flags):
    deployment = start(image=bare_image, docker_args=flags)
    assert look(deployment, "cat </dev/null; echo done") == "done\n"


@only_docker
@pytest.mark.parametrize("driver", ["none", "json-file", "local"])
def test_the_log_is_seen_with_any_driver(start, engine, bare_image, driver):
    deployment = start(image=bare_image, docker_args=["--log-driver", driver])
    deployment.runtime.execute(Command(command="echo last words >/proc/1/fd/2"))
    engine.client.api.kill(deployment.container_name)
    wait_until(lambda: re.search("exit code 137.*last words", deployment.is_alive().message, re.DOTALL))


@only_docker
def test_a_restart_policy(engine, bare_image):
    """The sandbox is removed nevertheless, in the end."""
    with deployment_in(engine, image=bare_image, docker_args=["--restart", "on-failure:3"]) as deployment:
        name = deployment.container_name
        told = engine.client.api.inspect_container(name)["HostConfig"]
        assert told["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert name not in leftovers(engine)


@only_docker
def test_what_the_engine_refuses(start, bare_image):
    with pytest.raises(DeploymentStartupError, match="could not select device driver"):
        start(image=bare_image, docker_args=["--gpus", "all"])
