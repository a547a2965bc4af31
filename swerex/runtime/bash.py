"""A session: actions that run one after the other in a shell, and what is observed of them."""

from __future__ import annotations

import errno
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    NoExitCodeError,
    SessionBusyError,
    SessionDoesNotExistError,
    SessionNotInitializedError,
)
from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    BashObservation,
    CreateBashSessionRequest,
    OnOutput,
)
from swerex.runtime.exchange import Exchange, Match
from swerex.runtime.failures import failed, shown, timed_out
from swerex.runtime.memory import OUT_OF_MEMORY, oom_kills
from swerex.runtime.shell import Shell, working_directory
from swerex.runtime.syntax import SyntaxChecker, is_plain, syntax_error

__all__ = ["BashSession"]

_LAST_STEPS = 0.3
"""How many seconds a command may take to end that has printed what was expected of it."""
_DEFAULTS = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat"}


class BashSession:
    """Calls from many threads wait for their turn; `interrupt` and `close` pass them by."""

    def __init__(
        self,
        request: CreateBashSessionRequest,
        *,
        env: dict[str, str],
        checker: SyntaxChecker,
        bash: list[str],
        folder: Path,
    ) -> None:
        """`folder` is a new one, for this session alone; `close` removes it."""
        self.name = request.session
        self._request = request
        self._bash = bash
        self._env = {**_DEFAULTS, **env, **request.env}
        self._checker = checker
        self._folder = folder
        cwd = os.path.expanduser(request.cwd) if request.cwd else working_directory()
        self._cwd = os.path.abspath(cwd)
        self._shell = Shell(self.name, bash, self._env, self._cwd, folder)
        self._turn = threading.Lock()
        self._interrupting = threading.Lock()
        self._interactive = False

    def start(self) -> str:
        """Start the shell and source the startup files; what they printed. Closes the session on an error."""
        deadline = time.monotonic() + self._request.startup_timeout
        try:
            if self._request.cwd and not os.path.isdir(self._cwd):
                raise FileNotFoundError(
                    errno.ENOENT, "The working directory of the session does not exist", self._cwd
                )
            self._shell.start(deadline)
            return "".join(self._source(path, deadline) for path in self._request.startup_source)
        except BaseException:
            self.close()
            raise

    def _source(self, path: str, deadline: float) -> str:
        """Source a startup file; what it printed. Its exit status does not matter, as in an rc file."""
        # As the shell would expand the word.
        path = re.sub(r"^~(?=/|$)", "$HOME", path)
        path = re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda name: self._env.get(name[1] or name[2], name[0]), path)
        file = os.path.join(self._cwd, path)
        where = f"the startup file {file!r} of session {self.name!r}"
        text = Path(file).read_bytes()
        if not self._checker.parses(Path(file)):
            self._check_syntax(text, f"bash can't parse {where}", deadline)
        exchange = self._shell.prepare(b"\\. " + os.fsencode(shlex.quote(file)))
        self._shell.send(exchange)
        in_time = self._shell.wait(exchange, deadline)
        output = self._take(exchange)
        exchange.settled = True
        info = {"startup_source": file, "output": output}
        if not in_time:
            raise CommandTimeoutError(
                f"The session was not ready within {self._request.startup_timeout:g} s: {where} still ran. "
                f"Its output: {output!r}. Give it more with startup_timeout, or see what it waits for.",
                extra_info=info,
            )
        if exchange.shell_ended:
            raise SessionNotInitializedError(
                f"{where} ended the shell with {self._shell.ending()}. Its output: {output!r}",
                extra_info={**info, "exit_code": exchange.status},
            )
        return output

    def close(self) -> None:
        """End the session and all that runs in it. Safe to call again."""
        self._shell.close()

    # Running commands

    def run(self, action: BashAction, on_output: OnOutput | None = None) -> BashObservation:
        """As `AbstractRuntime.run_in_session`. After a `SessionNotInitializedError` it can't go on."""
        deadline = None if action.timeout is None else time.monotonic() + action.timeout
        patterns = _compile(action.expect)
        interactive = action.is_interactive_command or action.is_interactive_quit
        with self._my_turn(action):
            exchange = self._shell.exchange
            assert exchange
            if exchange.may_end and not interactive:
                patience = time.monotonic() + _LAST_STEPS
                self._shell.wait(exchange, patience if deadline is None else min(deadline, patience))
            if not exchange.over:
                if not interactive:
                    raise self._busy()
                search = exchange.expect(() if action.is_interactive_quit else patterns)
                text = action.command.encode("utf-8", "surrogateescape") + b"\n"
                if not self._shell.terminal.type(text, deadline):
                    outcome = "was not read by the program in the foreground."
                    output = self._take(exchange)
                    raise timed_out(_short(action.command), action.timeout, outcome, {"output": output})
                return self._conclude(action, exchange, search, deadline, on_output, sent=action.command)
            if action.is_interactive_quit:
                return BashObservation(
                    exit_code=_unless_ignored(action, 0),
                    failure_reason="No program was in the foreground: the shell was back already.",
                )
            if not exchange.settled:
                # It ended by itself after its timeout.
                self._shell.settle(exchange)
            self._shell.replace_if_ended()
            lost = exchange.lost
            exchange = self._send(action, deadline)
            search = exchange.expect(patterns)
            return self._conclude(action, exchange, search, deadline, on_output, lost=lost)

    @contextmanager
    def _my_turn(self, action: BashAction) -> Iterator[None]:
        if not self._turn.acquire(timeout=_patience(action.timeout)):
            raise SessionBusyError(
                f"Session {self.name!r} was busy with another call's command for all of the "
                f"{action.timeout:g} s that {_short(action.command)} may take; it was not run."
            )
        try:
            self._shell.check_open()
            yield
        finally:
            self._turn.release()

    def _busy(self) -> SessionBusyError:
        if self._interactive:
            return SessionBusyError(
                f"A program is in the foreground of session {self.name!r}. Talk to it with "
                "is_interactive_command, end it with is_interactive_quit, or send a BashInterruptAction."
            )
        return SessionBusyError(
            f"The last command of session {self.name!r} still runs. Send a BashInterruptAction to stop it, "
            "or use another session meanwhile."
        )

    def _send(self, action: BashAction, deadline: float | None) -> Exchange:
        """Check a command's syntax and let the shell run it."""
        text = action.command.encode("utf-8", "surrogateescape")
        exchange = self._shell.prepare(text)
        plain = is_plain(text)
        # What sources a file may set a trap, too.
        quiet = plain and text.split(None, 1)[0] not in (b".", b"source", b"eval", b"trap")
        if not plain and not self._checker.parses(self._shell.script):
            what = f"bash can't parse {_short(action.command)}, and ran nothing of it"
            self._check_syntax(text, what, deadline)
            # The check has run a command of its own.
            exchange = self._shell.prepare(text)
        self._interactive = action.is_interactive_command
        # Prompts and answers are for a program to read: no colours, no line editor that draws.
        self._shell.send(exchange, prefix=b"TERM=dumb " if self._interactive else b"", plain=quiet)
        return exchange

    def _check_syntax(self, text: bytes, what: str, deadline: float | None) -> None:
        """Raise BashIncorrectSyntaxError if the shell, with its aliases and options, can't parse the text."""
        exchange = self._shell.prepare(b"\\builtin alias -p; \\builtin shopt -p extglob")
        self._shell.send(exchange)
        if not self._shell.wait(exchange, deadline):
            raise CommandTimeoutError(
                f"The shell of session {self.name!r} was not ready in time to check the syntax of a command, "
                "which was not run. Does PROMPT_COMMAND take long?",
                extra_info={"output": ""},
            )
        state = self._take(exchange).encode()
        exchange.settled = True
        message = syntax_error(self._bash, self._env, text, state, self._folder)
        if message:
            raise BashIncorrectSyntaxError(
                f"{what}:\n{message}", extra_info={"bash_stdout": "", "bash_stderr": message}
            )

    def _take(self, exchange: Exchange) -> str:
        with self._shell.changed:
            return exchange.report()

    def _conclude(
        self,
        action: BashAction,
        exchange: Exchange,
        search: Callable[[], Match | None],
        deadline: float | None,
        on_output: OnOutput | None,
        *,
        lost: str = "",
        sent: str = "",
    ) -> BashObservation:
        """Wait for the end of a command or for what is expected, and make the observation of it."""
        exchange.running = True
        try:
            result = self._shell.wait(exchange, deadline, search, on_output)
        finally:
            exchange.running = False
        with self._shell.changed:
            # Once more, so that what is found does not depend on how soon the command ends.
            match = search() if isinstance(result, bool) else result
            output = _without_echo(exchange.report_until(match), sent)
            exchange.forget()
        if self._shell.closed:
            raise SessionDoesNotExistError(
                f"Session {self.name!r} was closed while {_short(action.command)} ran",
                extra_info={"output": output},
            )
        if match:
            # What was started as an ordinary command is a program to talk to now, of unknown status.
            status = 0 if action.is_interactive_command else None
            if exchange.over and action.is_interactive_command:
                status = self._shell.settle(exchange)
            self._interactive = not exchange.over
            exchange.may_end = not action.is_interactive_command
            return BashObservation(
                output=output,
                exit_code=_unless_ignored(action, status),
                failure_reason=lost,
                expect_string=match.pattern,
            )
        if not result:
            waited_for = f" None of {action.expect!r} came." if action.expect else ""
            outcome = f"still runs.{waited_for} Send a BashInterruptAction to stop it."
            raise timed_out(_short(action.command), action.timeout, outcome, {"output": output})
        return self._observe(action, exchange, output, lost)

    def _observe(self, action: BashAction, exchange: Exchange, output: str, lost: str) -> BashObservation:
        """The observation of a command that is over."""
        info: dict[str, Any] = {"output": output, "exit_code": self._shell.settle(exchange)}
        if exchange.shell_ended:
            try:
                self._shell.replace_if_ended()
            except SessionNotInitializedError as error:
                error.extra_info = info
                raise
            lost = exchange.lost
        status = None if exchange.unreported else exchange.status
        if status != 0 and oom_kills() > exchange.oom_kills:
            lost = f"{lost} {OUT_OF_MEMORY}".lstrip()
        info["failure_reason"] = lost
        before, after = f"{action.error_msg}: " if action.error_msg else "", f" {lost}" if lost else ""
        if action.check == "raise" and status is None:
            raise NoExitCodeError(
                f"{before}{_short(action.command)} has ended, but left a shell that could not tell how, "
                f"by disabling builtins or with a trap that skips commands.{after} "
                f"Its output:\n{shown(output)}",
                extra_info={**info, "exit_code": None},
            )
        if action.check == "raise" and status and not action.is_interactive_quit:
            raise failed(_short(action.command), status, action.error_msg, lost, info)
        return BashObservation(output=output, exit_code=_unless_ignored(action, status), failure_reason=lost)

    # Interrupting

    def interrupt(self, action: BashInterruptAction) -> BashObservation:
        """Bring the shell back, whatever runs; returns the output that no call has reported."""
        patterns = _compile(action.expect)
        with self._interrupting:
            return self._interrupt(action, patterns)

    def _interrupt(self, action: BashInterruptAction, patterns: list[re.Pattern[str]]) -> BashObservation:
        # Not while a new shell takes over: the interrupt is not for what that does first.
        with self._shell.replacing, self._shell.changed:
            self._shell.check_open()
            exchange = self._shell.exchange
            assert exchange
            if exchange.settled or (exchange.running and exchange.over):
                return BashObservation(exit_code=0)
            search = exchange.expect(patterns)
        match = None if exchange.over else self._stop(exchange, action, search)
        with self._shell.changed:
            output = ""
            if not exchange.running:
                output = exchange.report_until(match)
                exchange.forget()
        if match:
            return BashObservation(output=output, exit_code=0, expect_string=match.pattern)
        if self._shell.closed:
            raise SessionDoesNotExistError(f"Session {self.name!r} was closed", extra_info={"output": output})
        if not exchange.over:
            raise CommandTimeoutError(
                f"Even SIGKILL did not end the shell of session {self.name!r}: the kernel holds it up. "
                "Use another session.",
                extra_info={"output": output},
            )
        status = self._shell.settle(exchange)
        if exchange.shell_ended:
            self._shell.replace_if_ended()
        return BashObservation(output=output, exit_code=status, failure_reason=exchange.lost)

    def _stop(
        self, exchange: Exchange, action: BashInterruptAction, search: Callable[[], Match | None]
    ) -> Match | None:
        shell, terminal = self._shell, self._shell.terminal
        for _ in range(action.n_retry):
            self._nudge(exchange, SIGINT)
            if result := shell.wait(exchange, time.monotonic() + action.timeout, search):
                return None if isinstance(result, bool) else result
        terminal.signal_foreground(SIGTERM, spare_shell=True)
        if shell.wait(exchange, time.monotonic() + max(0.3, action.timeout)):
            return None
        # A shell that ignores Ctrl-C itself may start the next program just as the last one is killed.
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            terminal.signal_foreground(SIGKILL, spare_shell=True)
            self._nudge(exchange, SIGINT)
            if shell.wait(exchange, time.monotonic() + 0.1):
                return None
        terminal.kill_shell()
        shell.wait(exchange, time.monotonic() + 2)
        return None

    def _nudge(self, exchange: Exchange, number: int) -> None:
        """Signal what is in the foreground; or, if that is the shell that waits for a line, let it report.

        An interrupt that comes just as it reports makes it drop that line.
        """
        with self._shell.changed:
            if exchange.over:
                return
            if self._shell.terminal.reads_commands():
                exchange.ask_again()
            else:
                self._shell.terminal.signal_foreground(number)


def _compile(expect: Sequence[str]) -> list[re.Pattern[str]]:
    """As pexpect compiles what it is to expect. Raises ValueError that names what can't be compiled."""
    patterns = []
    for pattern in expect:
        try:
            patterns.append(re.compile(pattern, re.DOTALL))
        except re.error as error:
            raise ValueError(f"{pattern!r} in `expect` is not a regular expression: {error}") from None
    return patterns


def _patience(timeout: float | None) -> float:
    """A timeout as locks take it."""
    return -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)


def _unless_ignored(action: BashAction, status: int | None) -> int | None:
    return None if action.check == "ignore" else status


def _without_echo(output: str, sent: str) -> str:
    """Drop the line that was sent, where a program's own line editor printed it again.

    Such an editor moves to the next line with a carriage return, which tells its echo from a program that
    answers with what it was sent. prompt_toolkit, on a dumb terminal, prints the last character twice.
    """
    if not sent:
        return output
    return re.sub(rf"\A{re.escape(sent)}({re.escape(sent[-1])})?\r+\n", "", output)


def _short(command: str) -> str:
    """A command as a message names it."""
    return f"Command {command!r}" if len(command) <= 200 else f"Command {command[:200]!r}..."
