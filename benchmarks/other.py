"""The environment of the other implementation, PyPI's ``swe-rex`` 1.4.0.

Its package has the name of ours, so the two can't be imported by one interpreter: it lives in a virtual
environment of its own. ``python benchmarks/other.py`` makes that environment, once, and prints the path of
its interpreter; the tests of compatibility ask for it in the same way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["VERSION", "python"]

VERSION = "1.4.0"
# aiohttp: its client imports it, and its metadata does not name it.
_PACKAGES = [f"swe-rex=={VERSION}", "aiohttp"]


def python() -> Path:
    """The interpreter of the environment, which is made if it is not there.

    It is kept in the user's cache folder (``XDG_CACHE_HOME``), one for each version of Python. Processes
    that come at the same time wait for the first one to make it.

    Raises:
        subprocess.CalledProcessError: pip could not install it; pip's own words are on standard error.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "swe-rex-for-comparison" / f"{VERSION}-{sys.implementation.cache_tag}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        interpreter = folder / "bin" / "python"
        complete = folder / "complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            install = [str(interpreter), "-m", "pip", "install", "--quiet", *_PACKAGES]
            subprocess.run(install, check=True, stdout=sys.stderr)
            complete.touch()
        return interpreter


if __name__ == "__main__":
    print(python())
