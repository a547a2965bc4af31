"""Files and folders of the caller arrive in the sandbox as they are, and nowhere but in their target."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swerex.runtime.abstract import AbstractRuntime, Command
from swerex.testing.tools import NotApplicable, equal, exists, needs, raised, read, sh, true, upload, write

# Prints each entry below a folder: path, kind, and content or target. It needs bash and readlink only.
_DESCRIBE = r"""
shopt -s globstar dotglob nullglob
cd "$1" || exit
for path in **; do
  if [ -L "$path" ]; then kind=link content=$(readlink "$path")
  elif [ -d "$path" ]; then kind=folder content=
  else kind=file content=$(<"$path"); fi
  printf '%s\0' "$path" "$kind" "$content"
done
"""


def files(runtime: AbstractRuntime, folder: str) -> None:
    """A file gets the name of the target and its missing parents, and replaces another."""
    with _source({"source": "new"}) as here:
        for target in (f"{folder}/x/y z/target", f"{folder}/there"):
            write(runtime, f"{folder}/there", "old and longer")
            upload(runtime, here / "source", target)
            equal(read(runtime, target), "new")


def contents(runtime: AbstractRuntime, folder: str) -> None:
    """Any content arrives, nothing and 20 MB of random bytes too."""
    needs(runtime, "sha256sum")
    for data in (b"", b"\r\n\0\xff", b"--boundary\r\n", random.Random(3).randbytes(20_000_000)):
        with _source({}) as here:
            (here / "source").write_bytes(data)
            upload(runtime, here / "source", f"{folder}/target")
        found = sh(runtime, 'sha256sum < "$1"', f"{folder}/target").stdout.split()[0]
        equal(found, hashlib.sha256(data).hexdigest(), f"the SHA-256 of {len(data)} bytes")


def modes_and_times(runtime: AbstractRuntime, folder: str) -> None:
    """Files and folders keep their modes and times."""
    needs(runtime, "stat")
    with _source({"source/run.sh": "", "source/sub/file": ""}) as here:
        modes = {"run.sh": 0o755, "sub/file": 0o444, "sub": 0o555, ".": 0o750}
        for name, mode in modes.items():
            (here / "source" / name).chmod(mode)
            os.utime(here / "source" / name, (1_000_000_000, 1_000_000_000))
        upload(runtime, here / "source", f"{folder}/target")
        for name, mode in modes.items():
            found = sh(runtime, "stat -c '%a %Y' \"$1\"", f"{folder}/target/{name}").stdout
            equal(found, f"{mode:o} 1000000000\n", f"mode and time of {name}")
        (here / "source" / "sub").chmod(0o755)


def folders(runtime: AbstractRuntime, folder: str) -> None:
    """A folder arrives with hidden files, odd and long names, links and empty folders."""
    tree = {
        "file": "a",
        "a b/ä🦖\n'\"$x/deep": "b",
        ".hidden/.file": "c",
        "x" * 200 + "/" + "y" * 200 + "/" + "z" * 200: "long",
        "-dash": "d",
    }
    with _source(tree) as here:
        (here / "empty").mkdir()
        for name, target in {
            "link": "file",
            "link to a folder": "a b",
            "link upwards": "../outside",
            "dangling": "no such file",
            "absolute": "/etc/hostname",
        }.items():
            (here / name).symlink_to(target)
        expected = _describe_here(here)
        upload(runtime, here, f"{folder}/target")
        equal(_describe_here(here), expected, "the source, afterwards")
    equal(_describe(runtime, f"{folder}/target"), expected)
    equal(set(_describe(runtime, folder)) - {f"target/{name}" for name in expected}, {"target"}, "all")


def names_that_are_no_utf8(runtime: AbstractRuntime, folder: str) -> None:
    """A name that is not UTF-8 arrives."""
    with _source({"file": "a"}) as here:
        try:
            (here / os.fsdecode(b"caf\xe9")).write_text("b")
        except OSError:
            raise NotApplicable("the caller's file system takes no such name") from None
        upload(runtime, here, f"{folder}/target")
    equal(_describe(runtime, f"{folder}/target"), {"caf\\xe9": ("file", "b"), "file": ("file", "a")})


def empty_folders(runtime: AbstractRuntime, folder: str) -> None:
    """An empty folder arrives, with its missing parents."""
    with _source({}) as here:
        upload(runtime, here, f"{folder}/x/target")
    equal(_describe(runtime, f"{folder}/x"), {"target": ("folder", "")})


def many_files(runtime: AbstractRuntime, folder: str) -> None:
    """A folder of 500 files arrives."""
    with _source({f"{n % 10}/{n}": f"{n}" * n for n in range(500)}) as here:
        upload(runtime, here, f"{folder}/target")
        equal(_describe(runtime, f"{folder}/target"), _describe_here(here))


def merges(runtime: AbstractRuntime, folder: str) -> None:
    """A folder is merged into one that is there, again and again."""
    target = f"{folder}/target"
    for name in ("same", "old", "sub/old", "sub/same"):
        write(runtime, f"{target}/{name}", "old")
    with _source({"same": "new", "sub/new": "new", "sub/same": "new"}) as here:
        (here / "sub" / "new").chmod(0o444)
        (here / "link").symlink_to("same")
        for _ in range(2):
            upload(runtime, here, target)
    found = {
        name: content for name, (kind, content) in _describe(runtime, target).items() if kind != "folder"
    }
    expected = {"same": "new", "old": "old", "sub/old": "old", "sub/same": "new", "sub/new": "new"}
    equal(found, {**expected, "link": "same"})


def links_to_sources_and_targets(runtime: AbstractRuntime, folder: str) -> None:
    """A link to the source is followed, and one that is the target."""
    sh(runtime, 'cd "$1" && mkdir real && ln -s real target', folder)
    with _source({"source/sub/file": "a"}) as here:
        (here / "link").symlink_to("source")
        upload(runtime, here / "link", f"{folder}/target")
    found = _describe(runtime, folder)
    equal((found["target"], found.get("real/sub/file")), (("link", "real"), ("file", "a")))


def kinds_that_differ(runtime: AbstractRuntime, folder: str) -> None:
    """A file does not replace a folder, nor a folder a file."""
    write(runtime, f"{folder}/folder/file", "kept")
    write(runtime, f"{folder}/file", "kept")
    with _source({"file": "new", "folder/file": "new"}) as here:
        raised(IsADirectoryError, upload, runtime, here / "file", f"{folder}/folder")
        raised(OSError, upload, runtime, here / "folder", f"{folder}/file")
    equal(read(runtime, f"{folder}/folder/file"), "kept")
    equal(read(runtime, f"{folder}/file"), "kept")


def missing_sources(runtime: AbstractRuntime, folder: str) -> None:
    """A source that is not there is a FileNotFoundError that names it."""
    with _source({}) as here:
        error = raised(FileNotFoundError, upload, runtime, here / "no-such-source", f"{folder}/target")
    true("no-such-source" in str(error), f"the error does not name it: {error}")
    true(not exists(runtime, f"{folder}/target"), "the target was made")


def links_that_lead_outside(runtime: AbstractRuntime, folder: str) -> None:
    """An upload can't leave its target through a link, also one of an earlier upload."""
    write(runtime, f"{folder}/outside/file", "kept")
    sh(runtime, 'cd "$1" && mkdir a b && ln -s "$1/outside" a/sub && ln -s ../outside b/sub', folder)
    with _source({"link/x": "", "new/sub/file": "new", "new/sub/other": "new"}) as here:
        (here / "link" / "sub").symlink_to(f"{folder}/outside")
        upload(runtime, here / "link", f"{folder}/c")
        for target in "abc":
            raised(PermissionError, upload, runtime, here / "new", f"{folder}/{target}")
    equal(_describe(runtime, f"{folder}/outside"), {"file": ("file", "kept")})


def links_that_lead_inside(runtime: AbstractRuntime, folder: str) -> None:
    """A link that leads to another folder of the target is followed."""
    write(runtime, f"{folder}/target/real/other", "old")
    sh(runtime, 'ln -s real "$1/target/sub"', folder)
    with _source({"sub/file": "new"}) as here:
        upload(runtime, here, f"{folder}/target")
    found = _describe(runtime, f"{folder}/target/real")
    equal(found, {"other": ("file", "old"), "file": ("file", "new")})


@contextmanager
def _source(files: dict[str, str]) -> Iterator[Path]:
    """A folder with these files on the caller's machine."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "here"
        here.mkdir()
        for name, content in files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        yield here


def _describe(runtime: AbstractRuntime, folder: str) -> dict[str, tuple[str, str]]:
    """Everything below a folder of the sandbox: kind and content, or the target of a link."""
    command = Command(command=["bash", "-c", _DESCRIBE, "bash", folder], timeout=30, check=True)
    fields = runtime.execute(command).stdout.split("\0")[:-1]
    entries = zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    return {path: (kind, content) for path, kind, content in entries}


def _describe_here(folder: Path) -> dict[str, tuple[str, str]]:
    """The same of a folder of the caller's machine."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            entry = "link", os.readlink(path)
        else:
            entry = ("folder", "") if path.is_dir() else ("file", path.read_text())
        found[str(path.relative_to(folder))] = entry
    return found
