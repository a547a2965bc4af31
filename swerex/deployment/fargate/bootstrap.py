"""How the server gets into a Fargate task: the script that the task's container runs.

All that is secret, or differs from task to task, is in the environment: SWEREX_AUTH_TOKEN and SWEREX_LEASE,
which the server reads, SWEREX_TIMEOUT (seconds until the task ends in any case), and for a bundle
SWEREX_BUNDLE_URL and SWEREX_BUNDLE_SHA256. None of it is left to the commands in the sandbox.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from swerex import PACKAGE_NAME, REMOTE_EXECUTABLE_NAME, __version__

__all__ = ["bundle_script", "image_script"]

_BEGIN = """\
end() {{
    echo "swerex: $1" >&2
    exit 1
}}
(
    # In short pieces, since a command in the sandbox may kill whatever is called sleep.
    last=$(($(date +%s) + SWEREX_TIMEOUT))
    while left=$((last - $(date +%s))) && [ "$left" -gt 0 ]; do
        sleep $((left < 60 ? left : 60))
    done
    echo "swerex: container_timeout, $SWEREX_TIMEOUT s, is over" >&2
    kill $$
    sleep 5
    kill -9 $$
) &
url=$SWEREX_BUNDLE_URL digest=$SWEREX_BUNDLE_SHA256
unset SWEREX_TIMEOUT SWEREX_BUNDLE_URL SWEREX_BUNDLE_SHA256
make_root() {{
    for folder in "${{TMPDIR:-/tmp}}" /var/tmp "$PWD" /; do
        root=${{folder%/}}/swerex-$$
        mkdir "$root" 2>/dev/null && return
    done
    end "no folder can be written to; tried TMPDIR, /tmp, /var/tmp, $PWD and /"
}}
"""

# Each that is not there, or fails, leaves its words in a file, which is shown if none succeeds.
_BUNDLE = """\
make_root
{{
    curl -fsSL --retry 3 -o "$root/bundle.tar.gz" "$url" ||
        wget -q -O "$root/bundle.tar.gz" "$url" ||
        busybox wget -q -O "$root/bundle.tar.gz" "$url" ||
        python3 -Ic 'import sys; from urllib.request import urlretrieve; urlretrieve(*sys.argv[1:])' \\
            "$url" "$root/bundle.tar.gz"
}} 2>"$root/errors" || {{
    cat "$root/errors" >&2
    end "the bundle could not be fetched; the image needs curl, wget or python3, and the task a way to S3"
}}
if command -v sha256sum >/dev/null; then
    echo "$digest  $root/bundle.tar.gz" | sha256sum -c >/dev/null || end "the bundle arrived damaged"
fi
{{
    tar -xzf "$root/bundle.tar.gz" -C "$root" ||
        busybox tar -xzf "$root/bundle.tar.gz" -C "$root" ||
        python3 -Im tarfile -e "$root/bundle.tar.gz" "$root"
}} 2>"$root/errors" || {{
    cat "$root/errors" >&2
    end "the bundle could not be unpacked; the image needs tar and gzip, or python3, and the task room for it"
}}
rm -f "$root/bundle.tar.gz" "$root/errors"
exec {command} {options}
"""

# A server of the other implementation knows its token from the command line only.
_IMAGE = """\
if command -v {executable} >/dev/null; then
    case $({executable} --help 2>&1) in
        *SWEREX_AUTH_TOKEN*) exec {executable} {options} ;;
    esac
    token=$SWEREX_AUTH_TOKEN
    unset SWEREX_AUTH_TOKEN SWEREX_LEASE
    exec {executable} {options} --auth-token "$token"
fi
make_root
python3 -m pip install --quiet --disable-pip-version-check --target "$root" {package} ||
    end "the image has no {executable}, and python3 -m pip could not install it; give a bundle_bucket"
exec python3 -Ic 'import sys; sys.path.insert(0, sys.argv.pop(1)); from swerex.server import main; main()' \\
    "$root" {options}
"""


def bundle_script(command: Callable[[str], list[str]], port: int) -> str:
    """A script for ``/bin/sh -c`` that fetches a bundle and starts the server in it.

    `command` says how the server is started in a bundle that lies in a given folder.
    """
    words = shlex.join(command("@root@")).replace("@root@", '"$root"')
    return (_BEGIN + _BUNDLE).format(command=words, options=_options(port))


def image_script(port: int) -> str:
    """A script for ``/bin/sh -c`` that starts the image's own server, or else installs it with pip."""
    return (_BEGIN + _IMAGE).format(
        executable=REMOTE_EXECUTABLE_NAME, package=f"{PACKAGE_NAME}=={__version__}", options=_options(port)
    )


def _options(port: int) -> str:
    return f"--host 0.0.0.0 --port {port}"
