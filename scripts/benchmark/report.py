"""The results of a run: medians, the tables, and the JSON from which it can be repeated."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.commands import COMMANDS
from scripts.benchmark.parameters import BadParameter, Parameters, Sizes
from scripts.benchmark.runner import NOT_RUN, Result
from scripts.benchmark.trial import Figure
from scripts.benchmark.workloads import CASES, Row

CEILING = "curl"
_OURS = "ftpfs-"


# One line of the table.


@dataclass(frozen=True)
class Line:
    """One kind of figure: a row of a case, until the command returned or until it settled."""

    row: Row
    settled: bool = False

    @property
    def title(self) -> str:
        if not self.row.settles:
            return self.row.title
        return f"{self.row.title}: {'settled' if self.settled else 'returned'}"

    @property
    def unit(self) -> str:
        return self.row.unit

    def value(self, figure: Figure) -> float | None:
        """The figure in the unit of the row."""
        seconds = figure.settled if self.settled else figure.seconds
        if seconds is None or not figure.amount:
            return None
        if self.row.unit == "ms":
            return seconds / figure.amount * 1000
        if self.row.unit == "s":
            return seconds / figure.amount
        return figure.amount / seconds

    def faster(self, one: float, other: float) -> float:
        """How many times as fast `one` is as `other`, both in the unit of the row."""
        return other / one if self.row.unit in ("ms", "s") else one / other


@dataclass(frozen=True)
class Cell:
    """The results of one peer on one line, over all rounds. With an error there are no values."""

    values: tuple[float, ...] = ()
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def outcome(self) -> str:
        """The outcome in one or two words, if there are no values."""
        return NOT_RUN if self.error and self.error.startswith(NOT_RUN) else "failed"

    @property
    def text(self) -> str:
        if self.median is None:
            return "-" if self.error is None else self.outcome
        if len(self.values) == 1:
            return number(self.median)
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} ({number(low)}..{number(high)})"


def number(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Table:
    """The results by line and peer."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results
        self.peers = list(dict.fromkeys(result.peer for result in results))
        rows = {result.figure.row for result in results}
        self.lines = [
            Line(row, settled)
            for case in (*CASES, *COMMANDS)
            for row in case.rows
            if row.name in rows
            for settled in ((False, True) if row.settles else (False,))
        ]

    @property
    def ours(self) -> list[str]:
        return [peer for peer in self.peers if peer.startswith(_OURS)]

    @property
    def others(self) -> list[str]:
        """The peers that ftpfs is compared with: the other mounts, or tools."""
        return [peer for peer in self.peers if peer not in self.ours and peer != CEILING]

    def figures(self, line: Line, peer: str) -> list[Figure]:
        return [
            result.figure
            for result in self._results
            if result.peer == peer and result.figure.row == line.row.name
        ]

    def cell(self, line: Line, peer: str) -> Cell:
        """One failed round fails the cell: a file system that mostly works does not work."""
        figures = self.figures(line, peer)
        errors = [figure.error for figure in figures if figure.error]
        if errors:
            rounds = f" ({len(errors)} of {len(figures)} rounds)" if len(figures) > 1 else ""
            return Cell(error=errors[0] + rounds)
        values = (line.value(figure) for figure in figures)
        return Cell(tuple(value for value in values if value is not None))

    def best(self, line: Line) -> tuple[str, float] | None:
        """The fastest of the others with its median; None if all of them failed."""
        medians = [(peer, self.cell(line, peer).median) for peer in self.others]
        found = [(peer, median) for peer, median in medians if median is not None]
        if not found:
            return None
        return max(found, key=lambda one: line.faster(one[1], found[0][1]))

    def ratio(self, line: Line, peer: str) -> float | None:
        """How many times as fast as the best of the others."""
        best, mine = self.best(line), self.cell(line, peer).median
        return None if best is None or mine is None else line.faster(mine, best[1])


# As Markdown.


def times(table: Table) -> str:
    """The table of times, and below it the reasons of failures."""
    reasons: dict[str, int] = {}
    ratios = [f"{peer.removeprefix(_OURS)} : best" for peer in table.ours]
    body = [["work", "unit", *table.peers, "best peer", *ratios]]
    for line in table.lines:
        cells = [_with_reason(table.cell(line, peer), reasons) for peer in table.peers]
        best = table.best(line)
        body.append(
            [
                line.title,
                line.unit,
                *cells,
                best[0] if best else "-",
                *(_ratio(table, line, peer) for peer in table.ours),
            ]
        )
    notes = [f"- [{index}] {reason}" for reason, index in reasons.items()]
    return "\n".join([_markdown(body), *(["", "Why:", "", *notes] if notes else [])])


def _with_reason(cell: Cell, reasons: dict[str, int]) -> str:
    if cell.error is None:
        return cell.text
    return f"{cell.text} [{reasons.setdefault(cell.error, len(reasons) + 1)}]"


def _ratio(table: Table, line: Line, peer: str) -> str:
    ratio = table.ratio(line, peer)
    if ratio is not None:
        return f"{ratio:.2f}"
    mine = table.cell(line, peer)
    if mine.error:
        return mine.outcome
    return "alone" if mine.values and table.others else "-"


def costs(table: Table) -> str:
    """CPU seconds, peak memory, commands and connections of each row, as medians."""
    peers = [peer for peer in table.peers if peer != CEILING]
    body = [["work", *peers]]
    for line in table.lines:
        if not line.settled:
            body.append([line.row.title, *(_cost(table, line, peer) for peer in peers)])
    return _markdown(body)


def _cost(table: Table, line: Line, peer: str) -> str:
    figures = [figure for figure in table.figures(line, peer) if not figure.error]
    if not figures:
        return "-"
    cpu = _median([figure.cpu for figure in figures])
    peak = _median([figure.peak for figure in figures])
    commands = _median([figure.commands for figure in figures])
    controls = _median([figure.controls for figure in figures])
    data = _median([figure.data for figure in figures])
    return " · ".join(
        [
            "?" if cpu is None else f"{cpu:.2f} s",
            "?" if peak is None else f"{peak / 1e6:.0f} MB",
            "?" if commands is None else f"{commands:.0f}",
            "?" if controls is None or data is None else f"{controls:.0f}+{data:.0f}",
        ]
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _markdown(body: list[list[str]]) -> str:
    """A table that is readable in a terminal too."""
    widths = [max(len(row[column]) for row in body) for column in range(len(body[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in body
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def describe(sizes: Sizes) -> str:
    """The amounts behind the rows."""
    return (
        f"Amounts: big file {sizes.big} MiB, patched file {sizes.patched} MiB, "
        f"{sizes.small} small files, {sizes.tree} files in the tree, "
        f"{sizes.wide:,} entries in the wide folder, {sizes.random} random reads, "
        f"{sizes.probes} files probed at each end, {sizes.source} files in the source tree, "
        f"{sizes.names} folders made and files moved."
    )


# The machine.


def machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


# JSON.


@dataclass(frozen=True)
class Run:
    """A run as it is stored."""

    parameters: Parameters
    machine: dict[str, str]
    versions: dict[str, str]
    results: tuple[Result, ...]

    def to_json(self) -> str:
        values = {
            "parameters": self.parameters.to_json(),
            "machine": self.machine,
            "versions": self.versions,
            "results": [result.to_json() for result in self.results],
        }
        return json.dumps(values, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Run:
        """The inverse of `to_json`. Raises BadParameter for anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            return Run(
                Parameters.from_json(values["parameters"]),
                values["machine"],
                values["versions"],
                tuple(map(Result.from_json, values["results"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadParameter(f"not the JSON of a run: {error}") from error


def document(run: Run, command: str) -> str:
    """The whole report as Markdown: the command, the environment, both tables."""
    table = Table(run.results)
    rounds = f"{run.parameters.rounds} round{'s' if run.parameters.rounds > 1 else ''}"
    return "\n\n".join(
        [
            f"    {command}",
            f"{run.parameters.link.title}, {run.parameters.server}, {rounds}. "
            + describe(run.parameters.sizes),
            "Machine: " + ", ".join(f"{key} {value}" for key, value in run.machine.items()) + ".",
            "Versions: "
            + "; ".join(f"{key}: {value}" for key, value in run.versions.items())
            + ".",
            times(table),
            "The same, as cost: CPU of the daemon · its peak memory · commands the server got · "
            "control connections so far + data connections asked for.",
            costs(table),
        ]
    )


def replace_section(page: str, name: str, text: str) -> str:
    """`page` with `text` between the section's comments; at its end if it has no such comments."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    section = f"{begin}\n\n{text}\n\n{end}"
    return "\n\n".join(part for part in (before.strip(), section, after.strip()) if part) + "\n"
