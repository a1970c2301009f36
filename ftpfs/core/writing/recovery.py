"""Recovery: files that an earlier mount closed and did not upload become open files of this one.

Owns: how a row of the journal becomes a file. Sends nothing: the caller queues what this returns.

Threading: one thread, once, before anything else is done with the mount.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.writing.conflicts import free_name
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import SetAside, Spool

log = logging.getLogger(__name__)


def take_over(
    spool: Spool, files: OpenFiles, new_file: Callable[..., OpenFile]
) -> list[tuple[OpenFile, float]]:
    """Put the files of the journal's rows into the tables.

    Returns each file, and when it was closed first.
    """
    taken = []
    for record in spool.journal.records():
        file = _take_over(record, spool, files, new_file)
        if file is not None:
            taken.append((file, record.since))
    return taken


def _take_over(
    record: Record, spool: Spool, files: OpenFiles, new_file: Callable[..., OpenFile]
) -> OpenFile | None:
    """The file of a row; None: it is lost, or cannot be read now and stays for the next mount."""
    try:
        spool_file = spool.reopen(record)
    except errors.NotFound as error:
        log.error("what was written to %s is lost: %s", record.path, error)
        spool.set_aside.append(SetAside(record.path, None, str(error)))
        spool.journal.remove(record.spool)
        return None
    except errors.FtpfsError as error:
        _hold(spool, record, f"not uploaded by this mount, the next one tries again: {error}")
        return None
    except Exception:  # an unreadable row does not stop the others
        log.exception("%s: its row cannot be read", record.path)
        _hold(spool, record, "not uploaded: its row in the journal cannot be read")
        return None
    if record.path in files:
        # Two mounts wrote the file, and both ended before they had sent it.
        if not spool_file.present.covers(0, min(record.base_size, record.size)):
            _hold(spool, record, "a second version waits for the next mount")
            spool_file.close(delete=False)
            return None
        record = replace(record, path=free_name(record.path, files.__contains__))
    try:
        file = new_file(record.path, record.base)
        file.restore(record, spool_file)
    except Exception:  # nor does an odd one
        log.exception("%s: its row cannot be taken over", record.path)
        _hold(spool, record, "not uploaded: its row in the journal cannot be taken over")
        spool_file.close(delete=False)
        return None
    files.linger(record.path, file)
    return file


def _hold(spool: Spool, record: Record, why: str) -> None:
    log.error("%s: %s", record.path, why)
    spool.held.append(f"{record.path}: {why}")


def held_files(spool: Spool) -> tuple[str, ...]:
    """A line for each file that an earlier mount left and this one cannot send."""
    return tuple(map(errors.printable, spool.held))


def lost_files(spool: Spool) -> tuple[str, ...]:
    """A line for each file that was closed before a loss of power and cannot be sent.

    The line disappears when the user removes what is kept of the file.
    """
    return tuple(
        errors.printable(f"{each.path}: {each.why}" + (f" ({each.kept})" if each.kept else ""))
        for each in spool.set_aside
        if each.kept is None or each.kept.exists()
    )
