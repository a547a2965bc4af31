"""How the values of ``docker run``'s flags are read.

Each function takes the text of one value and returns what the Docker SDK wants for it, or raises ValueError
with what is wrong. One that may stand several times returns a list or a mapping, and `put` adds them up.
"""

from __future__ import annotations

import csv
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

__all__ = [
    "Reader",
    "address",
    "boolean",
    "device",
    "device_limit",
    "duration",
    "env_file",
    "expose",
    "extra_host",
    "fields",
    "gpus",
    "integer",
    "io_weight",
    "label",
    "label_file",
    "link",
    "listed",
    "mac_address",
    "matching",
    "nano_cpus",
    "network",
    "one_of",
    "pair",
    "path_inside",
    "publish",
    "put",
    "restart_policy",
    "security_option",
    "size",
    "size_or_unlimited",
    "text",
    "ulimit",
    "variable",
]

Reader = Callable[[str], Any]

_SIGNED_64 = 2**63 - 1


def put(target: dict[str, Any], place: str, value: Any) -> None:
    """Put `value` at the dotted `place`: a list or a mapping grows, anything else is replaced."""
    name, dot, rest = place.partition(".")
    if dot:
        put(target.setdefault(name, {}), rest, value)
    elif isinstance(value, dict):
        known = target.setdefault(name, {})
        for key, item in value.items():
            known[key] = known[key] + item if key in known and isinstance(item, list) else item
    elif isinstance(value, list):
        target[name] = target.get(name, []) + value
    else:
        target[name] = value


# Words and numbers


def text(value: str) -> str:
    if not value:
        raise ValueError("it has no value")
    return value


def boolean(value: str) -> bool:
    # The words that Go takes, and so the docker command.
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("it must be true or false")


def listed(read: Reader) -> Reader:
    """A flag that may be repeated."""
    return lambda value: [read(value)]


def matching(pattern: str, description: str) -> Reader:
    def read(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"it must be {description}")
        return value

    return read


def one_of(*words: str) -> Reader:
    return matching("|".join(words), " or ".join(words))


def integer(least: int, most: int = _SIGNED_64) -> Reader:
    def read(value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", value) or not least <= int(value) <= most:
            limit = f"not below {least}" if most == _SIGNED_64 else f"from {least} to {most}"
            raise ValueError(f"it must be a whole number {limit}")
        return int(value)

    return read


def io_weight(value: str) -> int:
    return 0 if value == "0" else int(integer(10, 1000)(value))


def size(value: str) -> int:
    """Bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp])i?)?b?", value.lower())
    if not found:
        raise ValueError("it must be a size in bytes, or one with a unit, such as 512m or 1.5g")
    return int(Fraction(found[1]) * 1024 ** " kmgtp".index(found[2] or " "))


def size_or_unlimited(value: str) -> int:
    return -1 if value == "-1" else size(value)


def nano_cpus(value: str) -> int:
    if not re.fullmatch(r"[0-9]+(\.[0-9]{1,9})?|\.[0-9]{1,9}", value):
        raise ValueError("it must be a number of CPUs, such as 2 or 0.5")
    return int(Fraction(value) * 10**9)


def duration(value: str) -> int:
    """Nanoseconds."""
    units = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    part = rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(units)})"
    if value != "0" and not re.fullmatch(f"({part})+", value):
        raise ValueError("it must be a time with a unit, such as 30s or 1m30s")
    return int(sum(Fraction(number) * units[unit] for number, unit in re.findall(part, value)))


# Names with a value


def pair(value: str) -> dict[str, str]:
    name, equals, content = value.partition("=")
    if not name or not equals:
        raise ValueError("it must be name=value")
    return {name: content}


def label(value: str) -> dict[str, str]:
    return pair(value if "=" in value else f"{value}=")


def variable(value: str) -> dict[str, str | None]:
    """Without a value it is taken from this process. Not set here, it is None: the image's is removed."""
    if value and "=" not in value:
        return {value: os.environ.get(value)}
    return {**pair(value)}


def env_file(value: str) -> dict[str, str | None]:
    # Unlike --env, a name without a value removes nothing.
    variables = (variable(line) for line in _lines(value))
    return {name: content for line in variables for name, content in line.items() if content is not None}


def label_file(value: str) -> dict[str, str]:
    return {name: content for line in _lines(value) for name, content in label(line).items()}


def _lines(path: str) -> Iterator[str]:
    for line in _read_file(path).split("\n"):
        line = line.removesuffix("\r").lstrip()
        if line and not line.startswith("#"):
            if not re.match(r"[^\s=]+(=|$)", line):
                raise ValueError(f"its line {line!r} is not name=value")
            yield line


def _read_file(path: str) -> str:
    try:
        return Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"the file can't be read: {error.strerror}") from error


# Files and devices


def path_inside(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("the path in the container must be absolute")
    return value


def fields(value: str, table: dict[str, tuple[str, Reader]]) -> dict[str, Any]:
    """Settings with commas between them: ``key=value,switch,...``."""
    found: dict[str, Any] = {}
    try:
        fields = next(csv.reader([value], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"its quotes or lines are wrong: {error}") from error
    for field in fields:
        key, equals, content = field.partition("=")
        if key not in table:
            raise ValueError(f"{key!r} is not one of its keys: {', '.join(table)}")
        place, read = table[key]
        try:
            put(found, place, read("true" if read is boolean and not equals else content))
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    return found


def device(value: str) -> list[dict[str, str]]:
    source, *rest = value.split(":")
    if not re.fullmatch(r"/.+|[\w.-]+/[\w.-]+=[\w.-]+", source) or len(rest) > 2:
        raise ValueError("it must be a path, path:path in the container, or one of these with :rwm behind")
    inside = rest.pop(0) if rest and rest[0].startswith("/") else source
    permissions = rest.pop(0) if rest else "rwm"
    if rest or not re.fullmatch("[rwm]{1,3}", permissions):
        raise ValueError("the permissions must be some of r, w and m")
    return [{"PathOnHost": source, "PathInContainer": inside, "CgroupPermissions": permissions}]


def device_limit(name: str, read: Reader) -> Reader:
    def read_limit(value: str) -> list[dict[str, Any]]:
        path, _, limit = value.rpartition(":")
        if not path.startswith("/dev/"):
            raise ValueError("it must be the path of a device and a limit, such as /dev/sda:10m")
        return [{"Path": path, name: read(limit)}]

    return read_limit


def gpus(value: str) -> list[dict[str, Any]]:
    if "=" not in value.partition(",")[0]:
        value = f"count={value}"
    elif value.startswith("device=") and value.count("=") == 1:
        value = f'"{value}"'  # the docker command wants these quotes written, where there are commas
    found = fields(value, _GPU_KEYS)
    if "count" in found and "device_ids" in found:
        raise ValueError("it must be either a count or a list of devices")
    if "device_ids" not in found:
        found.setdefault("count", 1)
    return [{"capabilities": [["gpu"]], **found}]


def _gpu_count(value: str) -> int:
    return -1 if value == "all" else int(integer(0)(value))


def _words(value: str) -> list[str]:
    return text(value).split(",")


# Limits and policies


def security_option(value: str) -> list[str]:
    name, _, setting = value.partition("=" if "=" in value else ":")
    if not setting and name != "no-new-privileges":
        raise ValueError("it must be name=value")
    if name == "systempaths":
        raise ValueError("the Docker SDK can't pass it on; leave it out")
    if name == "seccomp" and setting not in ("unconfined", "builtin"):
        # The engine wants the profile itself: it can't read files of this machine.
        try:
            profile = json.loads(_read_file(setting))
        except json.JSONDecodeError as error:
            raise ValueError(f"the profile is not JSON: {error}") from error
        return [f"seccomp={json.dumps(profile, ensure_ascii=False, separators=(',', ':'))}"]
    return [value]


def ulimit(value: str) -> dict[str, dict[str, Any]]:
    names = "core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack"
    found = re.fullmatch(rf"({names})=(-1|[0-9]+)(?::(-1|[0-9]+))?", value)
    if not found:
        raise ValueError(f"it must be name=soft or name=soft:hard, where name is {names.replace('|', ', ')}")
    soft, hard = int(found[2]), int(found[3] or found[2])
    if hard != -1 and not -1 < soft <= hard:
        raise ValueError("the soft limit must not be above the hard one")
    return {found[1]: {"name": found[1], "soft": soft, "hard": hard}}


def restart_policy(value: str) -> dict[str, Any]:
    if not re.fullmatch("no|always|unless-stopped|on-failure(:[0-9]+)?", value):
        raise ValueError("it must be no, always, unless-stopped, on-failure or on-failure:number")
    name, _, count = value.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


# Networks


def address(value: str) -> str:
    return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))


def mac_address(value: str) -> str:
    return str(matching("([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", "an address such as 92:d0:c6:0a:29:33")(value))


def extra_host(value: str) -> list[str]:
    name, _, target = value.partition("=" if "=" in value else ":")
    if not name or not target:
        raise ValueError("it must be name:address")
    return [f"{name}:{target if target == 'host-gateway' else address(target)}"]


def network(value: str) -> list[dict[str, Any]]:
    """The network's ``name``, and the settings of the container's end of it, in the engine's words."""
    found = fields(value, _NETWORK_KEYS) if "=" in value else {"name": text(value)}
    if "name" not in found:
        raise ValueError("it needs the name of the network")
    return [found]


def link(value: str) -> list[tuple[str, str]]:
    container, _, alias = value.partition(":")
    return [(text(container), alias or container)]


def publish(value: str) -> dict[str, list[Any]]:
    # Imported here because few flags need the SDK, which takes long to import.
    from docker.utils.ports import build_port_bindings

    bindings: dict[str, list[Any]] = build_port_bindings([value if "/" in value else f"{value}/tcp"])
    if not bindings or any(int(number) > 65535 for number in re.findall("[0-9]+", value)):
        raise ValueError("a port is at most 65535, and a range of ports goes upwards")
    return bindings


def expose(value: str) -> dict[str, list[Any]]:
    if ":" in value:
        raise ValueError("it must be a port, or a range of them, of the container; --publish takes two")
    return {port: [] for port in publish(value)}


_GPU_KEYS: dict[str, tuple[str, Reader]] = {
    "count": ("count", _gpu_count),
    "device": ("device_ids", _words),
    "capabilities": ("capabilities", lambda value: [[*_words(value), "gpu"]]),
    "driver": ("driver", text),
    "options": ("options", lambda value: dict(item for word in _words(value) for item in pair(word).items())),
}

_NETWORK_KEYS: dict[str, tuple[str, Reader]] = {
    "name": ("name", text),
    "alias": ("Aliases", listed(text)),
    "ip": ("IPAMConfig.IPv4Address", address),
    "ip6": ("IPAMConfig.IPv6Address", address),
    "link-local-ip": ("IPAMConfig.LinkLocalIPs", listed(address)),
    "mac-address": ("MacAddress", mac_address),
    "driver-opt": ("DriverOpts", pair),
    "gw-priority": ("GwPriority", integer(-_SIGNED_64)),
}
