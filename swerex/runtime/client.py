"""Have a request run in the sandbox exactly once, whatever happens to the exchanges on the way."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from swerex.exceptions import CommandTimeoutError, SandboxDiedError, SwerexException
from swerex.runtime.abstract import IsAliveResponse, OnOutput
from swerex.runtime.answers import output_so_far, parse
from swerex.runtime.config import RemoteRuntimeConfig
from swerex.runtime.transport import AnswerTooLargeError, ExchangeError, HttpAnswer, Transport
from swerex.runtime.wire import (
    ACKNOWLEDGE_HEADER,
    API_KEY_HEADER,
    INSTANCE_HEADER,
    OUTPUT_HEADER,
    REQUEST_ID_HEADER,
)

__all__ = ["OPERATION_TIMEOUT", "PATIENCE_IF_GONE", "SMALL", "Client", "LiveOutput"]

_FIRST_WAIT, _LONGEST_WAIT = 2, 20
"""How many seconds the server is to hold an exchange before it answers "not yet". A short command's exchange
is short, so that one that the network swallowed is missed soon."""
_LIVE_WAIT = 1
"""The same where somebody watches the output, which comes with each "not yet"."""
_MARGIN = 5.0
"""How many seconds later than that an answer may come."""
_SLOWEST = 50_000
"""How many bytes a second a line is expected to carry at the least."""
_OVERTIME = 10.0
"""How many seconds after its own deadline, which the sandbox enforces, a call gives up."""
_PATIENCE = 30.0
"""For so many seconds a server may be out of reach before it counts as dead."""
PATIENCE_IF_GONE = 1.5
"""The same where nobody listens at its address any more."""
OPERATION_TIMEOUT = 600.0
"""What an operation may take for which the caller gives no timeout, commands excepted."""
_MOST_OUTPUT = 1 << 30
"""How many characters of output are kept for one request."""
SMALL = 16 << 20
"""How many bytes an answer may have that brings no content."""


class Client:
    """Sends requests to one server, for many threads at once.

    A request is repeated until its answer has arrived, and yet runs once: the server knows it by its id. To
    a server that knows no ids nothing is sent again that may have run.
    """

    def __init__(self, config: RemoteRuntimeConfig, obituary: Callable[[], str] = str) -> None:
        self.url = config.url
        self.obituary = obituary
        self._token = config.auth_token
        self._transport = Transport(config)
        self._received: deque[str] = deque(maxlen=1000)
        """The ids of answers that have arrived, and that the server does not know of yet."""
        self._meeting = threading.Lock()
        self._met = False
        self._instance: str | None = None
        """Which process the server is, once it was met; None for one that can't run a request just once."""

    def knows_ids(self) -> bool:
        """Whether the server is one of ours, and not the other implementation's."""
        self._meet()
        return self._instance is not None

    def ask_alive(self, timeout: float) -> HttpAnswer:
        """One exchange; nothing is repeated."""
        headers = {API_KEY_HEADER: self._token}
        if self._instance is not None:
            headers[INSTANCE_HEADER] = self._instance
        return self._transport.exchange(
            "GET",
            "/is_alive",
            headers,
            read_timeout=timeout,
            deadline=time.monotonic() + timeout,
            limit=SMALL,
        )

    def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        self._transport.close()

    def post(
        self,
        path: str,
        body: bytes | None,
        content_type: str | None,
        *,
        timeout: float | None,
        live: LiveOutput | None = None,
        limit: int = SMALL,
        patience: float = _PATIENCE,
        accept: str | None = None,
    ) -> HttpAnswer:
        """Have a request run once, and return its answer, whatever happens to the exchanges on the way.

        Raises:
            SandboxDiedError: the server is gone, or was replaced.
            CommandTimeoutError: `timeout` seconds have long passed and the server still says "not yet".
        """
        self._meet(patience)
        deadline = None if timeout is None else time.monotonic() + timeout + _OVERTIME
        request_id = str(uuid.uuid4())
        headers = {API_KEY_HEADER: self._token}
        if content_type:
            headers["Content-Type"] = content_type
        if accept:
            headers["Accept"] = f"{accept}, application/json"
        repeatable = self._instance is not None
        if self._instance is not None:
            headers[REQUEST_ID_HEADER] = request_id
            headers[INSTANCE_HEADER] = self._instance
        else:
            # A kept connection that the server closes just now would look like a lost answer.
            headers["Connection"] = "close"
        live = live or LiveOutput(None)
        wait = _LIVE_WAIT if live.wanted else _FIRST_WAIT
        trouble = _Trouble(patience)
        while True:
            received: list[str] = []
            asked = time.monotonic()
            read_timeout = None if deadline is None else deadline - asked
            if repeatable:
                headers["Prefer"] = f"wait={wait}"
                if live.wanted:
                    headers[OUTPUT_HEADER] = str(live.length)
                read_timeout = wait + _MARGIN + len(body or b"") / _SLOWEST
                received = self._take_received()
                headers[ACKNOWLEDGE_HEADER] = ",".join(received)
            try:
                answer = self._transport.exchange(
                    "POST", path, headers, body, read_timeout=read_timeout, deadline=deadline, limit=limit
                )
            except AnswerTooLargeError as error:
                raise SwerexException(f"{path}: {error}") from None
            except ExchangeError as error:
                self._received.extend(received)
                trouble.met(str(error), gone=error.gone)
                if error.sent and not repeatable:
                    raise SandboxDiedError(
                        f"The connection to {self.url} was lost while {path} ran. It was not "
                        f"repeated, since it may have run: {error}"
                    ) from error
                self._pause_or_give_up(path, trouble, deadline)
                continue
            if answer.status in (502, 503, 504) and repeatable:
                # From a gateway in between: the server itself never says so.
                self._received.extend(received)
                trouble.met(f"status {answer.status} from a gateway", gone=False)
                self._pause_or_give_up(path, trouble, deadline)
                continue
            trouble = _Trouble(patience)
            if answer.status != 202 or not repeatable:
                if repeatable:
                    self._received.append(request_id)
                return answer
            if not live.wanted:
                wait = min(2 * wait, _LONGEST_WAIT)
            live.add(output_so_far(answer))
            if live.length > _MOST_OUTPUT:
                raise SwerexException(f"{path} has printed more than {_MOST_OUTPUT:,} characters")
            if deadline is not None and time.monotonic() > deadline:
                raise CommandTimeoutError(
                    f"{path} was to take {timeout:g} s, and {_OVERTIME:g} s later the server says "
                    "that it still runs",
                    extra_info={"output": live.output()},
                )
            # One that says "not yet" at once must not be asked as fast as it answers.
            time.sleep(max(0.0, asked + 0.2 - time.monotonic()))

    def _meet(self, patience: float = _PATIENCE) -> None:
        """Learn, once, what kind of server this is, before it is asked for what must not run twice."""
        if self._met:
            return
        trouble = _Trouble(patience)
        while not self._met:
            try:
                answer = self.ask_alive(_MARGIN)
            except (ExchangeError, AnswerTooLargeError) as error:
                trouble.met(str(error), gone=isinstance(error, ExchangeError) and error.gone)
                self._pause_or_give_up("/is_alive", trouble, None)
                continue
            if answer.status in (502, 503, 504):
                trouble.met(f"status {answer.status} from a gateway", gone=False)
                self._pause_or_give_up("/is_alive", trouble, None)
                continue
            parse(answer, IsAliveResponse)
            with self._meeting:
                # Who comes second keeps to the server that the first has met.
                if not self._met:
                    self._instance = answer.headers.get(INSTANCE_HEADER)
                    self._met = True

    def _take_received(self) -> list[str]:
        """Some ids to acknowledge."""
        taken: list[str] = []
        with suppress(IndexError):
            while len(taken) < 50:
                taken.append(self._received.popleft())
        return taken

    def _pause_or_give_up(self, path: str, trouble: _Trouble, deadline: float | None) -> None:
        """Wait before the next try. Raises SandboxDiedError when there have been enough, or none can help."""
        if ended := self.obituary():
            raise SandboxDiedError(f"{ended}\n{path} was under way: {trouble.message}")
        if trouble.hopeless() or (deadline is not None and time.monotonic() > deadline):
            raise SandboxDiedError(
                f"The server at {self.url} does not answer any more: {path} was tried for "
                f"{trouble.seconds():.1f} s. Last try: {trouble.message}"
            )
        trouble.pause()


class LiveOutput:
    """The output of a command that still runs, for who watches it."""

    def __init__(self, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self._pieces: list[str] = []
        self.length = 0

    @property
    def wanted(self) -> bool:
        return self._on_output is not None

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self.length += len(piece)
        if self._on_output and piece:
            self._on_output(piece)

    def output(self) -> str:
        return "".join(self._pieces)

    def complete(self, output: object) -> None:
        """The command is over; hand out what came last. Two streams that were mixed can't be told apart."""
        seen = self.output()
        if isinstance(output, str) and output.startswith(seen):
            self.add(output[len(seen) :])


class _Trouble:
    """Failed tries in a row: how long they have been going on, and how long to wait before the next."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None
        self._gone_since: float | None = None
        self._pause = 0.02
        self.message = ""

    def met(self, message: str, *, gone: bool) -> None:
        now = time.monotonic()
        self.message = message
        self._since = self._since or now
        self._gone_since = (self._gone_since or now) if gone else None

    def seconds(self) -> float:
        return time.monotonic() - (self._since or time.monotonic())

    def hopeless(self) -> bool:
        now = time.monotonic()
        gone = self._gone_since is not None and now - self._gone_since > PATIENCE_IF_GONE
        return gone or self.seconds() > self._patience

    def pause(self) -> None:
        # With jitter, so that many clients do not come back at the same moment.
        time.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, 1.0)
