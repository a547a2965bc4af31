"""Framing: whatever a command is or prints, its observation and the next one hold their own output only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swerex.exceptions import BashIncorrectSyntaxError, NonZeroExitCodeError
from swerex.runtime.abstract import Session
from tests.util import CHECKS, assert_next_is_right, every_term, wait_until

LONG = "".join(f"line {number}\t$x `y` \\ '\"\n" for number in range(300))

# Each command, and what it prints.
COMMANDS = {
    "nothing": ("", ""),
    "blank lines": ("\n  \n\t\n", ""),
    "a comment": ("# echo no", ""),
    "a command and a comment": ("echo yes # echo no", "yes\n"),
    "a line end at the end": ("echo yes\n", "yes\n"),
    "a semicolon at the end": ("echo yes;", "yes\n"),
    "several lines": ("echo a\necho b\n\necho c", "a\nb\nc\n"),
    "a quoted heredoc": ("cat <<'EOF'\n$HOME `date` \\\nEOF", "$HOME `date` \\\n"),
    "a heredoc": ("x=5\ncat <<EOF\n[$x]\nEOF\n", "[5]\n"),
    "a nested if with a heredoc": (
        "if true; then\n  if true; then\n    cat <<EOF\ndeep\nEOF\n  fi\nfi",
        "deep\n",
    ),
    "a 300-line heredoc": (f"cat <<'EOF'\n{LONG}EOF", LONG),
    "a heredoc without its end": ("cat 2>/dev/null <<EOF\nabc\n", None),
    "a here-string": ("cat <<< 'a b'", "a b\n"),
    "a function": ("f() {\n  echo in f\n}\nf", "in f\n"),
    "a case block": ("case abc in\n  a*) echo a ;;\n  *) echo other ;;\nesac", "a\n"),
    "a loop": ("for i in 1 2 3; do\n  echo $i\ndone", "1\n2\n3\n"),
    "an empty array": ("A=()", ""),
    "a test of nothing": ("[[ $x == $x ]]", ""),
    "a group": ("{ echo a; echo b; }", "a\nb\n"),
    "a subshell": ("(echo a; exit 0)", "a\n"),
    "a background job": ("sleep 0.1 &", ""),
    "a backslash at the end": ("echo a \\", "a\n"),
    "a continued line": ("echo a \\\n  b", "a b\n"),
    "no line end in the output": ("printf abc", "abc"),
    "spaces round the output": ("printf '  x  '", "  x  "),
    "only line ends in the output": ("printf '\\n\\n\\n'", "\n\n\n"),
    "the output of a prompt": ("printf '$ \\n# \\n> \\nroot@host:~# '", "$ \n# \n> \nroot@host:~# "),
    "an output of carriage returns": ("printf 'a\\rb\\r\\nc\\r'", "a\rb\r\nc\r"),
    "an output of terminal codes": (
        r"printf '\e]133;D;0\a\e[?2004h\e[6n\e[2J'",
        "\x1b]133;D;0\x07\x1b[?2004h\x1b[6n\x1b[2J",
    ),
    "an output of control characters": (r"printf '\001\002\003\004\032\034'", "\x01\x02\x03\x04\x1a\x1c"),
    "standard error": ("echo a; echo b >&2; echo c", "a\nb\nc\n"),
    "a return": ("echo a; return 0; echo b", "a\n"),
    "everything the shell knows": ("set; declare -f; alias; env; trap -p; jobs -l; shopt; true", None),
    "its own arguments": ("cat /proc/$$/cmdline /proc/$$/environ", None),
    "its own file": ('cat "${BASH_SOURCE[@]}" 2>/dev/null || true', None),
    "the history": ("history; fc -l 2>/dev/null || true", ""),
}


@every_term
@pytest.mark.parametrize("which", COMMANDS)
def test_output_is_the_commands_own(session: Session, which: str) -> None:
    command, output = COMMANDS[which]
    for check in CHECKS:
        observation = session.run(command, timeout=10, check=check)
        assert observation.exit_code == (None if check == "ignore" else 0)
        assert observation.failure_reason == ""
        if output is not None:
            assert observation.output == output
        assert_next_is_right(session)


def test_10_mb_of_output_come_in_full(session: Session, tmp_path: Path) -> None:
    text = "".join(f"{number:09}\n" for number in range(1_000_000))
    (tmp_path / "text").write_text(text)
    assert session.run("cat text", timeout=30).output == text
    assert_next_is_right(session)


@every_term
def test_marks_of_earlier_commands_mean_nothing(session: Session, tmp_path: Path) -> None:
    session.run('set -T; trap \'printf "%s\\n" "$BASH_COMMAND" >> seen\' DEBUG', timeout=5)
    session.run("echo a", timeout=5)
    session.run("echo b", timeout=5)
    session.run("trap - DEBUG; set +T", timeout=5)
    seen = (tmp_path / "seen").read_text()
    assert "echo b" in seen
    assert session.run("cat seen", timeout=5).output == seen
    session.run('grep printf seen > marks; while read -r line; do eval "$line"; done < marks', timeout=5)
    assert_next_is_right(session)


@every_term
def test_marks_that_went_into_a_file_mean_nothing(session: Session, tmp_path: Path) -> None:
    session.run("exec 8>&1 > seen", timeout=5)
    session.run("echo a", timeout=5)
    session.run("exec >&8 8>&-", timeout=5)
    assert session.run("cat seen", timeout=5).output == (tmp_path / "seen").read_text()
    assert_next_is_right(session)


@pytest.mark.parametrize(
    "command",
    [
        "touch ran; if",
        "touch ran\nif true; then\n  echo a\n",
        "touch ran; echo )",
        "touch ran\necho 'open",
        'touch ran\necho "open',
        "touch ran\nfor x in; do",
        "touch ran\n}",
        "touch ran\necho $(date",
        "touch ran\ncase x in",
        "touch ran && && true",
    ],
)
def test_nothing_runs_if_the_syntax_is_wrong(session: Session, tmp_path: Path, command: str) -> None:
    with pytest.raises(BashIncorrectSyntaxError) as caught:
        session.run(command, timeout=5)
    assert re.search("syntax error|unexpected EOF", caught.value.extra_info["bash_stderr"])
    assert "bash_stdout" in caught.value.extra_info
    assert not (tmp_path / "ran").exists()
    assert_next_is_right(session)


@every_term
def test_a_status_is_raised(session: Session) -> None:
    with pytest.raises(NonZeroExitCodeError) as caught:
        session.run("echo text; (exit 3)", timeout=5, check="raise")
    assert caught.value.extra_info["exit_code"] == 3
    assert caught.value.extra_info["output"] == "text\n"
    assert_next_is_right(session)


@every_term
def test_a_status_is_reported(session: Session) -> None:
    for status in (1, 2, 7, 126, 127, 128, 130, 255):
        observation = session.run(f"echo text; (exit {status})", timeout=5, check="silent")
        assert (observation.output, observation.exit_code) == ("text\n", status)
        assert observation.failure_reason == ""


@every_term
def test_a_status_is_ignored(session: Session) -> None:
    observation = session.run("echo text; false", timeout=5, check="ignore")
    assert (observation.output, observation.exit_code) == ("text\n", None)


def test_error_msg_stands_before_the_message(session: Session) -> None:
    with pytest.raises(NonZeroExitCodeError, match=r"^The build failed"):
        session.run("false", timeout=5, error_msg="The build failed")


def test_a_signal_is_reported_as_a_shell_does(session: Session) -> None:
    assert session.run("sh -c 'kill -9 $$' 2>/dev/null", timeout=5, check="silent").exit_code == 137


def test_a_return_ends_the_command_with_its_status(session: Session) -> None:
    observation = session.run("echo a; return 4; echo b", timeout=5, check="silent")
    assert (observation.output, observation.exit_code) == ("a\n", 4)


@every_term
@pytest.mark.parametrize(
    "command",
    [
        "set -u; echo $no_such; echo never",
        "echo ${no_such?missing}; echo never",
        "f() { echo ${no_such:?missing}; }; f; echo never",
        "echo $((1 / 0)); echo never",
        "readonly r=1; r=2; echo never",
        "if true; then echo ${no_such?missing}; echo never; fi",
    ],
)
def test_a_command_that_bash_gives_up_ends(session: Session, command: str) -> None:
    observation = session.run(command, timeout=5, check="silent")
    assert "never" not in observation.output
    assert observation.exit_code
    assert_next_is_right(session)


def test_an_error_message_shows_no_file_of_the_runtime(session: Session) -> None:
    output = session.run("no-such-command", timeout=5, check="silent").output
    assert "no-such-command: command not found" in output
    assert "/tmp" not in output


@every_term
def test_output_of_a_job_between_two_commands_is_not_theirs(session: Session, tmp_path: Path) -> None:
    session.run("mkfifo go; (read x < go; echo late; touch done) &", timeout=5)
    (tmp_path / "go").write_text("now\n")
    wait_until(lambda: (tmp_path / "done").exists())
    assert_next_is_right(session)
