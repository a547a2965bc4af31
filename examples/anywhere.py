"""One program, any sandbox: python examples/anywhere.py TYPE [FIELDS]

TYPE is local, docker, modal, fargate or remote, and FIELDS a JSON object with fields of its config, such as
'{"image": "ubuntu:24.04"}'. Where a cloud is reached says its own client library's environment, as always.
"""

from __future__ import annotations

import json
import sys

from pydantic import TypeAdapter

from swerex.deployment import get_deployment
from swerex.deployment.config import DeploymentConfig
from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import Command


def main(kind: str, fields: str = "{}") -> None:
    config = TypeAdapter(DeploymentConfig).validate_python({"type": kind, **json.loads(fields)})
    with get_deployment(config) as deployment:
        runtime = deployment.runtime
        print("alive:", bool(runtime.is_alive(timeout=10)))
        with runtime.session("work") as session:
            session.run("count=0; next() { count=$((count + 1)); echo $count; }")
            print("state:", *(session.run("next").output.strip() for _ in range(3)))
            try:
                session.run("echo before; sleep 60; echo after", timeout=1)
            except CommandTimeoutError as error:
                print("timeout:", error.extra_info["output"].strip())
                session.interrupt()
            print("and on:", session.run("next").output.strip())
        print("execute:", runtime.execute(Command(command=["echo", "hello"])).stdout.strip())
    print("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:])
