"""Measure swerex next to PyPI's ``swe-rex`` 1.4.0 and print one table: ``python benchmarks/compare.py``.

Every figure is a median. The two are measured in turns, a few repetitions each, so that whatever else the
machine does harms both. ``--quick`` repeats less, and leaves out what takes the other one half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import other

_HERE = Path(__file__).resolve().parent


@dataclass
class Row:
    """One piece of work, how often each side does it in a round, and what it must reach."""

    title: str
    work: str
    limit: float
    ours: int
    theirs: int
    """0 leaves the other implementation out."""
    arguments: dict[str, Any] = field(default_factory=dict)
    their_arguments: dict[str, Any] = field(default_factory=dict)
    """Where they differ."""
    rounds: int = 5
    their_rounds: int = 5
    unit: str = "ms"
    kind: str = "at most"
    """Of the limit: "at most", "at least", or "of theirs", a part of what the other one needs."""
    quick: bool = True
    """Whether the other one takes part with `--quick`."""

    @property
    def limit_text(self) -> str:
        if self.kind == "of theirs":
            return f"≤ {self.limit:g} of theirs"
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.limit:g} {self.unit}"

    def held(self, ours: float, theirs: float | None) -> str:
        if self.kind == "of theirs":
            return "?" if theirs is None else _yes(ours <= self.limit * theirs)
        return _yes(ours >= self.limit if self.kind == "at least" else ours <= self.limit)


_LOCAL = {"where": "local"}
_SERVER = {"where": "server"}
# Whatever an implementation does about syntax errors, here it has to do.
_QUOTED = {"command": 'true "$HOME" || { false; }'}

# fmt: off
_ROWS = [
    Row('run_in_session("true"), LocalRuntime', "run_true", 1, 60, 3, _LOCAL),
    Row("the same with a line that is not just words", "run_true", 1, 60, 3, _LOCAL | _QUOTED),
    Row('run_in_session("true") through the server', "run_true", 2.5, 60, 3, _SERVER),
    Row("the same, in times of our is_alive", "run_true_by_is_alive", 2.5, 60, 0, unit="times"),
    Row("is_alive through the server", "is_alive", 1.2, 60, 30),
    Row('execute(["true"]) through the server', "execute_true", 2.5, 60, 30),
    Row("create_session, LocalRuntime", "create_session", 15, 10, 2, _LOCAL),
    Row("create_session through the server", "create_session", 15, 10, 2, _SERVER),
    Row("10 MB of session output, LocalRuntime", "output", 0.6, 1, 1, {**_LOCAL, "megabytes": 10},
        unit="s", their_rounds=1, quick=False),
    Row("the same through the server", "output", 1, 1, 1, {**_SERVER, "megabytes": 10},
        unit="s", their_rounds=1, quick=False),
    Row("8 sessions, sleep 1 each, at once", "sleep_together", 1.2, 1, 1,
        unit="s", rounds=3, their_rounds=1),
    Row("is_alive while 64 sessions run sleep 5 (theirs: one does)", "is_alive_while_busy", 20, 30, 1,
        {"sessions": 64}, {"sessions": 1}, rounds=1, their_rounds=1),
    Row("8 threads, 100 true each, LocalRuntime", "commands_per_second", 500, 100, 2, _LOCAL,
        unit="/s", kind="at least", rounds=3, their_rounds=1),
    Row("the same through the server", "commands_per_second", 500, 100, 2, _SERVER,
        unit="/s", kind="at least", rounds=3, their_rounds=1),
    Row("read 10 MB through the server", "read_file", 0.5, 3, 3, kind="of theirs"),
    Row("write 10 MB through the server", "write_file", 0.5, 3, 3, kind="of theirs"),
    Row("upload 100 MB, one file", "upload", 0.5, 2, 2, {"files": 1},
        kind="of theirs", rounds=3, their_rounds=3),
    Row("upload 100 MB, a folder of 20 files", "upload", 0.5, 2, 1, {"files": 20},
        kind="of theirs", rounds=3, their_rounds=3),
    Row("server from start to first answer", "startup", 0.4, 1, 1, unit="s"),
    Row("its resident memory then", "memory", 45, 1, 1, unit="MB", rounds=3, their_rounds=3),
]
# fmt: on


class Side:
    """A worker process under one of the two interpreters."""

    def __init__(self, interpreter: str, *, path: str | None = None) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if path is not None:
            environment["PYTHONPATH"] = path
        self.process = subprocess.Popen(
            [interpreter, str(_HERE / "worker.py")],
            env=environment | {"SWE_REX_LOG_STREAM_LEVEL": "ERROR"},
            # Not where `python -m swerex` would find the package of the current folder.
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def samples(self, work: str, count: int, arguments: dict[str, Any]) -> list[float]:
        """Do a piece of work; an empty list, and a word about it, if it can't be done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"work": work, "count": count, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The worker under {self.process.args} ended")
        answer = json.loads(line)
        if "error" in answer:
            print(f"\n{work} failed: {answer['error']}", file=sys.stderr)
        return list(answer.get("samples", []))

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.communicate()


def measure(row: Row, ours: Side, theirs: Side, *, quick: bool) -> tuple[float | None, float | None]:
    """The medians of ours and theirs; None where there is no figure."""
    samples: tuple[list[float], list[float]] = ([], [])
    most = 2 if quick else sys.maxsize
    rounds, their_rounds = min(most, row.rounds), min(most, row.their_rounds)
    if not row.theirs or (quick and not row.quick):
        their_rounds = 0
    for number in range(max(rounds, their_rounds)):
        if number < their_rounds:
            samples[1].extend(theirs.samples(row.work, row.theirs, row.arguments | row.their_arguments))
        if number < rounds:
            samples[0].extend(ours.samples(row.work, row.ours, row.arguments))
    scale = 1000 if row.unit == "ms" else 1
    first, second = (scale * statistics.median(found) if found else None for found in samples)
    return first, second


def linearity(ours: Side) -> list[str]:
    """The row on large outputs: what a megabyte costs must not depend on how many there are.

    A cost that grows with the square of the output would be twenty times the first; twice leaves room for
    what memory costs when there is much of it.
    """
    sizes = (10, 50, 200)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(5):
        for size in sizes:
            seconds[size] += ours.samples("output", 1, {"where": "local", "megabytes": size})
    costs = [1000 * statistics.median(found or [float("nan")]) / size for size, found in seconds.items()]
    title = "a megabyte of 10 / 50 / 200 MB, LocalRuntime"
    figures = " / ".join(f"{cost:.1f}" for cost in costs) + " ms"
    return [title, "", figures, "", "≤ 2 times the first", _yes(max(costs) <= 2 * costs[0])]


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the header first, as a simple table of reStructuredText: no first cell is empty."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["=" * width for width in widths]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [rule, lines[0], rule, *lines[1:], rule]
    ]
    return "\n".join(rows)


def machine() -> str:
    bash = subprocess.run(["bash", "-c", "echo $BASH_VERSION"], capture_output=True, text=True, check=True)
    system = f"{platform.machine()}, {platform.system()} {platform.release()}"
    python = f"Python {platform.python_version()}, bash {bash.stdout.strip()}"
    return f"Medians, on {os.cpu_count()} cores ({system}), {python}."


def _yes(held: bool) -> str:
    return "yes" if held else "NO"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure swerex next to swe-rex, and print a table.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, not the slowest of theirs")
    parser.add_argument(
        "--other",
        metavar="PYTHON",
        help=f"an interpreter that has swe-rex {other.VERSION} and aiohttp; by default one is made, once",
    )
    parser.add_argument("--only", metavar="WORD", default="", help="only the rows with this word in them")
    options = parser.parse_args()

    lines = [["work", f"swe-rex {other.VERSION}", "ours", "ratio", "limit", "held"]]
    interpreter = options.other or str(other.python())
    with Side(sys.executable, path=str(_HERE.parent)) as ours, Side(interpreter) as theirs:
        for row in _ROWS:
            if options.only not in f"{row.title} {row.work}":
                continue
            print(row.title, end=" ... ", file=sys.stderr, flush=True)
            first, second = measure(row, ours, theirs, quick=options.quick)
            print(_number(first, row.unit), "/", _number(second, row.unit), file=sys.stderr)
            ratio = f"{first / second:.3g}" if first is not None and second else ""
            held = "failed" if first is None else row.held(first, second)
            figures = [_number(second, row.unit), _number(first, row.unit)]
            lines.append([row.title, *figures, ratio, row.limit_text, held])
            if row.work == "output" and row.arguments["where"] == "server":
                lines.append(linearity(ours))
    print(table(lines), machine(), sep="\n\n")


if __name__ == "__main__":
    main()
