"""A bash that is replaced when a command ends it, and the exchange of commands with it."""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import Signals

from swerex.exceptions import CommandTimeoutError, SessionDoesNotExistError, SessionNotInitializedError
from swerex.runtime.abstract import OnOutput
from swerex.runtime.exchange import Exchange, Match
from swerex.runtime.process import exit_code
from swerex.runtime.terminal import Terminal

__all__ = ["Shell", "ending", "find_bash"]

# Run by a shell that exits, with its status. What bash itself defines comes along; it refuses that when it is
# read again. A function may have been defined with extglob, which it needs to be read again, and which may be
# off by now.
_SAVE = r"""\builtin trap -- '' HUP INT TERM
{
\builtin printf '\\builtin shopt -s extglob\n'
\builtin declare -p
\builtin declare -f
\builtin alias -p
\builtin umask -p
\builtin shopt -p extglob
\builtin printf '\\builtin cd -- %%q\nOLDPWD=%%q\n' "${PWD-.}" "${OLDPWD-}"
} >|%s 2>/dev/null
\builtin return "$1"
"""

# Prints a mark, as `Exchange` does, and notes the EXIT trap.
_REPORT = r"""\builtin trap -p EXIT >|%s
\builtin printf '\036%%s%%s\036' "$1" "$2" >/dev/tty
"""

_LARGEST_BACKLOG = 64 << 20
"""How many bytes of output are kept while no call waits for them."""


def find_bash(env: dict[str, str]) -> list[str]:
    """What starts a bash. Raises SessionNotInitializedError where there is none."""
    bash = shutil.which("bash", path=f"{env.get('PATH', '')}:/bin:/usr/bin:/usr/local/bin")
    if bash is not None:
        return [os.path.abspath(bash)]
    # A server that was brought into the sandbox runs by its own loader, and has a bash beside it.
    loader = Path(os.path.realpath("/proc/self/exe"))
    root = loader.parent.parent
    if not loader.name.startswith("ld-") or not (root / "bin" / "bash").is_file():
        raise SessionNotInitializedError(
            f"There is no bash in PATH ({env.get('PATH', '')!r}) nor in /bin, /usr/bin, /usr/local/bin. "
            "A session needs one: install it in the image, or use execute(), which needs none."
        )
    return [str(loader), "--library-path", str(root / "lib"), str(root / "bin" / "bash")]


class Shell:
    """Runs one command after the other. Who calls sees to it that there is only one at a time."""

    def __init__(self, name: str, bash: list[str], env: dict[str, str], cwd: str, folder: Path) -> None:
        """`name` is that of the session, for messages. `folder` is a new one; `close` removes it."""
        self._name = name
        self._bash = bash
        self._env = env
        self._cwd = cwd
        self._folder = folder
        self.replacing = threading.Lock()
        self.changed = threading.Condition()
        """Guards what follows, and is notified of the end of a command and, for who waits, of output."""
        self.exchange: Exchange | None = None
        """The last command."""
        self.closed = False
        self._terminal: Terminal | None = None
        self._former: list[Terminal] = []
        self._returncode: int | None = None
        """That of the bash, once it has ended."""
        self._status = 0

    # The life of the bash

    def start(self, deadline: float) -> None:
        """Start it.

        Raises:
            CommandTimeoutError: it was not ready in time.
            SessionNotInitializedError: it ended at once.
        """
        self._spawn(self._env, deadline)

    def _spawn(self, env: dict[str, str], deadline: float, restore: str = "") -> None:
        exchange = Exchange(lambda lines: self.terminal.command(lines))
        with self.changed:
            self._returncode = None
            self.exchange = exchange
        self._terminal = terminal = Terminal(self._bash, env, self._cwd, self._on_output, self._on_exit)
        self._write("save", (_SAVE % shlex.quote(str(self._folder / "state"))).encode())
        self._write("report", (_REPORT % shlex.quote(str(self._folder / "trap"))).encode())
        # It prints nothing, and yet is not empty, by which many startup files tell a shell without a user.
        setup = rf"PS1='\[\]' PS2=; {restore} {self._trap()}"
        script = self._write("c", exchange.script(os.fsencode(setup), 0))
        terminal.command(exchange.lines(script, terminal.path))
        if not self.wait(exchange, deadline):
            raise CommandTimeoutError(f"bash did not come up in time in session {self._name!r}")
        exchange.settled = True
        if exchange.shell_ended:
            output = exchange.report()
            raise SessionNotInitializedError(
                f"bash ended at its start with {self.ending()}. It printed: {output!r}",
                extra_info={"output": output, "exit_code": exchange.status},
            )

    def replace_if_ended(self) -> None:
        """Put a new bash into the place of one that has ended; `Exchange.lost` of its last command says so.

        Raises:
            SessionNotInitializedError: no new one could be started.
            SessionDoesNotExistError: the session is closed.
        """
        with self.replacing:
            with self.changed:
                self.check_open()
                if not self.terminal.alive():
                    self.changed.wait_for(lambda: self._returncode is not None, 2)
                old, returncode, last = self._terminal, self._returncode, self.exchange
                if returncode is None:
                    return
                assert old
                assert last
                # Its background jobs live on, and somebody must read what they print.
                self._former = [terminal for terminal in self._former if terminal.in_use()] + [old]
            reason = f"The shell ended with {ending(returncode)}; a new one took over, with its "
            if not os.path.isdir(self._cwd):
                self._cwd = working_directory()
            state, env, restore = self._folder / "state", self._env, ""
            if _is_complete(state):
                reason += "variables, functions, aliases and working directory."
                state = state.rename(self._folder / "restore")
                # All that is exported stands in the saved state; what is not was unset.
                env, restore = {}, f"\\. {shlex.quote(str(state))} 2>/dev/null;"
            else:
                reason += "working directory only."
            try:
                self._spawn(env, time.monotonic() + 10, restore)
            except Exception as error:
                # Whatever kept the new one from starting, the session is lost.
                raise SessionNotInitializedError(
                    f"The shell of session {self._name!r} ended with {ending(returncode)}, "
                    f"and no new one could be started: {error}"
                ) from error
            finally:
                state.unlink(missing_ok=True)
                last.lost = reason

    def check_open(self) -> None:
        if self.closed:
            raise SessionDoesNotExistError(f"Session {self._name!r} is closed")

    def ending(self) -> str:
        """How the bash ended, in words."""
        return ending(self._returncode or 0)

    def close(self) -> None:
        """End it and all that runs in it. Safe to call again."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        with self.replacing:
            for terminal in [*self._former, *([self._terminal] if self._terminal else [])]:
                terminal.close()
            self._former.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _on_output(self, data: bytes) -> None:
        with self.changed:
            if exchange := self.exchange:
                exchange.feed(data)
                self.changed.notify_all()
                # Nobody waits, after a timeout: the program may wait too, as at any terminal that is full.
                while not (exchange.over or exchange.awaited or self.closed) and (
                    exchange.unreported_size > _LARGEST_BACKLOG and self.terminal.alive()
                ):
                    self.changed.wait(1)

    def _on_exit(self, returncode: int) -> None:
        with self.changed:
            self._returncode = returncode
            if self.exchange:
                self.exchange.shell_exit(exit_code(returncode))
            self.changed.notify_all()

    # Commands

    @property
    def terminal(self) -> Terminal:
        assert self._terminal, "the shell was started"
        return self._terminal

    @property
    def script(self) -> Path:
        """The file from which the prepared command is run."""
        return self._folder / "c"

    def prepare(self, text: bytes) -> Exchange:
        """Write a command down; `send` lets it run."""
        exchange = Exchange(self.terminal.command)
        setup = b""
        with suppress(FileNotFoundError):
            noted = self._folder / "trap"
            trap = noted.read_bytes()
            noted.unlink()
            if os.fsencode(self._folder) not in trap:
                setup = os.fsencode(self._trap(os.fsdecode(trap)))
        self._write("c", exchange.script(text, self._status, setup))
        return exchange

    def _trap(self, trap: str = "") -> str:
        """Set the EXIT trap to save the state and then do what `trap`, as bash prints it, does."""
        word = trap.strip().removeprefix("trap -- ").removesuffix(" EXIT")
        # With something after it, a status that is not 0 is no failure to `set -e`, and stays as it is.
        save = f'\\. {shlex.quote(str(self._folder / "save"))} "$?" && \\builtin :'
        ours = shlex.quote(f"{save}\n" if word else save)
        return f"\\builtin trap -- {ours}{word} EXIT;"

    def send(self, exchange: Exchange, prefix: bytes = b"", *, plain: bool = False) -> None:
        """Let the prepared command run. `prefix` stands before it in the line that the shell reads.

        A `plain` one is known not to change traps.
        """
        with self.changed:
            self.check_open()
            self.exchange = exchange
            if self._returncode is not None:
                exchange.shell_exit(exit_code(self._returncode))
                return
            self.terminal.reset()
            reporter = None if plain else self._folder / "report"
            self.terminal.command(exchange.lines(self.script, self.terminal.path, prefix, reporter))

    def wait(
        self,
        exchange: Exchange,
        deadline: float | None,
        search: Callable[[], Match | None] = lambda: None,
        on_output: OnOutput | None = None,
    ) -> Match | bool:
        """Wait until the command is over or the session closed (True), or prints what is searched for.

        False: the deadline has passed.
        """
        more = exchange.follow() if on_output else None
        mute = 0
        with self.changed:
            exchange.awaited += 1
            self.changed.notify_all()
            try:
                while True:
                    if more and on_output and (text := more()):
                        self.changed.release()
                        try:
                            on_output(text)
                        finally:
                            self.changed.acquire()
                        continue
                    if exchange.over or self.closed:
                        return True
                    if match := search():
                        return match
                    remaining = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                    if remaining <= 0:
                        return False
                    if self.changed.wait(remaining) or remaining < 1.0:
                        continue
                    # A shell that waits for its next line and has not reported the end of this one never
                    # will: the command has changed it so that it can't.
                    mute = mute + 1 if self.terminal.reads_commands() else 0
                    if mute == 3:
                        exchange.unreported = True
                        self.terminal.kill_shell()
            finally:
                exchange.awaited -= 1

    def settle(self, exchange: Exchange) -> int:
        """Note what the next command starts from; the exit status of the one that is over."""
        assert exchange.over and exchange.status is not None
        self._status = exchange.status
        exchange.settled = True
        if not exchange.shell_ended:
            self._cwd = self.terminal.cwd() or self._cwd
        return exchange.status

    def _write(self, name: str, content: bytes) -> Path:
        """Write a file of the session's own, even after somebody has tidied the folder away."""
        path = self._folder / name
        try:
            path.write_bytes(content)
        except FileNotFoundError:
            self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            path.write_bytes(content)
        return path


def _is_complete(state: Path) -> bool:
    """Whether the shell came to the last line of what it saves."""
    try:
        return b"\n\\builtin cd -- " in state.read_bytes()
    except FileNotFoundError:
        return False


def ending(returncode: int) -> str:
    """A return code of `subprocess` in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    with suppress(ValueError):
        return f"signal {-returncode} ({Signals(-returncode).name})"
    return f"signal {-returncode}"


def working_directory() -> str:
    """That of this process, or the root where it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
