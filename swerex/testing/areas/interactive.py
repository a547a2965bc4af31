"""Lines go to a program in the foreground and its answers come back, round after round, without the echo."""

from __future__ import annotations

from swerex.exceptions import BashIncorrectSyntaxError, CommandTimeoutError, SessionBusyError
from swerex.runtime.abstract import AbstractRuntime, BashObservation, Session
from swerex.testing.tools import equal, needs, new_name, next_is_right, raised, true, within, write

_BASH = "PS1='inner> ' bash --norc --noprofile"
_BASH_PROMPT = "inner> "
_PYTHON_PROMPT = ">>> "


def a_shell_in_the_shell(session: Session) -> None:
    """A bash inside of the session, several rounds, between normal commands."""
    session.run("x=outer", timeout=10)
    for _ in range(2):
        _ask(session, _BASH, _BASH_PROMPT)
        observation = _ask(session, "echo hi", _BASH_PROMPT)
        equal((observation.output, observation.exit_code, observation.expect_string), ("hi\n", 0, "inner> "))
        equal(_ask(session, "x=inner; echo $x; cd /; pwd", _BASH_PROMPT).output, "inner\n/\n")
        equal(_ask(session, "false", _BASH_PROMPT).output, "")
        equal(_leave(session, "exit 0").output.replace("exit\n", ""), "", "the output of the end")
        next_is_right(session)
    equal(session.run("echo $x", timeout=10).output, "outer\n")


def questions(session: Session, folder: str) -> None:
    """`read` with a prompt, and a script that asks several questions."""
    observation = _ask(session, "read -p 'name? ' name", r"name\? ")
    equal((observation.output, observation.expect_string), ("", r"name\? "))
    equal(_leave(session, "Bob Bobson").output, "")
    equal(session.run("echo $name", timeout=10).output, "Bob Bobson\n")
    script = (
        "read -p 'user: ' user; echo hello $user\nread -s -p 'secret: ' secret; echo; echo \"[$secret]\"\n"
    )
    write(session.runtime, f"{folder}/setup.sh", script)
    _ask(session, "bash setup.sh", "user: ")
    equal(_ask(session, "Bob", "secret: ").output, "hello Bob\n")
    equal(_leave(session, "pass word").output, "\n[pass word]\n")
    next_is_right(session)


def echoes(session: Session, folder: str) -> None:
    """A line arrives as it is, however long, and its echo is not in the output."""
    program = 'while printf "? "; IFS= read -r line && [ "$line" != end ]; do printf "[%s]\\n" "$line"; done'
    write(session.runtime, f"{folder}/program", program)
    _ask(session, "bash program", r"\? ")
    for line in ("hello", "", "a\tb", "  spaces  ", "ä€漢🦖", "!! !a $ ` \\ %s", "a" * 79, "a" * 3000):
        equal(_ask(session, line, r"\? ").output, f"[{line}]\n")
    _leave(session, "end")
    next_is_right(session)


def echoes_of_a_line_editor(session: Session) -> None:
    """The echo of a program with a line editor of its own is not in the output either."""
    _ask(session, _BASH, _BASH_PROMPT)
    for text in ("b" * 79, "b" * 300, "b c  d"):
        equal(_ask(session, f"echo '{text}'", _BASH_PROMPT).output, f"{text}\n")
    _leave(session, "exit 0")
    next_is_right(session)


def expectations(session: Session) -> None:
    """`expect` takes regular expressions; the earliest match counts and is told."""
    _ask(session, _BASH, _BASH_PROMPT)
    observation = _ask(session, "printf 'one%stwo%s\\n' 1 2", "two2", "e1")
    equal((observation.output, observation.expect_string), ("on", "e1"))
    _leave(session, "exit 0")
    observation = _ask(session, "printf 'a\\nPassword for bob: '; read -s x", r"(?i)password for \w+: $")
    equal((observation.output, observation.expect_string), ("a\n", r"(?i)password for \w+: $"))
    _leave(session, "secret")
    next_is_right(session)
    raised(ValueError, _ask, session, _BASH, "(")
    next_is_right(session)


def normal_commands_meanwhile(session: Session) -> None:
    """A normal command is refused at once while a program is in the foreground."""
    _ask(session, _BASH, _BASH_PROMPT)
    with within(5, "the SessionBusyError"):
        raised(SessionBusyError, session.run, "echo N", timeout=10)
    equal(_ask(session, "echo 2", _BASH_PROMPT).output, "2\n")
    _leave(session, "exit 0")
    next_is_right(session)


def answers_that_are_late(session: Session) -> None:
    """An answer that takes too long is a CommandTimeoutError with the output."""
    _ask(session, _BASH, _BASH_PROMPT)
    error = raised(CommandTimeoutError, _ask, session, "echo a; sleep 60", _BASH_PROMPT, timeout=0.3)
    equal(error.extra_info["output"], "a\n", "extra_info['output']")
    session.interrupt(timeout=0.1, n_retry=1)
    next_is_right(session)


def interrupts(session: Session) -> None:
    """An interrupt ends the program and leaves the session's state."""
    session.run("x=5", timeout=10)
    _ask(session, _BASH, _BASH_PROMPT)
    session.interrupt(timeout=0.1, n_retry=1)
    next_is_right(session)
    equal(session.run("echo $x", timeout=10).output, "5\n")


def programs_that_end(session: Session) -> None:
    """A program that ends before it prints what is expected ends the action."""
    for status in (0, 3):
        command = f"bash -c 'echo 5; exit {status}'"
        observation = _ask(session, command, _BASH_PROMPT, check="silent")
        equal((observation.output, observation.exit_code, observation.expect_string), ("5\n", status, ""))
        next_is_right(session)
    _ask(session, _BASH, _BASH_PROMPT)
    equal(_ask(session, "exec sh -c 'exit 3'", _BASH_PROMPT, check="silent").exit_code, 3)
    next_is_right(session)


def ends_that_are_none(session: Session) -> None:
    """To end no program does nothing, and a line that ends nothing is a timeout."""
    equal(_leave(session, "exit 0").exit_code, 0)
    next_is_right(session)
    _ask(session, _BASH, _BASH_PROMPT)
    raised(CommandTimeoutError, session.run, "echo a", is_interactive_quit=True, timeout=0.3)
    session.interrupt(timeout=0.1, n_retry=1)
    next_is_right(session)


def parts_of_commands(session: Session) -> None:
    """A program may be a part of a command, which goes on after it."""
    _ask(session, f"x=5; mkdir sub; cd sub; {_BASH}; y=6", _BASH_PROMPT)
    _leave(session, "exit 0")
    equal(session.run('echo $x $y "${PWD##*/}"', timeout=10).output, "5 6 sub\n")
    raised(BashIncorrectSyntaxError, _ask, session, "bash 'open", _BASH_PROMPT)
    next_is_right(session)


def several_sessions(runtime: AbstractRuntime) -> None:
    """Two sessions hold a program each, and can be closed with it."""
    names = new_name(), new_name()
    with runtime.session(names[0]) as one, runtime.session(names[1]) as other:
        for number, session in enumerate((one, other)):
            _ask(session, _BASH, _BASH_PROMPT)
            _ask(session, f"x={number}", _BASH_PROMPT)
        outputs = [_ask(session, "echo $x", _BASH_PROMPT).output for session in (one, other)]
        equal(outputs, ["0\n", "1\n"])
    with runtime.session(names[0]) as session:
        next_is_right(session)


def python(runtime: AbstractRuntime) -> None:
    """A python3, several rounds, on a dumb terminal and on one with colours."""
    needs(runtime, "python3")
    for term in ("dumb", "xterm-256color"):
        with runtime.session(new_name(), env={"TERM": term, "PYTHONSTARTUP": ""}) as session:
            for _ in range(2):
                _ask(session, "python3", _PYTHON_PROMPT)
                equal(_ask(session, "print(1+1)", _PYTHON_PROMPT).output, "2\n")
                equal(_ask(session, "x = 3", _PYTHON_PROMPT).output, "")
                equal(_ask(session, "def double(n):", r"\.\.\. ").output, "")
                equal(_ask(session, "    return 2 * n", r"\.\.\. ").output, "")
                equal(_ask(session, "", _PYTHON_PROMPT).output, "")
                equal(_ask(session, "double(x)", _PYTHON_PROMPT).output, "6\n")
                output = _ask(session, "1/0", _PYTHON_PROMPT).output
                true(output.endswith("\nZeroDivisionError: division by zero\n"), f"1/0 printed {output!r}")
                _leave(session, "quit()")
                next_is_right(session)
            equal(session.run("echo $TERM", timeout=10).output, f"{term}\n", "TERM afterwards")


def python_interrupted(session: Session) -> None:
    """An interrupt returns to python3 if its prompt is expected."""
    needs(session.runtime, "python3")
    _ask(session, "python3", _PYTHON_PROMPT)
    _ask(session, "x = 5; import time", _PYTHON_PROMPT)
    raised(CommandTimeoutError, _ask, session, "time.sleep(60)", _PYTHON_PROMPT, timeout=0.3)
    observation = session.interrupt(timeout=5, expect=[_PYTHON_PROMPT])
    equal(observation.expect_string, ">>> ")
    true("KeyboardInterrupt" in observation.output, f"the interrupt's output is {observation.output!r}")
    equal(_ask(session, "x", _PYTHON_PROMPT).output, "5\n")
    _leave(session, "quit()")
    next_is_right(session)


def sqlite(session: Session) -> None:
    """A sqlite3, several rounds."""
    needs(session.runtime, "sqlite3")
    _ask(session, "sqlite3", "sqlite> ")
    equal(_ask(session, "create table t(x);", "sqlite> ").output, "")
    equal(_ask(session, "insert into t values (42); select x from t;", "sqlite> ").output, "42\n")
    _leave(session, ".quit")
    next_is_right(session)


def gdb(session: Session) -> None:
    """A gdb, several rounds."""
    needs(session.runtime, "gdb")
    _ask(session, "gdb -q -nx", r"\(gdb\) ")
    equal(_ask(session, "print 6*7", r"\(gdb\) ").output, "$1 = 42\n")
    equal(_ask(session, "print 1", r"\(gdb\) ").output, "$2 = 1\n")
    _leave(session, "quit")
    next_is_right(session)


def _ask(
    session: Session, line: str, *expect: str, timeout: float = 20, check: str = "raise"
) -> BashObservation:
    """Send a line to the program in the foreground, or start one, and return what it says."""
    return session.run(
        line,
        is_interactive_command=True,
        expect=list(expect),
        timeout=timeout,
        check=check,  # type: ignore[arg-type]
    )


def _leave(session: Session, line: str) -> BashObservation:
    """End the program in the foreground with a line."""
    return session.run(line, is_interactive_quit=True, timeout=20)
