"""Admission: who gets a session next, who logs in another one, and who waits. A pure decision.

The pool takes a snapshot of its state under its lock, `decide` says what happens, and the pool does
it. The rules:

- Transfers never take the last free connection while the cap allows two or more: metadata does not
  queue behind them. With a cap of one, metadata asks the transfer to give way. Uploads leave one
  connection more, for readers.
- Waiting metadata goes before waiting transfers, and both go before listings ahead. Listings ahead
  leave two places free, and one idle session to other callers. Prefetches leave that one, too, as
  long as there is room to log in one more.
- Listings behind an answer are like those ahead, but no session is logged in for them. So they take
  the last idle one if another caller could log in one more.
- A session that is being groomed, or logged in as a spare, will be idle soon: a caller waits for it
  rather than log in another one (7 round trips), unless more callers wait than sessions come.
- After a failed login, or after a long time without one, one thread logs in and the others wait for
  its result. So a changed password costs one failed login and not sixteen, after which a server
  might ban this client.

Pure: no lock, no clock, no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Use(enum.Enum):
    """What a lease is for."""

    METADATA = "metadata"  # short commands: a program such as `ls` waits for them
    LISTING = "listing"  # likewise, with a data connection
    TRANSFER = "transfer"  # file contents: may take long
    UPLOAD = "upload"  # likewise, to the server; readers are more urgent
    PREFETCH = "prefetch"  # file contents that no program waits for yet
    AHEAD = "ahead"  # listings that no program waits for yet
    BEHIND = "behind"  # listings that no program will wait for

    # Uses are keys of dicts that each command reads some twenty times. Enum's own hash is Python.
    __hash__ = object.__hash__


TRANSFERS = (Use.TRANSFER, Use.PREFETCH, Use.UPLOAD)
# They stand back while anybody else waits.
UNASKED = (Use.AHEAD, Use.BEHIND)


@dataclass(frozen=True, slots=True)
class Books:
    """A snapshot of the pool: numbers of sessions, logins and waiting callers."""

    cap: int  # limit of connections
    cap_now: int  # the same, or one more while a learned limit is tested
    idle: int
    grooming: int  # sessions that are groomed, and idle soon
    spares: int  # sessions being logged in without a caller
    leased: Mapping[Use, int]
    connecting: Mapping[Use, int]  # callers that are logging in
    waiting: Mapping[Use, int]  # callers without a session, including the one that asks
    let_in: bool  # a login succeeded lately, so several at a time are safe

    @property
    def living(self) -> int:
        """Sessions that are logged in."""
        return self.idle + self.grooming + sum(self.leased.values())

    @property
    def total(self) -> int:
        return self.living + self.spares + sum(self.connecting.values())

    @property
    def has_room(self) -> bool:
        return self.total < self.cap_now

    @property
    def may_log_in(self) -> bool:
        """Whether a login may begin now. Not while the result of an uncertain one is awaited."""
        return self.let_in or not (self.spares or sum(self.connecting.values()))

    def under_way(self, use: Use) -> int:
        return self.leased[use] + self.connecting[use]

    def in_line(self, use: Use) -> int:
        """How many callers wait, including those for `use`. None waits behind UNASKED ones."""
        return sum(n for u, n in self.waiting.items() if u not in UNASKED or u is use)


class Verdict(enum.Enum):
    TAKE = "take an idle session"
    CONNECT = "log in a session for this caller"
    WAIT = "wait until something changes"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do for one caller.

    `spare`: log in one more session as well; with TAKE, only if the session that is taken is still
    opening its data connection.
    """

    verdict: Verdict
    spare: bool = False


def decide(use: Use, books: Books) -> Decision:
    """What happens to a caller that asks for a session for `use`."""
    if not _may_start(use, books):
        return Decision(Verdict.WAIT)
    room = books.has_room
    if books.idle > _idle_left_alone(use, books):
        return Decision(Verdict.TAKE, spare=room and use is Use.TRANSFER and not books.spares)
    if use is Use.BEHIND:
        return Decision(Verdict.WAIT)
    if room and _needs_one_more(use, books):
        if use is Use.AHEAD or not books.living:
            return Decision(Verdict.CONNECT)
        # The caller takes whichever session is ready first, because the server may never answer the
        # other login. Also, a program that copies would wait six round trips for one file whose own
        # session was being logged in, while later files were fetched.
        return Decision(Verdict.WAIT, spare=True)
    # Have one more next time: then the random reads of one program find an idle session each while
    # others are groomed.
    spare = room and use in TRANSFERS and not books.spares and books.may_log_in
    return Decision(Verdict.WAIT, spare=spare)


def _may_start(use: Use, books: Books) -> bool:
    if use in UNASKED:
        others_wait = any(n for u, n in books.waiting.items() if u not in UNASKED)
        return not others_wait and sum(map(books.under_way, UNASKED)) < books.cap_now - 2
    if use not in TRANSFERS:
        return True
    metadata_waits = books.waiting[Use.METADATA] + books.waiting[Use.LISTING] > 0
    if metadata_waits and books.total >= books.cap:
        return False
    if use is Use.UPLOAD and books.under_way(use) >= max(1, books.cap_now - 2):
        return False
    return sum(map(books.under_way, TRANSFERS)) < max(1, books.cap_now - 1)


def _idle_left_alone(use: Use, books: Books) -> int:
    """How many idle sessions `use` leaves to other callers.

    Prefetches leave one only if there is room to log in one for themselves.
    """
    if use is Use.AHEAD:
        return 1
    if use is Use.BEHIND:
        return int(not books.has_room)
    return int(use is Use.PREFETCH and books.has_room and not books.spares and books.may_log_in)


def _needs_one_more(use: Use, books: Books) -> bool:
    """Whether more callers wait than sessions will be ready soon."""
    coming = books.grooming + books.spares
    return books.in_line(use) > coming and books.may_log_in
