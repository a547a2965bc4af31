"""ModalDeployment, through the real `modal` library, on a stand-in that runs real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import pytest
from grpclib import Status
from pydantic import ValidationError

from swerex.deployment.config import ModalDeploymentConfig
from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.deployment.modal import ModalDeployment
from swerex.deployment.modal import image as modal_image
from swerex.exceptions import (
    DeploymentNotStartedError,
    DeploymentStartupError,
    SandboxDiedError,
    SwerexException,
)
from swerex.runtime.abstract import Command
from tests.cloud.modal_cloud import ModalCloud, Sandbox, environment, forget_client, modal_cloud
from tests.cloud.modal_places import ProcessPlace
from tests.util import alone, needs, stays, wait_until

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tools:1"


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[ModalCloud]:
    with modal_cloud() as cloud:
        # The first start takes longer, since it makes and uploads the bundle.
        with ModalDeployment():
            pass
        yield cloud


@pytest.fixture
def cloud(one_cloud: ModalCloud) -> Iterator[ModalCloud]:
    """A stand-in that behaves; at the end, it must have no sandbox left."""
    one_cloud.behave()
    yield one_cloud
    assert one_cloud.running() == []


@pytest.fixture
def deployment(cloud: ModalCloud) -> Iterator[ModalDeployment]:
    with ModalDeployment() as deployment:
        yield deployment


def run(deployment: ModalDeployment, command: str) -> str:
    return deployment.runtime.execute(Command(command=command)).stdout


def last(cloud: ModalCloud) -> Sandbox:
    return list(cloud.sandboxes.values())[-1]


def kill(sandbox: Sandbox) -> None:
    assert isinstance(sandbox.place, ProcessPlace)
    os.kill(sandbox.place.pid, signal.SIGKILL)
    wait_until(lambda: sandbox.result())


def refused_start(**kwargs: object) -> str:
    """What a start that fails says."""
    with pytest.raises(DeploymentStartupError) as caught:
        ModalDeployment(**kwargs).start()
    return str(caught.value)


# What it does when all goes well


def test_a_command_runs_in_the_sandbox(deployment, cloud):
    assert run(deployment, "echo $HOME").strip().endswith(f"{last(cloud).id}/home")


def test_stop_terminates_the_sandbox(cloud):
    with ModalDeployment():
        assert len(cloud.running()) == 1
    assert cloud.running() == []
    assert cloud.calls["SandboxTerminateV2"] == 1


def test_steps_are_told_to_hooks(cloud):
    steps: list[str] = []
    hook = DeploymentHook()
    hook.on_custom_step = steps.append
    deployment = ModalDeployment()
    deployment.add_hook(hook)
    with deployment:
        pass
    assert [step.split()[0] for step in steps] == ["Looking", "Building", "Creating", "Waiting", "Waiting"]


def test_sandbox_app_and_log_address(deployment, cloud):
    assert deployment.sandbox.object_id == last(cloud).id
    assert deployment.app.app_id == cloud.apps["swe-rex"]
    assert deployment.log_url == f"https://modal.com/id/{last(cloud).id}"


@pytest.mark.parametrize("name", ["app", "sandbox", "log_url", "runtime"])
def test_properties_before_start_raise(cloud, name):
    with pytest.raises(DeploymentNotStartedError):
        getattr(ModalDeployment(), name)


def test_the_app_has_the_name_of_the_config(cloud):
    with ModalDeployment(app_name="other-app"):
        assert last(cloud).app_id == cloud.apps["other-app"]


def test_the_token_stands_in_no_command_tag_or_environment(deployment, cloud):
    token = deployment.runtime._config.auth_token
    sandbox = last(cloud)
    assert token not in str(sandbox.definition)
    assert token not in str(sandbox.tags)
    assert token not in run(deployment, "env; cat /proc/$PPID/cmdline")


def test_the_sandbox_is_tagged(deployment, cloud):
    assert last(cloud).tags.keys() == {"swerex", "swerex-id", "swerex-owner"}


def test_arguments_for_modal_are_passed_on(cloud):
    kwargs = {
        "cpu": 2.0,
        "region": "eu-west",
        "env": {"COLOR": "red"},
        "secrets": [modal.Secret.from_dict({"SHAPE": "round"})],
        "tags": {"team": "blue"},
        "encrypted_ports": [9000],
        "name": "mine",
    }
    with ModalDeployment(modal_sandbox_kwargs=kwargs, deployment_timeout=700) as deployment:
        assert run(deployment, "echo $COLOR $SHAPE") == "red round\n"
        sandbox = last(cloud)
    assert sandbox.definition.resources.milli_cpu == 2000
    assert sandbox.definition.timeout_secs == 700
    assert sandbox.definition.name == "mine"
    assert sandbox.tags["team"] == "blue"
    assert sorted(sandbox.tunnels) == [8000, 9000]


@pytest.mark.parametrize("name", ["app", "image", "timeout"])
def test_arguments_that_have_a_field_are_refused(name):
    with pytest.raises(ValidationError, match="use the field"):
        ModalDeploymentConfig(modal_sandbox_kwargs={name: "x"})


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("block_network", True, "give `outbound_cidr_allowlist"),
        ("encrypted_ports", [8000], "take another one"),
        ("unencrypted_ports", [9000, 8000], "take another one"),
    ],
)
def test_arguments_that_leave_no_way_to_the_server_are_refused(name, value, advice):
    with pytest.raises(ValidationError, match=advice):
        ModalDeploymentConfig(modal_sandbox_kwargs={name: value})


def test_an_argument_that_modal_does_not_know_is_named(cloud):
    assert "colour" in refused_start(modal_sandbox_kwargs={"colour": "red"})


def test_from_config(cloud):
    with ModalDeploymentConfig(image="python:3.11").get_deployment() as deployment:
        assert isinstance(deployment, ModalDeployment)
        assert deployment.is_alive()


def test_objects_of_the_library_pass_through_a_config(cloud):
    kwargs = {"readiness_probe": modal.Probe.with_tcp(8000), "secrets": [modal.Secret.from_dict({"A": "1"})]}
    config = ModalDeploymentConfig(modal_sandbox_kwargs=kwargs).model_copy(deep=True)
    with config.get_deployment() as deployment:
        assert run(deployment, "echo $A") == "1\n"
        assert last(cloud).definition.readiness_probe.tcp_port == 8000


def test_without_the_second_backend(cloud, monkeypatch):
    """The library takes the first one for what the second can't do, such as GPUs."""
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")
    with ModalDeployment() as deployment:
        assert run(deployment, "echo here") == "here\n"
    assert cloud.calls["SandboxCreate"] == cloud.calls["SandboxTerminate"] == 1


@pytest.mark.parametrize(
    "image", ["debian:11", modal.Image.from_registry("debian:13")], ids=["name", "object"]
)
def test_the_image_is_built_once_for_many_starts(cloud, image):
    for _ in range(2):
        with ModalDeployment(image=image):
            pass
    # That of a name, and the one above it without its entry point.
    assert cloud.calls["ImageJoinStreaming"] == (2 if isinstance(image, str) else 1)
    assert cloud.calls["MountGetOrCreate"] == 1


# Images


def dockerfile(cloud: ModalCloud) -> list[str]:
    return cloud.dockerfile(last(cloud).definition.image_id)


def layers(cloud: ModalCloud) -> list[modal_image.modal.Image]:
    """The image of the last sandbox, and those below it."""
    found = [cloud.images[last(cloud).definition.image_id]]
    while found[-1].base_images:
        found.append(cloud.images[found[-1].base_images[0].image_id])
    return found


def test_an_image_of_a_registry(cloud):
    with ModalDeployment(image="ghcr.io/some/tool:2"):
        assert dockerfile(cloud) == ["FROM ghcr.io/some/tool:2", "FROM base", "ENTRYPOINT []"]
        assert layers(cloud)[-1].image_registry_config.secret_id == ""


def test_registry_credentials_from_the_environment(cloud, monkeypatch):
    monkeypatch.setenv("DOCKER_USERNAME", "someone")
    monkeypatch.setenv("DOCKER_PASSWORD", "hidden")
    with ModalDeployment(image="private/tool:1"):
        secret = cloud.secrets[layers(cloud)[-1].image_registry_config.secret_id]
    assert secret == {"REGISTRY_USERNAME": "someone", "REGISTRY_PASSWORD": "hidden"}


def test_an_image_of_ecr_with_the_credentials_of_boto3(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    with ModalDeployment(image=ECR):
        assert dockerfile(cloud)[0] == f"FROM {ECR}"
        secret = cloud.secrets[layers(cloud)[-1].image_registry_config.secret_id]
    assert secret == {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_SESSION_TOKEN": "session",
        "AWS_REGION": "eu-west-1",
    }


def test_an_image_of_ecr_without_credentials_says_what_to_set(cloud, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    assert "set AWS_ACCESS_KEY_ID" in refused_start(image=ECR)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_dockerfile_with_its_folder_as_context(cloud, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("DOCKER_USERNAME", "someone")
    monkeypatch.setenv("DOCKER_PASSWORD", "hidden")
    (tmp_path / "data.txt").write_text("data of the context")
    file = tmp_path / "Dockerfile"
    file.write_text("FROM python:3.11\nCOPY data.txt /data.txt\n")
    with ModalDeployment(image=kind(file)):
        lines = [line for line in dockerfile(cloud) if line not in ("", "FROM base")]
        assert lines == ["FROM python:3.11", "COPY data.txt /data.txt", "ENTRYPOINT []"]
        bottom = layers(cloud)[-1]
    assert "data of the context" in [
        file.read_text() for file in cloud.files.iterdir() if file.stat().st_size < 100
    ]
    assert bottom.context_mount_id
    assert cloud.secrets[bottom.image_registry_config.secret_id]["REGISTRY_USERNAME"] == "someone"


def test_a_dockerfile_with_several_stages_is_built_without_credentials(cloud, tmp_path, monkeypatch):
    """Modal takes none for it."""
    monkeypatch.setenv("DOCKER_USERNAME", "someone")
    monkeypatch.setenv("DOCKER_PASSWORD", "hidden")
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:12 AS first\nRUN true\nFROM python:3.11\n")
    with ModalDeployment(image=file):
        assert layers(cloud)[-1].image_registry_config.secret_id == ""


def test_a_changed_dockerfile_is_built_anew(cloud, tmp_path):
    file = tmp_path / "Dockerfile"
    for version in ("3.11", "3.12"):
        file.write_text(f"FROM python:{version}\n")
        with ModalDeployment(image=file):
            assert dockerfile(cloud)[0] == f"FROM python:{version}"


def test_a_missing_dockerfile_is_named(cloud, tmp_path):
    assert f"no Dockerfile {tmp_path / 'none'}" in refused_start(image=tmp_path / "none")


def test_an_image_of_the_modal_library(cloud):
    image = modal.Image.from_registry("debian:12").env({"A": "1"})
    with ModalDeployment(image=image) as deployment:
        assert deployment.is_alive()
        assert dockerfile(cloud)[0] == "FROM debian:12"


@pytest.mark.parametrize(
    ("install_pipx", "command"), [(True, "pipx install swerex=="), (False, "pip install swerex==")]
)
def test_where_no_bundle_can_serve_the_image_gets_the_server(
    cloud, monkeypatch, tmp_path, install_pipx, command
):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    server = tmp_path / "swerex-remote"
    server.write_text(f'#!/bin/sh\nPYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m swerex "$@"\n')
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with ModalDeployment(install_pipx=install_pipx):
        assert last(cloud).definition.entrypoint_args[0] == "swerex-remote"
        assert not last(cloud).definition.mount_ids
        assert dockerfile(cloud)[-1].startswith("RUN command -v swerex-remote || ")
        assert command in dockerfile(cloud)[-1]


# When something fails


def test_an_image_that_can_not_be_built(cloud):
    cloud.build_error = "manifest unknown"
    assert "The image nobody/nothing:1 could not be built: ImageBuildError: " in (
        message := refused_start(image="nobody/nothing:1")
    )
    assert "manifest unknown" in message
    assert not cloud.calls["SandboxCreateV2"]


def test_an_image_is_built_again_after_a_failure(cloud):
    cloud.build_error = "out of order"
    refused_start(image="some/thing:1")
    cloud.build_error = ""
    with ModalDeployment(image="some/thing:1") as deployment:
        assert deployment.is_alive()


def test_startup_timeout_counts_while_the_image_is_built(cloud):
    cloud.build_seconds = 50
    begin = time.monotonic()
    assert "could not be built within the startup_timeout of 3 s" in refused_start(
        image="some/slow:1", startup_timeout=3
    )
    assert time.monotonic() - begin < 20


def test_a_build_that_hangs_does_not_keep_later_ones_waiting(cloud):
    cloud.build_seconds = 30
    assert "could not be built within" in refused_start(image="some/hanging:1", startup_timeout=1)
    cloud.build_seconds = 0
    with ModalDeployment(image="some/hanging:1", startup_timeout=20) as deployment:
        assert deployment.is_alive()


def test_a_sandbox_that_dies_at_start_is_explained_within_two_seconds(cloud):
    cloud.command = ["sh", "-c", "echo no such thing >&2; exit 3"]
    begin = time.monotonic()
    message = refused_start()
    assert time.monotonic() - begin < 2
    assert "The sandbox ended while it started" in message
    assert "ended with exit code 3. Its log ends with:\nno such thing" in message


def test_the_log_of_a_dead_sandbox_may_come_late(cloud):
    cloud.log_delay = 1.5
    cloud.command = ["sh", "-c", "echo late news; exit 3"]
    assert "late news" in refused_start()


def test_a_late_tunnel_is_waited_for(cloud):
    cloud.tunnel_delay = 2.5
    with ModalDeployment() as deployment:
        assert deployment.is_alive()


def test_a_tunnel_that_never_comes(cloud):
    cloud.tunnel_delay = 100
    message = refused_start(startup_timeout=2)
    assert "got no tunnel within the startup_timeout of 2 s" in message
    assert "listens at" in message


def test_a_sandbox_that_dies_while_its_tunnel_is_late(cloud):
    cloud.tunnel_delay = 100
    cloud.command = ["sh", "-c", "exit 5"]
    assert "exit code 5" in refused_start()


def test_a_server_that_never_answers(cloud):
    cloud.command = ["sh", "-c", "echo I am busy; exec sleep 100"]
    begin = time.monotonic()
    message = refused_start(startup_timeout=2)
    assert time.monotonic() - begin < 4
    assert "did not answer within the startup_timeout of 2 s" in message
    assert "The sandbox runs. Its log ends with:\nI am busy" in message


@pytest.mark.parametrize(
    "name",
    ["AppGetOrCreate", "ImageGetOrCreate", "SandboxCreateV2", "SandboxGetTunnelsV2", "SandboxTerminateV2"],
)
@pytest.mark.parametrize("status", [Status.UNAVAILABLE, None], ids=["unavailable", "reset"])
def test_requests_are_repeated_while_modal_is_unavailable(cloud, name, status):
    # The library gives up after four.
    cloud.fail(name, status, times=5)
    with ModalDeployment(image=f"some/{name.lower()}:{'1' if status else '2'}") as deployment:
        assert deployment.is_alive()
    assert cloud.calls[name] > 5


def test_a_refusal_for_too_many_requests_is_waited_out(cloud):
    cloud.fail("SandboxCreateV2", Status.RESOURCE_EXHAUSTED, times=3)
    with ModalDeployment() as deployment:
        assert deployment.is_alive()


def test_a_sandbox_whose_creation_got_no_answer_is_found(cloud):
    before = len(cloud.sandboxes)
    cloud.fail("SandboxCreateV2", Status.UNAVAILABLE, times=4, when="after")
    with ModalDeployment() as deployment:
        assert deployment.sandbox.object_id == last(cloud).id
    assert len(cloud.sandboxes) == before + 1


def test_a_sandbox_whose_creation_failed_for_the_caller_is_terminated(cloud):
    before = len(cloud.sandboxes)
    cloud.fail("SandboxCreateV2", Status.INVALID_ARGUMENT, when="after")
    assert "could not be created: InvalidError: injected" in refused_start()
    assert len(cloud.sandboxes) == before + 1


def test_a_name_that_is_taken_is_an_error(cloud):
    kwargs = {"name": "taken"}
    with ModalDeployment(modal_sandbox_kwargs=kwargs):
        assert "There is a sandbox taken" in refused_start(modal_sandbox_kwargs=kwargs)
        assert len(cloud.running()) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.6, 1.2])
def test_an_interrupt_during_the_start_leaves_nothing(cloud, seconds):
    cloud.create_seconds = 0.5
    cloud.tunnel_delay = 100
    timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
    deployment = ModalDeployment()

    def start() -> None:
        timer.start()
        deployment.start()

    with pytest.raises(KeyboardInterrupt):
        start()
    timer.join()
    assert cloud.running() == []


def test_a_sandbox_that_is_created_too_late_is_terminated(cloud):
    cloud.create_seconds = 7
    assert "could not be created within the startup_timeout" in refused_start(startup_timeout=0.5)
    wait_until(lambda: cloud.calls["SandboxTerminateV2"], timeout=10)
    wait_until(lambda: not cloud.running())


def test_a_sandbox_that_died_is_not_alive_and_says_why(cloud):
    with ModalDeployment() as deployment:
        kill(last(cloud))
        response = deployment.is_alive(timeout=1)
        with pytest.raises(SandboxDiedError):
            run(deployment, "true")
    assert not response
    assert "ended with exit code -9" in response.message
    assert "listens at" in response.message


@pytest.mark.parametrize(
    ("hindrance", "value", "step"),
    [
        ("build_seconds", 50, "Building"),
        ("create_seconds", 12, "Creating"),
        ("tunnel_delay", 50, "Waiting for the tunnel"),
        ("command", ["sh", "-c", "echo I am busy; exec sleep 100"], "Waiting for the server"),
    ],
)
def test_stop_ends_a_start_that_waits(cloud, hindrance, value, step):
    before = len(cloud.sandboxes)
    setattr(cloud, hindrance, value)
    deployment = ModalDeployment(image=f"some/{hindrance}:1", startup_timeout=50)
    reached = threading.Event()
    hook = DeploymentHook()
    hook.on_custom_step = lambda message: reached.set() if message.startswith(step) else None
    deployment.add_hook(hook)
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(deployment.start)
        in_time = reached.wait(50)
        deployment.stop()
        assert in_time
        with pytest.raises(DeploymentStartupError, match="was stopped while it started"):
            start.result(10)
    if hindrance == "create_seconds":
        assert len(cloud.sandboxes) == before, "the start has ended before the creation"
        wait_until(lambda: len(cloud.sandboxes) > before, timeout=20)
    wait_until(lambda: not cloud.running())


def test_stop_of_a_sandbox_whose_server_is_gone(cloud):
    deployment = ModalDeployment()
    deployment.start()
    kill(last(cloud))
    begin = time.monotonic()
    deployment.stop()
    assert time.monotonic() - begin < 4
    assert cloud.calls["SandboxTerminateV2"] == 1


def test_stop_of_a_sandbox_that_modal_has_forgotten(cloud):
    deployment = ModalDeployment()
    deployment.start()
    sandbox = cloud.sandboxes.pop(last(cloud).id)
    deployment.stop()
    sandbox.place.remove()


def test_stop_after_the_object_of_the_library_was_let_go(cloud):
    with ModalDeployment() as deployment:
        deployment.sandbox.detach()
    assert not cloud.running()


def test_a_sandbox_without_a_name_of_its_own_is_made_once(cloud):
    before = len(cloud.sandboxes)
    cloud.fail("SandboxCreateV2", Status.UNAVAILABLE, times=4, when="after")
    with ModalDeployment(modal_sandbox_kwargs={"name": None}):
        assert len(cloud.sandboxes) == before + 1


def test_a_stop_that_fails_says_so_and_can_be_repeated(cloud):
    deployment = ModalDeployment()
    deployment.start()
    cloud.fail("SandboxTerminateV2", Status.PERMISSION_DENIED)
    with pytest.raises(SwerexException, match="could not be terminated: injected"):
        deployment.stop()
    deployment.stop()


def test_the_kill_switch(cloud):
    with ModalDeployment(deployment_timeout=2) as deployment:
        wait_until(lambda: not cloud.running())
        assert "time limit (deployment_timeout)" in deployment.is_alive(timeout=1).message


def test_without_credentials_it_says_what_to_do(cloud, monkeypatch):
    forget_client()
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-wrong")
    try:
        assert "modal token new" in refused_start()
    finally:
        forget_client()


# Around it: other threads, event loops, processes


def test_inside_a_running_event_loop_it_neither_warns_nor_hangs(cloud, caplog):
    async def cell() -> str:
        with ModalDeployment(image="some/notebook:1") as deployment:
            assert deployment.is_alive()
            return run(deployment, "echo from a notebook")

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        assert asyncio.run(cell()) == "from a notebook\n"
    assert caplog.records == []


def test_the_documented_way_to_remove_all_sandboxes(cloud):
    code = (Path(__file__).parents[2] / "docs" / "modal.rst").read_text()
    code = code[code.index("    import modal\n") :]
    code = code[: code.index("\n\nWith the app")]
    with ModalDeployment(), ModalDeployment():
        exec(textwrap.dedent(code), {})
        assert cloud.running() == []


SCRIPT = """
import os, signal, sys
from swerex.deployment import abstract
from swerex.deployment.modal import ModalDeployment, place
abstract._EXIT_TIMEOUT = place._LAST_TIMEOUT = float(sys.argv[3])
deployments = [ModalDeployment(auto_remove_after=float(sys.argv[1])) for _ in range(int(sys.argv[2]))]
for deployment in deployments:
    deployment.start()
print(deployment.sandbox.object_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def script(cloud: ModalCloud) -> Iterator[type[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(lease: float, number: int = 1, exit_timeout: float = 20) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(lease), str(number), str(exit_timeout)],
                env={**os.environ, **environment(cloud)},
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert processes[-1].stdout
        wait_until(lambda: "sb-" in processes[-1].stdout.readline(), timeout=30)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_exit_of_the_interpreter_stops_the_sandbox(cloud, script):
    process = script(600)
    assert len(cloud.running()) == 1
    process.stdin.close()
    assert process.wait(20) == 0
    assert cloud.running() == []


def test_the_exit_of_the_interpreter_after_the_connection_was_lost(cloud, script):
    """It looks up no host any more, which the library has to then."""
    process = script(600)
    cloud.cut_connections()
    process.stdin.close()
    assert process.wait(30) == 0
    assert cloud.running() == []


def test_the_exit_of_the_interpreter_while_modal_is_unavailable_is_not_held_up_by_each(cloud, script):
    process = script(600, number=4, exit_timeout=1)
    cloud.fail("SandboxTerminateV2", Status.UNAVAILABLE, times=1000)
    process.stdin.close()
    assert process.wait(15) == 0
    assert len(cloud.running()) == 4
    for sandbox in cloud.running():
        sandbox.place.kill()


def test_a_killed_client_leaves_nothing(cloud, script):
    process = script(1)
    process.kill()
    wait_until(lambda: not cloud.running(), timeout=10)


def test_a_living_client_keeps_the_sandbox_although_it_asks_nothing(cloud):
    with ModalDeployment(auto_remove_after=2):
        sandbox = last(cloud)
        assert stays(lambda: not sandbox.result(), seconds=5)


def test_a_hundred_at_once_with_failures_all_work_or_fail_typed(cloud):
    signal.alarm(600)
    cloud.creates_per_second, cloud.error_rate, cloud.death_every = 5, 0.05, 20

    def use(number: int) -> str:
        try:
            with ModalDeployment(logger=logging.getLogger("test.many")) as deployment:
                return run(deployment, f"echo {number}")
        except DeploymentStartupError as error:
            return str(error)

    with alone("hundreds"), ThreadPoolExecutor(100) as pool:
        results = list(pool.map(use, range(100)))
    work = [f"{number}\n" for number in range(100)]
    failures = [result for result, right in zip(results, work, strict=True) if result != right]
    assert 0 < len(failures) < 20
    assert all("ended with exit code 7" in failure for failure in failures), failures
    # Not every one came too early again and again.
    assert cloud.calls["throttled"] < 150
    assert cloud.running() == []


# In a container


def test_in_a_container(tmp_path):
    needs("docker")
    signal.alarm(180)
    file = tmp_path / "Dockerfile"
    file.write_text('FROM python:3.11\nENV LAYER=built\nWORKDIR /srv\nENTRYPOINT ["/bin/false"]\n')
    with modal_cloud("container") as cloud, ModalDeployment(image=file) as deployment:
        with deployment.runtime.session() as session:
            assert session.run("echo $LAYER $PWD").output == "built /srv\n"
        assert run(deployment, "id -u; ls -d /opt/swerex").split() == ["0", "/opt/swerex"]
        assert len(cloud.running()) == 1
    assert cloud.running() == []
