"""Spools: finds the spools of this user, and the files in them that no running mount sends.

Owns a note in the state folder for each spool folder that a mount of this user has used. So
`status` and `umount` find what a killed daemon left, whatever `spool_dir` was. `core.writing` owns
what is in a spool.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ftpfs import errors
from ftpfs.core.writing import spool
from ftpfs.daemon import places
from ftpfs.local import private

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """Closed files in a spool that no daemon sends."""

    source: str  # the server
    files: int  # and changes of names
    folder: str
    cure: str  # the command that sends them

    def line(self) -> str:
        what = f"{self.files:,} {'file waits' if self.files == 1 else 'files wait'}"
        return (
            f"{what} in {self.folder}, not on the server: the next mount of {self.source} sends "
            f"them, or: {self.cure}"
        )


def note(source: str, folder: Path, spool_dir: Path | None) -> None:
    """Note that a mount of `source` is about to use `folder`, or one beside it.

    `spool_dir`: the value of the option, if it was given.
    """
    cure = f"ftpfs recover {shlex.quote(source)}"
    if spool_dir is not None:
        cure += f" -o {shlex.quote(f'spool_dir={spool_dir}')}"
    content = json.dumps(
        {"source": source, "folder": os.fspath(folder.absolute()), "cure": cure}
    ).encode()
    place = _notes() / f"{hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]}.json"
    try:
        private.make_folder(place.parent)
        if not place.exists() or place.read_bytes() != content:
            aside = place.with_suffix(f".{os.getpid()}")
            aside.write_bytes(content)
            aside.replace(place)
    except (OSError, errors.FtpfsError) as error:
        log.warning(
            "if this mount is killed, ftpfs status will not find its files in %s: %s", folder, error
        )


def waiting(source: str | None = None) -> list[Waiting]:
    """The closed files that no running daemon sends; of one server only, if `source` is given."""
    found = []
    for place in sorted(_notes().glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(place.read_text())
            if source in (None, told["source"]):
                files = spool.left_behind(Path(told["folder"]))
                if files:
                    found.append(Waiting(told["source"], files, told["folder"], told["cure"]))
    return found


def _notes() -> Path:
    return places.state() / "spools"
