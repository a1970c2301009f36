"""The progress bars of transfers: bytes, rate and time left, on stderr.

Imported only when a bar is shown: importing rich costs as much as a small command.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console
from rich.markup import escape

from ftpfs.errors import printable
from ftpfs.trees.run import Run

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11


def bar() -> progress.Progress:
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(stderr=True))


class TreeBars:
    """A bar for a whole run, and one for each large file on its way."""

    def __init__(self) -> None:
        self._bar = bar()
        self._whole = self._bar.add_task("", total=None)
        self._files: dict[str, progress.TaskID] = {}

    def show(self, run: Run) -> None:
        outcome = run.outcome()
        done = f"{outcome.copied + outcome.failed:,} of {outcome.found:,} files"
        if outcome.deleted:
            done = f"{outcome.deleted:,} deleted"
        self._bar.update(
            self._whole,
            description=done,
            completed=outcome.bytes,
            total=max(outcome.found_bytes, outcome.bytes) or None,
        )
        running = {each.path: each for each in run.running()}
        for path in self._files.keys() - running.keys():
            self._bar.remove_task(self._files.pop(path))
        for path, each in running.items():
            if path not in self._files:
                name = escape(printable(posixpath.basename(path)))
                self._files[path] = self._bar.add_task(f"  {name}", total=each.total)
            self._bar.update(self._files[path], completed=each.done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
