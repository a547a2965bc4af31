from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from swerex.exceptions import DummyOutputsExhaustedError
from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    BashObservation,
    CloseBashSessionRequest,
    CloseBashSessionResponse,
    CloseResponse,
    Command,
    CommandResponse,
    CreateBashSessionRequest,
    CreateBashSessionResponse,
    ReadFileRequest,
    ReadFileResponse,
    UploadRequest,
    UploadResponse,
    WriteFileRequest,
    WriteFileResponse,
)
from swerex.runtime.config import DummyRuntimeConfig
from swerex.runtime.dummy import DummyRuntime


@pytest.mark.parametrize(
    ("method", "request_", "response"),
    [
        ("create_session", CreateBashSessionRequest(), CreateBashSessionResponse()),
        ("run_in_session", BashAction(command="x"), BashObservation(exit_code=0)),
        ("close_session", CloseBashSessionRequest(), CloseBashSessionResponse()),
        ("execute", Command(command="x"), CommandResponse(exit_code=0)),
        ("read_file", ReadFileRequest(path="x"), ReadFileResponse()),
        ("write_file", WriteFileRequest(path="x", content=""), WriteFileResponse()),
        ("upload", UploadRequest(source_path="x", target_path="y"), UploadResponse()),
    ],
)
def test_responses_are_empty(method, request_, response):
    assert getattr(DummyRuntime(), method)(request_) == response


def test_is_alive():
    assert DummyRuntime().is_alive(timeout=1)


def test_close():
    assert DummyRuntime().close() == CloseResponse()


def test_outputs_come_in_order_and_then_run_out():
    runtime = DummyRuntime(outputs=["a", "b"])
    assert runtime.run_in_session(BashAction(command="x")) == BashObservation(output="a", exit_code=0)
    assert runtime.run_in_session(BashInterruptAction()) == BashObservation(output="b", exit_code=0)
    with pytest.raises(DummyOutputsExhaustedError, match="command='more'"):
        runtime.run_in_session(BashAction(command="more"))


def test_without_outputs_the_observation_is_empty_for_ever():
    runtime = DummyRuntime()
    observations = [runtime.run_in_session(BashAction(command="x")) for _ in range(3)]
    assert observations == [BashObservation(exit_code=0)] * 3


def test_an_observation_that_is_changed_does_not_change_the_next():
    runtime = DummyRuntime()
    runtime.run_in_session(BashAction(command="x")).output = "changed"
    assert runtime.run_in_session(BashAction(command="x")).output == ""


def test_outputs_can_be_set_as_observations():
    runtime = DummyRuntime()
    runtime.run_in_session_outputs = [BashObservation(output="a", exit_code=3)]
    assert runtime.run_in_session(BashAction(command="x")).exit_code == 3
    with pytest.raises(DummyOutputsExhaustedError):
        runtime.run_in_session(BashAction(command="x"))


def test_output_is_handed_to_on_output():
    heard = []
    DummyRuntime(outputs=["a"]).run_in_session(BashAction(command="x"), on_output=heard.append)
    assert heard == ["a"]


def test_a_session_in_hand():
    with DummyRuntime(outputs=["a"]) as runtime, runtime.session("name") as session:
        assert session.run("x").output == "a"


def test_many_threads_get_each_output_once():
    outputs = [str(i) for i in range(1000)]
    runtime = DummyRuntime(outputs=outputs)
    with ThreadPoolExecutor(8) as pool:
        seen = pool.map(lambda _: runtime.run_in_session(BashAction(command="x")).output, outputs)
    assert Counter(seen) == Counter(outputs)


def test_from_config_leaves_the_config_as_it_is():
    config = DummyRuntimeConfig(outputs=["a"])
    DummyRuntime.from_config(config).run_in_session(BashAction(command="x"))
    assert config.outputs == ["a"]
