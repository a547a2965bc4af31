"""Commands arrive, and outputs come back, byte for byte."""

from __future__ import annotations

import random
import string
import tempfile
from pathlib import Path

from swerex.runtime.abstract import Session
from swerex.testing.tools import equal, next_is_right, prints, upload, write


def blanks(session: Session) -> None:
    """TABs, blanks and carriage returns arrive and come back."""
    for text in ("\ta\t\tb\t", "  a  ", "a\rb\r\nc", "a\u00a0b\u2028c"):
        prints(session, _quoted(text), text)


def exclamation_marks(session: Session) -> None:
    """Exclamation marks are no history."""
    text = "hi! !! !$ !x ^a^b^ #!"
    prints(session, _quoted(text), text)
    prints(session, 'echo "hi!! !$ !echo"', "hi!! !$ !echo\n")


def control_characters(session: Session) -> None:
    """Control characters, those of the terminal too, arrive and come back."""
    for text in ("a\x03b", "a\x04b", "a\x1ab", "a\x16b", "a\x7fb\x08c\x15d\x17e", "a\x1b[A\x1b[31mb"):
        prints(session, _quoted(text), text)
    text = "".join(map(chr, [*range(1, 32), 127]))
    prints(session, _quoted(text), text)


def special_characters(session: Session) -> None:
    """Backslashes, quotes, dollars, per cent and glob characters arrive and come back."""
    for text in ("\\ \\\\ \\n \\t \\x41 \\", "' \" ` $( ${x} ''", "%s %d * ? [a] ~ {a,b}"):
        prints(session, _quoted(text), text)


def other_scripts(session: Session) -> None:
    """Text of any script arrives and comes back."""
    for text in ("ä € 漢字 🦖 é \u200b", "\x80\x85\x9b\ufeff"):
        prints(session, _quoted(text), text)


def long_lines(session: Session) -> None:
    """Lines of 20 kB, and 5000 lines, arrive and come back."""
    for text in ("0123456789" * 2000, "x\n" * 5000):
        prints(session, _quoted(text), text)


def a_large_command(session: Session) -> None:
    """A command of 1 MB arrives and comes back."""
    letters = string.printable + "\x03\x04\x7fäß€漢🦖!!!\t\t"
    text = "".join(random.Random(1).choices(letters.replace("'", ""), k=1_000_000))
    equal(session.run(_quoted(text), timeout=60).output, text)
    next_is_right(session)


def all_bytes(session: Session, folder: str) -> None:
    """Output may hold every byte; what is no UTF-8 comes as \\xNN."""
    data = bytes(range(256)) + bytes(reversed(range(256))) + random.Random(2).randbytes(100_000)
    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "data").write_bytes(data)
        upload(session.runtime, Path(source) / "data", f"{folder}/data")
    prints(session, "cat data", data.decode("utf-8", "backslashreplace"))


def nuls(session: Session) -> None:
    """NULs in the output stay."""
    prints(session, r"printf '\0a\0\0b\0'", "\0a\0\0b\0")


def broken_characters(session: Session) -> None:
    """A character that is cut off or broken comes as \\xNN, and nothing else suffers."""
    for shown in (r"\xff\xfe", r"a\xe2\x82", r"\xe2\x82\n", r"\xc3(", r"\xed\xa0\x80", r"\xf0\x9f\xa6"):
        prints(session, f"printf '{shown}'", shown.replace("\\n", "\n"))


def characters_in_pieces(session: Session, folder: str) -> None:
    """Characters of several bytes are whole, wherever the output is cut on its way."""
    text = "ä€🦖x" * 50_000
    write(session.runtime, f"{folder}/text", text)
    prints(session, "cat text", text)
    prints(session, r"printf '\xf0\x9f'; sleep 0.1; printf '\xa6\x96'", "🦖")


def empty_input(session: Session) -> None:
    """A command finds nothing on its input."""
    prints(session, 'read -t 0.1 line; echo "[$line]"', "[]\n")


def carriage_returns(session: Session) -> None:
    """A carriage return at the end of a command belongs to its last word."""
    prints(session, "printf %s a\r\n", "a\r")


def syntax_of_the_shell(session: Session) -> None:
    """Aliases and shell options count when the syntax is checked."""
    session.run("alias when='if true; then'; shopt -s extglob; : > a; : > b; : > c", timeout=10)
    prints(session, "when echo yes; fi", "yes\n")
    prints(session, "echo !(b)", "a c\n")


def a_burst_and_its_status(session: Session) -> None:
    """A burst of output and the status after it belong together."""
    observation = session.run("printf '%0300000d' 0; (exit 9)", timeout=10, check="silent")
    equal((len(observation.output), observation.exit_code), (300_000, 9))


def _quoted(text: str) -> str:
    """A command that prints `text`, which stands in it as it is."""
    return "printf %s '" + text.replace("'", "'\\''") + "'"
