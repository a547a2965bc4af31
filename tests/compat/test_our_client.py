"""Our client drives the server of swe-rex 1.4.0: all that it can do, and no request twice.

That server puts line breaks of its own around a session's output, and does one thing at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    NonZeroExitCodeError,
    SandboxDiedError,
    SessionDoesNotExistError,
    SessionExistsError,
    SwerexException,
)
from swerex.runtime.abstract import (
    BashAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    Session,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.remote import RemoteRuntime
from tests.reliability.processes import client
from tests.reliability.proxy import Fault, Proxy
from tests.util import Server


@pytest.fixture
def session(our_client: RemoteRuntime, name: str) -> Iterator[Session]:
    with our_client.session(name) as session:
        yield session


@pytest.fixture
def proxy(their_server: Server) -> Iterator[Proxy]:
    with Proxy(their_server.port) as proxy:
        yield proxy


def test_is_alive(our_client: RemoteRuntime) -> None:
    assert our_client.is_alive(timeout=5)


def test_wrong_token(their_server: Server) -> None:
    stranger = RemoteRuntime(auth_token="wrong", host="http://127.0.0.1", port=their_server.port)
    assert not stranger.is_alive(timeout=5)
    with pytest.raises(SwerexException):
        stranger.execute(Command(command=["true"]))


def test_output_and_exit_code(session: Session) -> None:
    observation = session.run("echo 'the output'; (exit 3)", check="silent")
    assert "the output" in observation.output
    assert observation.exit_code == 3


def test_state_stays(session: Session) -> None:
    session.run("cd /usr; export A=value")
    assert "/usr value" in session.run('echo "$PWD $A"').output


def test_no_exit_code_for_check_ignore(session: Session) -> None:
    assert session.run("(exit 3)", check="ignore").exit_code is None


def test_startup_source(our_client: RemoteRuntime, name: str, tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("export FROM_RC=yes\n")
    with our_client.session(name, startup_source=[str(tmp_path / "rc")]) as session:
        assert "yes" in session.run("echo $FROM_RC").output


def test_sessions_that_are_there_and_that_are_not(our_client: RemoteRuntime, name: str) -> None:
    with our_client.session(name), pytest.raises(SessionExistsError):
        our_client.create_session(CreateBashSessionRequest(session=name))
    with pytest.raises(SessionDoesNotExistError):
        our_client.run_in_session(BashAction(command="true", session=name))
    with pytest.raises(SessionDoesNotExistError):
        our_client.close_session(CloseBashSessionRequest(session=name))


def test_non_zero_exit_code(session: Session) -> None:
    with pytest.raises(NonZeroExitCodeError, match=r"^what went wrong.*the output"):
        session.run("echo the output; (exit 7)", error_msg="what went wrong")


def test_syntax_error(session: Session) -> None:
    with pytest.raises(BashIncorrectSyntaxError) as caught:
        session.run("for in")
    assert "syntax error" in caught.value.extra_info["bash_stderr"]
    assert caught.value.extra_info["bash_stdout"] == ""


def test_timeout_and_interrupt(session: Session) -> None:
    with pytest.raises(CommandTimeoutError) as caught:
        session.run("sleep 60", timeout=0.5)
    assert isinstance(caught.value, TimeoutError)
    session.interrupt()
    assert "on" in session.run("echo on").output


def test_interactive_python(session: Session) -> None:
    expect = [">>> "]
    session.run("python3 -q", is_interactive_command=True, expect=expect, timeout=20)
    observation = session.run("print(20 + 1)", is_interactive_command=True, expect=expect, timeout=20)
    assert "21" in observation.output
    assert observation.expect_string == ">>> "
    session.run("quit()", is_interactive_quit=True, timeout=20)
    assert "on" in session.run("echo on").output


def test_a_command_that_takes_long(our_client: RemoteRuntime) -> None:
    """Longer than one exchange between our own two ends."""
    assert our_client.execute(Command(command="sleep 8; echo done")).stdout == "done\n"


def test_execute(our_client: RemoteRuntime) -> None:
    response = our_client.execute(Command(command="echo out; echo err >&2; exit 3"))
    assert (response.stdout, response.stderr, response.exit_code) == ("out\n", "err\n", 3)
    response = our_client.execute(Command(command="echo out; echo err >&2", merge_output_streams=True))
    assert response.stdout == "out\nerr\n"
    assert our_client.execute(Command(command=["pwd"], cwd="/usr")).stdout == "/usr\n"
    assert "A=value\n" in our_client.execute(Command(command=["/usr/bin/env"], env={"A": "value"})).stdout


def test_execute_errors(our_client: RemoteRuntime) -> None:
    with pytest.raises(CommandTimeoutError):
        our_client.execute(Command(command=["sleep", "60"], timeout=0.3))
    with pytest.raises(NonZeroExitCodeError, match=r"^what went wrong"):
        our_client.execute(Command(command=["false"], check=True, error_msg="what went wrong"))
    with pytest.raises(FileNotFoundError):
        our_client.execute(Command(command=["no-such-program"]))


def test_files(our_client: RemoteRuntime, tmp_path: Path) -> None:
    path = str(tmp_path / "made" / "file")
    content = "ä line\nand one more\n\ttab"
    our_client.write_file(WriteFileRequest(path=path, content=content))
    assert Path(path).read_text(encoding="utf-8") == content
    assert our_client.read_file(ReadFileRequest(path=path, encoding="utf-8")).content == content
    (tmp_path / "latin").write_bytes(b"\xe4")
    request = ReadFileRequest(path=str(tmp_path / "latin"), encoding="latin-1")
    assert our_client.read_file(request).content == "ä"


def test_file_errors(our_client: RemoteRuntime, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    with pytest.raises(FileNotFoundError):
        our_client.read_file(ReadFileRequest(path=str(tmp_path / "missing")))
    with pytest.raises(IsADirectoryError):
        our_client.read_file(ReadFileRequest(path=str(tmp_path)))
    with pytest.raises(UnicodeDecodeError):
        our_client.read_file(ReadFileRequest(path=str(tmp_path / "latin"), encoding="utf-8"))


def test_upload_of_a_file(our_client: RemoteRuntime, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(bytes(range(256)) * 10_000)
    our_client.upload(UploadRequest(source_path=str(source), target_path=str(target)))
    assert target.read_bytes() == source.read_bytes()


def test_upload_of_a_folder(our_client: RemoteRuntime, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub" / "ä").mkdir(parents=True)
    (source / "sub" / "ä" / "b").write_bytes(bytes(range(256)))
    (source / "a").write_text("a")
    our_client.upload(UploadRequest(source_path=str(source), target_path=str(target)))
    assert (target / "a").read_text() == "a"
    assert (target / "sub" / "ä" / "b").read_bytes() == bytes(range(256))


def test_upload_into_a_folder_that_is_there(our_client: RemoteRuntime, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    (source / "new").write_text("new")
    (target / "old").write_text("old")
    our_client.upload(UploadRequest(source_path=str(source), target_path=str(target)))
    assert {path.name for path in target.iterdir()} == {"new", "old"}


def test_upload_of_what_is_not_there(our_client: RemoteRuntime, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        our_client.upload(
            UploadRequest(source_path=str(tmp_path / "missing"), target_path=str(tmp_path / "x"))
        )
    assert not (tmp_path / "x").exists()


def test_many_threads(our_client: RemoteRuntime) -> None:
    """They take turns there, and each gets its own answer."""
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(our_client.execute, Command(command=["echo", f"{number}"])) for number in range(100)
        ]
        assert [call.result().stdout for call in calls] == [f"{number}\n" for number in range(100)]


@pytest.mark.parametrize(
    "fault", [Fault.CUT_AFTER, Fault.CUT_ANSWER, Fault.RESET_AFTER], ids=lambda fault: fault.name
)
def test_what_may_have_run_is_not_repeated(
    their_server: Server, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    runtime = client(their_server, proxy.port)
    runtime.execute(Command(command=["true"]))
    before = proxy.connections
    proxy.add_faults(fault)
    with pytest.raises(SandboxDiedError):
        runtime.execute(Command(command=f"echo ran >> {tmp_path}/log"))
    # One for each request. What is sent may come in several pieces, of which one has the fault.
    assert (proxy.done[fault], proxy.connections) == (1, before + 1)
    # It does one thing after another: with this answer, all that came before is over.
    runtime.execute(Command(command=["true"]))
    log = tmp_path / "log"
    # Where nobody is left to take the answer, that server may give a request up.
    assert (log.read_text() if log.exists() else "") in ("ran\n", "")
    assert log.exists() or fault is not Fault.CUT_ANSWER


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_INSIDE], ids=lambda fault: fault.name)
def test_what_was_not_sent_whole_runs_once_or_never(
    their_server: Server, proxy: Proxy, tmp_path: Path, fault: Fault
) -> None:
    runtime = client(their_server, proxy.port)
    runtime.execute(Command(command=["true"]))
    proxy.add_faults(fault)
    try:
        runtime.execute(Command(command=f"echo ran >> {tmp_path}/log"))
        runs = 1
    except SandboxDiedError:
        runs = 0
    runtime.execute(Command(command=["true"]))
    log = tmp_path / "log"
    assert (log.read_text() if log.exists() else "") == "ran\n" * runs


def test_a_connection_that_ended_between_two_calls_does_no_harm(
    their_server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    runtime = client(their_server, proxy.port)
    for number in range(5):
        runtime.execute(Command(command=f"echo {number} >> {tmp_path}/log"))
        proxy.cut_all()
    assert (tmp_path / "log").read_text() == "0\n1\n2\n3\n4\n"


def test_closing_the_runtime_closes_the_sessions(their_server: Server, name: str) -> None:
    with client(their_server) as runtime:
        runtime.create_session(CreateBashSessionRequest(session=name))
    with pytest.raises(RuntimeError, match="not initialized"):
        client(their_server).run_in_session(BashAction(command="true", session=name))
