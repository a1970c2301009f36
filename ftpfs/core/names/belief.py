"""How long a listing counts, and for what. A pure decision but for its clock.

    age of the listing              a listed name   a missing name       `ls`
    ------------------------------  --------------  -------------------  -----------------------
    recent (names_ttl, 5 s)         from memory     does not exist       from memory
    up to PATIENCE_SECONDS more     from memory *   the folder is        far: from memory *
                                                    listed first         near: listed first
    fresh (ttl, 60 s)               from memory *   listed first         listed first
    older                           listed first    listed first         listed first

    A listing that took long is recent for longer (RECENT_FACTOR). In that time a missing name is
    asked for by itself.

    *: the folder is looked at again behind the answer (`behind`).

**Which programs wait.** A mount promises that names that others make or delete show within ten
seconds. A listing of a minute ago cannot answer an `ls`, however far the server is: the program may
ask only once. So an `ls` gets at most PATIENCE_SECONDS beyond the time for which names are
believed. Within them it is answered at once, where a listing takes long enough to be noticed. On a
near server it is not: there a listing takes a millisecond or two, and a listing behind the answer
would cost as much, and show the new names one `ls` later.

A look-up of a missing name waits, because that name was most likely told to the program: "I have
put it there". The open would fail for good, while an `ls` that lacks a name is repeated.

Threading: none of its own; the tree's lock guards the listings.
"""

from __future__ import annotations

from collections.abc import Callable

from ftpfs.core.names.listings import ROOT, Directory
from ftpfs.model.entry import Entry, Kind

# A listing stays recent for this multiple of the time that it took, if that is longer than
# `names_ttl`. So no more than a twentieth of the time goes into listing a directory again.
RECENT_FACTOR = 20

# For so long (seconds) after it stopped being recent, a listing answers an `ls` of a far server.
# Together with the five seconds of `names_ttl` these are the ten seconds that are promised.
PATIENCE_SECONDS = 5.0

# A listing that took longer than this (seconds) is not waited for, near or far: a long folder.
NOTICED_SECONDS = 0.1


# What a program asks for that lists a directory.
WHOLE = ROOT


class Belief:
    """For what the listings of one server count now."""

    def __init__(
        self,
        ttl: float,
        names_ttl: float,
        is_far: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`ttl`, `names_ttl`: how long an entry counts, and the absence of a name (seconds).

        `is_far()`: whether a round trip to the server is so long that a program notices it.
        """
        self._ttl = ttl
        self._names_ttl = names_ttl
        self.is_far = is_far
        self._clock = clock

    def is_fresh(self, directory: Directory) -> bool:
        """Whether the names in the listing count."""
        return self._clock() - directory.since < self._ttl  # each `stat` calls this

    def counts_from(self, since: float) -> bool:
        """Whether an entry counts that the server was asked for at `since`."""
        return self._clock() - since < self._ttl

    def is_recent(self, directory: Directory) -> bool:
        """Whether a name that the listing lacks counts as missing."""
        now = self._clock()
        if now - directory.since >= self._ttl:
            return False
        age = now - directory.checked
        return age < self._names_ttl or age < self._believed_for(directory)

    def may_lack(self, directory: Directory) -> bool:
        """Whether a name that the listing lacks is asked for by itself.

        So it is if the listing is recent only because it took long. No more than a twentieth of the
        time goes into such questions (`asked_for`).
        """
        now = self._clock()
        return now - directory.checked >= self._names_ttl and now >= directory.asks_from

    def asked_for(self, directory: Directory, took: float) -> None:
        """A name that the listing lacks was asked for by itself; that took `took` seconds."""
        directory.asks_from = self._clock() + RECENT_FACTOR * took

    def shows(self, directory: Directory) -> bool:
        """Whether the listing answers an `ls`."""
        if self.is_recent(directory):
            return True
        age = self._clock() - directory.checked
        if not self.is_fresh(directory) or age >= self._believed_for(directory) + PATIENCE_SECONDS:
            return False
        return directory.took > NOTICED_SECONDS or self.is_far()

    def becomes_due(self, directory: Directory, entry: Entry | None = WHOLE) -> bool:
        """Whether to look at a directory again, from whose listing a program was just answered.

        True only once in the time for which the listing is believed. `entry`: what the program
        asked for. None, a missing name, is another matter. The name of a directory is most often a
        part of a path: with it, all folders above a file would become due.
        """
        now = self._clock()
        if now - directory.checked < self._names_ttl:  # each `stat` calls this
            return False
        if entry is None or (entry.kind is Kind.DIRECTORY and entry is not WHOLE):
            return False
        if now - max(directory.checked, directory.asked) < self._believed_for(directory):
            return False
        directory.asked = now
        return True

    def _believed_for(self, directory: Directory) -> float:
        return max(self._names_ttl, RECENT_FACTOR * directory.took)
