"""What is said of a command that failed or took too long, in one place for sessions and for ``execute()``."""

from __future__ import annotations

from typing import Any

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError

__all__ = ["failed", "shown", "timed_out"]

_LONGEST = 10_000
"""How many characters of output a message shows; `extra_info` has all."""


def failed(what: str, status: int, error_msg: str, lost: str, info: dict[str, Any]) -> NonZeroExitCodeError:
    """`what` failed. `lost` says what became of the shell, and `info` has the ``output``."""
    before, after = f"{error_msg}: " if error_msg else "", f" {lost}" if lost else ""
    return NonZeroExitCodeError(
        f"{before}{what} failed with exit code {status}.{after} Its output:\n{shown(info['output'])}",
        extra_info={**info, "exit_code": status},
    )


def timed_out(what: str, timeout: float | None, outcome: str, info: dict[str, Any]) -> CommandTimeoutError:
    """`what` took too long; `outcome` says what became of it, and `info` has the ``output``."""
    return CommandTimeoutError(
        f"{what} took longer than {timeout:g} s and {outcome} Its output until then:\n"
        + shown(info["output"]),
        extra_info=info,
    )


def shown(output: str) -> str:
    """Output as a message shows it: its end, if it is long."""
    if len(output) <= _LONGEST:
        return output
    return (
        f"[{len(output) - _LONGEST} characters before this are in extra_info['output']]\n{output[-_LONGEST:]}"
    )
