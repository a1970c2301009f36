"""The progress bar of transfers: bytes, rate and time left, on stderr.

Imported only when a bar is shown: importing rich costs as much as a small command.
"""

from __future__ import annotations

from rich import progress
from rich.console import Console


def bar() -> progress.Progress:
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(stderr=True))
