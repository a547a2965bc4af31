"""The life of a sandbox, with a child process in the part of the sandbox."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swerex.deployment.abstract import AbstractDeployment, stop_all
from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError, SandboxDiedError
from swerex.runtime.abstract import CloseResponse, IsAliveResponse
from swerex.runtime.dummy import DummyRuntime
from tests.util import wait_until


class ProcessRuntime(DummyRuntime):
    """Answers as long as its process lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process = process

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        alive = self.process.poll() is None
        return IsAliveResponse(is_alive=alive, message="" if alive else "no answer")

    def close(self) -> CloseResponse:
        if self.process.poll() is not None:
            raise SandboxDiedError("no answer")
        return CloseResponse()


class ProcessDeployment(AbstractDeployment[ProcessRuntime]):
    """Its place is a process that does nothing."""

    def __init__(self, *, logger: logging.Logger | None = None) -> None:
        super().__init__(logger=logger)
        self.processes: list[subprocess.Popen[bytes]] = []

    def _create(self) -> ProcessRuntime:
        self._step("Starting a process")
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        return ProcessRuntime(self.processes[-1])

    def _wait_until_alive(self, runtime: ProcessRuntime) -> None:
        self._step("Waiting for the process")

    def _remove(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        return f"the process ended with {self.processes[-1].poll()}"


class StepHook(DeploymentHook):
    """Calls something when a step begins."""

    def __init__(self, step: str, callback: Callable[[], object]) -> None:
        self.step = step
        self.callback = callback

    def on_custom_step(self, message: str) -> None:
        if message == self.step:
            self.callback()


def raise_error(error: BaseException) -> None:
    raise error


def fail_to_remove() -> None:
    raise OSError("the engine is gone")


def running(deployment: ProcessDeployment) -> list[bool]:
    return [process.poll() is None for process in deployment.processes]


@pytest.fixture
def deployment():
    deployment = ProcessDeployment()
    yield deployment
    deployment.stop()


def test_start_makes_a_place_and_stop_removes_it(deployment):
    deployment.start()
    assert running(deployment) == [True]
    deployment.stop()
    assert running(deployment) == [False]


def test_with_starts_and_stops(deployment):
    with deployment as entered:
        assert entered is deployment
        assert deployment.is_alive()
    assert running(deployment) == [False]


def test_runtime_before_start_raises(deployment):
    with pytest.raises(DeploymentNotStartedError, match="ProcessDeployment is not started"):
        _ = deployment.runtime


def test_is_alive_before_start_raises(deployment):
    with pytest.raises(DeploymentNotStartedError):
        deployment.is_alive()


def test_runtime_after_stop_raises(deployment):
    deployment.start()
    deployment.stop()
    with pytest.raises(DeploymentNotStartedError):
        _ = deployment.runtime


def test_second_start_warns_and_does_nothing(deployment, caplog):
    deployment.logger = logging.getLogger("test.deployment")
    deployment.start()
    runtime = deployment.runtime
    deployment.start()
    assert deployment.runtime is runtime
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "ProcessDeployment is started already"
    ]


def test_stop_before_start_does_nothing(deployment):
    deployment.stop()
    assert deployment.processes == []


def test_stop_twice(deployment):
    deployment.start()
    deployment.stop()
    deployment.stop()


def test_start_after_stop_makes_a_new_place(deployment):
    deployment.start()
    deployment.stop()
    deployment.start()
    assert running(deployment) == [False, True]


def test_stop_of_a_dead_sandbox_does_not_raise(deployment):
    deployment.start()
    deployment.processes[0].kill()
    deployment.processes[0].wait()
    deployment.stop()


def test_a_dead_sandbox_is_not_alive_and_says_why(deployment):
    deployment.start()
    deployment.processes[0].kill()
    deployment.processes[0].wait()
    response = deployment.is_alive()
    assert not response
    assert response.message == "no answer\nthe process ended with -9"


def test_failed_start_removes_the_place_and_says_why(deployment):
    error = TimeoutError("no answer in 1 s")
    deployment.add_hook(StepHook("Waiting for the process", lambda: raise_error(error)))
    with pytest.raises(DeploymentStartupError, match="start: no answer in 1 s\nthe process ended") as caught:
        deployment.start()
    assert caught.value.__cause__ is error
    assert running(deployment) == [False]


def test_startup_error_of_a_backend_is_kept(deployment):
    error = DeploymentStartupError("no such image")
    deployment.add_hook(StepHook("Starting a process", lambda: raise_error(error)))
    with pytest.raises(DeploymentStartupError) as caught:
        deployment.start()
    assert caught.value is error


def test_interrupted_start_removes_the_place(deployment):
    deployment.add_hook(StepHook("Waiting for the process", lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        deployment.start()
    assert running(deployment) == [False]


def test_start_works_after_a_failed_one(deployment):
    errors = [TimeoutError()]
    deployment.add_hook(StepHook("Waiting for the process", lambda: errors and raise_error(errors.pop())))
    with pytest.raises(DeploymentStartupError):
        deployment.start()
    deployment.start()
    assert deployment.is_alive()


def test_with_does_not_mask_the_error_of_its_body(deployment):
    deployment._remove = fail_to_remove
    with pytest.raises(ZeroDivisionError), deployment:
        raise ZeroDivisionError
    del deployment._remove


def test_stop_raises_what_removing_raises_and_can_be_repeated(deployment):
    deployment.start()
    deployment._remove = fail_to_remove
    with pytest.raises(OSError, match="the engine is gone"):
        deployment.stop()
    del deployment._remove
    deployment.stop()
    assert running(deployment) == [False]


def test_stop_in_the_middle_of_start_leaves_nothing(deployment):
    """As when the handler of a signal calls it."""
    deployment.add_hook(StepHook("Waiting for the process", deployment.stop))
    with pytest.raises(DeploymentStartupError, match="stopped while it started"):
        deployment.start()
    assert running(deployment) == [False]


def test_a_class_may_have_a_start_and_a_stop_of_its_own():
    class Own(AbstractDeployment):
        def start(self):
            self._runtime = DummyRuntime()

        def stop(self):
            self._runtime = None

    with Own() as deployment:
        assert deployment.is_alive()
    with pytest.raises(TypeError, match="must define _create"):
        AbstractDeployment().start()


def test_stop_all_in_the_middle_of_start_leaves_nothing(deployment):
    deployment.add_hook(StepHook("Waiting for the process", stop_all))
    with pytest.raises(DeploymentStartupError, match="stopped while it started"):
        deployment.start()
    assert running(deployment) == [False]


def test_many_threads_start_one_place(deployment):
    threads = [threading.Thread(target=deployment.start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running(deployment) == [True]


def test_hooks_hear_of_each_step(deployment):
    steps = []
    hook = DeploymentHook()
    hook.on_custom_step = steps.append
    deployment.add_hook(hook)
    deployment.start()
    assert steps == ["Starting a process", "Waiting for the process"]


def test_a_collected_deployment_is_stopped():
    deployment = ProcessDeployment()
    deployment.start()
    process = deployment.processes[0]
    with pytest.warns(ResourceWarning, match="ProcessDeployment was not stopped"):
        del deployment
    wait_until(lambda: process.poll() is not None)


def test_whoever_collects_a_deployment_does_not_wait_for_its_end():
    """It may be a thread that the removal itself waits for."""
    deployment = ProcessDeployment()
    deployment.start()
    removed, collected = threading.Event(), threading.Event()
    deployment._remove = lambda: removed.set() if collected.wait(20) else None
    for process in deployment.processes:
        process.kill()
        process.wait()
    with pytest.warns(ResourceWarning):
        del deployment
    collected.set()
    assert removed.wait(10)


def test_a_collected_deployment_is_stopped_where_warnings_are_errors():
    output = run_python(
        "import warnings; warnings.simplefilter('error')\n"
        "d = ProcessDeployment(); d.start(); process = d.processes[0]\n"
        "del d; process.wait(20); print(process.returncode)"
    )
    assert output == "-9\n"


def run_python(code: str) -> str:
    """What a new interpreter prints that has the names of this module."""
    result = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import *\n{code}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_interpreter_exit_stops_what_was_started():
    pid = run_python("d = ProcessDeployment(); d.start(); print(d.processes[0].pid)")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_exit_of_a_child_that_was_forked_during_a_start():
    output = run_python(
        "begun, go_on = threading.Event(), threading.Event()\n"
        "d = ProcessDeployment()\n"
        "d.add_hook(StepHook('Waiting for the process', lambda: (begun.set(), go_on.wait())))\n"
        "thread = threading.Thread(target=d.start); thread.start(); begun.wait()\n"
        "child = os.fork()\n"
        "if not child: sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "go_on.set(); thread.join(); print(d.is_alive()); d.stop()"
    )
    assert output == "5\nis_alive=True message=''\n"


def test_exit_of_a_forked_child_stops_nothing():
    output = run_python(
        "d = ProcessDeployment(); d.start()\n"
        "child = os.fork()\n"
        "if not child: sys.exit()\n"
        "os.waitpid(child, 0); print(d.is_alive()); d.stop()"
    )
    assert output == "is_alive=True message=''\n"
