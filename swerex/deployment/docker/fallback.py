"""The server where the bundle can't serve: for another kind of machine, or from one that is no Linux."""

from __future__ import annotations

import shlex

from swerex import PACKAGE_NAME, REMOTE_EXECUTABLE_NAME, __version__

__all__ = ["server_in_image"]

_SCRIPT = """
if command -v {remote} >/dev/null 2>&1; then
    case $({remote} --help) in
        *SWEREX_AUTH_TOKEN*) exec {remote} {options} ;;
        *) exec {remote} {options} --auth-token "$SWEREX_AUTH_TOKEN" ;;
    esac
fi
for python in python3 python; do
    if $python -m pip --version >/dev/null 2>&1; then
        folder=${{TMPDIR:-/tmp}}/swerex
        $python -m pip install --quiet --target "$folder" {requirement} || exit
        exec $python -c {run} "$folder" {options}
    fi
done
echo "The image has neither {remote} nor a Python with pip to install it with" >&2
exit 127
"""

# Not by PYTHONPATH, which the sessions would see.
_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from swerex.server import main; main()"


def server_in_image(options: list[str]) -> str:
    """A script for a POSIX shell that runs the server which the image has, be it that of ``swe-rex``, or else
    installs one with the image's own pip, which needs a network."""
    return _SCRIPT.format(
        remote=REMOTE_EXECUTABLE_NAME,
        requirement=shlex.quote(f"{PACKAGE_NAME}=={__version__}"),
        options=shlex.join(options),
        run=shlex.quote(_RUN),
    )
