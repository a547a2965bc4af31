"""Run the conformance suite on a deployment: python -m swerex.testing docker --image IMAGE

Exits with 1 if something did not hold, or the deployment did not start.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from swerex.deployment.config import DeploymentConfig, get_deployment
from swerex.exceptions import SwerexException
from swerex.testing.report import Result, rst_table
from swerex.testing.suite import checks, run

_STYLES = {"held": "green", "failed": "bold red", "not applicable": "yellow"}


def main(args: Sequence[str] | None = None) -> int:
    """The command; `args` default to those of the process. Returns its exit code."""
    parser = _parser()
    options = parser.parse_args(args)
    given = {name: getattr(options, name) for name in ("image", "host", "port", "container_runtime")}
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        config = TypeAdapter[DeploymentConfig](DeploymentConfig).validate_python(
            {"type": options.type, **options.config, **fields}
        )
    except ValidationError as error:
        # Not with their input, which may hold a token.
        problems = error.errors(include_input=False)
        parser.error("; ".join(": ".join([*map(str, e["loc"]), e["msg"]]) for e in problems))
    if not checks(options.only):
        parser.error(f"no check has {options.only!r} in its area, name or title")
    name = options.container_runtime or options.type
    console = Console(stderr=options.rst, highlight=False)

    def show(result: Result) -> None:
        console.print(Text(str(result), _STYLES[result.outcome]), soft_wrap=True)

    try:
        report = run(lambda: get_deployment(config), name=name, only=options.only, on_result=show)
    except (SwerexException, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(rst_table([report]) if options.rst else f"\n{report.summary()}")
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m swerex.testing",
        description="Check that a deployment does what swerex promises, and print a table of what held.",
        epilog="The token of a remote server is taken from the environment variable SWEREX_AUTH_TOKEN.",
    )
    parser.add_argument("type", help="of the deployment: local, remote, docker, modal, fargate")
    parser.add_argument("--image", help="what the sandbox is made from")
    parser.add_argument("--container-runtime", help="docker or podman")
    parser.add_argument("--host", help="of a remote server")
    parser.add_argument("--port", type=int, help="of the server")
    parser.add_argument(
        "--config",
        type=_json_object,
        default={},
        metavar="JSON",
        help="other fields of the deployment's config",
    )
    parser.add_argument(
        "--only", default="", metavar="WORD", help="make the checks with this in their area, name or title"
    )
    parser.add_argument("--rst", action="store_true", help="print the summary as a reStructuredText table")
    return parser


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main())
