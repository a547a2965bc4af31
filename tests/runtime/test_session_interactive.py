"""Interactive programs: lines are sent to them and answers come back, without the echo, round after round."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError, SessionBusyError
from swerex.runtime.abstract import AbstractRuntime, BashObservation, Session
from tests.util import PYTHON, assert_next_is_right, every_term, needs, wait_until

PYTHON_PROMPT = r">>> "
IPYTHON = f"{PYTHON} -m IPython --no-banner"
IPYTHON_PROMPT = r"In \[\d+\]: "
GDB_PROMPT = r"\(gdb\) "
SQLITE_PROMPT = r"sqlite> "
BASH = "PS1='inner> ' bash --norc --noprofile"
BASH_PROMPT = r"inner> "


def ask(session: Session, line: str, *expect: str, timeout: float = 15) -> BashObservation:
    """Send a line to the program in the foreground, or start one, and return what it says."""
    return session.run(line, is_interactive_command=True, expect=list(expect), timeout=timeout)


def leave(session: Session, line: str) -> BashObservation:
    """End the program in the foreground with a line."""
    return session.run(line, is_interactive_quit=True, timeout=15)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of the test's own, for the files that the programs keep."""
    home = tmp_path / "home"
    home.mkdir()
    return home


def start(session: Session, home: Path, program: str, prompt: str) -> None:
    """Start a program with nobody's settings."""
    session.run(f"export HOME={home} IPYTHONDIR={home} PYTHONSTARTUP=", timeout=5)
    ask(session, program, prompt)


# The tools


@every_term
def test_python(session: Session, home: Path) -> None:
    assert_next_is_right(session)
    for _ in range(2):
        start(session, home, PYTHON, PYTHON_PROMPT)
        observation = ask(session, "print(1+1)", PYTHON_PROMPT)
        assert (observation.output, observation.exit_code) == ("2\n", 0)
        assert observation.expect_string == ">>> "
        assert ask(session, "x = 3", PYTHON_PROMPT).output == ""
        assert ask(session, "x", PYTHON_PROMPT).output == "3\n"
        assert ask(session, "def double(n):", r"\.\.\. ").output == ""
        assert ask(session, "    return 2 * n", r"\.\.\. ").output == ""
        assert ask(session, "", PYTHON_PROMPT).output == ""
        assert ask(session, "double(x)", PYTHON_PROMPT).output == "6\n"
        observation = leave(session, "quit()")
        assert (observation.output, observation.exit_code) == ("", 0)
        assert_next_is_right(session)


def test_python_shows_its_banner_when_it_starts(session: Session) -> None:
    assert ask(session, PYTHON, PYTHON_PROMPT).output.startswith("Python 3.")


def test_python_shows_its_errors(session: Session, home: Path) -> None:
    start(session, home, PYTHON, PYTHON_PROMPT)
    observation = ask(session, "1/0", PYTHON_PROMPT)
    assert observation.output.startswith("Traceback (most recent call last):\n")
    assert observation.output.endswith("\nZeroDivisionError: division by zero\n")
    assert observation.exit_code == 0


@every_term
def test_ipython_with_a_simple_prompt(session: Session, home: Path) -> None:
    assert_next_is_right(session)
    start(session, home, f"{IPYTHON} --simple-prompt", IPYTHON_PROMPT)
    for number in range(3):
        assert ask(session, f"print({number} + 1)", IPYTHON_PROMPT).output.strip() == f"{number + 1}"
    assert ask(session, "x = 5", IPYTHON_PROMPT).output.strip() == ""
    assert ask(session, "x", IPYTHON_PROMPT).output.strip() == "Out[5]: 5"
    leave(session, "exit()")
    assert_next_is_right(session)


def test_ipython(session: Session, home: Path) -> None:
    start(session, home, IPYTHON, IPYTHON_PROMPT)
    for number in range(3):
        assert ask(session, f"print({number} + 1)", IPYTHON_PROMPT).output.strip() == f"{number + 1}"
    leave(session, "exit()")
    assert_next_is_right(session)


@every_term
def test_gdb(session: Session, home: Path) -> None:
    needs("gdb")
    assert_next_is_right(session)
    start(session, home, "gdb -q -nx", GDB_PROMPT)
    assert ask(session, "print 6*7", GDB_PROMPT).output == "$1 = 42\n"
    assert ask(session, "print 1", GDB_PROMPT).output == "$2 = 1\n"
    assert ask(session, "set $x = 5", GDB_PROMPT).output == ""
    assert ask(session, "print $x", GDB_PROMPT).output == "$3 = 5\n"
    leave(session, "quit")
    assert_next_is_right(session)


def test_gdb_debugs_a_program(session: Session, home: Path) -> None:
    needs("gdb")
    start(session, home, f"gdb -q -nx --args {PYTHON} -c 'print(6*7)'", GDB_PROMPT)
    ask(session, "set debuginfod enabled off", GDB_PROMPT)
    output = ask(session, "run", GDB_PROMPT).output
    assert "42\n" in output
    assert "exited normally" in output
    leave(session, "quit")
    assert_next_is_right(session)


@every_term
def test_sqlite(session: Session, home: Path) -> None:
    needs("sqlite3")
    assert_next_is_right(session)
    start(session, home, "sqlite3 data", SQLITE_PROMPT)
    assert ask(session, "select 1+1;", SQLITE_PROMPT).output == "2\n"
    assert ask(session, "create table t(x);", SQLITE_PROMPT).output == ""
    assert ask(session, "insert into t values ('a\"b'), (2);", SQLITE_PROMPT).output == ""
    assert ask(session, "select * from t;", SQLITE_PROMPT).output == 'a"b\n2\n'
    leave(session, ".quit")
    assert_next_is_right(session)
    assert session.run("sqlite3 data 'select count(*) from t'", timeout=5).output == "2\n"


@every_term
def test_a_shell_in_the_shell(session: Session, home: Path) -> None:
    session.run("x=outer", timeout=5)
    start(session, home, BASH, BASH_PROMPT)
    assert ask(session, "echo hi", BASH_PROMPT).output == "hi\n"
    assert ask(session, "x=inner; echo $x", BASH_PROMPT).output == "inner\n"
    assert ask(session, "cd /; pwd", BASH_PROMPT).output == "/\n"
    assert ask(session, "false", BASH_PROMPT).exit_code == 0
    leave(session, "exit 0")
    assert_next_is_right(session)
    assert session.run("echo $x", timeout=5).output == "outer\n"


def test_a_shell_in_the_shell_in_the_shell(session: Session) -> None:
    ask(session, BASH, BASH_PROMPT)
    ask(session, "PS1='innermost> ' bash --norc --noprofile", "innermost> ")
    assert ask(session, "echo $SHLVL > level; echo deep", "innermost> ").output == "deep\n"
    ask(session, "exit", BASH_PROMPT)
    assert ask(session, "echo up", BASH_PROMPT).output == "up\n"
    leave(session, "exit 0")
    assert_next_is_right(session)


def test_the_shells_own_read(session: Session) -> None:
    observation = ask(session, "read -p 'name? ' name", r"name\? ")
    assert (observation.output, observation.expect_string) == ("", r"name\? ")
    assert leave(session, "Bob Bobson").output == ""
    assert session.run("echo $name", timeout=5).output == "Bob Bobson\n"


def test_a_script_with_several_questions(session: Session, tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text(
        "read -p 'user: ' user; echo \"hello $user\"\n"
        "read -s -p 'secret: ' secret; echo; echo \"[$secret]\"\n"
    )
    ask(session, "bash setup.sh", "user: ")
    assert ask(session, "Bob", "secret: ").output == "hello Bob\n"
    assert leave(session, "pass word").output == "\n[pass word]\n"
    assert_next_is_right(session)


# Its rules


@every_term
def test_programs_run_with_a_dumb_terminal(session: Session, term: str) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    assert ask(session, "import os; os.environ['TERM']", PYTHON_PROMPT).output == "'dumb'\n"
    leave(session, "quit()")
    assert session.run("echo $TERM", timeout=5).output == ("dumb\n" if term == "unset" else f"{term}\n")


@every_term
@pytest.mark.parametrize(
    "text",
    ["a" * 79, "a" * 300, "a" * 3000, "ä€漢🦖", "!! !a $ ` \\\\", "  spaces  ", "%s %d"],
    ids=["79", "300", "3000", "other scripts", "shell characters", "spaces", "per cent"],
)
def test_a_line_arrives_as_it_is_and_is_not_echoed(session: Session, text: str) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    assert ask(session, f"print('{text}')", PYTHON_PROMPT).output == text.replace("\\\\", "\\") + "\n"
    assert ask(session, "1", PYTHON_PROMPT).output == "1\n"


def test_a_program_without_readline_echoes_nothing_either(session: Session, tmp_path: Path) -> None:
    program = (
        "import sys\nwhile True:\n    print('? ', end='', flush=True)\n    line = sys.stdin.readline()\n"
        "    if not line or line == 'end\\n': break\n    print(ascii(line))\n"
    )
    (tmp_path / "program.py").write_text(program)
    ask(session, f"{PYTHON} program.py", r"\? ")
    assert ask(session, "hello", r"\? ").output == "'hello\\n'\n"
    assert ask(session, "", r"\? ").output == "'\\n'\n"
    assert ask(session, "a\tb", r"\? ").output == "'a\\tb\\n'\n"
    leave(session, "end")
    assert_next_is_right(session)


def test_many_lines_of_output_come_in_full(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    output = ask(session, "print(*range(100_000), sep='\\n')", PYTHON_PROMPT).output
    assert output == "".join(f"{number}\n" for number in range(100_000))


def test_the_earliest_match_counts(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    observation = ask(session, "print('one' + chr(65) + 'two' + chr(66))", "B", "A")
    assert (observation.output, observation.expect_string) == ("one", "A")


def test_the_pattern_that_was_found_is_told(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    expect = ["never", "[0-9]{2}"]
    observation = ask(session, "print('one', 6 * 7, 'two')", *expect)
    assert (observation.output, expect.index(observation.expect_string)) == ("one ", 1)


def test_what_is_expected_of_an_ordinary_command_leaves_a_program_to_talk_to(session: Session) -> None:
    observation = session.run(f"{PYTHON} -q", expect=[PYTHON_PROMPT], timeout=15)
    assert (observation.expect_string, observation.exit_code) == (PYTHON_PROMPT, None)
    assert ask(session, "6 * 7", PYTHON_PROMPT).output == "42\n"
    leave(session, "quit()")
    assert_next_is_right(session)


@pytest.mark.parametrize("pause", ["", "; sleep 0.3"])
def test_what_is_expected_is_found_whether_the_command_has_ended_or_not(
    session: Session, pause: str, tmp_path: Path
) -> None:
    command = f"echo before; echo now; echo after; : > done{pause}"
    observation = session.run(command, expect=["now"], timeout=5)
    assert (observation.output, observation.expect_string) == ("before\n", "now")
    wait_until((tmp_path / "done").exists)
    assert session.interrupt().output == "\nafter\n"
    assert_next_is_right(session)


def test_a_command_that_ends_after_what_is_expected_leaves_the_session_free(session: Session) -> None:
    for _ in range(50):
        assert session.run("echo before; echo now", expect=["now"], timeout=5).exit_code is None
        assert_next_is_right(session)


def test_a_pattern_that_is_no_utf_8_comes_back(session: Session) -> None:
    assert session.run("echo a", expect=["b\udcff|a"], timeout=5).expect_string == "b\udcff|a"


def test_the_status_of_a_program_that_says_what_is_expected_and_ends(session: Session) -> None:
    observation = ask(session, f"{PYTHON} -c 'print(5)'; sleep 0; (exit 3)", "never", "5")
    assert observation.expect_string == "5"
    session.interrupt()
    assert_next_is_right(session)


@pytest.mark.parametrize("line", ["import sys; sys.exit(3)", "import os; os._exit(3)"])
def test_the_status_of_a_program_that_is_quit_is_told_and_no_error(session: Session, line: str) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    assert leave(session, line).exit_code == 3
    assert_next_is_right(session)


def test_the_echo_is_no_match(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    observation = ask(session, "print('before'); print('EN' + 'D') # END", "END")
    assert (observation.output, observation.expect_string) == ("before\n", "END")


def test_a_normal_command_is_refused_while_a_program_is_in_the_foreground(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    begin = time.monotonic()
    with pytest.raises(SessionBusyError):
        session.run("echo N", timeout=5)
    assert time.monotonic() - begin < 0.5
    assert ask(session, "1 + 1", PYTHON_PROMPT).output == "2\n"
    leave(session, "quit()")
    assert_next_is_right(session)


def test_an_answer_that_takes_too_long_is_a_timeout(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    with pytest.raises(CommandTimeoutError) as caught:
        ask(session, "print('a'); import time; time.sleep(60)", PYTHON_PROMPT, timeout=0.5)
    assert caught.value.extra_info["output"] == "a\n"


def test_an_interrupt_returns_to_the_program_if_its_prompt_is_expected(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    ask(session, "x = 5", PYTHON_PROMPT)
    with pytest.raises(CommandTimeoutError):
        ask(session, "import time; time.sleep(60)", PYTHON_PROMPT, timeout=0.5)
    observation = session.interrupt(timeout=5, expect=[PYTHON_PROMPT])
    assert observation.expect_string == ">>> "
    assert "KeyboardInterrupt" in observation.output
    assert ask(session, "x", PYTHON_PROMPT).output == "5\n"
    leave(session, "quit()")
    assert_next_is_right(session)


@pytest.mark.parametrize(
    ("program", "prompt"),
    [(PYTHON, PYTHON_PROMPT), ("gdb -q -nx", GDB_PROMPT), ("sqlite3", SQLITE_PROMPT), (BASH, BASH_PROMPT)],
    ids=["python", "gdb", "sqlite3", "bash"],
)
def test_an_interrupt_ends_the_program(session: Session, program: str, prompt: str) -> None:
    needs(program)
    session.run("x=5", timeout=5)
    ask(session, program, prompt)
    session.interrupt(timeout=0.1, n_retry=1)
    assert_next_is_right(session)
    assert session.run("echo $x", timeout=5).output == "5\n"


@pytest.mark.parametrize("status", [0, 3])
def test_a_program_that_ends_before_it_says_what_is_expected(session: Session, status: int) -> None:
    command = f"{PYTHON} -c 'print(5); exit({status})'"
    observation = session.run(
        command, is_interactive_command=True, expect=[PYTHON_PROMPT], timeout=5, check="silent"
    )
    assert (observation.output, observation.exit_code) == ("5\n", status)
    assert observation.expect_string == ""
    assert_next_is_right(session)


def test_a_program_that_ends_at_a_line(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    line = "import os; print(5, flush=True); os._exit(3)"
    observation = session.run(
        line, is_interactive_command=True, expect=[PYTHON_PROMPT], timeout=5, check="silent"
    )
    assert (observation.output, observation.exit_code) == ("5\n", 3)
    assert_next_is_right(session)


def test_a_line_that_does_not_end_the_program_is_a_timeout(session: Session) -> None:
    ask(session, PYTHON, PYTHON_PROMPT)
    with pytest.raises(CommandTimeoutError):
        session.run("1 + 1", is_interactive_quit=True, timeout=0.3)
    session.interrupt(timeout=0.1, n_retry=1)
    assert_next_is_right(session)


def test_a_program_may_be_part_of_a_command(session: Session) -> None:
    ask(session, f"mkdir sub; cd sub && {PYTHON}", PYTHON_PROMPT)
    assert ask(session, "import os; os.path.basename(os.getcwd())", PYTHON_PROMPT).output == "'sub'\n"
    leave(session, "quit()")
    assert session.run('echo "${PWD##*/}"', timeout=5).output == "sub\n"


def test_a_program_leaves_its_state_in_the_shell(session: Session) -> None:
    ask(session, f"x=5; {PYTHON}; y=6", PYTHON_PROMPT)
    leave(session, "quit()")
    assert session.run("echo $x $y", timeout=5).output == "5 6\n"


def test_a_start_that_is_no_syntax_is_refused(session: Session) -> None:
    with pytest.raises(BashIncorrectSyntaxError):
        ask(session, "python 'open", PYTHON_PROMPT)
    assert_next_is_right(session)


def test_two_sessions_hold_a_program_each(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name + "-a") as one, runtime.session(name + "-b") as other:
        for session in (one, other):
            ask(session, PYTHON, PYTHON_PROMPT)
        for number, session in enumerate((one, other)):
            ask(session, f"x = {number}", PYTHON_PROMPT)
        assert [ask(session, "x", PYTHON_PROMPT).output for session in (one, other)] == ["0\n", "1\n"]


def test_a_session_with_a_program_can_be_closed(runtime: AbstractRuntime, name: str) -> None:
    with runtime.session(name) as session:
        ask(session, PYTHON, PYTHON_PROMPT)
    with runtime.session(name) as session:
        assert_next_is_right(session)


def test_a_secret_prompt_is_a_regular_expression(session: Session) -> None:
    observation = ask(session, "printf 'a\\nPassword for bob: '; read -s x", r"(?i)password for \w+: $")
    assert (observation.output, observation.expect_string) == ("a\n", r"(?i)password for \w+: $")
    assert leave(session, "secret").output == ""
