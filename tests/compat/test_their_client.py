"""The client of swe-rex 1.4.0 drives our server: results, and errors as its own exceptions.

The scenarios, one for each test, stand in `their_client.py`, which runs once, in an environment of its own.
"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def result(their_results: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """What the scenario returned that has the name of the test."""
    found = their_results[request.node.name.removeprefix("test_")]
    assert not (isinstance(found, dict) and isinstance(found.get("error"), str)), found["error"]
    return found


def test_is_alive(result: Any) -> None:
    assert result is True


def test_wrong_token(result: Any) -> None:
    assert result["alive"] is False
    assert "401" in result["execute"]["message"]


def test_session(result: Any) -> None:
    assert result == {
        "opened": {"output": "", "session_type": "bash"},
        "outputs": ["", "/\n1\nfrom f\n", "error\n"],
        "exit_codes": [0, 0, 3, None],
        "closed": {"session_type": "bash"},
    }


def test_startup_source(result: Any) -> None:
    assert result == "yes\n"


def test_session_exists(result: Any) -> None:
    assert result["type"] == "swerex.exceptions.SessionExistsError"


def test_session_does_not_exist(result: Any) -> None:
    assert {error["type"] for error in result.values()} == {"swerex.exceptions.SessionDoesNotExistError"}


def test_non_zero_exit_code(result: Any) -> None:
    error = result["error"]
    assert error["type"] == "swerex.exceptions.NonZeroExitCodeError"
    assert error["message"].startswith("what went wrong")
    assert "the output" in error["message"]
    assert error["extra_info"]["exit_code"] == 7
    assert result["after"] == "on\n"


def test_syntax_error(result: Any) -> None:
    error = result["error"]
    assert error["type"] == "swerex.exceptions.BashIncorrectSyntaxError"
    assert "syntax error" in error["extra_info"]["bash_stderr"]
    assert error["extra_info"]["bash_stdout"] == ""
    assert result["after"] == "on\n"


def test_timeout_and_interrupt(result: Any) -> None:
    assert result["error"]["type"] == "swerex.exceptions.CommandTimeoutError"
    assert result["error"]["extra_info"]["output"] == "begun\n"
    # It does not know this error of ours, and takes the root of its own.
    assert result["busy"]["type"] == "swerex.exceptions.SwerexException"
    assert result["interrupted"]["session_type"] == "bash"
    assert result["after"] == "on\n"


def test_interrupt_while_it_runs(result: Any) -> None:
    assert result == {"exit_code": 130, "after": "on\n"}


def test_interactive_python(result: Any) -> None:
    assert [output.strip() for output in result["outputs"][1:3]] == ["", "21"]
    assert "row 0" in result["outputs"][3]
    assert "row 1" in result["outputs"][3]
    assert result["expect_string"] == ">>> "
    assert result["left"]["exit_code"] == 0
    assert result["after"] == "on\n"


def test_many_sessions_at_once(result: Any) -> None:
    assert result == [f"many-{number}\n" for number in range(8)]


def test_execute(result: Any) -> None:
    assert result["shell"] == {"stdout": "out\n", "stderr": "err\n", "exit_code": 3}
    assert result["merged"] == {"stdout": "out\nerr\n", "stderr": "", "exit_code": 0}
    assert result["program"]["stdout"] == "/\n"
    assert "ONLY=this\n" in result["env"]


def test_execute_errors(result: Any) -> None:
    assert result["timeout"]["type"] == "swerex.exceptions.CommandTimeoutError"
    assert result["check"]["type"] == "swerex.exceptions.NonZeroExitCodeError"
    assert result["check"]["message"].startswith("what went wrong")
    assert result["missing"]["type"] == "builtins.FileNotFoundError"


def test_files(result: Any) -> None:
    assert result["on disk"]
    assert result["read"]
    assert result["latin"] == "ä"
    assert result["replaced"] == "\ufffd"
    assert result["missing"]["type"] == "builtins.FileNotFoundError"
    assert result["folder"]["type"] == "builtins.IsADirectoryError"
    # It can't make this one from a message alone.
    assert result["broken"]["type"] == "swerex.exceptions.SwerexException"
    assert "utf-8" in result["broken"]["message"]


def test_upload(result: Any) -> None:
    folder = ["folder", "folder/a", "folder/empty", "folder/sub", "folder/sub/b"]
    assert result == {"names": ["deep", "deep/file", *folder], "same": [True, True]}


def test_large_output(result: Any) -> None:
    assert result == 3_000_000


def test_close(result: Any) -> None:
    assert result["type"] == "swerex.exceptions.SessionDoesNotExistError"
