"""The user's cache directory, after the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_path"]


def cache_path(name: str) -> Path:
    """Where this package keeps what is called `name`. It need not be there, nor be writable."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return Path(base, "swerex", name)
