"""Whether the kernel has killed something for want of memory: the control group of a sandbox counts that."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["OUT_OF_MEMORY", "oom_kills"]

OUT_OF_MEMORY = "Out of memory: the kernel killed a process, since the sandbox's memory limit was reached."

# Of cgroup v2 and v1: docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
_FILES = ("/sys/fs/cgroup{}/memory.events", "/sys/fs/cgroup/memory{}/memory.oom_control")


def _find() -> Path | None:
    """The file of this process's control group; a container sees its own as the root."""
    groups = [""]
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        groups[:0] = [line.split(":", 2)[2] for line in lines if line.split(":")[1] in ("", "memory")]
    for group in groups:
        for file in _FILES:
            path = Path(file.format(group.rstrip("/")))
            if path.is_file():
                return path
    return None


_file = _find()


def oom_kills() -> int:
    """How many processes were killed until now; 0 where nobody counts."""
    if _file is not None:
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)", _file.read_text(), re.MULTILINE):
                return int(found[1])
    return 0
