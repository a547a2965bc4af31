"""Files: what is written is read, exact to the byte, and errors are those of `open`."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.runtime.abstract import (
    AbstractRuntime,
    Command,
    ReadFileRequest,
    Session,
    UploadRequest,
    WriteFileRequest,
)

TEXTS = {
    "nothing": "",
    "a line": "a\n",
    "no line end": "a",
    "CRLF": "a\r\nb\r\n",
    "CR": "a\rb\r",
    "all line ends": "a\n\r\n\r\v\f\x1c\x85\u2028b",
    "NULs": "\0a\0",
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "other scripts": "ä€漢字🦖é",
    "a byte order mark": "\ufeffa",
    "spaces": "  a\t \n\n",
}


@pytest.mark.parametrize("which", TEXTS)
def test_a_text_is_written_exactly(runtime: AbstractRuntime, tmp_path: Path, which: str) -> None:
    path = tmp_path / "file"
    runtime.write_file(WriteFileRequest(path=str(path), content=TEXTS[which]))
    assert path.read_bytes() == TEXTS[which].encode()


@pytest.mark.parametrize("which", TEXTS)
def test_a_text_is_read_exactly(runtime: AbstractRuntime, tmp_path: Path, which: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(TEXTS[which].encode())
    assert runtime.read_file(ReadFileRequest(path=str(path))).content == TEXTS[which]


def test_10_mb_pass_unchanged(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "file"
    text = "0123456789ä\r\n" * 800_000
    runtime.write_file(WriteFileRequest(path=str(path), content=text))
    assert path.read_bytes() == text.encode()
    assert runtime.read_file(ReadFileRequest(path=str(path))).content == text


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32-be", "cp1252", "utf-8-sig", "shift-jis"])
def test_an_encoding_can_be_given(runtime: AbstractRuntime, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file"
    text = "漢字\r\n" if encoding == "shift-jis" else "äöü\r\n"
    path.write_bytes(text.encode(encoding))
    assert runtime.read_file(ReadFileRequest(path=str(path), encoding=encoding)).content == text


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "surrogateescape"])
def test_an_error_handler_can_be_given(runtime: AbstractRuntime, tmp_path: Path, errors: str) -> None:
    path = tmp_path / "file"
    data = b"a\xff\xfe\xe2\x82b\n"
    path.write_bytes(data)
    content = runtime.read_file(ReadFileRequest(path=str(path), errors=errors)).content
    assert content == data.decode("utf-8", errors)


def test_broken_text_is_an_error(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc\xff")
    with pytest.raises(UnicodeDecodeError) as caught:
        runtime.read_file(ReadFileRequest(path=str(path)))
    assert str(caught.value) == "'utf-8' codec can't decode byte 0xff in position 3: invalid start byte"


@pytest.mark.parametrize(
    "request_", [{"encoding": "no-such-encoding"}, {"errors": "no-such-handler"}], ids=["encoding", "errors"]
)
def test_an_unknown_name_is_an_error(
    runtime: AbstractRuntime, tmp_path: Path, request_: dict[str, str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc\xff")
    with pytest.raises(LookupError, match="no-such"):
        runtime.read_file(ReadFileRequest(path=str(path), **request_))


def test_a_missing_file_is_named(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "no-such-file"
    with pytest.raises(FileNotFoundError, match="no-such-file") as caught:
        runtime.read_file(ReadFileRequest(path=str(path)))
    assert caught.value.errno == errno.ENOENT


def test_a_folder_is_no_file_to_read(runtime: AbstractRuntime, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        runtime.read_file(ReadFileRequest(path=str(tmp_path)))


def test_a_folder_is_no_file_to_write(runtime: AbstractRuntime, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        runtime.write_file(WriteFileRequest(path=str(tmp_path), content="a"))


def test_a_file_is_no_folder_to_write_in(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        runtime.write_file(WriteFileRequest(path=str(tmp_path / "file" / "below"), content="a"))
    assert (tmp_path / "file").read_text() == "kept"


def test_missing_parents_are_made(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b c" / "ä" / "file"
    runtime.write_file(WriteFileRequest(path=str(path), content="a"))
    assert path.read_text() == "a"


def test_a_file_is_replaced_and_keeps_its_mode(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a longer text")
    path.chmod(0o750)
    runtime.write_file(WriteFileRequest(path=str(path), content="short"))
    assert path.read_text() == "short"
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_link_is_written_through(runtime: AbstractRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    runtime.write_file(WriteFileRequest(path=str(tmp_path / "link"), content="new"))
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_a_path_may_be_a_path_object(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "file"
    runtime.write_file(WriteFileRequest(path=path, content="a"))  # type: ignore[arg-type]
    assert runtime.read_file(ReadFileRequest(path=path)).content == "a"  # type: ignore[arg-type]


def test_a_path_may_hold_any_character(runtime: AbstractRuntime, tmp_path: Path) -> None:
    path = tmp_path / "a b\n'\"\\$x*?%2f&#ä🦖"
    runtime.write_file(WriteFileRequest(path=str(path), content="a"))
    assert path.read_text() == "a"
    assert runtime.read_file(ReadFileRequest(path=str(path))).content == "a"


def test_a_file_of_the_kernel_is_read(runtime: AbstractRuntime) -> None:
    path = Path("/proc/version")
    assert runtime.read_file(ReadFileRequest(path=str(path))).content == path.read_text()


def test_a_session_sees_what_was_written(runtime: AbstractRuntime, name: str, tmp_path: Path) -> None:
    runtime.write_file(WriteFileRequest(path=str(tmp_path / "script.sh"), content="echo from $PWD\n"))
    with runtime.session(name, cwd="/") as session:
        assert session.run(f"bash {tmp_path}/script.sh", timeout=5).output == "from /\n"
        session.run(f"printf 'a\\r\\n' > {tmp_path}/result", timeout=5)
    assert runtime.read_file(ReadFileRequest(path=str(tmp_path / "result"))).content == "a\r\n"


def test_many_threads_write_and_read(runtime: AbstractRuntime, tmp_path: Path) -> None:
    def pass_on(number: int) -> str:
        path = str(tmp_path / f"{number}")
        runtime.write_file(WriteFileRequest(path=path, content=f"{number}" * 1000))
        return runtime.read_file(ReadFileRequest(path=path)).content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pass_on, range(64))) == [f"{number}" * 1000 for number in range(64)]


def test_a_name_that_is_no_utf_8(runtime: AbstractRuntime, session: Session, tmp_path: Path) -> None:
    path = f"{tmp_path}/a\udcff"
    runtime.write_file(WriteFileRequest(path=path, content="written"))
    assert runtime.read_file(ReadFileRequest(path=path)).content == "written"
    assert session.run(f"cat '{path}'", timeout=5).output == "written"
    assert runtime.execute(Command(command=["cat", path])).stdout == "written"
    runtime.upload(UploadRequest(source_path=path, target_path=f"{tmp_path}/b\udcff"))
    assert Path(f"{tmp_path}/b\udcff").read_text() == "written"
