"""Folders of the server that refuse temporary names, renames, or private files.

A refusal is remembered for a while, so that the next file of the folder does not pay for it again.

Threading: any thread; one lock.
"""

from __future__ import annotations

import logging
import time

from ftpfs.ftp.profile import Profile
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

# How long a refusal is remembered.
MEMORY_SECONDS = 600.0


class Folders:
    """The folders of one server that have refused something."""

    def __init__(self, profile: Profile) -> None:
        # Dependencies and constants:
        self._profile = profile
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock; times of time.monotonic():
        self._in_place: dict[str, float] = {}  # folders without temporary files, until when
        self._not_private: dict[str, float] = {}  # folders without private files, until when
        self._warned = False  # the log has warned about a folder without private files

    def writes_in_place(self, folder: str) -> bool:
        """Whether files are written under their own names there."""
        with self._lock:
            known = self._in_place.get(folder, 0.0) > time.monotonic()
        return known or self._profile.names.renames is False

    def must_write_in_place(self, folder: str) -> None:
        """The folder refused a temporary name, or a rename."""
        with self._lock:
            self._in_place[folder] = time.monotonic() + MEMORY_SECONDS

    def takes_each_name_once(self, folder: str) -> None:
        """Files there can be neither deleted nor written over."""
        self.must_write_in_place(folder)
        with self._lock:
            self._not_private[folder] = time.monotonic() + MEMORY_SECONDS

    def keeps_private(self, folder: str) -> bool:
        """Whether to try to give a file its mode before its content."""
        if self._profile.setting.chmod is False:
            return False
        with self._lock:
            return self._not_private.get(folder, 0.0) <= time.monotonic()

    def cannot_keep_private(self, folder: str, why: object) -> None:
        """The folder refused a mode, or a second write to one file. The log warns once."""
        with self._lock:
            self._not_private[folder] = time.monotonic() + MEMORY_SECONDS
            warn, self._warned = not self._warned, True
        log.log(
            logging.WARNING if warn else logging.INFO,
            "in %s private files are readable by others while they are sent: %s",
            folder,
            why,
        )
