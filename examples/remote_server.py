"""A server in a process of its own, and a program that works through it: python examples/remote_server.py

The server stands for one on another machine: start `swerex-remote` there, and give its address here.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from swerex.deployment.remote import RemoteDeployment
from swerex.runtime.abstract import Command, UploadRequest
from swerex.utils.free_port import find_free_port


def work(port: int, token: str) -> None:
    with (
        RemoteDeployment(host="127.0.0.1", port=port, auth_token=token) as deployment,
        tempfile.TemporaryDirectory() as here,
        tempfile.TemporaryDirectory() as there,
    ):
        runtime = deployment.runtime
        print(f"alive: {bool(runtime.is_alive())}")

        Path(here, "greet.sh").write_text('echo "hello from process $PPID"\n')
        runtime.upload(UploadRequest(source_path=here, target_path=f"{there}/scripts"))
        print(f"uploaded: {runtime.execute(Command(command=['ls', f'{there}/scripts'])).stdout}", end="")

        with runtime.session("work", cwd=there) as session:
            print(session.run("sh scripts/greet.sh", timeout=10).output, end="")


def main() -> None:
    port, token = find_free_port(), secrets.token_hex(16)
    # In the environment, and not in the command line: that everybody on the machine can read.
    server = subprocess.Popen(
        [sys.executable, "-m", "swerex", "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "SWEREX_AUTH_TOKEN": token},
    )
    try:
        work(port, token)
    finally:
        server.terminate()
        server.wait()
    print(f"server ended with exit code {server.returncode}")


if __name__ == "__main__":
    main()
