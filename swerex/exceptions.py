"""The exceptions of swerex, all below one root.

    SwerexException
      + SessionNotInitializedError      (RuntimeError)
      + NonZeroExitCodeError            (RuntimeError)
      + BashIncorrectSyntaxError        (RuntimeError)
      + CommandTimeoutError             (RuntimeError, TimeoutError)
      + NoExitCodeError                 (RuntimeError)
      + SessionExistsError              (ValueError)
      + SessionDoesNotExistError        (ValueError)
      + SessionBusyError                (RuntimeError)
      + SandboxDiedError                (RuntimeError)
      + DeploymentNotStartedError       (RuntimeError)
      + DeploymentStartupError          (RuntimeError)
          + DockerPullError
      + DummyOutputsExhaustedError      (RuntimeError)

Exceptions that Python itself raises for files and processes (``FileNotFoundError``, ``PermissionError``,
``UnicodeDecodeError`` ...) are not wrapped: they reach the caller as themselves, from a remote sandbox too.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BashIncorrectSyntaxError",
    "CommandTimeoutError",
    "DeploymentNotStartedError",
    "DeploymentStartupError",
    "DockerPullError",
    "DummyOutputsExhaustedError",
    "NoExitCodeError",
    "NonZeroExitCodeError",
    "SandboxDiedError",
    "SessionBusyError",
    "SessionDoesNotExistError",
    "SessionExistsError",
    "SessionNotInitializedError",
    "SwerexException",
]


class SwerexException(Exception):
    """The root of all exceptions of this package.

    ``extra_info`` holds what a program may want to read without parsing the message. It crosses the wire, so
    its values are plain JSON.
    """

    def __init__(self, *args: object, extra_info: dict[str, Any] | None = None) -> None:
        super().__init__(*args)
        self.extra_info: dict[str, Any] = dict(extra_info or {})


class SessionNotInitializedError(SwerexException, RuntimeError):
    """The session has no running shell, and could not be given one."""


class NonZeroExitCodeError(SwerexException, RuntimeError):
    """The command failed. ``extra_info`` holds ``exit_code`` and ``output``."""


class BashIncorrectSyntaxError(SwerexException, RuntimeError):
    """Bash can't parse the command; none of it ran. ``extra_info``: ``bash_stdout``, ``bash_stderr``."""


class CommandTimeoutError(SwerexException, RuntimeError, TimeoutError):
    """The command took longer than its timeout. ``extra_info["output"]`` is what it had printed."""


class NoExitCodeError(SwerexException, RuntimeError):
    """The command ended, but nothing says with which exit code."""


class SessionExistsError(SwerexException, ValueError):
    """A session of this name is already open."""


class SessionDoesNotExistError(SwerexException, ValueError):
    """No session of this name is open."""


class SessionBusyError(SwerexException, RuntimeError):
    """The session's last command still runs; wait for it, or interrupt it."""


class SandboxDiedError(SwerexException, RuntimeError):
    """The sandbox went away under a call."""


class DeploymentNotStartedError(SwerexException, RuntimeError):
    """The deployment has no sandbox: it was not started, or is stopped."""


class DeploymentStartupError(SwerexException, RuntimeError):
    """The sandbox could not be started."""


class DockerPullError(DeploymentStartupError):
    """The image could not be pulled."""


class DummyOutputsExhaustedError(SwerexException, RuntimeError):
    """A dummy runtime was asked for more outputs than it was given."""
