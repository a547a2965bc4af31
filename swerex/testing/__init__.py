"""A conformance suite: what must hold of every deployment, as checks that anybody can run on theirs.

``python -m swerex.testing docker --image IMAGE`` prints a table of what held. A deployment that swerex does
not know is checked with ``print(swerex.testing.run(lambda: MyDeployment(...)))``. The sandbox needs
``/bin/sh``, bash and the usual small tools (cat, ls, mkdir, sleep ...), be they those of busybox; checks
about other tools, such as python3 and gdb, are made where those are installed.
"""

from swerex.testing.report import Report, Result, rst_table
from swerex.testing.suite import Check, checks, run
from swerex.testing.tools import CheckFailed, Make, NotApplicable

__all__ = ["Check", "CheckFailed", "Make", "NotApplicable", "Report", "Result", "checks", "rst_table", "run"]
