"""The conformance suite itself: it sees what does not hold, and its report and exit code say so."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import pytest

from swerex.deployment.local import LocalDeployment
from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import AbstractRuntime, CommandResponse, IsAliveResponse, ReadFileResponse
from swerex.runtime.dummy import DummyRuntime
from swerex.runtime.local import LocalRuntime
from swerex.testing import (
    Check,
    CheckFailed,
    Report,
    Result,
    checks,
    rst_table,
    run,
    suite,
    tools,
)
from tests.util import PYTHON

REPORT = Report(
    "mine",
    [
        Result("files", "A file is written", "held", 0.25),
        Result("files", "A file is read", "failed", 1.5, "expected 'a',\ngot 'b'"),
        Result("errors", "An error is raised", "not applicable", 0.25, "the sandbox has no gdb"),
    ],
)


class RuntimeWithoutLineEnds(LocalRuntime):
    def read_file(self, *args, **kwargs):
        content = super().read_file(*args, **kwargs).content
        return ReadFileResponse.model_construct(content=content.replace("\r\n", "\n"))


class RuntimeThatDoesNothing(DummyRuntime):
    """Tells of a folder that the checks may use, and that is all."""

    def execute(self, *args, **kwargs):
        return CommandResponse(stdout="/nowhere\n", exit_code=0)


class RuntimeThatDies(LocalRuntime):
    """Dies at its first command."""

    alive = True

    def execute(self, *args, **kwargs):
        self.alive = False
        raise OSError("the connection is lost")

    def is_alive(self, *, timeout=None):
        return IsAliveResponse(is_alive=self.alive, message="out of memory")


def run_on(runtime: type[AbstractRuntime], only: str) -> Report:
    class Deployment(LocalDeployment):
        def _create(self):
            return runtime()

    return run(Deployment, only=only)


def run_only(monkeypatch: pytest.MonkeyPatch, function: Callable[..., None]) -> Result:
    """The result of a suite that is this check alone."""
    check = Check("area", function.__name__, "It holds", function)
    monkeypatch.setattr(suite, "checks", lambda only: [check])
    (result,) = run(LocalDeployment).results
    return result


def run_cli(*args: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "swerex.testing", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


# The checks


def test_each_check_has_a_name_of_its_own_and_a_title_that_fits_its_column():
    assert len({str(check) for check in checks()}) == len(checks()) > 100
    assert [check.title for check in checks() if not 10 < len(check.title) <= 80] == []


def test_checks_are_chosen_by_a_word_of_their_area_name_or_title():
    assert {check.area for check in checks("startup-")} == {"startup"}
    assert [check.name for check in checks("files-ten_megabytes")] == ["ten_megabytes"]
    assert any(check.area == "interactive" for check in checks("PYTHON3"))
    assert checks("no such word") == []


def test_a_runtime_that_does_nothing_passes_none(monkeypatch):
    monkeypatch.setattr(tools, "_PATIENCE", 0.1)
    report = run_on(RuntimeThatDoesNothing, "")
    held = {result.area for result in report.results if result.outcome == "held"}
    assert held == {"lifecycle"}
    assert len(report.results) == len(checks())


def test_a_runtime_that_changes_line_ends_is_found_out():
    report = run_on(RuntimeWithoutLineEnds, "line ends")
    failed = {result.title: result.message for result in report.results if result.outcome == "failed"}
    assert failed == {
        "Any text is written and read exactly: line ends, NULs, byte order marks": (
            "CRLF: expected 'a\\r\\nb\\r\\n', got 'a\\nb\\n'"
        )
    }


# Running them


def test_a_check_gets_what_it_names(monkeypatch):
    given = []

    def check(session, folder, runtime, deployment, make):
        given.append(session.run("pwd -P").output == f"{folder}\n")
        given.append(session.runtime is runtime is deployment.runtime)
        given.append(isinstance(make(), LocalDeployment))

    assert run_only(monkeypatch, check).outcome == "held"
    assert given == [True, True, True]


def test_what_a_check_was_given_is_gone_afterwards(monkeypatch):
    folders: list[str] = []
    runtimes: list[AbstractRuntime] = []

    def check(session, folder):
        folders.append(folder)
        runtimes.append(session.runtime)
        assert session.runtime.sessions == (session.name,)
        raise CheckFailed("it does not hold")

    check_before = LocalRuntime.close
    sessions_at_close = []

    def close(self):
        sessions_at_close.append(self.sessions)
        return check_before(self)

    monkeypatch.setattr(LocalRuntime, "close", close)
    assert run_only(monkeypatch, check).message == "it does not hold"
    assert sessions_at_close == [()]


def test_an_error_fails_a_check_and_is_named(monkeypatch):
    def check():
        raise KeyError("no such thing")

    result = run_only(monkeypatch, check)
    assert (result.outcome, result.message) == ("failed", "KeyError: 'no such thing'")


def test_a_check_that_needs_a_tool_that_is_missing_does_not_apply(monkeypatch):
    result = run_only(monkeypatch, lambda runtime: tools.needs(runtime, "sh", "no-such-tool"))
    assert (result.outcome, result.message) == ("not applicable", "the sandbox has no no-such-tool")


def test_a_check_that_hangs_fails(monkeypatch):
    monkeypatch.setattr(suite, "_TIME_LIMIT", 0.05)
    release = threading.Event()
    result = run_only(monkeypatch, lambda: release.wait(50))
    release.set()
    assert result.outcome == "failed"
    assert result.message.startswith("it hangs")


def test_checks_are_not_tried_on_a_sandbox_that_is_dead():
    first, *others = run_on(RuntimeThatDies, "files-").results
    assert first.message == "OSError: the connection is lost"
    assert {other.message for other in others} == {"not tried, since the sandbox is dead: out of memory"}


def test_each_result_is_told_as_it_comes():
    told = []
    report = run(LocalDeployment, only="errors-missing_file", on_result=told.append)
    assert told == list(report.results)
    assert report.name == "LocalDeployment"


# What checks say


def test_values_that_differ_are_shown():
    with pytest.raises(CheckFailed, match=r"^the output: expected 'a', got 'b'$"):
        tools.equal("b", "a", "the output")


def test_of_long_texts_the_difference_is_shown():
    with pytest.raises(CheckFailed) as caught:
        tools.equal("x" * 1000 + "abc", "x" * 1000 + "adc")
    assert str(caught.value) == (
        "expected 1003 characters, got 1003; from character 981 on "
        f"expected {'x' * 19 + 'adc'!r}, got {'x' * 19 + 'abc'!r}"
    )


@pytest.mark.parametrize(("actual", "expected"), [(["a", "b"], ["a", "c"]), ({1: "b"}, {1: "c"})])
def test_of_lists_and_dictionaries_the_difference_is_shown(actual, expected):
    with pytest.raises(CheckFailed, match=r"^it\[1\]: expected 'c', got 'b'$"):
        tools.equal(actual, expected)


def test_an_error_that_does_not_come_is_told():
    with pytest.raises(CheckFailed, match="expected OSError, but nothing was raised; it returned 'a'"):
        tools.raised(OSError, lambda: "a")


def test_an_error_of_another_kind_is_told():
    def fail() -> None:
        raise CommandTimeoutError("too slow")

    with pytest.raises(CheckFailed, match="expected ValueError, got CommandTimeoutError: too slow"):
        tools.raised(ValueError, fail)


def test_what_takes_too_long_is_told():
    with pytest.raises(CheckFailed, match=r"^it took .* s, expected 0 s at the most"), tools.within(0, "it"):
        pass


def test_what_does_not_come_is_told(monkeypatch):
    monkeypatch.setattr(tools, "_PATIENCE", 0.05)
    with pytest.raises(CheckFailed, match=r"^the end: not within 0\.05 s"):
        tools.eventually(lambda: False, "the end")


# The report


def test_a_report_with_a_failure_is_not_ok():
    assert not REPORT.ok
    assert Report("mine", [r for r in REPORT.results if r.outcome != "failed"]).ok


def test_a_failure_is_shown_with_its_message():
    lines = str(REPORT).splitlines()
    assert lines[1].split() == ["files", "A", "file", "is", "read", "failed", "1.50", "s"]
    assert lines[2:4] == ["    expected 'a',", "    got 'b'"]


def test_the_summary_counts_by_area():
    assert REPORT.summary() == (
        "area    held  failed  not applicable  seconds\n"
        "files      1       1               0      1.8\n"
        "errors     0       0               1      0.2\n"
        "all        1       1               1      2.0"
    )


def test_the_rst_table_has_a_column_for_each_report():
    other = Report("yours", [Result("files", "A file is written", "held", 3)])
    assert rst_table([REPORT, other]) == (
        "=======  =============================  ===========\n"
        "area     mine                           yours\n"
        "=======  =============================  ===========\n"
        "files    1 of 2 held                    1 of 1 held\n"
        "errors   0 of 1 held, 1 not applicable  0 of 0 held\n"
        "all      1 of 3 held, 1 not applicable  1 of 1 held\n"
        "seconds  2.0                            3.0\n"
        "=======  =============================  ==========="
    )


# The command


def test_the_command_prints_what_held():
    done = run_cli("local", "--only", "errors-missing_file")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("errors        FileNotFoundError with errno and filename ")
    assert lines[0].split()[-3] == "held"
    assert lines[-1].split()[:4] == ["all", "1", "0", "0"]


def test_the_command_fails_if_something_does_not_hold():
    done = run_cli("dummy", "--only", "errors-no_such_session")
    assert done.returncode == 1
    assert "\n    expected SessionDoesNotExistError, but nothing was raised" in done.stdout


def test_the_command_prints_rst_only():
    done = run_cli("local", "--only", "errors-missing_file", "--rst")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[2] == lines[-1] == "=======  ============"[: len(lines[0])]
    assert "FileNotFoundError with errno and filename" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["moon"], "'moon'"),
        (["local", "--image", "python:3.11"], "local: image: Extra inputs are not permitted"),
        (["local", "--config", "[1]"], "'[1]' is not a JSON object"),
        (["local", "--config", '{"color": "red"}'], "local: color: Extra inputs are not permitted"),
        (["local", "--only", "no such word"], "no check has 'no such word'"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(args, message, capsys):
    from swerex.testing.__main__ import main

    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_token_is_not_printed(capsys):
    from swerex.testing.__main__ import main

    with pytest.raises(SystemExit):
        main(["remote", "--config", '{"auth_token": "my secret"}'])
    assert "secret" not in capsys.readouterr().err
