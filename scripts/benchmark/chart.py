"""The picture of a run: how many times as fast as the best peer, as dots, in SVG.

It has dots on a logarithmic axis and no bars, because then twice as fast and half as fast are
equally far from the line in the middle, and a factor of fifty still fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from scripts.benchmark.report import Line, Run, Table

_COLOURS = {
    "ftpfs-mfusepy": "#d1495b",
    "ftpfs-fusepy": "#e8919b",
    "ftpfs-disk": "#7a1f2b",
    "rclone-off": "#66a182",
    "rclone-writes": "#2e86ab",
    "rclone-full": "#5d5179",
    "curlftpfs": "#b08900",
    "curl": "#9a9a9a",
    "ftpfs-commands": "#d1495b",
    "lftp": "#2e86ab",
    "rclone": "#66a182",
}
_OTHER = "#444444"

_ROW = 26  # height of a line
_LEFT, _RIGHT, _TOP, _BOTTOM = 330, 110, 84, 34
_PLOT = 480  # width of the axis
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class _Axis:
    """From a factor to its position."""

    def __init__(self, factors: Sequence[float]) -> None:
        self._low = math.log(min([0.5, *factors]) / 1.15)
        self._high = math.log(max([2.0, *factors]) * 1.15)

    def x(self, factor: float) -> float:
        share = (math.log(factor) - self._low) / (self._high - self._low)
        return round(_LEFT + share * _PLOT, 1)

    @property
    def ticks(self) -> list[float]:
        return [tick for tick in _TICKS if self._low <= math.log(tick) <= self._high]


def draw(run: Run) -> str:
    """The SVG, without lines on which all peers failed: they have nothing to compare with."""
    table = Table(run.results)
    lines = [line for line in table.lines if table.best(line) is not None]
    ratios = {(line, peer): table.ratio(line, peer) for line in lines for peer in table.peers}
    axis = _Axis([ratio for ratio in ratios.values() if ratio is not None])
    height = _TOP + _ROW * len(lines) + _BOTTOM
    width = _LEFT + _PLOT + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        # A background of its own, so that it is readable on a dark page.
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(12, 24, _title(run), size=16, weight="bold"),
        *_legend(table.peers),
        *_grid(axis, height - _BOTTOM),
    ]
    for index, line in enumerate(lines):
        parts += _line(table, line, ratios, axis, _TOP + _ROW * index + _ROW // 2)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(run: Run) -> str:
    link, server = run.parameters.link.title, run.parameters.server
    what = "tool" if run.parameters.commands else "mount"
    return f"Times as fast as the best other {what} ({link}, {server})"


def _legend(peers: Sequence[str]) -> list[str]:
    parts = []
    for index, peer in enumerate(peers):
        x = 18 + index * 126
        parts += [_dot(x, 46, peer), _text(x + 10, 50, peer, size=12)]
    return parts


def _grid(axis: _Axis, bottom: float) -> list[str]:
    parts = []
    for tick in axis.ticks:
        x = axis.x(tick)
        colour = "#333333" if tick == 1 else "#dddddd"
        parts += [
            f'<line x1="{x}" y1="{_TOP - 4}" x2="{x}" y2="{bottom}" stroke="{colour}"/>',
            _text(x, bottom + 18, f"{tick:g}x", anchor="middle", size=12),
        ]
    return parts


def _line(
    table: Table,
    line: Line,
    ratios: dict[tuple[Line, str], float | None],
    axis: _Axis,
    y: int,
) -> list[str]:
    parts = [_text(_LEFT - 14, y + 4, line.title.replace("`", ""), anchor="end")]
    # ftpfs last, on top of the others.
    for peer in sorted(table.peers, key=lambda peer: peer in table.ours):
        ratio = ratios[line, peer]
        if ratio is not None:
            parts.append(_dot(axis.x(ratio), y, peer))
    failed = [peer for peer in table.peers if table.cell(line, peer).error]
    if failed:
        x = _LEFT + _PLOT + 14
        parts.append(_text(x, y + 4, "failed:", size=11, colour="#777777"))
        parts += [_dot(x + 48 + 12 * index, y, peer) for index, peer in enumerate(failed)]
    return parts


def _dot(x: float, y: float, peer: str) -> str:
    colour = _COLOURS.get(peer, _OTHER)
    name = f"<title>{escape(peer)}</title>"
    return f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" fill-opacity="0.85">{name}</circle>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "normal",
    colour: str = "#222222",
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
