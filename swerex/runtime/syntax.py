"""Tell whether bash can parse a command, without running any of it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from swerex.runtime.process import spawn

__all__ = ["SyntaxChecker", "is_plain", "syntax_error"]

# Reads the name of a file, and answers "0" where its text parses. The text is parsed in a subshell that has
# turned execution off before it sees the text; `read` is told to end at NUL, which no script contains. The
# subshell is there before the name is, so that nobody waits for the fork.
_LOOP = r"""
while
    (
        IFS= builtin read -r path || builtin exit 3
        IFS= builtin read -r -d '' text <"$path"
        builtin eval "set -n; $text" >/dev/null 2>&1 </dev/null
    )
    status=$?
    ((status != 3))
do
    builtin printf '%s\n' $status
done
"""

_PATIENCE = 2.0
"""How many seconds the answer may take."""

_RESERVED = {
    *("case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in"),
    *("select", "then", "time", "until", "while"),
}
_WORD = re.compile(rb"[\w./:=@%+,-]+(?: +[\w./:=@%+,-]+)*\s*")


def is_plain(text: bytes) -> bool:
    """Whether a command is one line of words without any special character: no such line is wrong."""
    return (
        len(text) < 1000 and bool(_WORD.fullmatch(text)) and text.split(None, 1)[0].decode() not in _RESERVED
    )


def _clean(env: dict[str, str]) -> dict[str, str]:
    """An environment in which bash reads no file and imports no function or option first."""
    return {name: env[name] for name in ("PATH", "LANG", "LC_ALL", "LC_CTYPE") if name in env}


class SyntaxChecker:
    """A long-lived bash that parses. A fresh ``bash -n`` for each command would take three times as long."""

    def __init__(self, bash: list[str], env: dict[str, str]) -> None:
        self._bash = bash
        self._env = _clean(env)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def parses(self, script: Path) -> bool:
        """Whether the text of the file is surely fine. False: ask `syntax_error`."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(os.fsencode(script) + b"\n")
                process.stdin.flush()
                ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
                answer = process.stdout.readline() if ready else b""
            except OSError:
                answer = b""
            if not answer:
                # It was killed, or stopped. The slow way tells, and the next command gets a new one.
                self._stop()
            return answer == b"0\n"

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = spawn(
            [*self._bash, "--norc", "--noprofile", "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._env,
            cwd="/",
        )
        return self._process

    def _stop(self) -> None:
        if process := self._process:
            self._process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                with suppress(OSError):
                    pipe.close()

    def close(self) -> None:
        with self._lock:
            self._stop()


def syntax_error(bash: list[str], env: dict[str, str], text: bytes, state: bytes, folder: Path) -> str:
    """What bash has to say against the text of a command; empty if nothing.

    `state` is a script that makes the aliases and options of the session which decide how a text is parsed.
    """
    prelude = b"builtin shopt -s expand_aliases\n" + state + b"\nbuiltin set -n\n"
    script = folder / "syntax"
    script.write_bytes(prelude + text + b"\n")
    try:
        process = spawn(
            [*bash, "--norc", "--noprofile", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_clean(env),
        )
        _, errors = process.communicate()
    finally:
        script.unlink(missing_ok=True)
    if process.returncode == 0:
        return ""
    lines = prelude.count(b"\n")
    message = errors.decode(errors="backslashreplace").replace(f"{script}:", "bash:")
    return re.sub(
        r"^bash: line (\d+)", lambda m: f"bash: line {int(m[1]) - lines}", message, flags=re.MULTILINE
    )
