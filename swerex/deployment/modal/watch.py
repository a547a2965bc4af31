"""What Modal tells of a sandbox: whether it has ended, how, and what it printed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import modal
from modal.exception import NotFoundError

from swerex.deployment.modal.calls import call, start_call

__all__ = ["SandboxWatch"]

_MAX_AGE = 1.0
_TIMEOUT, _LOG_TIMEOUT = 2.0, 4.0
"""Seconds that Modal may take to tell how a sandbox is, and what it has printed."""
_LAST_ENTRIES, _LAST_CHARACTERS = 50, 4000
_LOG_PAUSES = (0, 0.3, 0.5, 1)
"""Seconds between tries to get the log of a sandbox that has just ended, since it comes a little later."""


class SandboxWatch:
    """Asks Modal about a sandbox, for all threads. None of its methods raises an exception."""

    def __init__(self, sandbox: modal.Sandbox) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self.ending = ""
        """How the sandbox ended, with the tail of its log. Nothing as long as it runs, for all that is
        known."""

    def ask(self, max_age: float = _MAX_AGE) -> str:
        """The `ending`, of which Modal was asked at most `max_age` seconds ago."""
        with self._lock:
            if not self.ending and time.monotonic() - self._asked >= max_age:
                self.ending = self._ask()
                self._asked = time.monotonic()
            return self.ending

    def log(self) -> str:
        """The tail of what it printed, as far as Modal has it."""
        return self._read_log(time.monotonic() + _LOG_TIMEOUT) or ""

    def _read_log(self, deadline: float) -> str | None:
        """The same; None: Modal does not tell."""
        # The library passes on what its own libraries raise, and nothing of it is worth to hide the error
        # that the log is to explain.
        with suppress(Exception):
            entries = call(lambda: start_call(lambda: list(self._sandbox.logs.tail(_LAST_ENTRIES))), deadline)
            return "".join(entry.message for entry in entries).strip()[-_LAST_CHARACTERS:]
        return None

    def _ask(self) -> str:
        name = f"The sandbox {self._sandbox.object_id}"
        try:
            code = call(lambda: start_call(self._sandbox.poll), time.monotonic() + _TIMEOUT)
        except NotFoundError:
            return f"{name} is not known to Modal any more."
        except Exception:
            # As above. What it does not tell now, it may tell when asked again.
            return ""
        if code is None:
            return ""
        deadline = time.monotonic() + _LOG_TIMEOUT
        for pause in _LOG_PAUSES:
            time.sleep(pause)
            log = self._read_log(deadline)
            if log is None:
                return f"{name} {_fate(code)}. Its log could not be read."
            if log:
                return f"{name} {_fate(code)}. Its log ends with:\n{log}"
        return f"{name} {_fate(code)}. Its log is empty."


def _fate(code: int) -> str:
    """What became of a sandbox. The codes 124 and 137 are Modal's own; it says 0 also where it has ended a
    sandbox for a reason that it does not tell."""
    if code == 124:
        return "was ended by Modal at its time limit (deployment_timeout)"
    if code == 137:
        return "was terminated, or killed for want of memory (exit code 137)"
    if code == 0:
        return "ended by itself, or was ended by Modal (exit code 0)"
    return f"ended with exit code {code}"
