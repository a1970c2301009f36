"""Runs of the engine for trees, as the user of a command sees them.

Owns: the progress on a terminal or in a log, the lines of `--json` and `--dry-run`, Ctrl-C, and the
report at the end. `ftpfs.trees` does the work.

Threading: the main thread; `Printer` is called by all threads of a run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from ftpfs.commands.files import emit
from ftpfs.errors import printable
from ftpfs.ftp.remote import Remote
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.plan import Action
from ftpfs.trees.run import Run

# How often the progress is drawn on a terminal, and told in a log.
_TICK_SECONDS, _LOG_SECONDS = 0.2, 10.0
# How long transfers that are ended by a second Ctrl-C may take to clean up behind them. What is
# left is noted, and the next upload deletes it.
_HALT_SECONDS = 5.0
# Failures that the report names.
_MOST_TOLD = 50

_SIGNS = {Action.COPY: "copy", Action.LINK: "link", Action.MAKE: "make", Action.DELETE: "delete"}


class Printer:
    """Prints each step to stdout: for a dry run in words, with `as_json` as a line of JSON."""

    def __init__(self, *, shows: bool, as_json: bool) -> None:
        self._shows = shows or as_json
        self._as_json = as_json
        self._lock = threading.Lock()
        self._reader_is_gone = False  # guarded by _lock

    def tell(self, action: Action, path: str, size: int | None) -> None:
        if not self._shows:
            return
        with self._lock:
            try:
                if self._as_json:
                    self._print_json({"action": _SIGNS[action], "path": path, "size": size})
                else:
                    emit(sys.stdout, f"{_SIGNS[action]} {path}")
            except BrokenPipeError:
                self._shows = False
                self._reader_is_gone = True

    def end(self, outcome: Outcome) -> None:
        """The failures and the sums, for programs. Raises BrokenPipeError, but not before."""
        if self._reader_is_gone:
            raise BrokenPipeError
        if not self._as_json:
            return
        for failure in outcome.failures:
            self._print_json({"action": "failed", "path": failure.path, "why": failure.why})
        sums = {
            "action": "end",
            "copied": outcome.copied,
            "bytes": outcome.bytes,
            "same": outcome.same,
            "folders": outcome.folders,
            "deleted": outcome.deleted,
            "failed": outcome.failed,
            "interrupted": outcome.interrupted,
        }
        self._print_json(sums)

    @staticmethod
    def _print_json(line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")


def follow(run: Run, remote: Remote) -> None:
    """Wait for the end of a run that has started, and show its progress.

    The first Ctrl-C ends it after the transfers in progress, the second one ends these, too. Any
    other exception, SystemExit by SIGTERM above all, ends them at once.
    """
    pressed = 0

    def interrupt(_number: int, _frame: object) -> None:
        # Only counts: the main thread may hold any lock now.
        nonlocal pressed
        pressed += 1

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with _progress(sys.stderr) as show:
            stopped = False
            while pressed < 2 and not run.wait(_TICK_SECONDS):
                show(run)
                if pressed and not stopped:
                    stopped = True
                    run.stop()
                    _say("finishing the files on their way; Ctrl-C again ends them now")
    finally:
        # An exception, or the second Ctrl-C.
        if not run.wait(0):
            run.halt()
            remote.cut_off_calls(0)
            run.wait(_HALT_SECONDS)
        signal.signal(signal.SIGINT, before)


def report(outcome: Outcome, verb: str = "") -> int:
    """Tell on stderr what failed. Returns the exit code; raises KeyboardInterrupt after Ctrl-C.

    `verb`: "copied" or "deleted", for the sums; empty: none are told.
    """
    for failure in outcome.failures[:_MOST_TOLD]:
        _say(f"{failure.path}: {failure.why}" if failure.path else failure.why)
    if outcome.failed > _MOST_TOLD:
        _say(f"and {outcome.failed - _MOST_TOLD:,} more failures")
    if outcome.interrupted:
        raise KeyboardInterrupt(f"interrupted: {_sums(outcome, verb)}; run it again to go on")
    if outcome.failed:
        _say(", ".join(filter(None, [f"{outcome.failed:,} failed", _sums(outcome, verb)])))
        return 1
    if verb and sys.stderr.isatty():
        _say(_sums(outcome, verb))
    return 0


def _sums(outcome: Outcome, verb: str) -> str:
    from rich.filesize import decimal

    parts = []
    if verb == "copied":
        parts.append(f"{outcome.copied:,} copied ({decimal(outcome.bytes)})")
    if outcome.same:
        parts.append(f"{outcome.same:,} unchanged")
    if outcome.deleted or verb == "deleted":
        parts.append(f"{outcome.deleted:,} deleted")
    return ", ".join(parts)


def _say(line: str) -> None:
    sys.stderr.write(f"ftpfs: {printable(line)}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _progress(out: TextIO) -> Iterator[Callable[[Run], None]]:
    """What draws or tells the progress of a run."""
    if out.isatty():
        from ftpfs.commands.bars import TreeBars

        with TreeBars() as bars:
            yield bars.show
    else:
        yield _log_lines()


def _log_lines() -> Callable[[Run], None]:
    """A line every few seconds, for a log."""
    began = told = time.monotonic()

    def show(run: Run) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _LOG_SECONDS:
            return
        told = now
        from rich.filesize import decimal

        outcome = run.outcome()
        rate = decimal(int(outcome.bytes / (now - began)))
        _say(
            f"{outcome.copied:,} of at least {outcome.found:,} files, "
            f"{decimal(outcome.bytes)} of {decimal(outcome.found_bytes)}, {rate}/s"
        )

    return show
