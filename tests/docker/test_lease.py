"""A client that is killed leaves nothing: its sandbox ends by itself, and the next client tidies up."""

from __future__ import annotations

from pathlib import Path

from swerex.deployment.docker.reach import REACH_LABEL
from swerex.deployment.docker.sandboxes import cache_folder
from tests.docker.engines import leftovers, only_docker
from tests.docker.programs import program
from tests.util import stays, wait_until

START = """
deployment = deployment_in(engine, **fields)
deployment.start()
tell(deployment.container_name)
wait()
"""

START_AND_STOP = """
with deployment_in(engine, **fields):
    pass
"""


def test_the_sandbox_of_a_killed_client_ends_by_itself(engine, bare_image):
    with program(engine, START, image=bare_image, auto_remove_after=1) as client:
        name = client.line()
        assert leftovers(engine, client.owner) == {name}
        client.kill()
        wait_until(lambda: not leftovers(engine, client.owner), timeout=10)


def test_also_with_a_command_under_way(engine, bare_image, tmp_path):
    code = START.replace("wait()", "deployment.runtime.execute(Command(command='touch /here/on; sleep 600'))")
    fields = {"image": bare_image, "volumes": [f"{tmp_path}:/here"], "auto_remove_after": 1}
    with program(engine, code, **fields) as client:
        client.line()
        wait_until((tmp_path / "on").exists)
        client.kill()
        # The server sees that the client is gone when it next answers it.
        wait_until(lambda: not leftovers(engine, client.owner), timeout=30)


def test_a_client_that_asks_nothing_keeps_its_sandbox(engine, start, bare_image):
    deployment = start(image=bare_image, auto_remove_after=2)
    session = deployment.runtime.session()
    session.run("x=kept")
    # More than two leases; the engine is asked, and not the sandbox, whose lease that would renew.
    assert stays(lambda: deployment.container_name in leftovers(engine), seconds=5)
    assert session.run("echo $x").output == "kept\n"


def test_a_container_that_was_created_and_not_started(engine, bare_image):
    """No lease ends it: the next process that starts a sandbox removes it."""
    code = """
import docker
docker.APIClient.start = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
deployment_in(engine, **fields).start()
"""
    with program(engine, code, image=bare_image) as client:
        client.process.wait(timeout=30)
    assert len(leftovers(engine, client.owner)) == 1
    with program(engine, START_AND_STOP, image=bare_image) as other:
        other.finish()
    assert not leftovers(engine, client.owner)


@only_docker
def test_a_container_that_another_client_is_about_to_start_is_left_alone(engine, bare_image):
    code = """
import docker
start = docker.APIClient.start
def slowly(*args, **kwargs):
    tell("created")
    wait()
    return start(*args, **kwargs)
docker.APIClient.start = slowly
with deployment_in(engine, **fields) as deployment:
    tell(deployment.container_name)
"""
    with program(engine, code, image=bare_image) as client:
        assert client.line() == "created"
        with program(engine, START_AND_STOP, image=bare_image) as other:
            other.finish()
        client.go_on()
        assert client.line().startswith("swerex-")
        client.finish()


def test_the_files_of_a_killed_client_are_removed_by_the_next(engine, bare_image):
    """The socket of a sandbox without a network, and the lock of each."""
    fields = {"image": bare_image, "network": "none", "auto_remove_after": 1}
    with program(engine, START, **fields) as client:
        name = client.line()
        label = engine.client.api.inspect_container(name)["Config"]["Labels"][REACH_LABEL]
        folder = Path(label.removeprefix("socket "))
        lock = cache_folder() / name
        client.kill()
        assert folder.is_dir()
        assert lock.exists()
        wait_until(lambda: not leftovers(engine, client.owner), timeout=10)
    with program(engine, START_AND_STOP, **fields) as other:
        other.finish()
        assert not folder.exists()
        assert not lock.exists()


@only_docker
def test_the_files_of_a_sandbox_that_runs_stay(engine, bare_image):
    fields = {"image": bare_image, "network": "none"}
    with program(engine, START, **fields) as client:
        name = client.line()
        with program(engine, START_AND_STOP, **fields) as other:
            other.finish()
        assert (cache_folder() / name).exists()
        client.go_on_and_finish()


@only_docker
def test_an_interpreter_that_exits_leaves_nothing(engine, bare_image):
    code = "deployment = deployment_in(engine, **fields)\ndeployment.start()\ntell(deployment.container_name)"
    with program(engine, code, image=bare_image) as client:
        name = client.line()
        client.finish()
        assert not leftovers(engine, client.owner)
        assert not (cache_folder() / name).exists()


@only_docker
def test_an_exception_leaves_nothing(engine, bare_image):
    code = "with deployment_in(engine, **fields) as deployment:\n    sys.exit(7)"
    with program(engine, code, image=bare_image) as client:
        assert client.process.wait(timeout=30) == 7
        assert not leftovers(engine, client.owner)
