"""What came of the checks, and tables of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Outcome", "Report", "Result", "rst_table"]

Outcome = Literal["held", "failed", "not applicable"]
_OUTCOMES: tuple[Outcome, ...] = ("held", "failed", "not applicable")


@dataclass(frozen=True)
class Result:
    """What came of one check."""

    area: str
    title: str
    outcome: Outcome
    seconds: float
    message: str = ""
    """Why it failed or does not apply."""

    def __str__(self) -> str:
        """A line of a table: area, check, outcome and seconds, and below it what a failure says."""
        line = f"{self.area:<13} {self.title:<80} {self.outcome:<14} {self.seconds:6.2f} s"
        return "\n    ".join([line, *self.message.splitlines()])


@dataclass(frozen=True)
class Report:
    """What came of the checks on one deployment."""

    name: str
    results: Sequence[Result]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(result.outcome == "failed" for result in self.results)

    def areas(self) -> dict[str, list[Result]]:
        """The results by area."""
        areas: dict[str, list[Result]] = {}
        for result in self.results:
            areas.setdefault(result.area, []).append(result)
        return areas

    def summary(self) -> str:
        """A table of how many checks held in each area."""
        rows = [["area", *_OUTCOMES, "seconds"]]
        for area, results in [*self.areas().items(), ("all", self.results)]:
            counts = Counter(result.outcome for result in results)
            rows.append([area, *(str(counts[outcome]) for outcome in _OUTCOMES), _seconds(results)])
        widths = _widths(rows)
        return "\n".join(_line(row, widths, str.rjust) for row in rows)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.results), "", self.summary()])


def rst_table(reports: Sequence[Report]) -> str:
    """A table in reStructuredText: how many checks of each area held, with a column for each deployment."""
    rows = [["area", *(report.name for report in reports)]]
    areas = dict.fromkeys(area for report in reports for area in report.areas())
    for area in areas:
        rows.append([area, *(_counts(report.areas().get(area, [])) for report in reports)])
    rows.append(["all", *(_counts(report.results) for report in reports)])
    rows.append(["seconds", *(_seconds(report.results) for report in reports)])
    widths = _widths(rows)
    rule = "  ".join("=" * width for width in widths)
    head, *body = (_line(row, widths, str.ljust) for row in rows)
    return "\n".join([rule, head, rule, *body, rule])


def _counts(results: Sequence[Result]) -> str:
    """Such as "8 of 10 held, 1 not applicable"."""
    counts = Counter(result.outcome for result in results)
    text = f"{counts['held']} of {len(results)} held"
    return f"{text}, {counts['not applicable']} not applicable" if counts["not applicable"] else text


def _seconds(results: Iterable[Result]) -> str:
    return f"{sum(result.seconds for result in results):.1f}"


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _line(row: list[str], widths: list[int], justify: Callable[[str, int], str]) -> str:
    """A row of a table, its first cell to the left."""
    cells = [row[0].ljust(widths[0]), *map(justify, row[1:], widths[1:])]
    return "  ".join(cells).rstrip()
