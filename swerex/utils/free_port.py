"""Ports of this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

__all__ = ["find_free_port"]

# The kernel may offer a port again as soon as the probe is closed, before its finder has bound it.
_handed_out: deque[int] = deque(maxlen=1000)
_lock = threading.Lock()


def find_free_port(max_attempts: int = 10, sleep_between_attempts: float = 0.1) -> int:
    """A TCP port that is free on the loopback address now, and was not lately handed out by this process.

    Somebody else may still take it before it is bound; where a program can bind port 0 itself, let it.
    `sleep_between_attempts` is in seconds.

    Raises:
        RuntimeError: no such port was found.
    """
    reason = "no attempt was allowed"
    for attempt in range(max_attempts):
        if attempt:
            time.sleep(sleep_between_attempts)
        try:
            with _lock, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
                if port not in _handed_out:
                    _handed_out.append(port)
                    return port
            reason = f"port {port} was handed out before"
        except OSError as error:
            reason = str(error)
    raise RuntimeError(f"found no free port in {max_attempts} attempts; the last one: {reason}")
