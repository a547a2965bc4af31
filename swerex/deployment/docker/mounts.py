"""How the values of ``docker run``'s flags for volumes and mounts are read, as in `values`."""

from __future__ import annotations

import os
from typing import Any

from swerex.deployment.docker.values import (
    Reader,
    boolean,
    fields,
    label,
    matching,
    one_of,
    path_inside,
    size,
    text,
)

__all__ = ["mount", "tmpfs", "volume"]


def volume(value: str) -> list[str]:
    source, *rest = value.split(":")
    if not rest:
        return [path_inside(source)]
    if len(rest) > 2 or not all([source, *rest]):
        raise ValueError("it must be source:target or source:target:options")
    return [":".join([_source(source), path_inside(rest[0]), *rest[1:]])]


def _source(value: str) -> str:
    """A path of this machine, made absolute, or the name of a volume."""
    value = os.path.expanduser(value)
    if value.startswith("."):
        value = os.path.abspath(value)
    if "/" in value and not value.startswith("/"):
        raise ValueError(f"write ./{value} for a folder of this machine; the name of a volume has no slash")
    return value


def tmpfs(value: str) -> dict[str, str]:
    path, _, options = value.partition(":")
    return {path_inside(path): options}


def mount(value: str) -> list[dict[str, Any]]:
    found = {"Type": "volume", **fields(value, _MOUNT_KEYS)}
    kind = found["Type"]
    if "Target" not in found:
        raise ValueError("it needs a target")
    if kind in ("bind", "image") and "Source" not in found:
        raise ValueError(f"a mount of type {kind} needs a source")
    if kind == "tmpfs" and "Source" in found:
        raise ValueError("a mount of type tmpfs has no source")
    if kind == "bind":
        found["Source"] = _source(found["Source"])
        if not found["Source"].startswith("/"):
            raise ValueError(
                f"{found['Source']!r} is the name of a volume; a mount of type bind needs a path"
            )
    for key in found:
        if key.endswith("Options") and key != f"{kind.capitalize()}Options":
            raise ValueError(f"a mount of type {kind} has no {key.removesuffix('Options').lower()} options")
    return [found]


def _recursive(value: str) -> dict[str, bool]:
    options = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    return options[one_of(*options)(value)]


def _octal(value: str) -> int:
    return int(matching("[0-7]{1,4}", "an octal number, such as 1777")(value), 8)


_MOUNT_KEYS: dict[str, tuple[str, Reader]] = {
    "type": ("Type", one_of("bind", "volume", "tmpfs", "image")),
    "source": ("Source", text),
    "src": ("Source", text),
    "target": ("Target", path_inside),
    "destination": ("Target", path_inside),
    "dst": ("Target", path_inside),
    "readonly": ("ReadOnly", boolean),
    "ro": ("ReadOnly", boolean),
    "consistency": ("Consistency", text),
    "bind-propagation": (
        "BindOptions.Propagation",
        text,
    ),
    "bind-nonrecursive": ("BindOptions.NonRecursive", boolean),
    "bind-recursive": ("BindOptions", _recursive),
    "volume-nocopy": ("VolumeOptions.NoCopy", boolean),
    "volume-label": ("VolumeOptions.Labels", label),
    "volume-driver": ("VolumeOptions.DriverConfig.Name", text),
    "volume-opt": ("VolumeOptions.DriverConfig.Options", label),
    "volume-subpath": ("VolumeOptions.Subpath", text),
    "image-subpath": ("ImageOptions.Subpath", text),
    "tmpfs-size": ("TmpfsOptions.SizeBytes", size),
    "tmpfs-mode": ("TmpfsOptions.Mode", _octal),
}
