"""What is written is read, exact to the byte, and errors are those of Python's open()."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from swerex.runtime.abstract import AbstractRuntime, ReadFileRequest, Session, WriteFileRequest
from swerex.testing.tools import equal, exists, prints, raised, read, sh, true, upload, write

_TEXTS = {
    "empty": "",
    "no line end": "a",
    "CRLF": "a\r\nb\r\n",
    "CR": "a\rb\r",
    "all line ends": "a\n\r\n\r\v\f\x1c\x85\u2028b",
    "NULs": "\0a\0",
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "other scripts": "ä€漢字🦖é",
    "a byte order mark": "\ufeffa",
    "blanks": "  a\t \n\n",
}


def texts(runtime: AbstractRuntime, folder: str) -> None:
    """Any text is written and read exactly: line ends, NULs, byte order marks."""
    for which, text in _TEXTS.items():
        write(runtime, f"{folder}/file", text)
        equal(read(runtime, f"{folder}/file"), text, which)


def texts_in_the_sandbox(session: Session, folder: str) -> None:
    """A session finds exactly what was written, and what it writes is read exactly."""
    for which, text in _TEXTS.items():
        write(session.runtime, f"{folder}/file", text)
        equal(session.run("cat file", timeout=10).output, text, which)
    session.run("printf 'a\\r\\n\\tb' > result", timeout=10)
    equal(read(session.runtime, f"{folder}/result"), "a\r\n\tb")


def ten_megabytes(runtime: AbstractRuntime, folder: str) -> None:
    """10 MB pass unchanged."""
    text = "0123456789ä\r\n" * 800_000
    write(runtime, f"{folder}/file", text)
    equal(read(runtime, f"{folder}/file"), text)


def encodings(runtime: AbstractRuntime, folder: str) -> None:
    """Encodings are those of Python."""
    for encoding in ("latin-1", "utf-16", "utf-32-be", "cp1252", "utf-8-sig", "shift-jis"):
        text = "漢字\r\n" if encoding == "shift-jis" else "äöü\r\n"
        _upload(runtime, text.encode(encoding), f"{folder}/file")
        request = ReadFileRequest(path=f"{folder}/file", encoding=encoding)
        equal(runtime.read_file(request).content, text, encoding)


def error_handlers(runtime: AbstractRuntime, folder: str) -> None:
    """Error handlers are those of Python."""
    data = b"a\xff\xfe\xe2\x82b\n"
    _upload(runtime, data, f"{folder}/file")
    for errors in ("replace", "ignore", "backslashreplace", "surrogateescape"):
        request = ReadFileRequest(path=f"{folder}/file", errors=errors)
        equal(runtime.read_file(request).content, data.decode("utf-8", errors), errors)


def broken_text(runtime: AbstractRuntime, folder: str) -> None:
    """Text that is no UTF-8 is a UnicodeDecodeError, an unknown encoding a LookupError."""
    _upload(runtime, b"abc\xff", f"{folder}/file")
    raised(UnicodeDecodeError, read, runtime, f"{folder}/file")
    for option in ({"encoding": "no-such-name"}, {"errors": "no-such-name"}):
        error = raised(LookupError, runtime.read_file, ReadFileRequest(path=f"{folder}/file", **option))
        true("no-such-name" in str(error), f"the error does not name it: {error}")


def missing_files(runtime: AbstractRuntime, folder: str) -> None:
    """A file that is not there is a FileNotFoundError that names it."""
    error = raised(FileNotFoundError, read, runtime, f"{folder}/no-such-file")
    true("no-such-file" in str(error), f"the error does not name it: {error}")


def folders(runtime: AbstractRuntime, folder: str) -> None:
    """A folder is no file to read or write, and a file no folder to write in."""
    raised(IsADirectoryError, read, runtime, folder)
    raised(IsADirectoryError, write, runtime, folder, "a")
    write(runtime, f"{folder}/file", "kept")
    raised(OSError, write, runtime, f"{folder}/file/below", "a")
    equal(read(runtime, f"{folder}/file"), "kept")


def missing_parents(runtime: AbstractRuntime, folder: str) -> None:
    """Missing parent folders are made."""
    write(runtime, f"{folder}/a/b c/ä/file", "a")
    equal(read(runtime, f"{folder}/a/b c/ä/file"), "a")


def replacements(session: Session, folder: str) -> None:
    """A file is replaced, keeps its mode, and is written through a symbolic link."""
    session.run("echo 'a longer text' > file; chmod 750 file; ln -s file link", timeout=10)
    write(session.runtime, f"{folder}/file", "short")
    equal(read(session.runtime, f"{folder}/file"), "short")
    write(session.runtime, f"{folder}/link", "new")
    equal(read(session.runtime, f"{folder}/file"), "new", "the file behind the link")
    equal(session.run("[ -L link ] && ls -l file", timeout=10).output[:10], "-rwxr-x---", "the mode")


def paths(runtime: AbstractRuntime, folder: str) -> None:
    """A path may hold any character, and be a path object."""
    path = f"{folder}/a b\n'\"\\$x*?%2f&#ä🦖"
    write(runtime, path, "a")
    equal(read(runtime, path), "a")
    true(exists(runtime, path), f"the sandbox has no {path!r}")
    path_object = PurePosixPath(folder, "file")
    runtime.write_file(WriteFileRequest(path=path_object, content="b"))  # type: ignore[arg-type]
    equal(runtime.read_file(ReadFileRequest(path=path_object)).content, "b")  # type: ignore[arg-type]


def files_of_the_kernel(runtime: AbstractRuntime) -> None:
    """Files that have no size, such as those of the kernel, are read."""
    expected = sh(runtime, "cat /proc/version").stdout
    true(expected, "the sandbox's /proc/version is empty")
    equal(read(runtime, "/proc/version"), expected)


def scripts(session: Session, folder: str) -> None:
    """A script that was written runs."""
    write(session.runtime, f"{folder}/script.sh", "cd /\necho from $PWD\n")
    prints(session, "bash script.sh", "from /\n")


def _upload(runtime: AbstractRuntime, data: bytes, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(data)
        upload(runtime, Path(folder) / "data", path)
