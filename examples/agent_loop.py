"""The loop of an agent: each command gets a few seconds, and no command can end the loop.

python examples/agent_loop.py

A list stands for the model. What goes back to it after each command is printed.
"""

from __future__ import annotations

import tempfile

from swerex.deployment.local import LocalDeployment
from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError
from swerex.runtime.abstract import Session

TIMEOUT = 1.0

MODEL = [
    "echo 'print(1 / 0)' > bug.py; ls",
    "echo 'unfinished",
    "echo waiting for input; cat",
    "grep -c print bug.py",
    "exit 3",
    "echo the shell is still here",
]


def observe(session: Session, command: str) -> str:
    """What the model is told of a command."""
    try:
        observation = session.run(command, timeout=TIMEOUT, check="silent")
    except BashIncorrectSyntaxError as error:
        return f"[syntax error, nothing was run: {error.extra_info['bash_stderr'].strip()}]"
    except CommandTimeoutError as error:
        session.interrupt()
        return f"{error.extra_info['output']}[interrupted after {TIMEOUT:g} s]"
    notes = [f"exit code {observation.exit_code}"]
    if observation.failure_reason:
        notes.append(observation.failure_reason)
    return f"{observation.output}[{'; '.join(notes)}]"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalDeployment() as deployment,
        deployment.runtime.session("agent", cwd=folder) as session,
    ):
        for command in MODEL:
            print(f"$ {command}\n{observe(session, command)}\n")


if __name__ == "__main__":
    main()
