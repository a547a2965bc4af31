"""The flags of ``docker run``, as people write them, as arguments for the Docker SDK.

The table `_FLAGS` says which argument each flag becomes, and how its value is read. `_REFUSED` says of the
others why they have no place here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from swerex.deployment.docker import mounts
from swerex.deployment.docker import values as read

__all__ = ["parse_docker_args"]


def parse_docker_args(args: list[str]) -> dict[str, Any]:
    """The keyword arguments for `client.containers.create` that do what the flags `args` do.

    Files that flags name are read, and variables without a value are taken from this process, as the
    ``docker`` command does. Repeated flags add up; of those that take one value the last one counts.

    Raises:
        ValueError: a flag is not known, has no or a wrong value, or can't be expressed in the SDK.
    """
    found: dict[str, Any] = {}
    for flag, name, value in _split(args):
        place, reader = _FLAGS[name]
        try:
            read.put(found, place, reader(value))
        except ValueError as error:
            raise ValueError(f"{flag} {value!r} in docker_args: {error}") from error
    return _combine(found)


_CPU_LIST = read.matching("[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", "a list such as 0-3 or 0,2")
_DEVICE_RULE = read.matching(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", "a rule such as 'c 1:3 mr'")
_HOST_ONLY = read.matching("host", "host: the Docker SDK can pass on nothing else")

_FLAGS: dict[str, tuple[str, read.Reader]] = {
    # Processor, memory and devices
    "blkio-weight": ("blkio_weight", read.io_weight),
    "blkio-weight-device": ("blkio_weight_device", read.device_limit("Weight", read.io_weight)),
    "cpu-period": ("cpu_period", read.integer(0)),
    "cpu-quota": ("cpu_quota", read.integer(-1)),
    "cpu-rt-period": ("cpu_rt_period", read.integer(0)),
    "cpu-rt-runtime": ("cpu_rt_runtime", read.integer(0)),
    "cpu-shares": ("cpu_shares", read.integer(0)),
    "cpus": ("nano_cpus", read.nano_cpus),
    "cpuset-cpus": ("cpuset_cpus", _CPU_LIST),
    "cpuset-mems": ("cpuset_mems", _CPU_LIST),
    "device": ("devices", read.device),
    "device-cgroup-rule": ("device_cgroup_rules", read.listed(_DEVICE_RULE)),
    "device-read-bps": ("device_read_bps", read.device_limit("Rate", read.size)),
    "device-read-iops": ("device_read_iops", read.device_limit("Rate", read.integer(0))),
    "device-write-bps": ("device_write_bps", read.device_limit("Rate", read.size)),
    "device-write-iops": ("device_write_iops", read.device_limit("Rate", read.integer(0))),
    "gpus": ("device_requests", read.gpus),
    "kernel-memory": ("kernel_memory", read.size),
    "memory": ("mem_limit", read.size),
    "memory-reservation": ("mem_reservation", read.size),
    "memory-swap": ("memswap_limit", read.size_or_unlimited),
    "memory-swappiness": ("mem_swappiness", read.integer(-1, 100)),
    "oom-kill-disable": ("oom_kill_disable", read.boolean),
    "oom-score-adj": ("oom_score_adj", read.integer(-1000, 1000)),
    "pids-limit": ("pids_limit", read.integer(-1)),
    "shm-size": ("shm_size", read.size),
    "ulimit": ("ulimits", read.ulimit),
    # Files
    "mount": ("mounts", mounts.mount),
    "read-only": ("read_only", read.boolean),
    "storage-opt": ("storage_opt", read.pair),
    "tmpfs": ("tmpfs", mounts.tmpfs),
    "volume": ("volumes", mounts.volume),
    "volume-driver": ("volume_driver", read.text),
    "volumes-from": ("volumes_from", read.listed(read.text)),
    # Rights and isolation
    "cap-add": ("cap_add", read.listed(read.text)),
    "cap-drop": ("cap_drop", read.listed(read.text)),
    "cgroup-parent": ("cgroup_parent", read.text),
    "cgroupns": ("cgroupns", read.one_of("host", "private")),
    "group-add": ("group_add", read.listed(read.text)),
    "ipc": ("ipc_mode", read.text),
    "isolation": ("isolation", read.text),
    "pid": ("pid_mode", read.text),
    "privileged": ("privileged", read.boolean),
    "runtime": ("runtime", read.text),
    "security-opt": ("security_opt", read.security_option),
    "sysctl": ("sysctls", read.pair),
    "user": ("user", read.text),
    "userns": ("userns_mode", _HOST_ONLY),
    "uts": ("uts_mode", _HOST_ONLY),
    # The process and its surroundings
    "detach": ("detach", read.boolean),
    "entrypoint": ("entrypoint", str),
    "env": ("environment", read.variable),
    "env-file": ("env_files", read.env_file),
    "health-cmd": ("healthcheck.test", read.text),
    "health-interval": ("healthcheck.interval", read.duration),
    "health-retries": ("healthcheck.retries", read.integer(0)),
    "health-start-period": ("healthcheck.start_period", read.duration),
    "health-timeout": ("healthcheck.timeout", read.duration),
    "init": ("init", read.boolean),
    "interactive": ("stdin_open", read.boolean),
    "no-healthcheck": ("no_healthcheck", read.boolean),
    "stop-signal": ("stop_signal", read.text),
    "tty": ("tty", read.boolean),
    "workdir": ("working_dir", read.path_inside),
    # Networks
    "add-host": ("extra_hosts", read.extra_host),
    "dns": ("dns", read.listed(read.address)),
    "dns-option": ("dns_opt", read.listed(read.text)),
    "dns-search": ("dns_search", read.listed(read.text)),
    "domainname": ("domainname", read.text),
    "expose": ("ports", read.expose),
    "hostname": ("hostname", read.text),
    "ip": ("endpoint.IPAMConfig.IPv4Address", read.address),
    "ip6": ("endpoint.IPAMConfig.IPv6Address", read.address),
    "link": ("links", read.link),
    "link-local-ip": ("endpoint.IPAMConfig.LinkLocalIPs", read.listed(read.address)),
    "mac-address": ("endpoint.MacAddress", read.mac_address),
    "network": ("networks", read.network),
    "network-alias": ("endpoint.Aliases", read.listed(read.text)),
    "publish": ("ports", read.publish),
    "publish-all": ("publish_all_ports", read.boolean),
    # The container as the engine keeps it
    "label": ("labels", read.label),
    "label-file": ("label_files", read.label_file),
    "log-driver": ("log_config.type", read.text),
    "log-opt": ("log_config.config", read.label),
    "name": ("name", read.text),
    "platform": ("platform", read.text),
    "restart": ("restart_policy", read.restart_policy),
    "rm": ("auto_remove", read.boolean),
}
"""Where the value of each flag goes, and how it is read. `_combine` sees to places that the SDK has not."""

_SHORT = {
    "P": "publish-all",
    "a": "attach",
    "c": "cpu-shares",
    "d": "detach",
    "e": "env",
    "h": "hostname",
    "i": "interactive",
    "l": "label",
    "m": "memory",
    "p": "publish",
    "q": "quiet",
    "t": "tty",
    "u": "user",
    "v": "volume",
    "w": "workdir",
}
_ALIASES = {"dns-opt": "dns-option", "net": "network", "net-alias": "network-alias"}

_NOT_ATTACHED = "nothing is attached to the container's terminal; leave it out"
_NOT_IN_SDK = "the Docker SDK can't pass it on; leave it out"
_PODMANS_OWN = "it is Podman's own, and the Docker SDK can't pass it on; leave it out"
_WINDOWS = "it is for Windows containers; leave it out"

_REFUSED = {
    "annotation": _NOT_IN_SDK,
    "arch": "use the field platform",
    "attach": _NOT_ATTACHED,
    "authfile": "the credentials are those of docker login; leave it out",
    "cidfile": "no file is written; ask the deployment for its container_name",
    "cpu-count": _WINDOWS,
    "cpu-percent": _WINDOWS,
    "detach-keys": _NOT_ATTACHED,
    "disable-content-trust": "images are never verified; leave it out",
    "env-host": "name the variables, with --env NAME for each",
    "health-start-interval": _NOT_IN_SDK,
    "help": "it starts nothing",
    "io-maxbandwidth": _WINDOWS,
    "io-maxiops": _WINDOWS,
    "os": "use the field platform",
    "pull": "use the field pull",
    "quiet": "no output is attached; how pulling is shown depends on the level of the log",
    "replace": "each container has a name of its own; leave it out",
    "rmi": "use the field remove_images",
    "sig-proxy": _NOT_ATTACHED,
    "stop-timeout": "the deployment knows how long its container takes to stop; leave it out",
    "timeout": "use the field auto_remove_after",
    "tls-verify": "it is set in the engine's own configuration",
    "use-api-socket": "use --volume with the path of the engine's socket",
    "variant": "use the field platform",
    **dict.fromkeys(("cgroup-conf", "cgroups", "chrootdirs", "init-path", "personality"), _PODMANS_OWN),
    **dict.fromkeys(("conmon-pidfile", "pidfile", "preserve-fds", "sdnotify", "systemd"), _PODMANS_OWN),
    **dict.fromkeys(("env-merge", "http-proxy", "tz", "umask", "unsetenv", "unsetenv-all"), _PODMANS_OWN),
    **dict.fromkeys(("gidmap", "subgidname", "subuidname", "uidmap"), _PODMANS_OWN),
    **dict.fromkeys(("health-on-failure", "pod", "pod-id-file", "requires"), _PODMANS_OWN),
    **dict.fromkeys(("hostuser", "no-hosts", "passwd", "passwd-entry"), _PODMANS_OWN),
    **dict.fromkeys(("image-volume", "read-only-tmpfs", "rootfs", "seccomp-policy", "secret"), _PODMANS_OWN),
}


def _split(args: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each flag: as it is written, its long name, and its value."""
    rest = iter(args)
    for arg in rest:
        for flag, value in _flags_in(arg):
            name = _long_name(flag)
            if value is None and _is_switch(name):
                value = "true"
            elif value is None:
                value = next(rest, "--")
                if value.startswith("--"):
                    hint = "" if value == "--" else f"; if it is {value!r}, write both as one item with ="
                    raise ValueError(f"{flag} in docker_args has no value{hint}")
            yield flag, name, value


def _flags_in(arg: str) -> Iterator[tuple[str, str | None]]:
    """The flags in one item, which may be several letters, and the value that stands there too."""
    if arg.startswith("--"):
        flag, equals, value = arg.partition("=")
        yield flag, value if equals else None
    elif re.match("-.", arg):
        for end, letter in enumerate(arg[1:], start=2):
            rest = arg[end:]
            if rest and not rest.startswith("=") and _is_switch(_SHORT.get(letter, "")):
                yield f"-{letter}", None
                continue
            yield f"-{letter}", rest.removeprefix("=") if rest else None
            break
    else:
        raise ValueError(
            f"{arg!r} in docker_args is not a flag, nor the value of one: flags only, without image and "
            "command, and that of a switch is written as --init=false"
        )


def _long_name(flag: str) -> str:
    name = flag[2:] if flag.startswith("--") else _SHORT.get(flag[1:], flag)
    name = _ALIASES.get(name, name)
    if name in _REFUSED:
        raise ValueError(f"{flag} in docker_args can't be used here: {_REFUSED[name]}")
    if name not in _FLAGS:
        if " " in flag:
            hint = "a flag and its value are two items of the list, or one with = between them"
        elif close := difflib.get_close_matches(name, _FLAGS, 1):
            hint = f"did you mean --{close[0]}?"
        else:
            hint = "see docker run --help for those there are"
        raise ValueError(f"{flag} in docker_args is not known: {hint}")
    return name


def _is_switch(name: str) -> bool:
    return name in _FLAGS and _FLAGS[name][1] is read.boolean


# What depends on more than one flag


def _combine(found: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the SDK, from what the flags say one by one."""
    for files, own in (("env_files", "environment"), ("label_files", "labels")):
        if files in found:  # wherever it stands among the flags, a file counts less than they do
            found[own] = {**found.pop(files), **found.get(own, {})}
    if found.pop("no_healthcheck", False):
        if "healthcheck" in found:
            raise ValueError("docker_args: --no-healthcheck contradicts the --health flags; leave one out")
        found["healthcheck"] = {"test": ["NONE"]}
    if "entrypoint" in found:
        found["entrypoint"] = [found["entrypoint"]]  # a string would be split at its spaces
    if "ulimits" in found:
        found["ulimits"] = list(found["ulimits"].values())
    if "devices" in found:
        _separate_cdi_devices(found)
    if "volumes" in found:
        _arrange_volumes(found)
    _connect_networks(found)
    return found


def _separate_cdi_devices(found: dict[str, Any]) -> None:
    """A device of the Container Device Interface has a name, not a path, and is asked for like a GPU."""
    devices = found.pop("devices")
    if paths := [device for device in devices if device["PathOnHost"].startswith("/")]:
        found["devices"] = paths
    if names := [device["PathOnHost"] for device in devices if device not in paths]:
        read.put(found, "device_requests", [{"driver": "cdi", "device_ids": names}])


def _arrange_volumes(found: dict[str, Any]) -> None:
    volumes = [volume.split(":") for volume in found.pop("volumes")]
    if anonymous := [{"Type": "volume", "Target": volume[0]} for volume in volumes if len(volume) == 1]:
        read.put(found, "mounts", anonymous)
    binds = [volume for volume in volumes if len(volume) > 1]
    if all(options in (["ro"], ["rw"], []) for _, _, *options in binds):
        if binds:
            found["volumes"] = [":".join(bind) for bind in binds]
        return
    # In a list the SDK takes options other than these for a part of the path, and a volume of that name
    # would be made. In a mapping it does not, but there a source can stand only once.
    found["volumes"] = {
        source: {"bind": target, "mode": "".join(options) or "rw"} for source, target, *options in binds
    }
    if len(found["volumes"]) < len(binds):
        raise ValueError(
            "docker_args: the Docker SDK can't take a source of --volume twice if a volume has other options "
            "than ro and rw; write it as --mount the second time"
        )


def _connect_networks(found: dict[str, Any]) -> None:
    networks: dict[str, dict[str, Any]] = {}
    for network in found.pop("networks", []):
        name = network.pop("name")
        if name in networks:
            raise ValueError(f"docker_args: --network {name} stands there twice; leave one out")
        networks[name] = network
    # The engine's own network goes by this name, where none is given.
    first = next(iter(networks), "default")
    special = [name for name in networks if name in ("host", "none") or name.startswith("container:")]
    for place, value in found.pop("endpoint", {}).items():
        read.put(networks.setdefault(first, {}), place, value)
    if "links" in found and first not in ("default", "bridge", *special):
        read.put(networks[first], "Links", [":".join(link) for link in found["links"]])

    if special and (len(networks) > 1 or networks[first]):
        raise ValueError(
            f"docker_args: --network {special[0]} leaves no room for another network, an address or an alias"
        )
    if first == "host" and any(found.get("ports", {}).values()):
        raise ValueError("docker_args: with --network host all ports are the host's; leave out --publish")
    if networks:
        found["network"] = first
    if any(networks.values()) or len(networks) > 1:
        found["networking_config"] = networks
    if mac_address := networks.get(first, {}).get("MacAddress"):
        found["mac_address"] = mac_address  # engines before Docker 25 know it only as the container's
