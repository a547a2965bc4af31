"""A sandbox to run commands in, for synchronous Python programs.

Start with :func:`swerex.deployment.get_deployment` to get a place to run, or with
:class:`swerex.runtime.local.LocalRuntime` to run on this machine. This module imports nothing, so that
``import swerex`` costs nothing.
"""

__version__ = "1.0.0"

PACKAGE_NAME = "swerex"
REMOTE_EXECUTABLE_NAME = "swerex-remote"

__all__ = ["PACKAGE_NAME", "REMOTE_EXECUTABLE_NAME", "__version__"]
