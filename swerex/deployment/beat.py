"""Renews the lease of a sandbox for as long as this process lives."""

from __future__ import annotations

import threading

from swerex.runtime.abstract import AbstractRuntime

__all__ = ["Beat"]

_LONGEST_PAUSE = 60.0


class Beat:
    """Asks a server now and then whether it is alive, so that it does not end itself for want of a client.

    `lease` is that of the server, in seconds.
    """

    def __init__(self, runtime: AbstractRuntime, lease: float) -> None:
        self._runtime = runtime
        # One that gets lost must not matter.
        self._pause = min(lease / 4, _LONGEST_PAUSE)
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="swerex-beat", daemon=True).start()

    def stop(self) -> None:
        """Does not wait for a request that is under way."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            self._runtime.is_alive(timeout=max(self._pause, 1.0))
