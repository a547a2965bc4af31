from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import swerex

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, folder: Path) -> str:
    """What an example prints when it is run from somewhere else."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert list(folder.iterdir()) == []
    return result.stdout


def test_quickstart(tmp_path):
    output = run_example("quickstart.py", tmp_path)
    assert re.sub(r"both took [12]\.\d s", "both took 1.0 s", output) == (
        """
== A session keeps its state: variables, functions, the working directory
$ greeting=hello; greet() { echo $greeting, $1; }
$ greet world
hello, world
$ mkdir -p project && cd project
$ basename $PWD
project

== Files are written and read as they are
numbers.txt, sorted: ['1', '2', '3']

== An interactive program in the session
>>> x = 6 * 7
>>> print('the answer is', x)
the answer is 42
$ echo back in the shell
back in the shell

== A command that fails is an exception, or a status if you ask for it
NonZeroExitCodeError: exit code 2
exit code 1

== Two sessions in parallel, a second of work each
one is done
two is done
both took 1.0 s

Done: the sessions are closed and the folder is gone.
"""
    )


def test_remote_server(tmp_path):
    output = run_example("remote_server.py", tmp_path)
    assert re.sub(r"(process |127\.0\.0\.1:)\d+", r"\1N", output).splitlines() == [
        f"swerex-remote {swerex.__version__} listens at http://127.0.0.1:N",
        "alive: True",
        "uploaded: greet.sh",
        "hello from process N",
        "server ended with exit code 0",
    ]


def test_agent_loop(tmp_path):
    output = run_example("agent_loop.py", tmp_path)
    answers = re.sub(r"(a new one took over)[^]]*", r"\1", output).strip().split("\n\n")
    assert [answer.splitlines()[1:] for answer in answers] == [
        ["bug.py", "[exit code 0]"],
        ["[syntax error, nothing was run: bash: line 1: unexpected EOF while looking for matching `'']"],
        ["waiting for input", "[interrupted after 1 s]"],
        ["1", "[exit code 0]"],
        ["[exit code 3; The shell ended with exit code 3; a new one took over]"],
        ["the shell is still here", "[exit code 0]"],
    ]


ANYWHERE = [
    "alive: True",
    "state: 1 2 3",
    "timeout: before",
    "and on: 4",
    "execute: hello",
    "stopped",
]


def test_anywhere(tmp_path):
    result = subprocess.run(
        [sys.executable, EXAMPLES / "anywhere.py", "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ANYWHERE
