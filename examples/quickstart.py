"""The main things in one minute, on this machine: python examples/quickstart.py

Commands run as you, in a temporary folder. With another config, such as DockerDeploymentConfig(image=...),
the same program runs in a sandbox.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from swerex.deployment import get_deployment
from swerex.deployment.config import LocalDeploymentConfig
from swerex.exceptions import NonZeroExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Command, ReadFileRequest, Session, WriteFileRequest

PROMPT = r">>> $"


def show(title: str) -> None:
    print(f"\n== {title}")


def run(session: Session, command: str) -> None:
    """Run a command as a person would see it."""
    print(f"$ {command}")
    print(session.run(command, timeout=10).output, end="")


def keep_state(session: Session) -> None:
    show("A session keeps its state: variables, functions, the working directory")
    run(session, "greeting=hello; greet() { echo $greeting, $1; }")
    run(session, "greet world")
    run(session, "mkdir -p project && cd project")
    run(session, "basename $PWD")


def write_and_read(runtime: AbstractRuntime, folder: str) -> None:
    show("Files are written and read as they are")
    path = f"{folder}/project/numbers.txt"
    runtime.write_file(WriteFileRequest(path=path, content="3\n1\n2\n"))
    runtime.execute(Command(command=["sort", "-o", path, path], check=True))
    print(f"numbers.txt, sorted: {runtime.read_file(ReadFileRequest(path=path)).content.split()}")


def talk_to_python(session: Session) -> None:
    show("An interactive program in the session")
    session.run(f"{sys.executable} -q", is_interactive_command=True, expect=[PROMPT], timeout=10)
    for line in ("x = 6 * 7", "print('the answer is', x)"):
        print(f">>> {line}")
        print(session.run(line, is_interactive_command=True, expect=[PROMPT], timeout=10).output, end="")
    session.run("exit()", is_interactive_quit=True, timeout=10)
    run(session, "echo back in the shell")


def fail(session: Session) -> None:
    show("A command that fails is an exception, or a status if you ask for it")
    try:
        session.run("ls no-such-file", timeout=10)
    except NonZeroExitCodeError as error:
        print(f"{type(error).__name__}: exit code {error.extra_info['exit_code']}")
    print(f"exit code {session.run('false', check='silent', timeout=10).exit_code}")


def work_in_parallel(runtime: AbstractRuntime) -> None:
    show("Two sessions in parallel, a second of work each")

    def work(name: str) -> str:
        with runtime.session(name) as session:
            return session.run(f"sleep 1; echo {name} is done", timeout=10).output

    begin = time.monotonic()
    with ThreadPoolExecutor() as pool:
        for output in pool.map(work, ["one", "two"]):
            print(output, end="")
    print(f"both took {time.monotonic() - begin:.1f} s")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, get_deployment(LocalDeploymentConfig()) as deployment:
        runtime = deployment.runtime
        with runtime.session("main", cwd=folder) as session:
            keep_state(session)
            write_and_read(runtime, folder)
            talk_to_python(session)
            fail(session)
        work_in_parallel(runtime)
    print("\nDone: the sessions are closed and the folder is gone.")


if __name__ == "__main__":
    main()
