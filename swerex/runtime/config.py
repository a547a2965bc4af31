"""What a runtime can be told, as data: to build one from a file, a command line or another program."""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

if TYPE_CHECKING:
    from swerex.runtime.dummy import DummyRuntime
    from swerex.runtime.local import LocalRuntime
    from swerex.runtime.remote import RemoteRuntime

__all__ = ["DummyRuntimeConfig", "LocalRuntimeConfig", "RemoteRuntimeConfig", "RuntimeConfig", "get_runtime"]


class LocalRuntimeConfig(BaseModel):
    """A runtime in this process, on this machine."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["local"] = "local"
    """Tells the configs apart. Do not change."""

    def get_runtime(self) -> LocalRuntime:
        from swerex.runtime.local import LocalRuntime

        return LocalRuntime.from_config(self)


class RemoteRuntimeConfig(BaseModel):
    """How to reach a server that runs already."""

    # A validation error must not print a token that was passed in the wrong place.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    auth_token: str = Field(default_factory=lambda: os.environ.get("SWEREX_AUTH_TOKEN", ""), repr=False)
    """The server's token. Default: the environment variable SWEREX_AUTH_TOKEN, else empty."""
    host: str = "http://127.0.0.1"
    """The server's address. A bare host name or IP address gets ``http://``. A socket in the file system is
    ``unix:///path/of/the/socket``."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None: the port that stands in `host`, or the usual one of its scheme."""
    timeout: Annotated[float, Field(ge=0)] = 0.15
    """How many seconds `is_alive()` waits for an answer by default."""
    headers: dict[str, str] = Field(default={}, repr=False)
    """Sent with every request, for a gateway in front of the server."""
    verify: bool | str = True
    """As in requests: whether to check the server's certificate, or the path of a CA bundle to check with."""
    proxies: dict[str, str] | None = Field(default=None, repr=False)
    """As in requests: a proxy's address by scheme. None: what the environment says."""
    type: Literal["remote"] = "remote"
    """Tells the configs apart. Do not change."""

    @field_validator("auth_token")
    @classmethod
    def _can_be_a_header(cls, token: str) -> str:
        if token and not re.fullmatch(r"[!-~]+", token):
            raise ValueError("a token must be printable ASCII without blanks")
        return token

    @field_validator("host")
    @classmethod
    def _complete_host(cls, host: str) -> str:
        if host.startswith("unix:///") and "\0" not in host:
            return host
        url = host
        if "://" not in host:
            url = f"http://[{host}]" if _is_ipv6(host) else f"http://{host}"
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                f"{host!r} is no address: give a host name, an IP address, an http(s) URL or unix:///PATH"
            )
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_port(self) -> Self:
        parts = urlsplit(self.host)
        if self.port is not None and self.socket_path is not None:
            raise ValueError(f"{self.host} has no port: leave out `port`")
        if self.port is not None and (parts.port is not None or parts.path or parts.query):
            raise ValueError(f"the port can't be added to {self.host!r}: put it there, and leave out `port`")
        return self

    @property
    def socket_path(self) -> str | None:
        """The path of the server's socket, where it has one in the file system."""
        return self.host.removeprefix("unix://") if self.host.startswith("unix://") else None

    @property
    def url(self) -> str:
        """The server's address, with the port and without a slash at the end."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    def get_runtime(self) -> RemoteRuntime:
        from swerex.runtime.remote import RemoteRuntime

        return RemoteRuntime.from_config(self)


class DummyRuntimeConfig(BaseModel):
    """A runtime that does nothing, for tests of what stands above it."""

    model_config = ConfigDict(extra="forbid")

    outputs: list[str] = []
    """What `run_in_session` returns, in order, and then `DummyOutputsExhaustedError`. With none given it
    returns an empty observation for ever."""
    type: Literal["dummy"] = "dummy"
    """Tells the configs apart. Do not change."""

    def get_runtime(self) -> DummyRuntime:
        from swerex.runtime.dummy import DummyRuntime

        return DummyRuntime.from_config(self)


RuntimeConfig = Annotated[
    LocalRuntimeConfig | RemoteRuntimeConfig | DummyRuntimeConfig, Field(discriminator="type")
]


def get_runtime(config: RuntimeConfig) -> LocalRuntime | RemoteRuntime | DummyRuntime:
    """The runtime that `config` describes."""
    return config.get_runtime()


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
