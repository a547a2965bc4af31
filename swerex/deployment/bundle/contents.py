"""What a bundle is made of, and its making: the server, and all that it needs, down to the loader."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import swerex
from swerex.deployment.bundle.elf import forget_search_path, is_elf, loader_of, shared_libraries
from swerex.exceptions import DeploymentStartupError

__all__ = ["Contents", "server_command"]

_REQUIREMENTS = ("flask", "pexpect", "pydantic", "typing_extensions", "waitress")
"""The distributions that the server imports; what those require comes with them."""

_NOT_FOR_THE_SERVER = {"deployment", "testing"}
"""Packages of swerex that only a client has a use for."""

# Modules of the standard library that are large, or need large libraries, and are of no use to a server.
_UNUSED_PACKAGES = {
    *("curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3", "msilib", "pydoc_data", "sqlite3"),
    *("test", "tests", "tkinter", "turtledemo", "venv"),
    *("dist-packages", "site-packages"),
}
_UNUSED_MODULES = {
    *("_crypt", "_curses", "_curses_panel", "_dbm", "_gdbm", "_sqlite3", "_ssl", "_tkinter"),
    *("nis", "ossaudiodev", "readline", "sitecustomize", "turtle", "usercustomize"),
}
# With it comes OpenSSL, which reads its configuration, and more, from the image. Python has the same hashes
# itself, but where who built it has left them out.
if find_spec("_md5") and find_spec("_sha1"):
    _UNUSED_MODULES.add("_hashlib")
_UNUSED_PREFIXES = ("_ctypes_test", "_test", "_xxtest", "config-", "xx")

_NAME_SERVICES = ("compat", "dns", "files", "hesiod")
"""Libraries that the C library loads as /etc/nsswitch.conf of the image says, and fit no other version."""

_PROBE = "import swerex.server; print(open('/proc/self/maps').read())"


def server_command(root: str, loader: str) -> list[str]:
    """What runs the interpreter of a bundle at `root`, with nothing of the machine but the kernel.

    Without PYTHON* variables and `site`, which would look for packages elsewhere. Nothing is left for the
    environment to say, so nothing of it is seen by what the server starts.
    """
    return [
        *(f"{root}/lib/{loader}", "--library-path", f"{root}/lib"),
        *(f"{root}/bin/python3", "-I", "-S", "-X", "utf8"),
    ]


@dataclass(frozen=True)
class Contents:
    """Where on this machine the parts of a bundle lie."""

    python: Path
    loader: Path
    bash: Path | None
    """For images that have none. A machine without it makes bundles without it."""
    distributions: tuple[Distribution, ...]

    @classmethod
    def find(cls) -> Contents:
        """Raises DeploymentStartupError if this machine, or this Python, can't make a bundle."""
        if sys.platform != "linux":
            raise _no_bundle(f"it is made of files of a Linux, and this is {sys.platform}")
        if sys.implementation.name != "cpython":
            raise _no_bundle(f"it is made of a CPython, and this is {sys.implementation.name}")
        python = Path(os.path.realpath(sys.executable))
        if not sys.executable or not python.is_file():
            raise _no_bundle(f"the interpreter can't be found: sys.executable is {sys.executable!r}")
        loader = loader_of(python)
        if loader is None:
            raise _no_bundle(f"{python} is not a dynamically linked program of a 64-bit Linux")
        bash = Path(os.path.realpath(shutil.which("bash") or "/bin/bash"))
        return cls(python, loader, bash if bash.exists() and loader_of(bash) == loader else None, _closure())

    def key(self) -> str:
        """A hash of what a bundle made of this has in it."""
        files = [path for path in (self.python, self.loader, self.bash) if path]
        parts = [
            [sys.version, sys.platlibdir, os.path.dirname(os.__file__)],
            [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
            [[item.name, item.version, str(item.locate_file(""))] for item in self.distributions],
        ]
        result = hashlib.sha256(json.dumps(parts).encode())
        package = Path(swerex.__file__).parent
        own = Path(__file__).parent
        for path in sorted([*_files(package, _NOT_FOR_THE_SERVER), *_files(own)]):
            if path.suffix == ".py":
                result.update(b"\0%s\0" % os.fsencode(path.relative_to(package)))
                result.update(path.read_bytes())
        return result.hexdigest()[:32]

    def write(self, root: Path) -> None:
        """Make a bundle in this folder, which is empty, and try it.

        Raises DeploymentStartupError if something is missing or does not work; OSError.
        """
        writer = _Writer(root, self.loader)
        stdlib = Path(os.__file__).parent
        modules = root / sys.platlibdir / stdlib.name
        (modules / "lib-dynload").mkdir(parents=True)
        writer.add(self.python, root / "bin" / "python3")
        for path in _files(stdlib, _UNUSED_PACKAGES):
            module = path.relative_to(stdlib)
            if _is_wanted(module):
                writer.add(path, modules / module, optional=True)
        for item in self.distributions:
            for path, name in _distribution_files(item):
                writer.add(path, modules / name)
        package = Path(swerex.__file__).parent
        for path in _files(package, _NOT_FOR_THE_SERVER):
            if path.suffix == ".py":
                writer.add(path, modules / "swerex" / path.relative_to(package))
        if self.bash:
            writer.add(self.bash, root / "bin" / "bash", optional=True)
        for path in self._name_services():
            writer.add(path, root / "lib" / path.name, optional=True)
        writer.add_libraries()
        writer.compile(modules)
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        self._try(root)

    def _name_services(self) -> Iterator[Path]:
        libc = shared_libraries(self.python, self.loader).get("libc.so.6")
        for name in _NAME_SERVICES if libc else ():
            assert libc
            path = libc.with_name(f"libnss_{name}.so.2")
            if path.exists():
                yield path

    def _try(self, root: Path) -> None:
        command = [*server_command(str(root), self.loader.name), "-c", _PROBE]
        # As in a container. Without a HOME Python asks the C library for it, and that asks this machine's
        # name services, which are libraries too.
        env = {"HOME": "/"}
        try:
            done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, errors="replace")
        except PermissionError:
            # Nothing may run in this file system, but that of the sandbox is another.
            return
        if done.returncode:
            raise _no_bundle(f"the server does not run in it: {done.stderr.strip()}")
        # Code only: the C library also maps data of the locale, which is the image's as it should be.
        mapped = {
            line.split(None, 5)[-1] for line in done.stdout.splitlines() if "xp " in line and "/" in line
        }
        foreign = [path for path in sorted(mapped) if not path.startswith(f"{os.path.realpath(root)}/")]
        if foreign:
            raise _no_bundle(f"{self.python} needs files by their absolute paths: {', '.join(foreign)}")


def _no_bundle(reason: str) -> DeploymentStartupError:
    return DeploymentStartupError(
        f"The bundle that brings the server into a sandbox can't be made: {reason}. "
        "Run your program with another Python, such as the system's, or use an image that has swerex-remote"
    )


def _closure() -> tuple[Distribution, ...]:
    """The required distributions, and what those require."""
    found: dict[str, Distribution] = {}
    wanted = [(name, "swerex", False) for name in _REQUIREMENTS]
    while wanted:
        name, dependent, conditional = wanted.pop()
        if name in found:
            continue
        try:
            found[name] = item = distribution(name)
        except PackageNotFoundError:
            if conditional:
                continue
            raise _no_bundle(
                f"{dependent} needs {name}, which is not installed: pip install {name}"
            ) from None
        for requirement in item.requires or ():
            specifier, _, marker = requirement.partition(";")
            match = re.match(r"[\w.-]+", specifier)
            if match and "extra" not in marker:
                # Whatever the condition is: what is not here was not needed, and what is does no harm.
                wanted.append((_normalized(match[0]), name, bool(marker)))
    return tuple(found[name] for name in sorted(found))


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _distribution_files(item: Distribution) -> Iterator[tuple[Path, str]]:
    """The files of a distribution's modules, and where they belong."""
    listed = [file for file in item.files or () if ".." not in file.parts and _is_module_file(file.parts)]
    if listed:
        for file in listed:
            path = Path(os.fspath(file.locate()))
            # Some make their images smaller by removing what they take for needless.
            if path.exists():
                yield path, str(file)
        return
    # Installed by a system that keeps no list, or as a link to a checkout.
    name = _normalized(item.name)
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise _no_bundle(f"{item.name} {item.version} is installed, but has no module {name!r}")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        yield origin, origin.name
        return
    for path in _files(origin.parent):
        if _is_module_file(path.parts):
            yield path, str(Path(name) / path.relative_to(origin.parent))


def _is_module_file(parts: tuple[str, ...]) -> bool:
    return not parts[0].endswith((".dist-info", ".egg-info")) and not parts[-1].endswith(
        (".pth", ".pyc", ".pyi", "py.typed")
    )


def _files(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in sorted(folders) if name != "__pycache__" and name not in without]
        for name in sorted(names):
            yield Path(place, name)


def _is_wanted(path: Path) -> bool:
    """Whether a file of the standard library is a module that a server may need."""
    if path.name.partition(".")[0] in _UNUSED_MODULES:
        return False
    if any(part.startswith(_UNUSED_PREFIXES) for part in path.parts):
        return False
    return path.suffix == ".py" or path.name.endswith(tuple(EXTENSION_SUFFIXES))


class _Writer:
    """Puts files into a folder, and the libraries that they need."""

    def __init__(self, root: Path, loader: Path) -> None:
        self._root = root
        self._loader = loader
        self._programs: list[tuple[Path, Path, bool]] = []

    def add(self, source: Path, target: Path, *, optional: bool = False) -> None:
        """Copy a file. An `optional` one is left out again if it needs libraries that are not there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        program = is_elf(source)
        target.chmod(0o755 if program else 0o644)
        if program:
            self._programs.append((source, target, optional))

    def add_libraries(self) -> None:
        """Add what the programs and libraries need, as it is found on this machine, and the loader."""
        folder = self._root / "lib"
        for source, target, optional in self._programs:
            libraries = shared_libraries(source, self._loader)
            missing = [name for name, path in libraries.items() if path is None]
            if missing and not optional:
                raise _no_bundle(f"{source} needs {', '.join(missing)}, which is not installed")
            if missing:
                target.unlink()
                continue
            forget_search_path(target)
            for name, path in libraries.items():
                if path and not (folder / name).exists():
                    _copy_library(path, folder / name)
        _copy_library(self._loader, folder / self._loader.name)

    def compile(self, modules: Path) -> None:
        """Replace modules by their bytecode: it is never out of date, and half as much as with the source."""
        # In another process, where warnings about somebody else's code concern nobody.
        command = [sys.executable, "-I", "-S", "-W", "ignore", "-m", "compileall", "-q", "-b"]
        # What stands in tracebacks does not tell where on this machine it was made.
        command += ["-s", str(self._root), "--invalidation-mode", "unchecked-hash", str(modules)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        # Modules for another version of Python can't be compiled, nor imported; they are left out.
        if error := re.search(r"^\w*Error: \[Errno (\d+)\]", done.stdout, re.MULTILINE):
            raise OSError(int(error[1]), os.strerror(int(error[1])), str(self._root))
        if not (modules / "os.pyc").exists():
            raise _no_bundle(f"its modules can't be compiled: {done.stderr.strip() or done.stdout.strip()}")
        for path in modules.rglob("*.py"):
            path.unlink()
        for path in modules.rglob("*.pyc"):
            path.chmod(0o644)


def _copy_library(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)
    forget_search_path(target)
