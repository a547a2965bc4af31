"""The server where the bundle can't serve: for another kind of machine, or from one that is no Linux."""

from __future__ import annotations

import shlex

from swerex import PACKAGE_NAME, REMOTE_EXECUTABLE_NAME, __version__

__all__ = ["SHELL_FUNCTIONS", "server_in_image"]

SHELL_FUNCTIONS = """\
end() {
    echo "swerex: $1" >&2
    exit 127
}
has() {
    command -v "$1" >/dev/null
}
for swerex_name in cat date mkdir rm sha256sum sleep; do
    has $swerex_name || ! has busybox || eval "$swerex_name() { busybox $swerex_name \\"\\$@\\"; }"
done
make_root() {
    has mkdir || end "the image needs mkdir, or busybox"
    for swerex_folder in "${TMPDIR:-/tmp}" /var/tmp "$PWD" /; do
        swerex_root=${swerex_folder%/}/swerex-$$
        mkdir "$swerex_root" 2>/dev/null && return
    done
    end "no folder can be written to; tried TMPDIR, /tmp, /var/tmp, $PWD and /"
}
"""
"""For scripts that start a server in a sandbox: `end` with a message; whether the image `has` a program, of
which busybox stands in for some; `make_root`, a new folder, `$swerex_root`. A variable of another name may be
one of the sandbox's environment, which the server hands on."""

# A server of the other implementation knows its token from the command line only, and would hand the
# variable on to its sessions. PYTHONPATH would be handed on too.
_SCRIPT = """\
if has {remote}; then
    case $({remote} --help 2>&1) in
        *SWEREX_AUTH_TOKEN*) exec {remote} {options} ;;
    esac
    swerex_token=$SWEREX_AUTH_TOKEN
    unset SWEREX_AUTH_TOKEN SWEREX_LEASE
    exec {remote} {options} --auth-token "$swerex_token"
fi
make_root
for swerex_python in python3 python; do
    if has $swerex_python &&
        $swerex_python -m pip install -q --disable-pip-version-check --target "$swerex_root" {requirement}
    then
        exec $swerex_python -Ic {run} "$swerex_root" {options}
    fi
done
end {failure}
"""
_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from swerex.server import main; main()"


def server_in_image(options: list[str], advice: str = "", begin: str = "") -> str:
    """A script for a POSIX shell that runs the server which the image has, be it that of ``swe-rex``, or else
    installs one with the image's own pip, which needs a network. `advice` ends the message if it can't.
    `begin` is run before, and may use `SHELL_FUNCTIONS`."""
    failure = f"the image has neither {REMOTE_EXECUTABLE_NAME} nor a Python with pip that could install it"
    return (
        SHELL_FUNCTIONS
        + begin
        + _SCRIPT.format(
            remote=REMOTE_EXECUTABLE_NAME,
            requirement=shlex.quote(f"{PACKAGE_NAME}=={__version__}"),
            options=shlex.join(options),
            run=shlex.quote(_RUN),
            failure=shlex.quote(failure + advice),
        )
    )
