"""What a session sees is the image, and not what brings the server along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from swerex.deployment.docker.engine import Engine
from swerex.runtime.abstract import AbstractRuntime, Command
from tests.docker.engines import deployment_in

ADDED = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}
"""What a session sets if the image does not."""
SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}

# The second has all that would show if the server's interpreter left its own, or lost the image's.
PLACES = {
    "debian": "FROM {image}\n",
    "variables": (
        "FROM {image}\n"
        "ENV LC_ALL=C.UTF-8 PYTHONPATH=/mine PYTHONHOME= PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/mine\n"
        'ENV PATH=/mine/bin:/usr/local/bin:/usr/bin:/bin EMPTY= SPACES="a  b " TERM=vt100 PAGER=more\n'
        "ENV HOME=/mine\nWORKDIR /mine\nUSER 1234:99\n"
    ),
}

LOOKS = [
    "command -v python3 python pip pip3 ldd bash sh",
    "python3 --version; python3 -c 'import sys; print(sys.path, sys.prefix, sys.executable, sys.flags)'",
    "python3 -c 'import sys, locale; print(sys.stdout.encoding, locale.getlocale(), locale.getencoding())'",
    "python3 -c 'import ssl; print(ssl.__file__, ssl.get_default_verify_paths())'",
    "p='python3 -m pip --no-color'; $p --version; $p config list; $p cache dir 2>&1",
    "python3 -m site; python3 -m sysconfig | grep -i prefix",
    "ldd /bin/ls | sed 's/(0x.*//'; ldd $(command -v python3) | sed 's/(0x.*//'",
    "locale; locale -a",
    "id; pwd; umask; echo ~",
    "ulimit -a | grep -v -e pipe -e locks; nice",
    "grep -E '^(Cap|Sig[BIC]|NoNewPrivs|Seccomp:|Uid|Gid)' /proc/self/status",
    "ls -A / | grep -vx -e .swerex -e .dockerenv",
    "cut -d' ' -f2-4 /proc/mounts | grep -v /.swerex | grep -v '^/ ' | sort",
    "cat /proc/self/cgroup | cut -d: -f1,2",
    "ls -A1 /tmp /root /opt /usr/local/bin 2>&1",
    "ps -e -o comm= | grep -c defunct",
    "hostname | wc -c; cat /etc/resolv.conf; wc -l </etc/hosts",
]


pytestmark = pytest.mark.parametrize(
    ("engine", "place"),
    [("docker", "debian"), ("docker", "variables"), ("podman", "debian")],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, make_image: Any, image: str) -> str:
    """The name of an image."""
    return str(make_image(PLACES[request.param].format(image=image)))


@pytest.fixture(scope="module")
def runtime(engine: Engine, place: str) -> Iterator[AbstractRuntime]:
    with deployment_in(engine, image=place) as deployment:
        yield deployment.runtime


@pytest.fixture(scope="module")
def bare_run(engine: Engine, place: str) -> Iterator[Any]:
    """What a command of bash prints in a container of the engine, with nothing of ours."""
    container = engine.client.containers.create(place, ["sleep", "600"], entrypoint=[], init=False)
    try:
        container.start()
        yield lambda command: container.exec_run(["bash", "-c", command]).output.decode()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("command", LOOKS)
def test_it_looks_as_in_the_bare_image(runtime, bare_run, command):
    bare = bare_run(command)
    assert bare.strip()
    with runtime.session() as session:
        assert session.run(command, check="silent", timeout=30).output == bare
    response = runtime.execute(
        Command(command=["bash", "-c", command], merge_output_streams=True, timeout=30)
    )
    assert response.stdout == bare


def variables(text: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in text.split("\0") if item)


def test_the_environment_of_a_session(runtime, bare_run):
    bare = variables(bare_run("env -0"))
    with runtime.session() as session:
        seen = variables(session.run("env -0").output)
        of_the_shell = variables(session.run("cat /proc/$$/environ").output)
    for environment in (bare, seen, of_the_shell):
        for name in SHELLS_OWN | {"HOSTNAME"}:
            environment.pop(name, None)
    assert seen == {**ADDED, **bare}
    assert of_the_shell == {**ADDED, **bare}


def test_the_environment_of_a_command(runtime, bare_run):
    bare = variables(bare_run("cat /proc/self/environ"))
    seen = variables(runtime.execute(Command(command=["cat", "/proc/self/environ"])).stdout)
    for environment in (bare, seen):
        for name in SHELLS_OWN | {"HOSTNAME"}:
            environment.pop(name, None)
    assert seen == bare


def test_the_token_is_nowhere_to_be_seen(runtime):
    with runtime.session() as session:
        assert session.run("env | grep -ci -e swerex -e token", check="silent").output == "0\n"
        assert session.run("tr '\\0' '\\n' </proc/1/cmdline | grep -ci token", check="silent").output == "0\n"


def test_nothing_is_open_but_the_terminal(runtime):
    with runtime.session() as session:
        opened = session.run("ls -l /proc/self/fd").output
    assert len(re.findall("-> /dev/pts/", opened)) == 3
    assert len(opened.splitlines()) == 5, opened
    response = runtime.execute(Command(command=["ls", "/proc/self/fd"]))
    assert response.stdout == "0\n1\n2\n3\n"
