"""A bash on a pseudo-terminal, and a thread that reads what it prints.

Nothing that is meant for the shell is ever typed at the terminal. The shell reads its commands from a pipe;
the terminal is the standard input of the programs that it starts. So no program can swallow a command, and
no line that a program left unread is taken for one.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from swerex.runtime.process import ExitWatch, members, spawn, with_interrupts

__all__ = ["Terminal"]

# Opening a terminal is what makes it the controlling terminal of a session leader that has none: open(2),
# O_NOCTTY. A bash in POSIX mode, which reads no file first, does it and then becomes the interactive one.
_START = 'exec 1<>"$1" && shift && exec "$@" --noprofile --norc --noediting +o history +H -i 2>&1'

_ROWS, _COLUMNS = 50, 200

_CANONICAL_LIMIT = 4000
"""A terminal in canonical mode cuts input lines at 4095 bytes: termios(3)."""

_READ = {"x86_64": "0", "aarch64": "63"}
"""The number of the system call read(2)."""

_terminals: WeakSet[Terminal] = WeakSet()


def _forget_terminals() -> None:
    """In a forked child: a terminal that it has open would not hang up when the parent dies."""
    for terminal in list(_terminals):
        terminal._using = threading.Lock()
        if not terminal._closed:
            terminal._close_descriptors()


os.register_at_fork(after_in_child=_forget_terminals)


class Terminal:
    """A running bash.

    `on_output(data)` gets what it and its programs print, `on_exit(returncode)` is called once when the
    shell has ended and all that it printed was handed out. Both are called by the reading thread.
    """

    def __init__(
        self,
        bash: list[str],
        env: dict[str, str],
        cwd: str,
        on_output: Callable[[bytes], None],
        on_exit: Callable[[int], None],
    ) -> None:
        self._on_output = on_output
        self._on_exit = on_exit
        self._closing = threading.Event()
        self._using = threading.Lock()
        """Held while the descriptors are used, and while they are closed."""
        self._closed = False
        self._typed = False
        self._master, self._slave = pty.openpty()
        try:
            self.path = os.ttyname(self._slave)
            fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
            self._modes = _session_modes(self._slave)
            termios.tcsetattr(self._slave, termios.TCSANOW, self._modes)
            os.set_blocking(self._master, False)
            self._process = spawn(
                [*with_interrupts(), *bash, "--posix", "--norc", "-c", _START, "bash", self.path, *bash],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                cwd=cwd,
            )
        except BaseException:
            os.close(self._master)
            os.close(self._slave)
            raise
        self.pid = self._process.pid
        assert self._process.stdin
        self._commands = self._process.stdin.fileno()
        try:
            self._watch = ExitWatch(self._process)
            self._watch.register(self._master)
            self._reader = threading.Thread(target=self._read, name=f"swerex-shell-{self.pid}", daemon=True)
            self._reader.start()
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._close_descriptors()
            raise
        _terminals.add(self)

    def _close_descriptors(self) -> None:
        with self._using:
            self._closed = True
            os.close(self._master)
            if self._slave >= 0:
                os.close(self._slave)
            assert self._process.stdin
            self._process.stdin.close()

    def command(self, lines: bytes) -> None:
        """Give the shell lines to read. One that has just ended does not, which is about to be noticed."""
        with self._using, suppress(BrokenPipeError):
            if not self._closed:
                # Past Popen's buffer; a pipe takes this much at once.
                os.write(self._commands, lines)

    def reads_commands(self) -> bool:
        """Whether the shell waits for a line; False where the system does not tell: proc(5).

        Its standard input is the terminal while it runs a command, and the pipe else. It is the pipe while
        prompts and traps run too, so what counts is that it reads there.
        """
        with suppress(OSError):
            pipe = os.readlink(f"/proc/self/fd/{self._commands}")
            call = Path(f"/proc/{self.pid}/syscall").read_text().split()
            reads = call[:2] == [_READ.get(os.uname().machine), "0x0"]
            return reads and os.readlink(f"/proc/{self.pid}/fd/0") == pipe
        return False

    def type(self, text: bytes, deadline: float | None) -> bool:
        """Type at the program in the foreground. False: it did not read all of that until the deadline."""
        with self._using:
            if self._closed:
                return True
            self._typed = True
            modes = termios.tcgetattr(self._master)
            quiet = [*modes]
            quiet[3] &= ~termios.ECHO
            if max(map(len, text.split(b"\n"))) > _CANONICAL_LIMIT:
                quiet[3] &= ~termios.ICANON
            self._set_modes(quiet)
        while text:
            with self._using:
                if self._closed:
                    return True
                with suppress(BlockingIOError):
                    text = text[os.write(self._master, text) :]
                    continue
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        with self._using:
            if not self._closed and quiet[3] & termios.ICANON != modes[3] & termios.ICANON:
                quiet[3] |= termios.ICANON
                self._set_modes(quiet)
        return True

    def reset(self) -> None:
        """Undo what the last program did to the terminal, and forget what was typed and nobody has read.

        No echo, no changes to what is printed.
        """
        with self._using:
            if self._closed:
                return
            self._set_modes(self._modes)
            if self._typed and self._slave >= 0:
                self._typed = False
                termios.tcflush(self._slave, termios.TCIFLUSH)

    def _set_modes(self, modes: list[Any]) -> None:
        if termios.tcgetattr(self._master) != modes:
            termios.tcsetattr(self._master, termios.TCSANOW, modes)

    def signal_foreground(self, number: int, *, spare_shell: bool = False) -> None:
        """Send a signal to the foreground process group; with `spare_shell` not if that is the shell's."""
        with self._using, suppress(OSError):
            if self._closed:
                return
            group = os.tcgetpgrp(self._master)
            if group > 0 and not (spare_shell and group == self.pid):
                os.killpg(group, number)
                if number != signal.SIGINT:
                    os.killpg(group, signal.SIGCONT)

    def kill_shell(self) -> None:
        self._process.kill()

    def cwd(self) -> str | None:
        """The shell's working directory, if the system tells."""
        with suppress(OSError):
            return os.readlink(f"/proc/{self.pid}/cwd")
        return None

    def alive(self) -> bool:
        """Whether the shell has not ended."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is None
        # poll() says nothing while the reading thread is about to learn of the end.
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return ended is None

    def in_use(self) -> bool:
        """Whether the shell or one of its background jobs still has the terminal open."""
        return self._reader.is_alive()

    def close(self, *, grace: float = 0.5) -> None:
        """Hang up, and end all processes of the session: SIGHUP first, SIGKILL after `grace` seconds."""
        self._closing.set()
        for number, wait in ((signal.SIGHUP, grace), (signal.SIGKILL, 2.0)):
            deadline = time.monotonic() + wait
            alive = self._signal_members(number)
            while alive and time.monotonic() < deadline:
                time.sleep(0.002)
                alive = members([self.pid])
            if not alive:
                break
        self._reader.join(timeout=2.0)

    def _signal_members(self, number: int) -> set[int]:
        alive = members([self.pid])
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
                if number == signal.SIGHUP:
                    os.kill(pid, signal.SIGCONT)
        # The shell itself, even where the system does not tell its processes.
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        return alive

    def _read(self) -> None:
        ended = False
        while not ended:
            ready, ended = self._watch.poll(None)
            if ready:
                self._forward()
        # What was printed last may still be on its way through the kernel; the end is certain only when no
        # process has the terminal open any more, and a background job may have it for ever.
        with self._using:
            os.close(self._slave)
            self._slave = -1
        deadline = time.monotonic() + 0.5
        while self._readable(0.03) and self._forward() and time.monotonic() < deadline:
            pass
        self._on_exit(self._process.returncode)
        while not self._closing.is_set():
            if self._readable(0.2) and not self._forward():
                break
        self._watch.close()
        self._close_descriptors()

    def _readable(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _forward(self) -> bool:
        """Hand out what can be read now; False if the terminal is closed everywhere."""
        try:
            data = os.read(self._master, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            # EIO is how a pseudo-terminal says that its other end is closed: pty(7).
            return False
        self._on_output(data)
        return bool(data)


def _session_modes(fd: int) -> list[Any]:
    """What a terminal looks like at the start of each action: what is typed is not echoed, what is printed
    is not changed, Ctrl-C interrupts."""
    modes = termios.tcgetattr(fd)
    modes[0] = termios.ICRNL | termios.IXANY
    modes[1] &= ~termios.OPOST
    modes[3] |= termios.ICANON | termios.ISIG | termios.IEXTEN
    modes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ECHOCTL)
    return modes
