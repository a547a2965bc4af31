from __future__ import annotations

import io
import json
import os
import re
import secrets
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException
from docker.models.containers import Container

from swerex.deployment.docker.args import parse_docker_args
from tests.util import needs

GIB = 1024**3
MAC = "92:d0:c6:0a:29:33"


def device(source: str, target: str, permissions: str) -> dict[str, str]:
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SET_HERE", "its value")
    monkeypatch.delenv("NOT_SET_HERE", raising=False)


@pytest.mark.parametrize(
    "line", ["--memory=2g", "--memory 2g", "-m 2g", "-m2g", "-m=2g", "-m 1g --memory 2g"]
)
def test_one_flag_may_be_written_in_many_ways(line):
    assert parse_docker_args(line.split()) == {"mem_limit": 2 * GIB}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--init", {"init": True}),
        ("--init=true --tty=0", {"init": True, "tty": False}),
        ("-it", {"stdin_open": True, "tty": True}),
        ("-dit", {"detach": True, "stdin_open": True, "tty": True}),
        ("-i=false", {"stdin_open": False}),
        ("-itm2g", {"stdin_open": True, "tty": True, "mem_limit": 2 * GIB}),
        ("-itu me", {"stdin_open": True, "tty": True, "user": "me"}),
    ],
)
def test_switches(line, expected):
    assert parse_docker_args(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-v /a:/b -v/c:/d:ro", {"volumes": ["/a:/b", "/c:/d:ro"]}),
        ("--volume=data:/d -v data:/e", {"volumes": ["data:/d", "data:/e"]}),
        ("-v ~/x:/x", {"volumes": ["/home/me/x:/x"]}),
        ("-v /d", {"mounts": [{"Type": "volume", "Target": "/d"}]}),
        (
            "-v /a:/b:ro,Z -v c:/d",
            {"volumes": {"/a": {"bind": "/b", "mode": "ro,Z"}, "c": {"bind": "/d", "mode": "rw"}}},
        ),
        ("--tmpfs /t --tmpfs=/u:size=1m,ro", {"tmpfs": {"/t": "", "/u": "size=1m,ro"}}),
        ("--storage-opt size=10G", {"storage_opt": {"size": "10G"}}),
        ("-e A=1 -eB=x=y -e C= --env=A=2", {"environment": {"A": "2", "B": "x=y", "C": ""}}),
        ("-e SET_HERE -e NOT_SET_HERE", {"environment": {"SET_HERE": "its value", "NOT_SET_HERE": None}}),
        ("--memory-swap -1", {"memswap_limit": -1}),
        (
            "--memory-swap=4GB --memory-reservation 1.5g",
            {"memswap_limit": 4 * GIB, "mem_reservation": 3 * GIB // 2},
        ),
        ("--kernel-memory 64m", {"kernel_memory": 64 * 1024**2}),
        ("--shm-size 65536", {"shm_size": 65536}),
        ("--shm-size '1 KiB'", {"shm_size": 1024}),
        ("--cpus .5", {"nano_cpus": 500_000_000}),
        ("--cpu-quota -1", {"cpu_quota": -1}),
        ("--cpu-rt-period=1000 --cpu-rt-runtime=500", {"cpu_rt_period": 1000, "cpu_rt_runtime": 500}),
        ("--entrypoint '/my program'", {"entrypoint": ["/my program"]}),
        ("--name box -h box", {"name": "box", "hostname": "box"}),
        ("--log-opt a=b", {"log_config": {"config": {"a": "b"}}}),
        (
            "--health-interval=1m1.5s --health-timeout 100ms",
            {"healthcheck": {"interval": 61_500_000_000, "timeout": 10**8}},
        ),
        ("--health-start-period 0", {"healthcheck": {"start_period": 0}}),
        ("--add-host a:10.0.0.1 --add-host=b=::1", {"extra_hosts": ["a:10.0.0.1", "b:::1"]}),
        ("--add-host a:[::1] --add-host=h:host-gateway", {"extra_hosts": ["a:::1", "h:host-gateway"]}),
        ("--expose 80 --expose=90-91/udp", {"ports": {"80/tcp": [], "90/udp": [], "91/udp": []}}),
        ("-p 8080:80 -p127.0.0.1::80/tcp --expose 80", {"ports": {"80/tcp": ["8080", ("127.0.0.1", None)]}}),
        ("--publish=[::1]:53:53/udp -p 90", {"ports": {"53/udp": [("::1", "53")], "90/tcp": [None]}}),
        ("-p 8000-8001:80-81", {"ports": {"80/tcp": ["8000"], "81/tcp": ["8001"]}}),
        ("-p 8000-8009:80", {"ports": {"80/tcp": ["8000-8009"]}}),
        ("--link db --link=a:b", {"links": [("db", "db"), ("a", "b")]}),
        ("--device /dev/a:/dev/b:r", {"devices": [device("/dev/a", "/dev/b", "r")]}),
        ("--device /dev/a:rm", {"devices": [device("/dev/a", "/dev/a", "rm")]}),
        (
            "--device=x.com/gpu=all --device=/dev/a --device=x.com/gpu=1",
            {
                "devices": [device("/dev/a", "/dev/a", "rwm")],
                "device_requests": [{"driver": "cdi", "device_ids": ["x.com/gpu=all", "x.com/gpu=1"]}],
            },
        ),
    ],
)
def test_what_flags_become(line, expected):
    assert parse_docker_args(shlex.split(line)) == expected


@pytest.mark.parametrize(
    ("value", "request_made"),
    [
        ("all", {"count": -1}),
        ("2", {"count": 2}),
        ("count=2", {"count": 2}),
        ("device=0", {"device_ids": ["0"]}),
        ("device=0,1", {"device_ids": ["0", "1"]}),
        ('"device=0,1"', {"device_ids": ["0", "1"]}),
        (
            'driver=nvidia,"options=a=b,c=d"',
            {"driver": "nvidia", "count": 1, "options": {"a": "b", "c": "d"}},
        ),
        (
            'all,"capabilities=compute,utility"',
            {"count": -1, "capabilities": [["compute", "utility", "gpu"]]},
        ),
    ],
)
def test_gpus(value, request_made):
    expected = {"capabilities": [["gpu"]], **request_made}
    assert parse_docker_args(["--gpus", value]) == {"device_requests": [expected]}


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("readonly", {"ReadOnly": True}),
        ("ro=false", {"ReadOnly": False}),
        (
            "bind-propagation=rshared,consistency=cached",
            {"BindOptions": {"Propagation": "rshared"}, "Consistency": "cached"},
        ),
        ("bind-nonrecursive", {"BindOptions": {"NonRecursive": True}}),
        ("bind-recursive=disabled", {"BindOptions": {"NonRecursive": True}}),
        ("bind-recursive=writable,ro", {"BindOptions": {"ReadOnlyNonRecursive": True}, "ReadOnly": True}),
    ],
)
def test_mounts_of_paths(value, options):
    for source in ("source=/a,target=/b", "src=/a,dst=/b", "src=/a,destination=/b"):
        (mount,) = parse_docker_args(["--mount", f"type=bind,{source},{value}"])["mounts"]
        assert mount == {"Type": "bind", "Source": "/a", "Target": "/b", **options}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("dst=/v", {"Type": "volume"}),
        (
            "type=volume,src=a,dst=/v,volume-nocopy",
            {"Type": "volume", "Source": "a", "VolumeOptions": {"NoCopy": True}},
        ),
        ("dst=/v,volume-subpath=a/b", {"Type": "volume", "VolumeOptions": {"Subpath": "a/b"}}),
        (
            "dst=/v,volume-label=a=b,volume-label=c=d",
            {"Type": "volume", "VolumeOptions": {"Labels": {"a": "b", "c": "d"}}},
        ),
        (
            'dst=/v,volume-driver=local,volume-opt=type=nfs,"volume-opt=o=a,b"',
            {
                "Type": "volume",
                "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "nfs", "o": "a,b"}}},
            },
        ),
        (
            "type=tmpfs,dst=/v,tmpfs-size=64m,tmpfs-mode=1770",
            {"Type": "tmpfs", "TmpfsOptions": {"SizeBytes": 64 * 1024**2, "Mode": 0o1770}},
        ),
        (
            "type=image,src=a,dst=/v,image-subpath=etc",
            {"Type": "image", "Source": "a", "ImageOptions": {"Subpath": "etc"}},
        ),
    ],
)
def test_mounts_of_other_types(value, expected):
    assert parse_docker_args(["--mount", value]) == {"mounts": [{"Target": "/v", **expected}]}


def test_a_relative_path_is_made_absolute(tmp_path):
    found = parse_docker_args(shlex.split("-v ./a:/a -v ../b:/b -v .:/c --mount type=bind,src=./a,dst=/a"))
    assert found["volumes"] == [f"{tmp_path}/a:/a", f"{tmp_path.parent}/b:/b", f"{tmp_path}:/c"]
    assert found["mounts"][0]["Source"] == f"{tmp_path}/a"


@pytest.mark.parametrize("name", ["none", "host", "bridge", "container:a", "mine"])
def test_a_network(name):
    assert parse_docker_args(["--network", name]) == {"network": name}
    assert parse_docker_args([f"--net={name}"]) == {"network": name}


@pytest.mark.parametrize(
    ("line", "endpoint"),
    [
        ("--network-alias=a --net-alias b", {"Aliases": ["a", "b"]}),
        (
            "--ip=10.0.0.9 --ip6 fd00::1",
            {"IPAMConfig": {"IPv4Address": "10.0.0.9", "IPv6Address": "fd00::1"}},
        ),
        ("--link-local-ip=169.254.1.1", {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}),
    ],
)
def test_what_a_container_is_in_its_network(line, endpoint):
    for args in (["--network=mine", *line.split()], [*line.split(), "--network=mine"]):
        assert parse_docker_args(args) == {"network": "mine", "networking_config": {"mine": endpoint}}


@pytest.mark.parametrize(
    ("line", "networks"),
    [
        ("--network=a --network=b", {"a": {}, "b": {}}),
        (
            "--network=a --network=b --ip=10.0.0.9",
            {"a": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}, "b": {}},
        ),
        (
            "--network name=a,alias=x,alias=y,driver-opt=k=v,gw-priority=1 --network name=b,ip=10.0.0.9",
            {
                "a": {"Aliases": ["x", "y"], "DriverOpts": {"k": "v"}, "GwPriority": 1},
                "b": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}},
            },
        ),
    ],
)
def test_several_networks(line, networks):
    assert parse_docker_args(line.split()) == {"network": "a", "networking_config": networks}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"--mac-address {MAC}", "default"),
        (f"--network=mine --mac-address {MAC}", "mine"),
        (f"--network=name=mine,mac-address={MAC}", "mine"),
    ],
)
def test_a_mac_address_is_given_in_both_places_where_engines_look_for_it(line, name):
    assert parse_docker_args(line.split()) == {
        "network": name,
        "networking_config": {name: {"MacAddress": MAC}},
        "mac_address": MAC,
    }


def test_a_link_in_a_network_is_given_in_both_places_where_engines_look_for_it():
    assert parse_docker_args(["--network=mine", "--link=db:d"]) == {
        "network": "mine",
        "networking_config": {"mine": {"Links": ["db:d"]}},
        "links": [("db", "d")],
    }


@pytest.mark.parametrize(
    ("value", "soft", "hard"), [("64", 64, 64), ("1024:2048", 1024, 2048), ("-1", -1, -1), ("5:-1", 5, -1)]
)
def test_ulimits(value, soft, hard):
    found = parse_docker_args(["--ulimit", "core=0", "--ulimit", "nofile=1", "--ulimit", f"nofile={value}"])
    assert found == {
        "ulimits": [{"name": "core", "soft": 0, "hard": 0}, {"name": "nofile", "soft": soft, "hard": hard}]
    }


@pytest.mark.parametrize(
    ("value", "name", "count"),
    [
        ("no", "no", 0),
        ("always", "always", 0),
        ("unless-stopped", "unless-stopped", 0),
        ("on-failure", "on-failure", 0),
        ("on-failure:3", "on-failure", 3),
    ],
)
def test_restart_policies(value, name, count):
    assert parse_docker_args(["--restart", value]) == {
        "restart_policy": {"Name": name, "MaximumRetryCount": count}
    }


@pytest.mark.parametrize(
    "option",
    ["no-new-privileges", "no-new-privileges=true", "seccomp=unconfined", "seccomp=builtin", "label:disable"],
)
def test_security_options_that_are_only_words_are_handed_on(option):
    assert parse_docker_args(["--security-opt", option]) == {"security_opt": [option]}


def test_a_seccomp_profile_is_handed_on_as_its_content():
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    Path("profile.json").write_text(json.dumps(profile, indent=4))
    (option,) = parse_docker_args(["--security-opt", "seccomp=profile.json"])["security_opt"]
    name, _, content = option.partition("=")
    assert name == "seccomp"
    assert json.loads(content) == profile


def test_an_env_file_is_read_as_docker_reads_it():
    Path("env").write_bytes(
        b"\xef\xbb\xbfA=1\n\n  # no comment: A=2\n  B= spaces stay \nC='so do quotes'\r\nD=x=y\nE=\n"
        b"SET_HERE\nNOT_SET_HERE\n"
    )
    assert parse_docker_args(["--env-file", "env"]) == {
        "environment": {
            "A": "1",
            "B": " spaces stay ",
            "C": "'so do quotes'",
            "D": "x=y",
            "E": "",
            "SET_HERE": "its value",
        }
    }


def test_a_flag_counts_more_than_a_file_and_a_later_file_more_than_an_earlier_one():
    Path("one").write_text("A=1\nB=1\nC=1\n")
    Path("two").write_text("B=2\nC=2\n")
    args = ["--env=C=3", "--label=C=3"]
    for name in ("one", "two"):
        args += ["--env-file", name, "--label-file", name]
    expected = {"A": "1", "B": "2", "C": "3"}
    assert parse_docker_args(args) == {"environment": expected, "labels": expected}


def test_a_label_file_may_have_labels_without_a_value():
    Path("labels").write_text("SET_HERE\na=b\n")
    assert parse_docker_args(["--label-file=labels"]) == {"labels": {"SET_HERE": "", "a": "b"}}


@pytest.mark.parametrize("line", ["=1", "A B=1", "A =1"])
def test_a_line_of_a_file_that_is_no_variable_is_shown(line):
    Path("env").write_text(f"A=1\n{line}\n")
    with pytest.raises(ValueError, match=f"--env-file 'env' .* {line!r}"):
        parse_docker_args(["--env-file", "env"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--memroy=2g"], "--memroy in docker_args is not known: did you mean --memory?"),
        (["-z"], "-z in docker_args is not known"),
        (["--v", "a:/b"], "--v in docker_args is not known"),
        (["--mem=2g"], "--mem in docker_args is not known"),
        (["--memory 2g"], "two items of the list"),
        (["--"], "-- in docker_args is not known"),
        (["python:3.11"], "'python:3.11' in docker_args is not a flag"),
        (["--init", "false"], "'false' in docker_args is not a flag.*--init=false"),
        ([""], "'' in docker_args is not a flag"),
        (["-"], "'-' in docker_args is not a flag"),
        (["--memory"], "--memory in docker_args has no value"),
        (["-it", "-m"], "-m in docker_args has no value"),
        (["--user", "--init"], "--user in docker_args has no value.*'--init'"),
        (["--user="], "--user '' in docker_args: it has no value"),
        (["--pull=always"], "--pull in docker_args can't be used here: use the field pull"),
        (["-iq"], "-q in docker_args can't be used here"),
        (["--stop-timeout", "3"], "--stop-timeout in docker_args can't be used here"),
        (["--umask=0"], "--umask in docker_args can't be used here: it is Podman's own"),
        (["--no-healthcheck", "--health-retries=2"], "--no-healthcheck contradicts"),
        (["--network=none", "--network=host"], "--network none leaves no room"),
        (["--network=host", "--ip=10.0.0.1"], "--network host leaves no room"),
        (["--network=a", "--network=a"], "--network a stands there twice"),
        (["--network=host", "-p", "80:80"], "leave out --publish"),
        (["-v", "/a:/b:z", "-v", "/a:/c"], "write it as --mount"),
    ],
)
def test_what_can_not_be_is_refused_with_the_flag_that_is_meant(args, message):
    with pytest.raises(ValueError, match=message):
        parse_docker_args(args)


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("init", ["", "yes", "2"]),
        ("memory", ["", "lots", "2x", "-1", "1.g", "2gbb"]),
        ("memory-swap", ["-2"]),
        ("memory-swappiness", ["101", "1.5"]),
        ("cpus", ["", "two", "-1", "1/2", "0.0000000001"]),
        ("cpu-shares", ["-1", "1k", "1_0", " 1"]),
        ("cpuset-cpus", ["a", "0-", "0,,1"]),
        ("pids-limit", ["-2"]),
        ("oom-score-adj", ["-1001"]),
        ("blkio-weight", ["9", "1001"]),
        ("device-read-bps", ["/dev/a", "/dev/a:", "sda:1m", "/dev/a:fast"]),
        ("device-cgroup-rule", ["c 1 r"]),
        ("device", ["kvm", "/dev/a:/dev/b:x", "/dev/a:rw:/dev/b", "/dev/a:/dev/b:r:w"]),
        ("gpus", ["some", "all\n2", 'count="2"', "count=x", "devices=0", "count=1,device=0", "device="]),
        ("volume", ["", "a", "a:b", "a:/b:ro:z", ":/b", "/a:", "a/b:/c"]),
        (
            "mount",
            ["", "/a:/b", "type=bind,dst=/a", "type=bind,src=/a", "dst=a", "type=disk,dst=/a", "dst=/a,x=y"],
        ),
        ("mount", ["type=tmpfs,src=a,dst=/a", "dst=/a,tmpfs-size=1m", "type=tmpfs,dst=/a,tmpfs-mode=9"]),
        (
            "mount",
            [
                "type=bind,src=/a,dst=/a,volume-nocopy",
                "dst=/a,readonly=maybe",
                "type=bind,src=a/b,dst=/a",
                "type=bind,src=a,dst=/a",
            ],
        ),
        ("mount", ["type=bind,src=/a,dst=/a,bind-recursive=no"]),
        ("tmpfs", ["run"]),
        ("workdir", ["src"]),
        ("env", ["", "=1"]),
        ("env-file", ["", "absent"]),
        ("label", ["", "=1"]),
        ("sysctl", ["a"]),
        ("ulimit", ["nofile", "nofile=", "files=1", "nofile=2:1", "nofile=-1:5"]),
        ("restart", ["", "never", "always:3", "on-failure:x"]),
        ("security-opt", ["", "seccomp", "seccomp=absent", "systempaths=unconfined"]),
        ("health-interval", ["5", "5 s", "s", "-1s"]),
        ("health-retries", ["-1"]),
        ("add-host", ["a", "a:", ":1.1.1.1", "a:b"]),
        ("dns", ["example.org"]),
        ("ip", ["10.0.0", "10.0.0.1/8"]),
        ("mac-address", ["1:2:3:4:5:6"]),
        ("network", ["", "name=a,colour=red", "alias=a", "name=a,ip=x"]),
        ("publish", ["", "a", "80:x", "65536", "90-80", "1-3:1-2"]),
        ("expose", ["8080:80", "http"]),
        ("userns", ["keep-id"]),
        ("cgroupns", ["none"]),
    ],
)
def test_a_wrong_value_is_shown_with_its_flag(flag, values):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"--{flag} {value!r} in docker_args: ") + "."):
            parse_docker_args([f"--{flag}={value}"])


def test_a_profile_that_is_not_json_is_refused():
    Path("profile").write_text("allow everything")
    with pytest.raises(ValueError, match="the profile is not JSON"):
        parse_docker_args(["--security-opt=seccomp=profile"])


@pytest.mark.parametrize("command", ["docker", "podman"])
def test_every_flag_of_the_command_is_known(command):
    needs(command)
    text = subprocess.run([command, "run", "--help"], capture_output=True, text=True, check=True).stdout
    flags = re.findall(r"^ +(?:(-\w), )?(--[\w-]+)", text, flags=re.MULTILINE)
    assert len(flags) > 90
    unknown = [flag for flag in chain(*flags) if flag and "is not known" in complaint([flag])]
    assert unknown == []


def complaint(args: list[str]) -> str:
    try:
        parse_docker_args(args)
    except ValueError as error:
        return str(error)
    return ""


NAME = f"swerex-test-{secrets.token_hex(4)}"
IMAGE = f"{NAME}:empty"


@pytest.fixture(scope="module")
def sdk() -> Iterator[docker.DockerClient]:
    """Docker, with an image without files, a network, a volume and a container, all of one name."""
    needs("docker")
    try:
        client = docker.from_env()
    except DockerException:
        if os.environ.get("CI"):
            raise
        pytest.skip("no Docker engine is running")
    files = io.BytesIO()
    tarfile.open(fileobj=files, mode="w").close()
    client.api.import_image_from_data(files.getvalue(), repository=NAME, tag="empty")
    network = client.networks.create(NAME)
    volume = client.volumes.create(NAME)
    container = client.containers.create(IMAGE, "true", name=NAME)
    yield client
    container.remove()
    volume.remove()
    network.remove()
    client.images.remove(IMAGE)
    client.close()


@pytest.mark.parametrize(
    "line",
    [
        "-m 1g --memory-swap=2g --memory-reservation 512m --memory-swappiness=10 --shm-size=128m",
        "--cpus 1.5 -c 512 --cpuset-cpus=0 --cpuset-mems 0",
        "--cpu-period=100000 --cpu-quota 50000 --pids-limit=100 --oom-score-adj=100 --oom-kill-disable",
        "--device-read-bps=/dev/null:1mb --device-write-bps /dev/null:2k",
        "--device-read-iops=/dev/null:7 --device-write-iops=/dev/null:8",
        "--blkio-weight-device=/dev/null:20 --blkio-weight=300",
        "--device /dev/null --device=/dev/zero:/dev/nought:r --device /dev/full:rw",
        "--device-cgroup-rule='c 1:3 mr' --ulimit nofile=1024:2048 --ulimit=nproc=64",
        "--gpus all",
        """--gpus '"device=0,1",driver=nvidia,capabilities=utility,options=a=b'""",
        "-v /tmp:/a -v /tmp:/b:ro -v NAME:/c --tmpfs /d:size=1m --tmpfs=/e --read-only",
        "-v /tmp:/a:ro,z -v NAME:/b:nocopy --volume-driver local",
        "-v /data --volume /other",
        "--mount type=bind,source=/tmp,target=/a,readonly,bind-propagation=rslave",
        "--mount type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=1770 --mount target=/d",
        "--mount src=NAME,dst=/c,volume-nocopy,volume-label=a=b",
        "-e A=1 -eSET_HERE -e NOT_SET_HERE --env B=x=y",
        "-it -u 1000:1000 -w /src --entrypoint '/a b' -h box --domainname=c --init --stop-signal=INT",
        "--entrypoint= --init=false",
        "--cap-add SYS_PTRACE --cap-add=NET_ADMIN --cap-drop MKNOD --group-add 5 --group-add audio",
        "--security-opt no-new-privileges --security-opt=seccomp=profile --security-opt label=disable",
        "--ipc=host --pid host --uts host --userns=host --cgroupns=host --cgroup-parent /p",
        "--privileged --runtime=runc --isolation default --sysctl net.ipv4.ip_forward=1",
        "-l a=b --label c --label-file labels",
        "--health-cmd 'a b' --health-interval=1m30s --health-timeout 5s --health-retries 3",
        "--no-healthcheck",
        "--log-driver json-file --log-opt max-size=1m --log-opt=max-file=2",
        "--log-opt max-size=1m",
        "--restart on-failure:3",
        "--rm --restart=no --platform linux/amd64",
        "--add-host a:10.0.0.1 --add-host=b:::1 --dns 8.8.8.8 --dns-search x --dns-option ndots:2",
        "-p 8080:80 -p 127.0.0.1::81 -p 53:53/udp -p 8000-8001:90-91 -p 8100-8109:92",
        "-p 93 --expose 94-95 -P",
        "--network none",
        "--net host",
        "--network container:NAME",
        "--network NAME --network-alias a --network-alias=b",
        "--volumes-from NAME:ro",
    ],
)
def test_the_container_is_the_one_that_the_command_makes(sdk, line):
    Path("profile").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    Path("labels").write_text("d=e\n")
    args = [word.replace("NAME", NAME) for word in shlex.split(line)]
    made: list[Container] = []
    try:
        ran = subprocess.run(["docker", "create", *args, IMAGE, "true"], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        made.append(sdk.containers.get(ran.stdout.strip()))
        made.append(sdk.containers.create(IMAGE, "true", **parse_docker_args(args)))
        theirs, ours = map(described, made)
        assert ours == theirs
    finally:
        for container in made:
            container.remove(v=True)


def described(container: Container) -> Any:
    """What the engine tells of a container, without the names that are its own and the order of lists that
    has no meaning."""
    config, host = container.attrs["Config"], container.attrs["HostConfig"]
    if config["Hostname"] == container.id[:12]:
        del config["Hostname"]
    for capabilities in ("CapAdd", "CapDrop"):
        host[capabilities] = [name.removeprefix("CAP_") for name in host[capabilities] or []]
    if host["RestartPolicy"]["Name"] == "no":
        del host["RestartPolicy"]
    # How a volume was asked for differs: what counts is what is mounted.
    del config["Volumes"]
    host["Mounts"] = [
        mount for mount in host.get("Mounts") or [] if mount["Type"] != "volume" or "Source" in mount
    ]
    mounts = container.attrs["Mounts"]
    for mount in mounts:
        if mount["Type"] == "volume" and mount["Name"] != NAME:
            del mount["Name"], mount["Source"], mount["Mode"]
    config["Env"] = sorted(config["Env"] or [])
    return without_empty([config, in_order(host), in_order(mounts)])


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: item for key, item in zip(value, map(without_empty, value.values()), strict=True) if item
        }
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(in_order, value), key=repr)
    return value
