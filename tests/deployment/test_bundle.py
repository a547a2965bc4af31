"""The bundle: what is in it, that it runs anywhere, and how it is kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import swerex
from swerex.deployment.bundle import Bundle, contents, get_bundle
from swerex.deployment.bundle.elf import loader_of, shared_libraries
from swerex.exceptions import DeploymentStartupError
from swerex.runtime.abstract import Command, CreateBashSessionRequest, Session, UploadRequest
from swerex.runtime.remote import RemoteRuntime
from tests.util import PYTHON, needs, wait_until

_GET = """
import dataclasses, json
from swerex.deployment.bundle import get_bundle
print(json.dumps(dataclasses.asdict(get_bundle()), default=str))
"""
_DAY = 86400


def start_get(cache: Path, **env: str) -> subprocess.Popen[str]:
    """Another process that asks for the bundle, with a cache of its own."""
    return subprocess.Popen(
        [PYTHON, "-c", _GET],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_get(process: subprocess.Popen[str]) -> Bundle:
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    fields = json.loads(output)
    return Bundle(**{**fields, "path": Path(fields["path"])})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def only(bundle: Bundle) -> set[str]:
    """The names in a cache with this bundle and nothing else."""
    return {bundle.key, f"{bundle.key}.complete", "lock"}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle, made by two processes at once; not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    first, second = [finish_get(process) for process in [start_get(cache), start_get(cache)]]
    assert first == second
    return first


@pytest.fixture
def cache(made: Bundle, tmp_path: Path) -> Path:
    """A cache of the test's own, with the bundle in it."""
    cache = tmp_path / "cache"
    shutil.copytree(made.path.parent, cache / "swerex" / "bundles")
    return cache


@pytest.fixture
def bundle(cache: Path, made: Bundle) -> Bundle:
    """The bundle in `cache`."""
    return Bundle(cache / "swerex" / "bundles" / made.key, made.key, made.machine, made.loader)


@contextmanager
def server(bundle: Bundle, root: Path, **env: str) -> Iterator[RemoteRuntime]:
    """The server of a bundle that lies at `root`, with a HOME and `env` as its whole environment."""
    process = subprocess.Popen(
        [*bundle.command(str(root)), "--host", "127.0.0.1", "--port", "0"],
        env={"HOME": "/", **env, "SWEREX_AUTH_TOKEN": "token"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout
        line = process.stdout.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        with RemoteRuntime(host="http://127.0.0.1", port=int(found[1]), auth_token="token") as runtime:
            yield runtime
    finally:
        process.terminate()
        process.communicate(timeout=10)


def run(bundle: Bundle, code: str) -> str:
    """What the bundle's interpreter prints for `code`, with nothing in its environment."""
    command = [*contents.server_command(str(bundle.path), bundle.loader), "-c", code]
    return subprocess.run(
        command, env={}, cwd="/", capture_output=True, text=True, check=True, timeout=30
    ).stdout


def mapped_code(maps: str) -> set[str]:
    """The files that a process runs code of, by its table of mappings."""
    return {line.split(None, 5)[5] for line in maps.splitlines() if " r-xp " in line and "/" in line}


# What is in it


def test_everything_in_use_lies_in_the_bundle(made):
    code = (
        "import sys, swerex.server as s; print(*sys.path, sys.prefix, sys.exec_prefix, s.__file__, sep='\\n')"
    )
    assert [path for path in run(made, code).splitlines() if not Path(path).is_relative_to(made.path)] == []


def test_code_in_use_lies_in_the_folder_it_was_moved_to(made, tmp_path):
    root = tmp_path / "moved to"
    shutil.copytree(made.path, root)
    with server(made, root) as runtime:
        maps = runtime.execute(Command(command="cat /proc/$PPID/maps")).stdout
    code = mapped_code(maps)
    assert f"{root}/lib/{made.loader}" in code
    assert [path for path in sorted(code) if not path.startswith(f"{root}/")] == []


def test_no_file_leads_the_loader_elsewhere(made):
    command = [*contents.server_command(str(made.path), made.loader), "-c", "import swerex.server"]
    done = subprocess.run(
        command, env={"LD_DEBUG": "libs"}, capture_output=True, text=True, check=True, timeout=30
    )
    assert f"trying file={made.path}/lib/libc.so.6" in done.stderr
    assert re.findall(r".*(?:RPATH|RUNPATH).*", done.stderr) == []


def test_only_dependencies_of_the_server_are_in_it(made):
    (modules,) = made.path.glob("lib*/python3*")
    assert names(modules) & {"docker", "idlelib", "pip", "requests", "rich", "setuptools", "test"} == set()
    assert not (modules / "swerex" / "deployment").exists()


def test_it_is_small(made):
    assert sum(path.stat().st_size for path in made.path.rglob("*")) < 100e6
    assert made.tar_gz().stat().st_size < 36e6


def test_other_users_can_run_it(made):
    for path in [made.path, *made.path.rglob("*")]:
        mode = path.stat().st_mode
        wanted = 0o755 if path.is_dir() or contents.is_elf(path) else 0o644
        assert mode & 0o7777 == wanted, path


def test_modules_do_not_tell_where_they_were_made(made):
    here = os.fsencode(Path(swerex.__file__).parent)
    (modules,) = made.path.glob("lib*/python3*/swerex")
    bytecode = list(modules.rglob("*.pyc"))
    assert modules / "server.pyc" in bytecode
    assert [path for path in bytecode if here in path.read_bytes()] == []


def test_bash_runs_without_the_libraries_of_the_system(made):
    loader, option, libraries = made.command(str(made.path))[:3]
    show = 'echo "$BASH"; echo "$(</proc/$$/maps)"'
    command = [loader, option, libraries, f"{made.path}/bin/bash", "-c", show]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    first, _, maps = output.partition("\n")
    assert first == f"{made.path}/bin/bash"
    code = mapped_code(maps)
    assert first in code
    assert [path for path in sorted(code) if not path.startswith(f"{made.path}/")] == []


# The server


def test_a_session_works(made):
    with server(made, made.path) as runtime, runtime.session() as session:
        session.run("x=6")
        assert session.run("echo $((x * 7))").output == "42\n"


def test_execute_files_and_uploads_work(made, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("content")
    with server(made, made.path) as runtime:
        runtime.upload(
            UploadRequest(source_path=str(tmp_path / "folder"), target_path=str(tmp_path / "copy"))
        )
        output = runtime.execute(Command(command=["cat", str(tmp_path / "copy" / "file")])).stdout
    assert output == "content"


@pytest.mark.parametrize("locale", [{}, {"LANG": "C"}, {"LANG": "de_DE.UTF-8"}, {"LC_ALL": "POSIX"}])
def test_nothing_of_it_shows_in_the_environment(made, locale):
    given = {"PATH": os.environ["PATH"], "HOME": "/", **locale}
    with server(made, made.path, **given) as runtime:
        executed = runtime.execute(Command(command=["env"])).stdout
        runtime.create_session(CreateBashSessionRequest())
        in_session = Session(runtime, "default").run("env").output
    ours = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}
    shells = {"PWD", "SHLVL", "OLDPWD", "_"}

    def environment(text: str) -> dict[str, str]:
        found = dict(line.split("=", 1) for line in text.splitlines())
        return {name: value for name, value in found.items() if name not in shells}

    assert environment(executed) == given
    assert environment(in_session) == {**given, **ours}


def test_variables_for_python_and_the_loader_have_no_effect(made, tmp_path):
    (tmp_path / "libc.so.6").write_text("not a library")
    (tmp_path / "flask.py").write_text("raise SystemExit(3)")
    there = str(tmp_path)
    with server(made, made.path, PYTHONHOME=there, PYTHONPATH=there, LD_LIBRARY_PATH=there) as runtime:
        assert runtime.is_alive()


# Archives


def test_tar_has_the_loader_last_and_belongs_to_root(made):
    file = io.BytesIO()
    made.tar_to(file, "some/where")
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = tar.getmembers()
    assert members[-1].name == f"some/where/lib/{made.loader}"
    assert {(info.uid, info.gid) for info in members} == {(0, 0)}
    assert all(info.name.startswith("some/where/") and info.mode & 0o444 == 0o444 for info in members)
    assert len(members) == len(list(made.path.rglob("*")))


def test_tar_gz_unpacks_to_a_bundle_that_runs(made, tmp_path):
    done = subprocess.run(
        ["tar", "-xzf", made.tar_gz(), "-C", tmp_path], capture_output=True, check=True, timeout=30
    )
    assert done.stderr == b""
    command = [*made.command(str(tmp_path)), "--version"]
    output = subprocess.run(command, env={}, capture_output=True, text=True, check=True, timeout=30).stdout
    assert output == f"{swerex.__version__}\n"


def test_tar_gz_is_packed_once(made):
    before = made.tar_gz().stat()
    after = made.tar_gz().stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_same_files_make_the_same_tar(made, bundle):
    hashes = set()
    for one in (made, bundle):
        file = io.BytesIO()
        one.tar_to(file)
        hashes.add(hashlib.sha256(file.getvalue()).hexdigest())
    assert len(hashes) == 1


# How it is kept


def test_two_processes_at_once_make_one(made):
    # By which the fixture has made it.
    assert names(made.path.parent) - {f"{made.key}.tar.gz"} == only(made)


def test_get_bundle_returns_what_is_there(made, bundle, cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("swerex.deployment.bundle._last", None)
    before = bundle.path.stat().st_ino
    assert get_bundle() == bundle
    assert get_bundle().path.stat().st_ino == before
    assert bundle.machine == os.uname().machine


def test_a_damaged_one_is_made_again(bundle, cache):
    damaged = bundle.path / "lib" / bundle.loader
    size = damaged.stat().st_size
    os.truncate(damaged, size // 2)
    assert finish_get(start_get(cache)) == bundle
    assert damaged.stat().st_size == size
    assert names(bundle.path.parent) == only(bundle)


def test_a_killed_maker_leaves_nothing_that_counts(tmp_path):
    folder = tmp_path / "swerex" / "bundles"
    maker = start_get(tmp_path)
    wait_until(lambda: list(folder.glob("new-*/*/bin/python3")), timeout=20)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    assert list(folder.glob("*.complete")) == []
    bundle = finish_get(start_get(tmp_path))
    assert names(folder) == only(bundle)


def test_unused_ones_are_removed_when_something_is_made(bundle):
    folder = bundle.path.parent
    for name, age in (("old", 31), ("recent", 29)):
        (folder / name).mkdir()
        (folder / f"{name}.tar.gz").touch()
        marker = folder / f"{name}.complete"
        marker.touch()
        os.utime(marker, (time.time() - age * _DAY,) * 2)
    (folder / "without-marker").mkdir()
    bundle.tar_gz().unlink()
    bundle.tar_gz()
    kept = {"recent", "recent.complete", "recent.tar.gz", f"{bundle.key}.tar.gz"}
    assert names(folder) == only(bundle) | kept


def test_use_keeps_it(bundle, cache):
    marker = bundle.path.with_name(f"{bundle.key}.complete")
    os.utime(marker, (time.time() - 20 * _DAY,) * 2)
    finish_get(start_get(cache))
    assert time.time() - marker.stat().st_mtime < _DAY


def test_a_changed_server_makes_another_bundle(tmp_path):
    package = Path(swerex.__file__).parent
    copy = tmp_path / "swerex"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def key() -> str:
        code = "from swerex.deployment.bundle.contents import Contents; print(Contents.find().key())"
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [PYTHON, "-c", code],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout

    first = key()
    assert key() == first
    with (copy / "server.py").open("a") as file:
        file.write("# changed\n")
    second = key()
    assert second != first
    with (copy / "deployment" / "local.py").open("a") as file:
        file.write("# of no use to a server\n")
    assert key() == second


# Where it can't be kept or made


def temporary_folder(tmp_path: Path) -> Path:
    return tmp_path / f"swerex-bundles-{os.getuid()}"


def test_without_a_cache_it_is_kept_among_temporary_files(bundle, tmp_path):
    folder = temporary_folder(tmp_path)
    bundle.path.parent.rename(folder)
    folder.chmod(0o700)
    found = finish_get(start_get(Path("/dev/null"), TMPDIR=str(tmp_path)))
    assert found.path == folder / bundle.key


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_temporary_folder_that_others_can_change_is_refused(tmp_path, monkeypatch, kind):
    folder = temporary_folder(tmp_path)
    if kind == "a link":
        (tmp_path / "target").mkdir(mode=0o700)
        folder.symlink_to("target")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("swerex.deployment.bundle._last", None)
    with pytest.raises(DeploymentStartupError, match=r"not this user's own folder.*XDG_CACHE_HOME"):
        get_bundle()


def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path):
    needs("unshare")
    # A file system of the test's own, which is gone with the process that mounted it.
    script = f"""
        mount -t tmpfs -o size=30m none {tmp_path} || exit 9
        {PYTHON} -c 'from swerex.deployment.bundle import get_bundle; get_bundle()'
        ls -A {tmp_path}/swerex/bundles
    """
    kind = ["--mount"] if os.getuid() == 0 else ["--mount", "--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *kind, "sh", "-c", script],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert re.search(r"DeploymentStartupError: .*No space left on device.*Free 200 MB", done.stderr)
    assert done.stdout == "lock\n"


def test_a_missing_dependency_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(contents, "_REQUIREMENTS", ("flask", "no_such_distribution"))
    with pytest.raises(DeploymentStartupError, match="pip install no_such_distribution"):
        contents.Contents.find()


def test_another_system_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DeploymentStartupError, match=r"darwin.*image that has swerex-remote"):
        contents.Contents.find()


def test_an_interpreter_that_is_no_program_is_an_error_that_says_so(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec python3\n")
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(DeploymentStartupError, match=rf"{script} is not a dynamically linked program"):
        contents.Contents.find()


# ELF files


def test_the_loader_and_the_libraries_of_a_program():
    python = Path(os.path.realpath(PYTHON))
    loader = loader_of(python)
    assert loader
    assert loader.exists()
    libraries = shared_libraries(python, loader)
    assert "libc.so.6" in libraries
    assert all(path and path.exists() for path in libraries.values())


def test_a_script_has_no_loader(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n" * 20)
    assert loader_of(script) is None
