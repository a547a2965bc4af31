"""One HTTP exchange with a server. When to repeat one, and what an answer means, is decided elsewhere."""

from __future__ import annotations

import errno
import functools
import http.client
import io
import os
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from swerex.runtime.config import RemoteRuntimeConfig

__all__ = ["AnswerTooLargeError", "ExchangeError", "HttpAnswer", "Transport"]

_CONNECT_TIMEOUT, _LOOPBACK_CONNECT_TIMEOUT = 5.0, 1.0
"""On loopback only an address that leads to a container that is gone takes any time at all."""
_PIECE = 1 << 20
_SENT = 1 << 18
"""How many bytes are sent at once."""
_LONGEST = 1e6
"""In seconds: sockets take no timeout without end."""

# A peer that vanished without a word is noticed after about half a minute of silence.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


class HttpAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class ExchangeError(Exception):
    """No answer came."""

    def __init__(self, message: str, *, sent: bool, gone: bool) -> None:
        super().__init__(message)
        self.sent = sent
        """The request may have reached the server."""
        self.gone = gone
        """Nobody listens there."""


class AnswerTooLargeError(Exception):
    """The answer is larger than it may be."""


_transports: WeakSet[Transport] = WeakSet()


def _forget_connections() -> None:
    """In a forked child: the connections are the parent's."""
    for transport in _transports:
        transport.close()


os.register_at_fork(after_in_child=_forget_connections)


_exchange = threading.local()
"""Of this thread, for `_Response`: the deadline of what it exchanges now, and whether the connection is to be
closed after that."""


class _Response(http.client.HTTPResponse):
    """Reads no longer than until the deadline: a socket's timeout is for each read, however little comes."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if (deadline := getattr(_exchange, "deadline", None)) is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_UntilDeadline(raw, sock, deadline))

    def begin(self) -> None:
        super().begin()
        # A server that was asked to close it does so, whether its answer says that or not: RFC 9112, 9.6.
        self.will_close = self.will_close or getattr(_exchange, "closes", False)


class _UntilDeadline(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The answer did not end in time")
        timeout = self._sock.gettimeout()
        self._sock.settimeout(min(left, _LONGEST if timeout is None else timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _UnixConnection(_HttpConnection):
    """To a socket in the file system."""

    def __init__(self, *args: Any, path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._path = path

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            timeout = self.timeout
            connection.settimeout(timeout if isinstance(timeout, int | float) else None)
            _connect(connection, self._path)
        except OSError as error:
            connection.close()
            raise urllib3.exceptions.NewConnectionError(
                self, f"No connection to {self._path}: {error}"
            ) from error
        return connection


def _connect(connection: socket.socket, path: str) -> None:
    if sys.platform != "linux":
        return connection.connect(path)
    # Who can write to the folder could put a link there, to another program's socket.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            raise OSError(errno.ENOTSOCK, "It is no socket", path)
        connection.connect(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _UnixPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _UnixConnection


class _Adapter(HTTPAdapter):
    def __init__(self, socket_path: str | None, **kwargs: Any) -> None:
        self._socket_path = socket_path
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [*urllib3.connection.HTTPConnection.default_socket_options, *_KEEPALIVE]
        super().init_poolmanager(*args, **kwargs, socket_options=options)
        if self._socket_path is None:
            self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        else:
            pool = functools.partial(_UnixPool, path=self._socket_path)
            self.poolmanager.pool_classes_by_scheme = {"http": pool}


class Transport:
    """Connections to one server, shared by all threads and kept for later exchanges."""

    def __init__(self, config: RemoteRuntimeConfig) -> None:
        path = config.socket_path
        # What the requests to a socket in the file system name as their host has no meaning.
        self._url = config.url if path is None else "http://localhost"
        self._connect_timeout = _LOOPBACK_CONNECT_TIMEOUT if _is_loopback(self._url) else _CONNECT_TIMEOUT
        self._headers = {"Accept-Encoding": "identity", "Accept": "application/json", **config.headers}
        # pool_maxsize is how many connections are kept, one for each thread that calls at once.
        self._adapter = _Adapter(path, pool_connections=1, pool_maxsize=1000, max_retries=0)
        with requests.Session() as session:
            # What the environment says of proxies and certificates is not for loopback.
            session.trust_env = not _is_loopback(self._url)
            settings = session.merge_environment_settings(
                self._url, config.proxies or {}, True, config.verify, None
            )
        self._verify: bool | str = settings["verify"] is not False and (settings["verify"] or True)
        self._proxies = settings["proxies"]
        _transports.add(self)

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        read_timeout: float | None,
        deadline: float | None = None,
        limit: int,
    ) -> HttpAnswer:
        """Send a request and read its answer, of at most `limit` bytes.

        `read_timeout` is how many seconds the server may stay silent, `deadline` (of time.monotonic) when
        all must be over.

        Raises:
            ExchangeError: no answer, or only a part of it.
            AnswerTooLargeError: more than `limit`.
        """
        request = requests.PreparedRequest()
        request.method, request.url = method, self._url + path
        # In pieces: for one sendall() a socket's timeout is that of the whole, however slow the line.
        request.body = _pieces(body) if body and len(body) > _SENT else body  # type: ignore[assignment]
        request.headers = CaseInsensitiveDict({**self._headers, **headers})
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
        now = time.monotonic()
        if deadline is not None:
            read_timeout = min(_LONGEST if read_timeout is None else read_timeout, deadline - now)
        if read_timeout is not None:
            read_timeout = min(max(read_timeout, 0.001), _LONGEST)
        _exchange.deadline = deadline
        _exchange.closes = request.headers.get("Connection") == "close"
        connect_timeout = min(
            self._connect_timeout, self._connect_timeout if read_timeout is None else read_timeout
        )
        try:
            response = self._adapter.send(
                request,
                stream=True,
                timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),  # type: ignore[arg-type]
                verify=self._verify,
                proxies=self._proxies,
            )
            try:
                body = _read(response.raw, limit, deadline)
                return HttpAnswer(response.status_code, response.headers, body)
            except BaseException:
                # The rest of the answer is still on this connection.
                response.raw.close()
                raise
            finally:
                response.raw.release_conn()
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            sent, gone = _classify(error)
            raise ExchangeError(f"{type(error).__name__}: {error}", sent=sent, gone=gone) from error

    def close(self) -> None:
        """Close the connections that are not in use. Later exchanges open new ones."""
        self._adapter.close()


def _pieces(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[begin : begin + _SENT] for begin in range(0, len(view), _SENT))


def _read(raw: urllib3.HTTPResponse, limit: int, deadline: float | None) -> bytes:
    parts = []
    size = 0
    # As it was sent: nothing else was asked for, and a small compressed body can be a very large one.
    while part := raw.read1(_PIECE, decode_content=False):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise AnswerTooLargeError(f"The answer is larger than {limit:,} bytes")
        if deadline is not None and time.monotonic() > deadline:
            raise urllib3.exceptions.ReadTimeoutError(None, "", "The answer did not end in time")  # type: ignore[arg-type]
    promised = raw.headers.get("Content-Length", "")
    if promised.isdecimal() and int(promised) != size:
        raise urllib3.exceptions.ProtocolError(f"The answer broke off after {size:,} of {promised} bytes")
    if not promised.isdecimal() and size == 0:
        # http.client takes the end of the stream for the end of the headers.
        raise urllib3.exceptions.ProtocolError("The answer broke off before its body")
    return b"".join(parts)


def _classify(error: BaseException) -> tuple[bool, bool]:
    """Whether the request may have been sent, and whether nobody listens at the address."""
    sent, gone = True, False
    chain: list[object] = [error]
    for item in chain:
        if isinstance(item, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            sent = False
        if isinstance(item, OSError) and item.errno in (errno.ECONNREFUSED, errno.ENOENT):
            gone = True
        if isinstance(item, urllib3.exceptions.NameResolutionError | ssl.SSLCertVerificationError):
            sent, gone = False, True
        if isinstance(item, BaseException):
            more = [item.__cause__, getattr(item, "reason", None), *item.args]
            chain += [cause for cause in more if isinstance(cause, BaseException) and cause not in chain]
    return sent, gone


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
