"""The refiner: a thread that asks for the times that a listing did not wait for (see `dated`).

Threading: one thread at a time, started when a listing leaves times to be asked for. It takes a
lease for each batch, so that no caller waits long for a session.
"""

from __future__ import annotations

import logging
import threading

from ftpfs import errors
from ftpfs.ftp import lister
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Pool
from ftpfs.ftp.profile import Profile

log = logging.getLogger(__name__)


class Refiner:
    """Asks one server for times after the listings."""

    def __init__(self, pool: Pool, profile: Profile) -> None:
        self._pool = pool
        self._profile = profile
        self._running = threading.Lock()  # held while the thread runs

    def start_if_needed(self) -> None:
        """Start the thread, unless it runs or no time is missing."""
        if not self._profile.times.dated.is_waiting() or not self._running.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._run, name="ftpfs-times", daemon=True).start()
        except RuntimeError:  # no more threads: the next listing tries again
            self._running.release()

    def _run(self) -> None:
        dated = self._profile.times.dated
        try:
            while batch := dated.next_batch():
                with self._pool.leased(Use.LISTING) as session:
                    lister.ask_times(session, *batch)
        except errors.FtpfsError as error:
            log.info("times are not asked for now: %s", error)
            dated.drop_waiting()
        finally:
            self._running.release()
