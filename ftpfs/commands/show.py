"""Reports of mounts as tables, bars and JSON.

Owns the looks and no facts. Names and server text go through `printable`, and never through rich's
markup.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftpfs.commands import bars
from ftpfs.commands.mounts import Mount, Progress, count, failed, left, to_go
from ftpfs.daemon.control_socket import Report
from ftpfs.daemon.stores import Freed, Stored
from ftpfs.errors import printable
from ftpfs.model.status import (
    CacheStatus,
    Kept,
    LimitStatus,
    PassthroughStatus,
    PendingFile,
    StoreStatus,
    UploadStatus,
)

_FILES_SHOWN = 10  # pending files by name
_WATCH_PAUSE_SECONDS = 1.0
_PIPE_WIDTH_COLUMNS = 250  # for output that goes to no terminal


def as_json(mounts: list[Mount]) -> str:
    """The mounts for scripts: bytes, seconds since the epoch, bytes a second."""
    return json.dumps([_plain(mount) for mount in mounts], indent=2)


def _plain(mount: Mount) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "mountpoint": mount.path or None,
        "source": mount.source,
        "trouble": mount.trouble or None,
        "waiting": [dataclasses.asdict(each) for each in mount.waiting],
    }
    if mount.report:
        about = dataclasses.asdict(mount.report)
        plain |= {**about, **about.pop("status")}
        del plain["status"]
    return plain


def status(mounts: list[Mount], out: TextIO) -> None:
    """Print a report of these mounts."""
    _print(_picture(mounts), out)


def _print(picture: RenderableType, out: TextIO) -> None:
    if out.isatty():
        Console(file=out).print(picture)
        return
    text = io.StringIO()
    Console(file=text, width=_PIPE_WIDTH_COLUMNS).print(picture)
    out.writelines(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def watch(look: Callable[[], list[Mount]]) -> None:
    """Show the result of `look` each second, until Ctrl-C."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(_picture(look()), console=Console(), auto_refresh=False, screen=True) as live,
    ):
        while True:
            live.refresh()
            time.sleep(_WATCH_PAUSE_SECONDS)
            live.update(_picture(look()))


def _picture(mounts: list[Mount]) -> RenderableType:
    if not mounts:
        return Text("nothing is mounted")
    parts: list[RenderableType] = []
    for mount in mounts:
        if parts:
            parts.append(Text())
        parts.append(Text(printable(mount.path or mount.source), style="bold"))
        parts.append(Padding(_facts(mount), (0, 0, 0, 2)))
        if mount.report and mount.report.status.uploads.pending:
            parts.append(_files(mount.report.status.uploads))
    return Group(*parts)


def _facts(mount: Mount) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("server", Text(printable(mount.source)))
    report = mount.report
    if report is None:
        table.add_row("state", Text(printable(mount.trouble), style="bold red"))
        _add_what_waits(table, mount)
        return table
    connections, cache = report.status.connections, report.status.cache
    table.add_row("state", Text(_state(report)))
    if (since := report.status.offline_since) is not None:
        away = f"offline since {_moment(since)}: what is stored is shown, and changes wait"
        table.add_row("", Text(away, style="bold"))
    table.add_row(
        "connections",
        f"{connections.busy} busy, {connections.idle} idle, {connections.limit} at most"
        + (f"; {connections.waiting} wait for one" if connections.waiting else ""),
    )
    if connections.allowed is not None:
        table.add_row("", f"the server allows {connections.allowed} for now")
    if (limits := report.status.limits) is not None:
        table.add_row("limits", Text(_limits(limits)))
    for other in connections.others:
        table.add_row("", Text(printable(f"besides, {other}")))
    table.add_row("uploads", Text(_uploads(report)))
    if lost := failed(report.status.uploads):
        table.add_row("failed", Text(f"{_failed(lost)}, see below", style="bold red"))
    table.add_row("spool", Text(_spool(report)))
    for title, lines in (("lost", report.lost), ("held", report.held)):
        for line in lines[:_FILES_SHOWN]:
            table.add_row(title, Text(printable(line), style="bold red"))
        if len(lines) > _FILES_SHOWN:
            table.add_row("", f"and {len(lines) - _FILES_SHOWN:,} more, in the log")
    _add_what_waits(table, mount)
    if report.note:
        table.add_row("note", Text(printable(report.note), style="bold"))
    table.add_row("downloads", f"{decimal(cache.downloaded)}{_rate(report.download_rate)}")
    share = _share(cache, "reads")
    table.add_row("cache", f"{decimal(cache.used)} of {decimal(cache.capacity)}{share}")
    if store := report.status.store:
        table.add_row("store", _store(store))
    if passthrough := report.status.passthrough:
        table.add_row("passthrough", Text(printable(_passthrough(passthrough))))
    return table


def _limits(limits: LimitStatus) -> str:
    """Both limits as they were written, with the rate of this moment if that depends on it."""
    parts = []
    for name, written, now in (
        ("down", limits.down, limits.down_now),
        ("up", limits.up, limits.up_now),
    ):
        rate = f"{decimal(now)}/s" if now else "none"
        parts.append(f"{name} {rate} now ({written})" if ":" in written else f"{name} {rate}")
    return printable(", ".join(parts))


def _passthrough(status: PassthroughStatus) -> str:
    if not status.on:
        return f"off: {status.why}" if status.why else "off"
    parts = [f"the kernel used {count(status.files)} on this disk itself"] if status.files else []
    parts += [f"not {times:,}: {why}" for why, times in sorted(status.unlent.items())]
    return f"on: {'; '.join(parts)}" if parts else "on"


def _failed(lost: list[PendingFile]) -> str:
    changes = sum(bool(each.change) for each in lost)
    words = [count(len(lost) - changes)] if len(lost) > changes else []
    if changes:
        words.append(f"{changes:,} change{'' if changes == 1 else 's'} of names")
    return ", ".join(words)


def _store(store: StoreStatus) -> str:
    kept = f", and {decimal(store.kept)} kept" if store.kept else ""
    return (
        f"{decimal(store.used)} of {decimal(store.capacity)}{kept}, {count(store.files)}"
        f"{_share(store)}"
    )


def _share(status: CacheStatus | StoreStatus, what: str = "blocks") -> str:
    """How many of the reads found what they looked for."""
    asked = status.hits + status.misses
    return f", {status.hits / asked:.0%} of {asked:,} {what}" if asked else ""


def stores(found: list[Stored], out: TextIO) -> None:
    """Print what is stored of each server."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("disk", "kept", "files", "found"):
        table.add_column(title, justify="right")
    table.add_column("server", overflow="fold")
    for server, status in found:
        asked = status.hits + status.misses
        table.add_row(
            decimal(status.used),
            decimal(status.kept) if status.kept else "",
            f"{status.files:,}",
            f"{status.hits / asked:.0%}" if asked else "",
            Text(printable(server)),
        )
    _print(table if found else Text("nothing is stored"), out)


def freed(found: list[Freed], out: TextIO) -> None:
    """Print what was freed of each server's store."""
    lines = [
        Text(
            f"{decimal(each.bytes)} freed of {printable(each.server)}"
            + (f"; {decimal(each.kept)} are kept (--kept frees them)" if each.kept else "")
        )
        for each in found
    ]
    _print(Group(*lines) if lines else Text("nothing is stored"), out)


def kept(found: list[tuple[str, Kept]], out: TextIO) -> None:
    """Print what is kept: local paths, and how they were found last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("disk", "files"):
        table.add_column(title, justify="right")
    for title in ("looked at", "path"):
        table.add_column(title, overflow="fold")
    for path, each in found:
        state = _moment(each.looked) if each.looked else "not yet"
        if each.missing:
            state += ", not on the server"
        elif each.lacking:
            state += f", {count(each.lacking)} could not be fetched"
        table.add_row(decimal(each.bytes), f"{each.files:,}", state, Text(printable(path)))
    _print(table if found else Text("nothing is kept"), out)


def queued(found: list[tuple[str, PendingFile]], out: TextIO) -> None:
    """Print what waits to be sent: local paths, in the order of sending."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("state", "size", "age", "tries"):
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    for title in ("path", "last error"):
        table.add_column(title, overflow="fold")
    for path, each in found:
        words = (
            *(each.state, each.change or decimal(each.size)),
            *(_duration(time.time() - each.since), str(each.attempts or "")),
            *(path, each.error or ""),
        )
        style = "red" if each.state == "failed" else ""
        table.add_row(*(Text(printable(word)) for word in words), style=style)
    _print(table if found else Text("nothing waits"), out)


def _add_what_waits(table: Table, mount: Mount) -> None:
    for each in mount.waiting:
        table.add_row("waiting", Text(printable(each.line()), style="bold red"))


def _moment(when: float) -> str:
    """A time for people, in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _state(report: Report) -> str:
    so_long = _duration(time.time() - report.since)
    words = {
        "mounted": f"mounted for {so_long}",
        "leaving": f"unmounted, uploads what is left; was mounted {so_long} ago",
        "left": "ends",
    }
    state = words.get(report.state, report.state)
    return printable(f"{state}; process {report.pid}, {report.binding}")


def _uploads(report: Report) -> str:
    uploads = report.status.uploads
    files, size = to_go(uploads)
    done = f"{count(uploads.uploaded_files)}, {decimal(uploads.uploaded_bytes)} done"
    if not files:
        return f"{done}{_rate(report.upload_rate)}"
    time_left = f"; {_duration(size / report.upload_rate)} left" if report.upload_rate else ""
    return f"{left(uploads)} to go{_rate(report.upload_rate)}{time_left}; {done}"


def _spool(report: Report) -> str:
    uploads = report.status.uploads
    limit = f" of {decimal(uploads.spool_limit)}" if uploads.spool_limit else ""
    return printable(f"{decimal(uploads.spool_used)}{limit} in {report.spool}")


def _files(uploads: UploadStatus) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim")
    for title in ("pending", "sent", "tries", "file"):
        table.add_column(title, justify="right" if title in ("sent", "tries") else "left")
    table.add_column("last error", overflow="fold")
    # Failed files come first: they need a person.
    order = sorted(uploads.pending, key=lambda each: each.state != "failed")
    for each in order[:_FILES_SHOWN]:
        table.add_row(*map(Text, _file(each)), style="red" if each.state == "failed" else "")
    if uploads.files > _FILES_SHOWN:
        table.add_row("", "", "", f"and {uploads.files - _FILES_SHOWN:,} more", "")
    return table


def _file(each: PendingFile) -> tuple[str, ...]:
    share = f"{each.sent / each.size:.0%}" if each.size else "0%"
    return (
        printable(each.state),
        each.change or f"{share} of {decimal(each.size)}",
        str(each.attempts or ""),
        printable(each.path),
        printable(each.error or ""),
    )


def _rate(rate: float) -> str:
    return f", {decimal(int(rate))}/s" if rate >= 1 else ""


def _duration(seconds: float) -> str:
    """A duration in its two largest units."""
    left = max(0, int(seconds))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    words = []
    for length, name in units:
        count, left = divmod(left, length)
        if count:
            words.append(f"{count} {name}")
    return " ".join(words[:2]) or "0 s"


# Bars.


@contextlib.contextmanager
def upload_bar() -> Iterator[Progress]:
    """A progress bar of uploads, if stderr is a terminal: files, bytes, rate, time left."""
    if not sys.stderr.isatty():
        yield lambda _uploads: None
        return
    with bars.bar() as bar:
        task = bar.add_task("nothing to upload", total=0, visible=False)
        total = 0

        def advance(uploads: UploadStatus) -> None:
            nonlocal total
            files, size = to_go(uploads)
            total = max(total, size)
            bar.update(
                task,
                description=f"uploading {count(files)}" if files else "uploaded",
                total=total,
                completed=total - size,
                visible=total > 0,
            )

        yield advance
