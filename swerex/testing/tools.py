"""What the checks share: to say what is expected, to prepare something in the sandbox, to ask about it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from swerex.deployment.abstract import AbstractDeployment
from swerex.runtime.abstract import (
    AbstractRuntime,
    Command,
    CommandResponse,
    ReadFileRequest,
    Session,
    UploadRequest,
    WriteFileRequest,
)

__all__ = [
    "CHECKS",
    "CheckFailed",
    "Make",
    "NotApplicable",
    "background",
    "equal",
    "eventually",
    "exists",
    "has",
    "in_parallel",
    "needs",
    "new_name",
    "next_is_right",
    "prints",
    "raised",
    "read",
    "result",
    "running",
    "scratch",
    "sh",
    "true",
    "upload",
    "wait_for_end",
    "wait_for_file",
    "wait_for_pid",
    "within",
    "write",
]

Make = Callable[[], AbstractDeployment]
"""Makes a deployment that is not started."""

T = TypeVar("T")
S = TypeVar("S")
E = TypeVar("E", bound=BaseException)

CHECKS: tuple[Literal["silent", "raise", "ignore"], ...] = ("silent", "raise", "ignore")
"""What `BashAction.check` may be."""

_PATIENCE = 20.0
"""For how many seconds a check waits for what takes a moment: the machine may be busy, and far away."""


class CheckFailed(AssertionError):
    """Something does not hold. The message says what was expected, and what came."""


class NotApplicable(Exception):
    """The check can't be made here, and the deployment is not to blame; the message says what is missing."""


# What is expected


def equal(actual: object, expected: object, about: str = "") -> None:
    """Fail unless both are equal. `about` says whose value it is."""
    if actual == expected:
        return
    if isinstance(actual, list) and isinstance(expected, list):
        actual, expected = dict(enumerate(actual)), dict(enumerate(expected))
    if isinstance(actual, dict) and isinstance(expected, dict):
        # All of a long one would hide what differs.
        for key in {**expected, **actual}:
            equal(actual.get(key), expected.get(key), f"{about or 'it'}[{key!r}]")
    prefix = f"{about}: " if about else ""
    if isinstance(actual, str) and isinstance(expected, str) and max(len(actual), len(expected)) > 200:
        pairs = enumerate(zip(actual, expected, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(actual), len(expected)))
        here = slice(max(0, at - 20), at + 60)
        raise CheckFailed(
            f"{prefix}expected {len(expected)} characters, got {len(actual)}; from character {here.start} on "
            f"expected {expected[here]!r}, got {actual[here]!r}"
        )
    raise CheckFailed(f"{prefix}expected {expected!r}, got {actual!r}")


def true(condition: object, message: str) -> None:
    """Fail with the message unless the condition is true."""
    if not condition:
        raise CheckFailed(message)


def raised(kind: type[E], function: Callable[..., object], *args: Any, **kwargs: Any) -> E:
    """Call the function, which must raise `kind`, and return the error."""
    try:
        value = function(*args, **kwargs)
    except kind as error:
        return error
    except Exception as error:
        raise CheckFailed(f"expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    raise CheckFailed(f"expected {kind.__name__}, but nothing was raised; it returned {value!r}")


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail if what is inside takes longer."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    true(took <= seconds, f"{what} took {took:.2f} s, expected {seconds:g} s at the most")


def eventually(question: Callable[[], T], what: str) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + _PATIENCE
    while not (answer := question()):
        true(time.monotonic() < deadline, f"{what}: not within {_PATIENCE:g} s")
        time.sleep(0.02)
    return answer


def next_is_right(session: Session) -> None:
    """The session is at its prompt, and the next commands return their own output and status only."""
    for word in ("one", "two"):
        observation = session.run(f"echo {word}", timeout=_PATIENCE)
        equal(observation.output, f"{word}\n", f"the output of 'echo {word}' afterwards")
        equal(observation.exit_code, 0, f"the exit code of 'echo {word}' afterwards")


def prints(session: Session, command: str, output: str) -> None:
    """The command prints just this and succeeds, whatever `check` is, and the next command is right."""
    about = f"command {command[:100]!r}"
    for check in CHECKS:
        observation = session.run(command, timeout=_PATIENCE, check=check)
        equal(observation.output, output, f"the output of {about}")
        expected = None if check == "ignore" else 0
        equal(observation.exit_code, expected, f"the exit code of {about}, check={check!r}")
        equal(observation.failure_reason, "", f"the failure_reason of {about}")
    next_is_right(session)


# The sandbox


def new_name() -> str:
    """A name that nobody else has, for a session or a folder."""
    return f"swerex-check-{uuid.uuid4().hex[:12]}"


@contextmanager
def scratch(runtime: AbstractRuntime) -> Iterator[str]:
    """A new folder in the sandbox, removed in the end."""
    script = (
        'for base in "$TMPDIR" /tmp /dev/shm "$HOME" "$PWD"; do\n'
        '  [ -d "$base" ] && cd "$base" && mkdir "$1" 2>/dev/null && cd "$1" && pwd -P && break\n'
        "done"
    )
    made = sh(runtime, script, new_name())
    folder = made.stdout.removesuffix("\n")
    true(folder, "no folder could be made in $TMPDIR, /tmp, /dev/shm, $HOME or $PWD")
    try:
        yield folder
    finally:
        sh(runtime, 'chmod -R u+rwx "$1"; rm -rf "$1"', folder)


def sh(runtime: AbstractRuntime, script: str, *args: str) -> CommandResponse:
    """Run a script of /bin/sh, outside of any session, with arguments."""
    return runtime.execute(Command(command=["/bin/sh", "-c", script, "sh", *args], timeout=_PATIENCE))


def has(runtime: AbstractRuntime, tool: str) -> bool:
    """Whether the sandbox has this program."""
    return sh(runtime, 'command -v "$1" >/dev/null && echo yes', tool).stdout == "yes\n"


def needs(runtime: AbstractRuntime, *tools: str) -> None:
    """The check is for sandboxes that have these programs."""
    missing = [tool for tool in tools if not has(runtime, tool)]
    if missing:
        raise NotApplicable(f"the sandbox has no {' and no '.join(missing)}")


def read(runtime: AbstractRuntime, path: str) -> str:
    return runtime.read_file(ReadFileRequest(path=path)).content


def write(runtime: AbstractRuntime, path: str, content: str = "") -> None:
    runtime.write_file(WriteFileRequest(path=path, content=content))


def upload(runtime: AbstractRuntime, source: object, target: str) -> None:
    runtime.upload(UploadRequest(source_path=str(source), target_path=target))


def exists(runtime: AbstractRuntime, path: str) -> bool:
    return sh(runtime, '[ -e "$1" ] && echo yes', path).stdout == "yes\n"


def running(runtime: AbstractRuntime, pid: str) -> bool:
    """Whether the sandbox has such a process; one that has ended and was not reaped does not count."""
    stat = sh(runtime, 'cat "/proc/$1/stat" 2>/dev/null', pid).stdout
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for_file(runtime: AbstractRuntime, path: str) -> None:
    """Wait until a command has made this file."""
    eventually(lambda: exists(runtime, path), f"{path} is there")


def wait_for_pid(runtime: AbstractRuntime, path: str) -> str:
    """Wait until a command has written a line into this file: a process id, which is returned."""
    wait_for_file(runtime, path)
    eventually(lambda: read(runtime, path).endswith("\n"), f"a line is in {path}")
    return read(runtime, path).strip()


def wait_for_end(runtime: AbstractRuntime, pid: str) -> None:
    """Wait until there is no such process any more."""
    eventually(lambda: not running(runtime, pid), f"process {pid} has ended")


# Threads


def background(function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    """Call the function in a thread that nothing waits for."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            # Whatever it is, it is for who asks for the result.
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def result(future: Future[T]) -> T:
    """What a call in the background returned or raised, as soon as it has."""
    true(wait([future], _PATIENCE).done, f"a call in another thread did not return within {_PATIENCE:g} s")
    return future.result()


def in_parallel(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Call the function for all items at once, each in a thread of its own; the results in order."""
    items = list(items)
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))
