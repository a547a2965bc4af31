"""Fidelity: commands arrive, and outputs come back, byte for byte."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from swerex.runtime.abstract import Session
from tests.util import PYTHON, assert_next_is_right, every_term


def quoted(text: str) -> str:
    """A command that prints `text`, which stands in it as it is."""
    return "printf %s '" + text.replace("'", "'\\''") + "'"


TEXTS = {
    "tabs": "\ta\t\tb\t",
    "exclamation marks": "hi! !! !$ !x ^a^b^ #!",
    "an interrupt character": "a\x03b",
    "an end-of-file character": "a\x04b",
    "a suspend character": "a\x1ab",
    "a quote-next character": "a\x16b",
    "erase characters": "a\x7fb\x08c\x15d\x17e",
    "an escape": "a\x1b[A\x1b[31mb",
    "carriage returns": "a\rb\r\nc",
    "all control characters": "".join(map(chr, [*range(1, 32), 127])),
    "backslashes": "\\ \\\\ \\n \\t \\x41 \\",
    "quotes": "' \" ` $( ${x} ''",
    "per cent and glob characters": "%s %d * ? [a] ~ {a,b}",
    "other scripts": "ä € 漢字 🦖 é \u200b",
    "C1 controls and odd spaces": "\x80\x85\x9b\xa0\u2028\ufeff",
    "a line of 20 kB": "0123456789" * 2000,
    "many short lines": "x\n" * 5000,
}


def test_nothing_of_ours_is_in_the_last_word(session: Session) -> None:
    session.run("true some word", timeout=5)
    assert session.run("echo $_", timeout=5).output == ":\n"


@every_term
@pytest.mark.parametrize("which", TEXTS)
def test_text_passes_unchanged(session: Session, which: str) -> None:
    assert session.run(quoted(TEXTS[which]), timeout=10).output == TEXTS[which]
    assert_next_is_right(session)


@every_term
def test_exclamation_marks_in_double_quotes_are_no_history(session: Session) -> None:
    assert session.run('echo "hi!! !$ !echo"', timeout=5).output == "hi!! !$ !echo\n"


@every_term
def test_a_command_of_1_mb_passes_unchanged(session: Session) -> None:
    letters = string.printable + "\x03\x04\x7fäß€漢🦖!!!\t\t"
    text = "".join(random.Random(1).choices(letters.replace("'", ""), k=1_000_000))
    assert session.run(quoted(text), timeout=20).output == text
    assert_next_is_right(session)


@every_term
def test_all_bytes_pass_unchanged(session: Session, tmp_path: Path) -> None:
    data = bytes(range(256)) + bytes(reversed(range(256)))
    (tmp_path / "data").write_bytes(data)
    assert session.run("cat data", timeout=5).output == data.decode("utf-8", "backslashreplace")


@every_term
def test_nuls_in_the_output_are_kept(session: Session) -> None:
    assert session.run(r"printf '\0a\0\0b\0'", timeout=5).output == "\0a\0\0b\0"


@every_term
@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"a\xe2\x82", b"\xe2\x82\n", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f\xa6"]
)
def test_broken_utf8_is_escaped(session: Session, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data").write_bytes(data)
    assert session.run("cat data", timeout=5).output == data.decode("utf-8", "backslashreplace")
    assert_next_is_right(session)


def test_a_megabyte_of_random_bytes_passes_unchanged(session: Session, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(1_000_000)
    (tmp_path / "data").write_bytes(data)
    assert session.run("cat data", timeout=10).output == data.decode("utf-8", "backslashreplace")


def test_characters_of_several_bytes_are_never_cut(session: Session, tmp_path: Path) -> None:
    text = "ä€🦖x" * 200_000
    (tmp_path / "text").write_text(text, encoding="utf-8")
    assert session.run("cat text", timeout=10).output == text


def test_a_character_that_comes_in_pieces_is_whole(session: Session, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "for byte in '🦖€'.encode():\n"
        "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.02)\n"
    )
    (tmp_path / "program.py").write_text(program)
    assert session.run(f"{PYTHON} program.py", timeout=10).output == "🦖€"


@every_term
def test_a_background_job_may_stand_on_a_line(session: Session) -> None:
    assert session.run("sleep 0.1 &\necho b", timeout=5).output == "b\n"
    session.run("wait", timeout=5)
    assert_next_is_right(session)


@every_term
def test_a_background_job_may_stand_in_a_line(session: Session) -> None:
    assert session.run("sleep 0.1 & echo b", timeout=5).output == "b\n"


@every_term
def test_a_command_finds_nothing_on_its_input(session: Session) -> None:
    observation = session.run('read -t 0.1 line; echo "[$line]"', timeout=5)
    assert observation.output == "[]\n"
    assert_next_is_right(session)


def test_a_line_end_of_windows_belongs_to_the_word(session: Session) -> None:
    assert session.run("printf %s a\r\n", timeout=5).output == "a\r"


def test_an_alias_that_holds_half_a_statement_is_no_syntax_error(session: Session) -> None:
    session.run("alias when='if true; then'", timeout=5)
    assert session.run("when echo yes; fi", timeout=5).output == "yes\n"


def test_a_shell_option_that_changes_the_syntax_counts(session: Session) -> None:
    session.run("shopt -s extglob; touch a b c", timeout=5)
    assert session.run("echo !(b)", timeout=5).output == "a c\n"


def test_the_output_of_a_large_burst_and_its_status_belong_together(session: Session) -> None:
    observation = session.run("head -c 300000 /dev/zero | tr '\\0' x; (exit 9)", timeout=10, check="silent")
    assert (len(observation.output), observation.exit_code) == (300_000, 9)
