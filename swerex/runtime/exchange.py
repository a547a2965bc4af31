"""One command's passage through a shell: the lines that make the shell run it, and what came back.

The shell prints a mark before and after the command, and each mark carries a nonce of this command alone.
What stands between them is its output, whatever prompts, job notices or traces stand around; and nothing that
a command prints can be taken for a mark.
"""

from __future__ import annotations

import codecs
import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from swerex.runtime.memory import oom_kills

__all__ = ["Exchange", "Match"]

_MARK_LENGTH = 32
"""No mark is longer."""


class Match(NamedTuple):
    """Something expected, found between two positions of the output."""

    begin: int
    end: int
    pattern: str
    """Which of the patterns was found."""


_LONGEST_MATCH = 1 << 14
"""A match of `expect` that arrives in pieces is found if it is no longer than this, in bytes."""


class Exchange:
    """A command and, as `feed` gets it, its output.

    Not safe for threads by itself: the session's lock guards it.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        """`send` gives the shell further lines, should they be needed."""
        self._send = send
        self._nonce = secrets.token_hex(8)
        self._marks = re.compile(rb"\x1e" + self._nonce.encode() + rb"([SABC])(\d*)\x1e")
        self._buffer = bytearray()
        self._reported = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._noise_from: int | None = None
        self._open = False
        self.over = False
        self.status: int | None = None
        """The command's exit status, once it is over."""
        self.shell_ended = False
        """The shell ended, and the command with it; `status` is the shell's then."""
        self.lost = ""
        """What became of the shell that ended."""
        self.settled = False
        """A call has reported the end."""
        self.may_end = False
        """It has printed what was expected of it, which may have been the last thing that it had to do."""
        self.unreported = False
        """The shell could not report the end of the command, and `status` says nothing."""
        self.oom_kills = oom_kills()
        """How many processes here had been killed for want of memory before it began."""
        self.awaited = 0
        """How many calls wait for this command."""
        self.running = False
        """One of them is the call that runs it, and will report its output."""

    def script(self, text: bytes, last_status: int, setup: bytes = b"") -> bytes:
        """The file for the shell to source; `setup` is to run before the command.

        The start mark stands in the command's own first line, so that line numbers stay right, and the
        command finds `last_status` in ``$?``.
        """
        status = b""
        if last_status:
            # The left side of && neither ends a shell with `set -e` nor runs a trap on ERR.
            status = b" (\\exit %d) && \\builtin :;" % last_status
        # The last word of what stands before the command is in its $_.
        begin = b"%s%s \\builtin :;%s" % (setup, self._print("S"), status)
        return b"{ %s } >/dev/null 2>&1; %s\n" % (begin, text)

    def lines(self, script: Path, terminal: str, prefix: bytes = b"", reporter: Path | None = None) -> bytes:
        """What the shell is to read. `prefix` stands before the sourcing of the script.

        `reporter` is a script that prints what stands in its arguments as a mark, and may do more.

        The empty line makes it report finished jobs now and not within the output. The second mark is for
        a command that is interrupted: the shell then drops the rest of the first line.
        """
        source = b"%s\\. %s <%s" % (prefix, _quote(str(script)), _quote(terminal))
        report = self._report("A")
        if reporter:
            report = b'{ \\. %s %sA "$?"; } >/dev/null 2>&1' % (_quote(str(reporter)), self._nonce.encode())
        return b"\n%s; %s\n%s\n" % (source, report, self._report("B"))

    def _print(self, kind: str, status: str = "") -> bytes:
        return rf"\builtin printf '\036%s\036' {self._nonce}{kind}{status} >/dev/tty;".encode()

    def _report(self, kind: str) -> bytes:
        # Traces and the output of DEBUG traps go where the group's output goes.
        return b"{ %s } >/dev/null 2>&1" % self._print(kind, '"$?"')

    def feed(self, data: bytes) -> None:
        """Take what the terminal printed."""
        if self.over:
            return
        start = max(0, len(self._buffer) - _MARK_LENGTH)
        self._buffer += data
        while not self.over and (found := self._marks.search(self._buffer, start)):
            kind, status, begin, end = found[1], found[2], found.start(), found.end()
            # A match keeps its bytearray from being resized.
            del found
            if kind == b"S":
                del self._buffer[:end]
                start = 0
                self._open = True
            elif kind == b"A":
                del self._buffer[begin:]
                self._end(int(status))
            elif kind == b"B" and self._noise_from is not None:
                del self._buffer[begin:end]
                start = begin
            elif kind == b"B":
                # The command was interrupted. A prompt stands before this mark; how it looks is what
                # stands before the next one.
                self.status = int(status)
                del self._buffer[begin:end]
                self._noise_from = start = begin
                self._send(self._report("C") + b"\n")
            else:
                assert self._noise_from is not None
                noise = b"\n" + bytes(self._buffer[self._noise_from : begin])
                del self._buffer[self._noise_from :]
                if self._buffer.endswith(noise, self._reported):
                    del self._buffer[-len(noise) :]
                self._end(self.status or 0)

    def ask_again(self) -> None:
        """Let a shell that waits for a line, and whose report was lost, report once more."""
        self._send(self._report("C" if self._noise_from is not None else "B") + b"\n")

    def shell_exit(self, status: int) -> None:
        """The shell has ended; all that it printed was fed."""
        if not self.over:
            self.shell_ended = True
            self._end(status)

    def _end(self, status: int) -> None:
        self.over = True
        self.status = status

    def report(self, end: int | None = None) -> str:
        """The output that no earlier call reported, up to the position `end`."""
        if not (self._open or self.over):
            return ""
        end = len(self._buffer) if end is None else end
        part = bytes(self._buffer[self._reported : end])
        self._reported = max(self._reported, end)
        return self._decoder.decode(part, final=self.over and end >= len(self._buffer))

    def report_until(self, match: Match | None) -> str:
        """The output that no earlier call reported, up to the match, which counts as reported too."""
        output = self.report(match.begin if match else None)
        if match:
            self.report(match.end)
        return output

    @property
    def unreported_size(self) -> int:
        """How many bytes of output no call has reported."""
        return len(self._buffer) - self._reported

    def forget(self) -> None:
        """Free the memory of output that was reported, once the command is over."""
        if self.over and self._reported >= len(self._buffer):
            self._buffer.clear()
            self._reported = 0

    def follow(self) -> Callable[[], str]:
        """A function that returns the output since its last call, beside what `report` does."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        position = self._reported

        def more() -> str:
            nonlocal position
            if not (self._open or self.over):
                return ""
            end = len(self._buffer)
            if not self.over:
                # The last bytes may be a mark that is still arriving.
                mark = self._buffer.rfind(b"\x1e", max(position, end - _MARK_LENGTH))
                end = mark if mark >= 0 else end
            part = bytes(self._buffer[position:end])
            position = max(position, end)
            return decoder.decode(part, final=self.over)

        return more

    def expect(self, patterns: Sequence[re.Pattern[str]]) -> Callable[[], Match | None]:
        """A function that looks for the patterns in what is printed from now on.

        It returns the first match. The search stays linear in the output.
        """
        first = searched = len(self._buffer)
        if not patterns:
            return lambda: None
        # Here, since most servers never need it.
        from pexpect.expect import searcher_re

        def search() -> Match | None:
            nonlocal searched
            if not self._open:
                return None
            start = max(first, searched - _LONGEST_MATCH)
            searched = len(self._buffer)
            # Surrogates make positions in the text into positions in the bytes again.
            text = self._buffer[start:].decode("utf-8", "surrogateescape")
            searcher = searcher_re(patterns)
            index = searcher.search(text, len(text))
            if index < 0:
                return None
            begin = start + len(text[: searcher.start].encode("utf-8", "surrogateescape"))
            end = begin + len(text[searcher.start : searcher.end].encode("utf-8", "surrogateescape"))
            return Match(begin, end, patterns[index].pattern)

        return search


def _quote(text: str) -> bytes:
    return shlex.quote(text).encode("utf-8", "surrogateescape")
