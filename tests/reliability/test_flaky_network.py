"""A network that cuts, delays and drops: what a caller asks for happens exactly once all the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.remote import RemoteRuntime
from tests.reliability.processes import client
from tests.reliability.proxy import Fault, Proxy, at_random
from tests.util import Server, wait_until

THREADS = 4
COMMANDS = 250

CUTS = [
    Fault.CUT_BEFORE,
    Fault.CUT_INSIDE,
    Fault.CUT_AFTER,
    Fault.CUT_ANSWER,
    Fault.RESET_AFTER,
]
# The client notices these only when an answer is overdue, which takes seconds.
SILENT = [Fault.DROP_REQUEST, Fault.DROP_ANSWER]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def runtime(server: Server, proxy: Proxy) -> RemoteRuntime:
    """A client behind the proxy. It is not closed, since that would close the sessions of other tests."""
    return client(server, proxy.port)


def test_each_of_1000_commands_runs_exactly_once_and_in_order(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shares = dict.fromkeys(CUTS, 0.015) | dict.fromkeys(SILENT, 0.002) | {Fault.DELAY: 0.02}
    with Proxy(server.port, at_random(1, shares)) as proxy:
        runtime = client(server, proxy.port)

        def work(name: str) -> list[str]:
            with runtime.session(name) as session:
                commands = [f"echo {name} {number} | tee -a {log}" for number in range(COMMANDS)]
                return [session.run(command).output for command in commands]

        names = [f"thread-{number}" for number in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            outputs = list(pool.map(work, names))

    lines = log.read_text().splitlines()
    for name, printed in zip(names, outputs, strict=True):
        wanted = [f"{name} {number}" for number in range(COMMANDS)]
        assert [line for line in lines if line.split()[0] == name] == wanted
        assert printed == [f"{line}\n" for line in wanted]
    assert len(lines) == THREADS * COMMANDS
    assert all(proxy.done[fault] for fault in [*CUTS, *SILENT, Fault.DELAY]), proxy.done


@pytest.mark.parametrize("fault", CUTS, ids=lambda fault: fault.name)
def test_a_command_in_a_session_runs_once(
    fault: Fault, proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path
) -> None:
    with runtime.session(fault.name) as session:
        proxy.add_faults(fault)
        assert session.run(f"echo once | tee -a {tmp_path}/log").output == "once\n"
    assert proxy.done[fault] == 1
    assert (tmp_path / "log").read_text() == "once\n"


@pytest.mark.parametrize("fault", CUTS, ids=lambda fault: fault.name)
def test_execute_runs_once(fault: Fault, proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path) -> None:
    proxy.add_faults(fault)
    assert runtime.execute(Command(command=f"echo once | tee -a {tmp_path}/log")).stdout == "once\n"
    assert proxy.done[fault] == 1
    assert (tmp_path / "log").read_text() == "once\n"


def test_a_request_that_is_cut_again_and_again_gets_through(
    proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path
) -> None:
    proxy.add_faults(*CUTS)
    assert runtime.execute(Command(command=f"echo once | tee -a {tmp_path}/log")).stdout == "once\n"
    assert (tmp_path / "log").read_text() == "once\n"
    assert sum(proxy.done[fault] for fault in CUTS) == len(CUTS)


def test_a_command_that_still_runs_is_joined(proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, runtime.session("joined") as session:
        begun, go_on, log = tmp_path / "begun", tmp_path / "go on", tmp_path / "log"
        command = f"touch '{begun}'; until [ -e '{go_on}' ]; do sleep 0.01; done; echo once | tee -a {log}"
        call = pool.submit(session.run, command)
        wait_until(begun.exists)
        proxy.cut_all()
        wait_until(lambda: sum(proxy.done.values()) >= 3)  # the request came a second time
        go_on.touch()
        assert call.result().output == "once\n"
        assert log.read_text() == "once\n"


@pytest.mark.parametrize("fault", [Fault.CUT_AFTER, Fault.CUT_ANSWER], ids=lambda fault: fault.name)
def test_a_session_is_made_and_closed_once(fault: Fault, proxy: Proxy, runtime: RemoteRuntime) -> None:
    name = f"made-once-{fault.name}"
    proxy.add_faults(fault)
    runtime.create_session(CreateBashSessionRequest(session=name))
    assert runtime.run_in_session(BashAction(command="echo there", session=name)).output == "there\n"
    proxy.add_faults(fault)
    runtime.close_session(CloseBashSessionRequest(session=name))
    assert proxy.done[fault] == 2


@pytest.mark.parametrize("fault", CUTS, ids=lambda fault: fault.name)
def test_files_arrive_whole(fault: Fault, proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    content = "".join(f"line {number}\n" for number in range(200_000))
    proxy.add_faults(fault)
    runtime.write_file(WriteFileRequest(path=path, content=content))
    assert (tmp_path / "file").read_text() == content
    proxy.add_faults(fault)
    assert runtime.read_file(ReadFileRequest(path=path)).content == content
    assert proxy.done[fault] == 2


@pytest.mark.parametrize("fault", CUTS, ids=lambda fault: fault.name)
def test_an_upload_arrives_whole(fault: Fault, proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}").write_bytes(bytes([number]) * 3_000_000)
    # In the middle of the upload, not at its first byte.
    proxy.add_faults(Fault.PASS, Fault.PASS, Fault.PASS, fault)
    target = tmp_path / "target"
    runtime.upload(UploadRequest(source_path=str(source), target_path=str(target)))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert proxy.done[fault] == 1


def test_an_error_of_the_command_arrives_though_its_answer_was_cut(
    proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path
) -> None:
    proxy.add_faults(Fault.CUT_AFTER)
    with pytest.raises(FileNotFoundError):
        runtime.read_file(ReadFileRequest(path=str(tmp_path / "not there")))


def test_an_interrupt_gets_through(proxy: Proxy, runtime: RemoteRuntime, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with ThreadPoolExecutor(1) as pool, runtime.session("interrupted") as session:
        call = pool.submit(session.run, f"touch {begun}; sleep 60", check="silent")
        wait_until(begun.exists)
        proxy.add_faults(Fault.CUT_BEFORE, Fault.CUT_AFTER)
        runtime.run_in_session(BashInterruptAction(session="interrupted"))
        assert call.result(timeout=5).exit_code == 130
        assert session.run("echo on").output == "on\n"


def test_is_alive_says_no_and_then_yes(proxy: Proxy, runtime: RemoteRuntime) -> None:
    assert runtime.is_alive(timeout=5)
    proxy.add_faults(Fault.DROP_REQUEST)
    assert not runtime.is_alive(timeout=0.5)
    assert runtime.is_alive(timeout=5)
