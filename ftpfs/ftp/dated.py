"""Exact times of files, on servers that are slow to report them.

The problem: LIST has minutes, and MDTM tells the seconds of one file. Most servers answer 20,000
MDTMs in a second. A device that takes 10 ms for each makes `ls` of 3,000 files wait for half a
minute, at each listing.

What we do: a listing asks for some times together with LIST, and for the others in pieces that
grow, as long as the server answers fast. Each piece shows the server's pace. If the server is slow,
a listing asks only for as many times as it gets within `PATIENCE_SECONDS`, newest files first. The
other files show minutes until a thread has asked for their times after the listing. An exact time
stays valid for later listings while those show the same size and minute, provided that the minute
was long past when the time was asked.

Owns how long this server takes for one MDTM, how many MDTMs a listing waits for, which times are
still to be asked, and the times that are known. Sends nothing itself: `lister` does, and after the
listing `remote`.

Threading: any thread; `_lock` (Rank.DATED) guards everything.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Sequence

from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import split

# Number of questions that shows a server's pace, and the time (s) for each above which the server
# is slow. The four servers measured take 0.03 to 0.1 ms. A listing waits for all times of a server
# that is not slow, because rsync would send files again whose times lack the seconds.
PROBE_COUNT, SLOW_SECONDS = 100, 0.0003
# Each piece of questions is larger than the one before by this factor. So a slow server shows
# itself before a listing has waited much longer than `PATIENCE_SECONDS`.
PIECE_GROWTH = 4
# Minimum duration (s) of a slow series: a busy machine that stops for a moment is no slow server.
SLOW_SERIES_SECONDS = 0.2
# How long (s) a listing waits for times, and how long one batch after the listing takes.
PATIENCE_SECONDS, BATCH_SECONDS = 1.0, 0.5
# Assumed pace (s) of a server that an earlier mount found slow, or not slow.
LIKELY_PACE_SECONDS, LIKELY_FAST_SECONDS = 0.01, 0.0001
# A time is stored only if it was this long past (s) when it was asked: a later change of the file
# then changes the minute that listings show.
SETTLED_SECONDS = 180.0
# Maximum number of stored times, over all folders; the folders listed first are evicted first.
MAX_KEPT = 200_000
# Maximum number of changes by this mount that may come between a question and its answer.
MAX_LATELY = 1000

# By name: the listed time and size, and the exact time.
_Told = dict[str, tuple[int | None, int | None, int]]


class Dated:
    """The exact times of one server's files that are too expensive to ask for again.

    `pace` is the seconds for each question (None: not seen by this mount), `changes` counts how
    often this mount may have set a time.
    """

    def __init__(self) -> None:
        self.pace: float | None = None
        self.changes = 0
        self._lock = ranked_lock(Rank.DATED)
        # Guarded by _lock:
        self._told: dict[str, _Told] = {}  # by folder
        self._kept = 0
        self._lately: deque[str] = deque(maxlen=MAX_LATELY)  # changed paths, the newest last
        self._waiting: dict[str, list[Entry]] = {}  # by folder: entries as they were listed

    def known(self, folder: str, files: Iterable[Entry]) -> dict[str, int]:
        """The exact times known for those of these files that are listed as they were then."""
        with self._lock:
            told = self._told.get(folder)
            if not told:
                return {}
            return {
                e.name: known[2]
                for e in files
                if (known := told.get(e.name)) is not None and known[:2] == (e.mtime, e.size)
            }

    def keep(
        self, folder: str, files: Iterable[Entry], exact: dict[str, int], changes: int
    ) -> None:
        """Store times that were asked when `changes` had this value."""
        settled = time.time() - SETTLED_SECONDS
        new = {
            e.name: (e.mtime, e.size, exact[e.name])
            for e in files
            if exact.get(e.name, settled) < settled
        }
        with self._lock:
            if self.changes - changes > len(self._lately):
                return  # some of the changes since then are not known any more
            for where in itertools.islice(reversed(self._lately), self.changes - changes):
                above, name = split(where)
                if above == folder:
                    new.pop(name, None)
            told = self._told.setdefault(folder, {})
            self._kept += len(new.keys() - told.keys())
            told.update(new)
            while self._kept > MAX_KEPT:
                self._kept -= len(self._told.pop(next(iter(self._told))))

    def forget(self, path: str) -> None:
        """Forget the time of a file that was changed here: listings need not show the change."""
        folder, name = split(path)
        with self._lock:
            self.changes += 1
            self._lately.append(path)
            if self._told.get(folder, {}).pop(name, None):
                self._kept -= 1

    def first(
        self, files: Sequence[Entry], *, are_slow: bool | None
    ) -> tuple[list[Entry], list[Entry]]:
        """The files whose times a listing asks for together with LIST, and the others.

        `are_slow`: whether the server is known to be slow; None: not known.
        """
        if are_slow is None:
            count = PROBE_COUNT
        else:
            likely = LIKELY_PACE_SECONDS if are_slow else LIKELY_FAST_SECONDS
            count = int(PATIENCE_SECONDS / (self.pace or likely)) + 1
        if len(files) <= count:
            return list(files), []
        newest = sorted(files, key=lambda entry: -(entry.mtime or 0))
        return newest[:count], newest[count:]

    def leave(self, folder: str, files: list[Entry]) -> None:
        """Note the files whose times are still to be asked, in place of earlier ones."""
        with self._lock:
            self._waiting.pop(folder, None)
            if files:
                self._waiting[folder] = files

    def next_batch(self) -> tuple[str, list[Entry]] | None:
        """Take some files whose times are still to be asked, of the folder listed last."""
        with self._lock:
            if not self._waiting:
                return None
            folder, files = self._waiting.popitem()
            count = int(BATCH_SECONDS / (self.pace or LIKELY_PACE_SECONDS)) + 1
            if files[count:]:
                self._waiting[folder] = files[count:]
            return folder, files[:count]

    def is_waiting(self) -> bool:
        with self._lock:
            return bool(self._waiting)

    def drop_waiting(self) -> None:
        """Forget all open questions, because the server is unreachable: the next listing asks."""
        with self._lock:
            self._waiting.clear()
