"""Watches a folder on the server's disk for states that last only a moment."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

PAUSE = 0.001  # seconds
# Scratch files of ftpfs, whose content is ten digits; and the names under which pure-ftpd continues
# an upload: it makes that file with its own mode when the session before still has the old one.
_OF_NOBODY = (".ftpfs-probe-", ".pureftpd-upload.")


class Watcher:
    """Reads a folder all the time: the modes in which each name was seen with content."""

    def __init__(self, folder: Path) -> None:
        self.seen: dict[str, set[int]] = {}
        self._folder = folder
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(PAUSE):
            for entry in os.scandir(self._folder):
                if entry.name.startswith(_OF_NOBODY):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if status.st_size:
                        self.seen.setdefault(entry.name, set()).add(status.st_mode & 0o777)

    def readable(self) -> dict[str, set[int]]:
        """The names that others could read at some time."""
        return {
            name: modes for name, modes in self.seen.items() if any(mode & 0o077 for mode in modes)
        }

    def temporaries(self) -> set[str]:
        return {name for name in self.seen if name.startswith(".ftpfs-")}
