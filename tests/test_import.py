from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swerex

HEAVY = {"boto3", "docker", "flask", "modal", "rich", "waitress"}


def modules_after(statement: str) -> set[str]:
    """What a new interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "swerex",
        "swerex.deployment",
        "swerex.deployment.local",
        "swerex.deployment.remote",
        "swerex.runtime.config",
        "swerex.runtime.local",
        "swerex.runtime.remote",
    ],
)
def test_import_loads_nothing_heavy(module):
    assert modules_after(f"import {module}") & HEAVY == set()


def test_nothing_imports_asyncio():
    """Some versions of the dependencies do, so that it may be loaded all the same."""
    importing = [
        path
        for path in Path(swerex.__file__).parent.rglob("*.py")
        if re.search(r"^\s*(import|from) asyncio\b", path.read_text(), re.MULTILINE)
    ]
    assert importing == []


def test_import_of_the_package_loads_no_dependency():
    assert modules_after("import swerex") & {"pexpect", "pydantic", "requests"} == set()


def test_configs_load_no_runtime():
    loaded = modules_after("from swerex.deployment.config import *")
    assert loaded & {"requests", "swerex.runtime.local", "swerex.runtime.remote"} == set()


def test_names_of_the_package():
    assert (swerex.PACKAGE_NAME, swerex.REMOTE_EXECUTABLE_NAME) == ("swerex", "swerex-remote")


def test_installed_version_is_that_of_the_module():
    assert importlib.metadata.version(swerex.PACKAGE_NAME) == swerex.__version__


def test_every_public_name_is_there():
    names = [module.name for module in pkgutil.walk_packages(swerex.__path__, "swerex.")]
    for name in names:
        module = importlib.import_module(name)
        missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
        assert missing == [], name
