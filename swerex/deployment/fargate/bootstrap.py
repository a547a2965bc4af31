"""How the server gets into a Fargate task: the script that the task's container runs.

All that is secret, or differs from task to task, is in the environment: SWEREX_AUTH_TOKEN and SWEREX_LEASE,
which the server reads, SWEREX_TIMEOUT (seconds until the task ends in any case), and for a bundle
SWEREX_BUNDLE_URL and SWEREX_BUNDLE_SHA256. None of it is in the environment of the commands in the sandbox;
those that run as root can read it in /proc.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from swerex.deployment.fallback import SHELL_FUNCTIONS, server_in_image

__all__ = ["bundle_script", "image_script"]

_BEGIN = """\
has sleep || end "the image needs sleep, or busybox"
(
    # In short pieces, since a command in the sandbox may kill whatever is called sleep. Where there is no
    # date, what was slept is counted.
    passed=0
    begin=$(date +%s 2>/dev/null)
    while
        [ -z "$begin" ] || ! now=$(date +%s 2>/dev/null) || passed=$((now - begin))
        left=$((SWEREX_TIMEOUT - passed))
        [ "$left" -gt 0 ]
    do
        piece=$((left < 60 ? left : 60))
        sleep $piece && passed=$((passed + piece))
    done
    echo "swerex: container_timeout, $SWEREX_TIMEOUT s, is over" >&2
    kill $$
    sleep 5
    kill -9 $$
) &
swerex_url=$SWEREX_BUNDLE_URL swerex_digest=$SWEREX_BUNDLE_SHA256
unset SWEREX_TIMEOUT SWEREX_BUNDLE_URL SWEREX_BUNDLE_SHA256
"""

# Each that is not there, or fails, leaves its words in a file, which is shown if none succeeds.
_BUNDLE = """\
make_root
{{
    curl -fsSL --retry 3 -o "$swerex_root/bundle.tar.gz" "$swerex_url" ||
        wget -q -O "$swerex_root/bundle.tar.gz" "$swerex_url" ||
        busybox wget -q -O "$swerex_root/bundle.tar.gz" "$swerex_url" ||
        python3 -Ic 'import sys; from urllib.request import urlretrieve; urlretrieve(*sys.argv[1:])' \\
            "$swerex_url" "$swerex_root/bundle.tar.gz"
}} 2>"$swerex_root/errors" || {{
    cat "$swerex_root/errors" >&2
    end "the bundle could not be fetched; the image needs curl, wget or python3, and the task a way to S3"
}}
swerex_found=$(
    {{
        sha256sum ||
            python3 -Ic 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
    }} <"$swerex_root/bundle.tar.gz" 2>/dev/null
)
[ -z "$swerex_found" ] || [ "${{swerex_found%% *}}" = "$swerex_digest" ] || end "the bundle arrived damaged"
{{
    tar -xzf "$swerex_root/bundle.tar.gz" -C "$swerex_root" ||
        busybox tar -xzf "$swerex_root/bundle.tar.gz" -C "$swerex_root" ||
        python3 -Im tarfile -e "$swerex_root/bundle.tar.gz" "$swerex_root"
}} 2>"$swerex_root/errors" || {{
    cat "$swerex_root/errors" >&2
    end "the bundle could not be unpacked; the image needs tar and gzip, or python3, and the task room for it"
}}
rm -f "$swerex_root/bundle.tar.gz" "$swerex_root/errors"
exec {command} {options}
"""


def bundle_script(command: Callable[[str], list[str]], port: int) -> str:
    """A script for ``/bin/sh -c`` that fetches a bundle and starts the server in it.

    `command` says how the server is started in a bundle that lies in a given folder.
    """
    words = shlex.join(command("@root@")).replace("@root@", '"$swerex_root"')
    script = _BUNDLE.format(command=words, options=shlex.join(_options(port)))
    return SHELL_FUNCTIONS + _BEGIN + script


def image_script(port: int) -> str:
    """A script for ``/bin/sh -c`` that starts the image's own server, or else installs it with pip."""
    return server_in_image(_options(port), "; give a bundle_bucket", _BEGIN)


def _options(port: int) -> list[str]:
    return ["--host", "0.0.0.0", "--port", str(port)]
