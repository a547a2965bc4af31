"""Upload: files and folders arrive as they are, in little memory, and nowhere but in their target."""

from __future__ import annotations

import io
import os
import random
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from swerex.runtime.abstract import AbstractRuntime, UploadRequest
from tests.util import PYTHON, Server, peak_memory, running_server

Entry = tuple[str, int, int, object]


def upload(runtime: AbstractRuntime, source: Path, target: Path) -> None:
    runtime.upload(UploadRequest(source_path=str(source), target_path=str(target)))


def describe(folder: Path) -> dict[str, Entry]:
    """Everything below a folder: kind, mode, time in whole seconds, and content."""
    found: dict[str, Entry] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        kind = oct(stat.S_IFMT(status.st_mode))
        found[str(path.relative_to(folder))] = (
            kind,
            stat.S_IMODE(status.st_mode),
            int(status.st_mtime),
            content,
        )
    return found


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


# Files


def test_a_file_gets_the_name_of_the_target(runtime: AbstractRuntime, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(3_000_000)
    (tmp_path / "source").write_bytes(data)
    upload(runtime, tmp_path / "source", tmp_path / "new name")
    assert (tmp_path / "new name").read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"\r\n\0\xff", b"--boundary\r\n"], ids=["empty", "bytes", "boundary"])
def test_any_content_arrives(runtime: AbstractRuntime, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "source").write_bytes(data)
    upload(runtime, tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


def test_a_file_gets_its_missing_parents(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("a")
    upload(runtime, tmp_path / "source", tmp_path / "x" / "y z" / "target")
    assert (tmp_path / "x" / "y z" / "target").read_text() == "a"


@pytest.mark.parametrize("mode", [0o755, 0o640, 0o600, 0o444, 0o777])
def test_a_file_keeps_its_mode_and_time(runtime: AbstractRuntime, tmp_path: Path, mode: int) -> None:
    source = tmp_path / "source"
    source.write_text("a")
    source.chmod(mode)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    upload(runtime, source, tmp_path / "target")
    status = (tmp_path / "target").stat()
    assert (stat.S_IMODE(status.st_mode), int(status.st_mtime)) == (mode, 1_000_000_000)


def test_a_file_replaces_another(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old and longer")
    upload(runtime, tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "new"


def test_a_file_does_not_replace_a_folder(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("new")
    target = tree(tmp_path / "target", {"file": "old"})
    with pytest.raises(IsADirectoryError):
        upload(runtime, tmp_path / "source", target)
    assert (target / "file").read_text() == "old"


def test_a_missing_source_is_named(runtime: AbstractRuntime, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-source"):
        upload(runtime, tmp_path / "no-such-source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


# Folders


def test_a_folder_arrives_as_it_is(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(
        tmp_path / "source",
        {
            "file": "a",
            "run.sh": "#!/bin/sh\n",
            "a b/ä🦖\n'\"$x/deep": "b",
            ".hidden/.file": "c",
            "x" * 200 + "/" + "y" * 200 + "/" + "z" * 200: "long",
            "-dash": "d",
        },
    )
    (source / "empty").mkdir()
    (source / "run.sh").chmod(0o755)
    (source / "file").chmod(0o640)
    (source / "a b").chmod(0o750)
    (source / "link").symlink_to("file")
    (source / "link to a folder").symlink_to("a b")
    (source / "link upwards").symlink_to("../outside")
    (source / "dangling").symlink_to("no such file")
    (source / "absolute").symlink_to("/etc/hostname")
    for number, path in enumerate([*source.rglob("*"), source]):
        os.utime(path, (1_000_000_000 + number,) * 2, follow_symlinks=False)
    upload(runtime, source, tmp_path / "target")
    expected = describe(source)
    found = describe(tmp_path / "target")
    assert found.keys() == expected.keys()
    for name in expected:
        # The time of a symbolic link is nobody's concern.
        keep = slice(None) if expected[name][0] != oct(stat.S_IFLNK) else slice(0, 2)
        assert (name, found[name][keep]) == (name, expected[name][keep])
        assert found[name][3] == expected[name][3]


def test_a_name_that_is_not_utf8_arrives(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"file": "a"})
    (source / os.fsdecode(b"caf\xe9")).write_text("b")
    upload(runtime, source, tmp_path / "target")
    assert sorted(os.listdir(os.fsencode(tmp_path / "target"))) == [b"caf\xe9", b"file"]


def test_an_empty_folder_arrives(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    upload(runtime, tmp_path / "source", tmp_path / "x" / "target")
    assert list((tmp_path / "x" / "target").iterdir()) == []


def test_a_folder_of_many_files_arrives(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {f"{n % 10}/{n}": f"{n}" * n for n in range(500)})
    upload(runtime, source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_a_folder_is_merged_into_another(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"same": "new", "sub/new": "new", "sub/same": "new"})
    target = tree(tmp_path / "target", {"same": "old", "old": "old", "sub/old": "old", "sub/same": "old"})
    (source / "same").chmod(0o755)
    upload(runtime, source, target)
    contents = {str(p.relative_to(target)): p.read_text() for p in target.rglob("*") if p.is_file()}
    assert contents == {"same": "new", "old": "old", "sub/old": "old", "sub/same": "new", "sub/new": "new"}
    assert stat.S_IMODE((target / "same").stat().st_mode) == 0o755


def test_a_folder_can_be_uploaded_again(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"file": "a", "sub/read-only": "b"})
    (source / "link").symlink_to("file")
    (source / "dangling").symlink_to("nowhere")
    (source / "sub" / "read-only").chmod(0o444)
    for _ in range(2):
        upload(runtime, source, tmp_path / "target")
    found = describe(tmp_path / "target")
    assert found["link"][3] == Path("file")
    assert found["dangling"][3] == Path("nowhere")
    assert found["sub/read-only"][1] == 0o444


def test_a_folder_that_may_not_be_written_arrives(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"sub/file": "a"})
    (source / "sub").chmod(0o555)
    upload(runtime, source, tmp_path / "target")
    assert (tmp_path / "target" / "sub" / "file").read_text() == "a"
    assert stat.S_IMODE((tmp_path / "target" / "sub").stat().st_mode) == 0o555


def test_a_folder_does_not_replace_a_file(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"file": "a"})
    (tmp_path / "target").write_text("kept")
    with pytest.raises(OSError, match="target"):
        upload(runtime, source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "kept"


def test_a_link_to_the_source_is_followed(runtime: AbstractRuntime, tmp_path: Path) -> None:
    tree(tmp_path / "source", {"file": "a"})
    (tmp_path / "link").symlink_to("source")
    upload(runtime, tmp_path / "link", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target" / "file").read_text() == "a"


def test_a_link_that_is_the_target_is_followed(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"sub/file": "a"})
    (tmp_path / "real").mkdir()
    (tmp_path / "target").symlink_to("real")
    upload(runtime, source, tmp_path / "target")
    assert (tmp_path / "target").is_symlink()
    assert (tmp_path / "real" / "sub" / "file").read_text() == "a"


def test_the_source_is_not_changed(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"file": "a", "sub/file": "b"})
    before = describe(source)
    upload(runtime, source, tmp_path / "target")
    assert describe(source) == before


def test_nothing_but_the_target_is_left(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"file": "a"})
    upload(runtime, source, tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"file"}


# Its limits


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_that_leads_outside_is_not_written_through(
    runtime: AbstractRuntime, tmp_path: Path, absolute: bool
) -> None:
    outside = tree(tmp_path / "outside", {"file": "kept"})
    source = tree(tmp_path / "source", {"sub/file": "new", "sub/other": "new"})
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "sub").symlink_to(outside if absolute else "../outside")
    with pytest.raises(PermissionError):
        upload(runtime, source, tmp_path / "target")
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "kept"}


def test_a_link_to_a_file_outside_is_not_written_through(runtime: AbstractRuntime, tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", {"file": "kept"})
    source = tree(tmp_path / "source", {"name": "new"})
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "name").symlink_to(outside / "file")
    try:
        upload(runtime, source, tmp_path / "target")
    except PermissionError:
        pass
    else:
        assert not (tmp_path / "target" / "name").is_symlink()
        assert (tmp_path / "target" / "name").read_text() == "new"
    assert (outside / "file").read_text() == "kept"


def test_a_link_of_an_earlier_upload_is_not_written_through(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    first = tmp_path / "first"
    first.mkdir()
    (first / "sub").symlink_to(tmp_path / "outside")
    upload(runtime, first, tmp_path / "target")
    with pytest.raises(PermissionError):
        upload(runtime, tree(tmp_path / "second", {"sub/file": "new"}), tmp_path / "target")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_that_leads_inside_is_followed(runtime: AbstractRuntime, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", {"sub/file": "new"})
    target = tree(tmp_path / "target", {"real/other": "old"})
    (target / "sub").symlink_to("real")
    upload(runtime, source, target)
    assert (target / "real" / "file").read_text() == "new"
    assert (target / "real" / "other").read_text() == "old"


CLIENT = """
import os, sys
from pathlib import Path
from swerex.runtime.abstract import UploadRequest
from swerex.runtime.remote import RemoteRuntime
from tests.util import peak_memory

port, folder = int(sys.argv[1]), Path(sys.argv[2])
with RemoteRuntime(auth_token=os.environ["TOKEN"], host="http://127.0.0.1", port=port) as runtime:
    runtime.upload(UploadRequest(source_path=str(folder / "small"), target_path=str(folder / "warm")))
    before = peak_memory(os.getpid())
    runtime.upload(UploadRequest(source_path=str(folder / "source"), target_path=str(folder / "target")))
    print(peak_memory(os.getpid()) - before)
"""


def test_1_gb_takes_less_than_100_mb_of_memory_at_both_ends(tmp_path: Path) -> None:
    limit = 100_000_000
    (tmp_path / "small").write_text("a")
    source, target = tmp_path / "source" / "file", tmp_path / "target" / "file"
    source.parent.mkdir()
    source.write_bytes(b"first")
    os.truncate(source, 1 << 30)
    with running_server(tmp_path) as server:
        before = peak_memory(server.pid)
        client = subprocess.run(
            [PYTHON, "-c", CLIENT, str(server.port), str(tmp_path)],
            env={**os.environ, "TOKEN": server.token},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=50,
        )
        assert peak_memory(server.pid) - before < limit
        assert int(client.stdout) < limit
    assert target.stat().st_size == 1 << 30
    with target.open("rb") as file:
        assert file.read(6) == b"first\0"
    target.unlink()


# The form that other clients use


def post(server: Server, data: bytes, target: Path, unzip: str) -> requests.Response:
    return requests.post(
        f"{server.url}/upload",
        headers={"X-API-Key": server.token},
        files={"file": ("name", data)},
        data={"target_path": str(target), "unzip": unzip},
        timeout=10,
    )


def zipped(*entries: tuple[str | zipfile.ZipInfo, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_file_is_taken_from_other_clients(server: Server, tmp_path: Path) -> None:
    response = post(server, b"\0\xff\r\n", tmp_path / "x" / "target", "false")
    assert (response.status_code, response.json()) == (200, {})
    assert (tmp_path / "x" / "target").read_bytes() == b"\0\xff\r\n"


def test_a_zip_is_unpacked_for_other_clients(server: Server, tmp_path: Path) -> None:
    data = zipped(("file", "a"), ("sub/file", "b"), ("empty/", ""))
    response = post(server, data, tmp_path / "target", "true")
    assert (response.status_code, response.json()) == (200, {})
    assert (tmp_path / "target" / "file").read_text() == "a"
    assert (tmp_path / "target" / "sub" / "file").read_text() == "b"
    assert (tmp_path / "target" / "empty").is_dir()


def test_a_zip_is_merged_into_a_folder(server: Server, tmp_path: Path) -> None:
    target = tree(tmp_path / "target", {"old": "old", "same": "old"})
    assert post(server, zipped(("same", "new")), target, "true").status_code == 200
    assert {path.name: path.read_text() for path in target.iterdir()} == {"old": "old", "same": "new"}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "{}/evil", "./../evil", "..\\evil"])
def test_a_zip_cannot_leave_its_target(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "target").mkdir()
    post(server, zipped((name.format(tmp_path), "evil")), tmp_path / "target", "true")
    assert {path.name for path in tmp_path.iterdir()} == {"target"}


def test_a_zip_cannot_leave_its_target_through_its_own_link(server: Server, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    link = zipfile.ZipInfo("sub")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    post(server, zipped((link, str(tmp_path / "outside")), ("sub/evil", "evil")), tmp_path / "target", "true")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_zip_cannot_leave_its_target_through_a_link_that_is_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "sub").symlink_to(tmp_path / "outside")
    response = post(server, zipped(("sub/evil", "evil")), tmp_path / "target", "true")
    assert response.status_code == 511
    assert response.json()["swerexception"]["class_path"] == "builtins.PermissionError"
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"no zip", zipped(("file", "a" * 1000))[:-40]])
def test_what_is_no_zip_is_refused(server: Server, tmp_path: Path, data: bytes) -> None:
    response = post(server, data, tmp_path / "target", "true")
    assert response.status_code in (400, 422, 511)
    assert response.headers["Content-Type"].startswith("application/json")


def test_an_upload_without_the_token_writes_nothing(server: Server, tmp_path: Path) -> None:
    response = requests.post(
        f"{server.url}/upload",
        files={"file": ("name", b"a")},
        data={"target_path": str(tmp_path / "target"), "unzip": "false"},
        timeout=10,
    )
    assert response.status_code == 401
    assert not (tmp_path / "target").exists()
