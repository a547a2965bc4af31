"""Whatever a command is or prints, its observation holds its own output only, and so does the next one."""

from __future__ import annotations

from swerex.exceptions import BashIncorrectSyntaxError, NonZeroExitCodeError
from swerex.runtime.abstract import AbstractRuntime, Session
from swerex.testing.tools import (
    equal,
    exists,
    new_name,
    next_is_right,
    prints,
    raised,
    read,
    true,
    wait_for_file,
    write,
)


def nothing(session: Session) -> None:
    """Nothing, blank lines and comments print nothing."""
    for command in ("", "\n  \n\t\n", "# echo no"):
        prints(session, command, "")
    prints(session, "echo yes # echo no", "yes\n")


def several_lines(session: Session) -> None:
    """A command may have several lines, continued ones, and any end."""
    prints(session, "echo a\necho b\n\necho c", "a\nb\nc\n")
    prints(session, "echo a \\\n  b", "a b\n")
    for command in ("echo a\n", "echo a;", "echo a \\"):
        prints(session, command, "a\n")


def heredocs(session: Session) -> None:
    """Heredocs and here-strings print their lines, inside of other commands too."""
    prints(session, "cat <<'EOF'\n$HOME `date` \\\nEOF", "$HOME `date` \\\n")
    prints(session, "x=5\ncat <<EOF\n[$x]\nEOF\n", "[5]\n")
    prints(session, "cat <<< 'a b'", "a b\n")
    prints(session, "if true; then\n  if true; then\n    cat <<EOF\ndeep\nEOF\n  fi\nfi", "deep\n")


def a_long_heredoc(session: Session) -> None:
    """A heredoc of 300 lines with quotes, tabs and dollars arrives."""
    text = "".join(f"line {number}\t$x `y` \\ '\"\n" for number in range(300))
    prints(session, f"cat <<'EOF'\n{text}EOF", text)


def an_open_heredoc(session: Session) -> None:
    """A heredoc without its end does not take the next command along."""
    session.run("cat 2>/dev/null <<EOF\nabc\n", timeout=10)
    next_is_right(session)


def compound_commands(session: Session) -> None:
    """Functions, case blocks, loops, groups, subshells and tests may span lines."""
    prints(session, "f() {\n  echo in f\n}\nf", "in f\n")
    prints(session, "case abc in\n  a*) echo a ;;\n  *) echo other ;;\nesac", "a\n")
    prints(session, "for i in 1 2 3; do\n  echo $i\ndone", "1\n2\n3\n")
    prints(session, "{ echo a; echo b; }; (echo c; exit 0)", "a\nb\nc\n")
    prints(session, "A=()", "")
    prints(session, "[[ $x == $x ]]", "")


def background_jobs(session: Session) -> None:
    """A line may end with & and the next one is its own."""
    prints(session, "sleep 0.1 &\necho b", "b\n")
    prints(session, "sleep 0.1 & echo b", "b\n")


def ends_of_output(session: Session) -> None:
    """Blanks and line ends at the edges of an output stay."""
    for text in ("abc", "  x  ", "\n\n\n", "a\rb\r\nc\r", "\n a"):
        shown = text.replace("\n", "\\n").replace("\r", "\\r")
        prints(session, f"printf '{shown}'", text)


def prompts_in_the_output(session: Session) -> None:
    """Output that looks like prompts or terminal codes is output."""
    prints(session, "printf '$ \\n# \\n> \\nroot@host:~# '", "$ \n# \n> \nroot@host:~# ")
    codes = "\x1b]133;D;0\x07\x1b[?2004h\x1b[6n\x1b[2J"
    prints(session, r"printf '\e]133;D;0\a\e[?2004h\e[6n\e[2J'", codes)
    prints(session, r"printf '\001\002\003\004\032\034\036'", "\x01\x02\x03\x04\x1a\x1c\x1e")


def a_terminal_with_colours(runtime: AbstractRuntime) -> None:
    """All that holds in a session with TERM=xterm-256color too."""
    with runtime.session(new_name(), env={"TERM": "xterm-256color"}) as session:
        prints(session, "printf '\ta\t!!\n  x  '", "\ta\t!!\n  x  ")
        prints(session, "cat <<'EOF'\n\t$x\nEOF\necho b", "\t$x\nb\n")
        prints(session, "PROMPT_COMMAND='echo PC'; PS1='\\u$ '", "")


def both_streams(session: Session) -> None:
    """Standard output and standard error come in order."""
    prints(session, "echo a; echo b >&2; echo c", "a\nb\nc\n")


def earlier_marks(session: Session, folder: str) -> None:
    """The runtime's own lines mean nothing when a command prints or runs them."""
    session.run('set -T; trap \'printf "%s\\n" "$BASH_COMMAND" >> seen\' DEBUG', timeout=10)
    session.run("echo a", timeout=10)
    session.run("trap - DEBUG; set +T", timeout=10)
    prints(session, "cat seen", read(session.runtime, f"{folder}/seen"))
    replay = 'while read -r line; do case $line in *printf*) eval "$line" ;; esac; done < seen'
    session.run(replay, timeout=10, check="silent")
    next_is_right(session)


def output_of_a_job_in_between(session: Session, folder: str) -> None:
    """What a job prints between two commands belongs to neither."""
    session.run("(until [ -e go ]; do sleep 0.05; done; echo late; : > done) &", timeout=10)
    write(session.runtime, f"{folder}/go")
    wait_for_file(session.runtime, f"{folder}/done")
    next_is_right(session)


def ten_megabytes(session: Session, folder: str) -> None:
    """10 MB of output come in full."""
    text = "".join(f"{number}\n" for number in range(1_450_000))
    write(session.runtime, f"{folder}/text", text)
    equal(session.run("cat text", timeout=60).output, text)
    next_is_right(session)


def live_output(session: Session, folder: str) -> None:
    """`on_output` gets the output while the command runs, all of it, in order."""
    pieces: list[str] = []

    def on_output(text: str) -> None:
        pieces.append(text)
        if "".join(pieces) == "a\n":
            write(session.runtime, f"{folder}/go")

    command = "echo a; until [ -e go ]; do sleep 0.05; done; echo b"
    observation = session.run(command, timeout=20, on_output=on_output)
    equal((observation.output, "".join(pieces)), ("a\nb\n", "a\nb\n"))


def wrong_syntax(session: Session, folder: str) -> None:
    """Nothing of a command runs if its syntax is wrong."""
    for end in (
        "; if",
        "\nif true; then\n echo a\n",
        "; echo )",
        "\necho 'open",
        "\necho $(date",
        " && && true",
    ):
        error = raised(BashIncorrectSyntaxError, session.run, f": > ran{end}", timeout=10)
        stderr = error.extra_info.get("bash_stderr", "")
        true("syntax error" in stderr or "unexpected EOF" in stderr, f"extra_info['bash_stderr']: {stderr!r}")
        true(not exists(session.runtime, f"{folder}/ran"), f"a part of {f': > ran{end}'!r} was run")
        next_is_right(session)


def statuses(session: Session) -> None:
    """A status is raised, reported or left out, as `check` says."""
    for status in (1, 2, 7, 126, 127, 128, 130, 255):
        command = f"echo text; (exit {status})"
        error = raised(NonZeroExitCodeError, session.run, command, timeout=10)
        equal((error.extra_info["output"], error.extra_info["exit_code"]), ("text\n", status), "extra_info")
        observation = session.run(command, timeout=10, check="silent")
        equal((observation.output, observation.exit_code), ("text\n", status), "silent")
        observation = session.run(command, timeout=10, check="ignore")
        equal((observation.output, observation.exit_code), ("text\n", None), "ignore")
    next_is_right(session)


def signals(session: Session) -> None:
    """A program that signal N ended has the exit code 128 + N."""
    for number in (9, 15):
        observation = session.run(f"sh -c 'kill -{number} $$' 2>/dev/null", timeout=10, check="silent")
        equal(observation.exit_code, 128 + number)


def returns(session: Session) -> None:
    """`return` ends a command, with its status."""
    observation = session.run("echo a; return 4; echo b", timeout=10, check="silent")
    equal((observation.output, observation.exit_code), ("a\n", 4))


def given_up(session: Session) -> None:
    """A command that bash gives up ends, and the session goes on."""
    for command in (
        "echo ${no_such?missing}",
        "f() { echo ${no_such:?missing}; }; f",
        "echo $((1 / 0))",
        "readonly r=1; r=2",
        "if true; then echo ${no_such?missing}; fi",
    ):
        observation = session.run(f"{command}; echo never", timeout=10, check="silent")
        true("never" not in observation.output, f"{command!r} went on: {observation.output!r}")
        true(observation.exit_code, f"{command!r} has the exit code {observation.exit_code}")
        next_is_right(session)


def error_messages(session: Session) -> None:
    """Bash's own messages name no file of the runtime."""
    output = session.run("no-such-command", timeout=10, check="silent").output
    true(output.endswith("no-such-command: command not found\n"), f"the message is {output!r}")
    true("/" not in output, f"a path is in the message: {output!r}")


def no_history(session: Session) -> None:
    """The shell keeps no history."""
    prints(session, "history; fc -l 2>/dev/null || true", "")
