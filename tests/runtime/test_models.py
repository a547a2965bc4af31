"""The models: their fields and defaults, the unions that JSON selects from, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from swerex.runtime.abstract import (
    Action,
    BashAction,
    BashInterruptAction,
    BashObservation,
    CloseBashSessionRequest,
    CloseBashSessionResponse,
    CloseResponse,
    CloseSessionRequest,
    CloseSessionResponse,
    Command,
    CommandResponse,
    CreateBashSessionRequest,
    CreateBashSessionResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    IsAliveResponse,
    Observation,
    ReadFileRequest,
    ReadFileResponse,
    UploadRequest,
    UploadResponse,
    WriteFileRequest,
    WriteFileResponse,
)

DEFAULTS: list[tuple[BaseModel, dict[str, Any]]] = [
    (
        CreateBashSessionRequest(),
        {
            "session": "default",
            "startup_source": [],
            "startup_timeout": 10.0,
            "session_type": "bash",
            "env": {},
            "cwd": None,
        },
    ),
    (CreateBashSessionResponse(), {"output": "", "session_type": "bash"}),
    (
        BashAction(command="x"),
        {
            "command": "x",
            "session": "default",
            "timeout": None,
            "is_interactive_command": False,
            "is_interactive_quit": False,
            "check": "raise",
            "error_msg": "",
            "expect": [],
            "action_type": "bash",
        },
    ),
    (
        BashInterruptAction(),
        {"session": "default", "timeout": 0.2, "n_retry": 3, "expect": [], "action_type": "bash_interrupt"},
    ),
    (
        BashObservation(),
        {"output": "", "exit_code": None, "failure_reason": "", "expect_string": "", "session_type": "bash"},
    ),
    (CloseBashSessionRequest(), {"session": "default", "session_type": "bash"}),
    (CloseBashSessionResponse(), {"session_type": "bash"}),
    (
        Command(command="x"),
        {
            "command": "x",
            "timeout": None,
            "shell": True,
            "check": False,
            "error_msg": "",
            "env": None,
            "cwd": None,
            "merge_output_streams": False,
        },
    ),
    (CommandResponse(exit_code=0), {"stdout": "", "stderr": "", "exit_code": 0}),
    (ReadFileRequest(path="x"), {"path": "x", "encoding": None, "errors": None}),
    (ReadFileResponse(content="x"), {"content": "x"}),
    (WriteFileRequest(path="x", content="y"), {"path": "x", "content": "y"}),
    (WriteFileResponse(), {}),
    (UploadRequest(source_path="x", target_path="y"), {"source_path": "x", "target_path": "y"}),
    (UploadResponse(), {}),
    (IsAliveResponse(is_alive=True), {"is_alive": True, "message": ""}),
    (CloseResponse(), {}),
]


@pytest.mark.parametrize(("model", "fields"), DEFAULTS, ids=lambda value: type(value).__name__)
def test_fields_and_defaults(model: BaseModel, fields: dict[str, Any]) -> None:
    assert model.model_dump() == fields


@pytest.mark.parametrize("model", [model for model, _ in DEFAULTS], ids=lambda model: type(model).__name__)
def test_a_model_survives_json(model: BaseModel) -> None:
    assert type(model).model_validate_json(model.model_dump_json()) == model


def test_defaults_are_not_shared() -> None:
    CreateBashSessionRequest().env["X"] = "5"
    CreateBashSessionRequest().startup_source.append("x")
    BashAction(command="x").expect.append("x")
    assert CreateBashSessionRequest().env == {}
    assert CreateBashSessionRequest().startup_source == []
    assert BashAction(command="x").expect == []


@pytest.mark.parametrize("is_alive", [True, False])
def test_is_alive_is_a_boolean(is_alive: bool) -> None:
    assert bool(IsAliveResponse(is_alive=is_alive, message="text")) is is_alive


@pytest.mark.parametrize(
    ("command", "shell", "expected"),
    [
        ("x", None, True),
        (["x"], None, False),
        ("x", False, False),
        (["x"], True, True),
        ("x", True, True),
        (["x"], False, False),
    ],
)
def test_shell_depends_on_the_command(command: str | list[str], shell: bool | None, expected: bool) -> None:
    assert Command.model_validate({"command": command, "shell": shell}).shell is expected


@pytest.mark.parametrize(("command", "expected"), [("x", True), (["x"], False)])
def test_shell_depends_on_the_command_if_it_is_left_out(command: str | list[str], expected: bool) -> None:
    assert Command(command=command).shell is expected


@pytest.mark.parametrize(
    ("union", "data", "expected"),
    [
        (Action, {"command": "x"}, BashAction(command="x")),
        (Action, {"command": "x", "action_type": "bash"}, BashAction(command="x")),
        (Action, {"action_type": "bash_interrupt"}, BashInterruptAction()),
        (Action, BashInterruptAction(n_retry=1), BashInterruptAction(n_retry=1)),
        (CreateSessionRequest, {}, CreateBashSessionRequest()),
        (CreateSessionRequest, {"session_type": "bash"}, CreateBashSessionRequest()),
        (CreateSessionResponse, {"output": "x"}, CreateBashSessionResponse(output="x")),
        (CloseSessionRequest, {"session": "x"}, CloseBashSessionRequest(session="x")),
        (CloseSessionResponse, {}, CloseBashSessionResponse()),
        (Observation, {"output": "x"}, BashObservation(output="x")),
    ],
)
def test_a_union_selects_by_type(union: Any, data: Any, expected: BaseModel) -> None:
    assert TypeAdapter(union).validate_python(data) == expected


@pytest.mark.parametrize(
    ("union", "data"),
    [
        (Action, {"command": "x", "action_type": "other"}),
        (Action, {"command": "x", "action_type": 5}),
        (Action, {"command": "x", "action_type": None}),
        (Action, {"action_type": "bash"}),
        (Action, []),
        (Action, "x"),
        (Action, None),
        (CreateSessionRequest, {"session_type": "other"}),
        (CreateSessionRequest, {"session_type": ["bash"]}),
        (CloseSessionRequest, {"session_type": "other"}),
    ],
)
def test_a_union_refuses_the_rest(union: Any, data: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(union).validate_python(data)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (BashAction, {}),
        (BashAction, {"command": 5}),
        (BashAction, {"command": "x", "timeout": -1}),
        (BashAction, {"command": "x", "timeout": "soon"}),
        (BashAction, {"command": "x", "check": "maybe"}),
        (BashAction, {"command": "x", "expect": "x"}),
        (BashInterruptAction, {"timeout": -1}),
        (BashInterruptAction, {"n_retry": -1}),
        (CreateBashSessionRequest, {"startup_timeout": -1}),
        (CreateBashSessionRequest, {"env": {"A=B": "x"}}),
        (CreateBashSessionRequest, {"env": {"": "x"}}),
        (CreateBashSessionRequest, {"env": {"A": "x\0"}}),
        (CreateBashSessionRequest, {"cwd": "x\0"}),
        (CreateBashSessionRequest, {"startup_source": ["x\0"]}),
        (Command, {}),
        (Command, {"command": ""}),
        (Command, {"command": []}),
        (Command, {"command": "x\0"}),
        (Command, {"command": ["x", "y\0"]}),
        (Command, {"command": [5]}),
        (Command, {"command": "x", "timeout": -1}),
        (Command, {"command": "x", "env": {"A=B": "x"}}),
        (ReadFileRequest, {}),
        (ReadFileRequest, {"path": "x\0"}),
        (WriteFileRequest, {"path": "x"}),
        (UploadRequest, {"source_path": "x"}),
    ],
)
def test_a_model_refuses_what_cannot_be(model: type[BaseModel], data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(data)


def test_paths_may_be_path_objects() -> None:
    path: Any = Path("/a/b")
    assert ReadFileRequest(path=path).path == "/a/b"
    assert WriteFileRequest(path=path, content="").path == "/a/b"
    assert UploadRequest(source_path=path, target_path=path).target_path == "/a/b"
    assert CreateBashSessionRequest(cwd=path, startup_source=[path]).startup_source == ["/a/b"]
    assert Command(command="x", cwd=path).cwd == "/a/b"


def test_an_empty_value_of_the_environment_is_kept() -> None:
    assert Command(command="x", env={"A": ""}).env == {"A": ""}
