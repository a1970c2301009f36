"""Admission: which caller gets a session, which one logs in, and which one waits, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.ftp.connections.admission import TRANSFERS, Books, Decision, Use, Verdict, decide

METADATA, LISTING, TRANSFER = Use.METADATA, Use.LISTING, Use.TRANSFER
UPLOAD, PREFETCH, AHEAD = Use.UPLOAD, Use.PREFETCH, Use.AHEAD
BEHIND = Use.BEHIND

TAKE = Decision(Verdict.TAKE)
TAKE_AND_SPARE = Decision(Verdict.TAKE, spare=True)
CONNECT = Decision(Verdict.CONNECT)
WAIT = Decision(Verdict.WAIT)
WAIT_FOR_SPARE = Decision(Verdict.WAIT, spare=True)


@dataclass
class Row:
    """One situation: the caller's use, the books, and the decision."""

    name: str
    use: Use
    expected: Decision
    cap: int = 4
    cap_now: int | None = None
    idle: int = 0
    grooming: int = 0
    spares: int = 0
    leased: dict[Use, int] = field(default_factory=dict)
    connecting: dict[Use, int] = field(default_factory=dict)
    waiting: dict[Use, int] = field(default_factory=dict)  # besides the caller
    let_in: bool = True

    def books(self) -> Books:
        none = dict.fromkeys(Use, 0)
        waiting = none | self.waiting
        waiting[self.use] += 1
        return Books(
            cap=self.cap,
            cap_now=self.cap if self.cap_now is None else self.cap_now,
            idle=self.idle,
            grooming=self.grooming,
            spares=self.spares,
            leased=none | self.leased,
            connecting=none | self.connecting,
            waiting=waiting,
            let_in=self.let_in,
        )


def rows() -> Iterator[Row]:
    yield Row("first caller logs in", METADATA, CONNECT)
    yield Row("idle session is taken", METADATA, TAKE, idle=1)
    yield Row("idle session is taken at the cap", METADATA, TAKE, cap=1, idle=1)
    yield Row("caller at the cap waits", METADATA, WAIT, cap=1, leased={METADATA: 1})
    yield Row(
        "further session is logged in while the caller waits for whichever is first",
        *(METADATA, WAIT_FOR_SPARE),
        leased={METADATA: 1},
    )
    yield Row("groomed session is waited for", METADATA, WAIT, grooming=1, leased={METADATA: 1})
    yield Row(
        "second caller does not wait for the one groomed session",
        *(METADATA, WAIT_FOR_SPARE),
        grooming=1,
        waiting={METADATA: 1},
    )
    yield Row("spare under way is waited for", METADATA, WAIT, spares=1, leased={METADATA: 1})
    yield Row(
        "one login goes first before any went well",
        *(METADATA, WAIT),
        connecting={METADATA: 1},
        let_in=False,
    )
    yield Row(
        "learned limit is tried once more after its time",
        *(METADATA, WAIT_FOR_SPARE),
        cap=1,
        cap_now=2,
        leased={METADATA: 1},
    )
    # Transfers and metadata.
    yield Row("transfer leaves the last place", TRANSFER, WAIT, cap=2, idle=1, leased={TRANSFER: 1})
    yield Row("transfer takes the only place of a cap of one", TRANSFER, TAKE, cap=1, idle=1)
    yield Row(
        "transfer stands back for metadata at the cap",
        *(TRANSFER, WAIT),
        cap=2,
        idle=2,
        waiting={METADATA: 1},
    )
    yield Row(
        "transfer is served beside waiting metadata below the cap",
        *(TRANSFER, TAKE_AND_SPARE),
        idle=2,
        waiting={METADATA: 1},
    )
    yield Row("transfer has a spare logged in beside it", TRANSFER, TAKE_AND_SPARE, idle=1)
    yield Row("transfer at the cap has no spare", TRANSFER, TAKE, cap=2, idle=2)
    yield Row(
        "transfer that waits has one more logged in for next time",
        *(TRANSFER, WAIT_FOR_SPARE),
        cap=6,
        grooming=1,
        leased={TRANSFER: 1},
    )
    yield Row("upload leaves two places", UPLOAD, WAIT, idle=2, leased={UPLOAD: 2})
    yield Row("upload may have one place of two", UPLOAD, TAKE, cap=2, idle=2)
    # Uses for which nobody waits.
    yield Row("listing ahead leaves one idle session", AHEAD, WAIT, idle=1, grooming=1)
    yield Row("listing ahead takes the second idle session", AHEAD, TAKE, idle=2)
    yield Row("listing ahead stands back for others", AHEAD, WAIT, idle=2, waiting={TRANSFER: 1})
    yield Row("listing ahead leaves two places", AHEAD, WAIT, idle=2, leased={AHEAD: 2})
    yield Row("listing ahead logs in for itself", AHEAD, CONNECT, cap=8, leased={METADATA: 1})
    yield Row("listing behind an answer takes the second idle session", BEHIND, TAKE, idle=2)
    yield Row(
        "listing behind an answer takes the last one, with room for more", BEHIND, TAKE, idle=1
    )
    yield Row(
        "listing behind an answer leaves the last one at the cap",
        BEHIND,
        WAIT,
        idle=1,
        leased={METADATA: 3},
    )
    yield Row(
        "listing behind an answer logs in no session", BEHIND, WAIT, cap=8, leased={UPLOAD: 1}
    )
    yield Row("listing behind an answer does not begin a mount", BEHIND, WAIT)
    yield Row("listing behind an answer stands back", BEHIND, WAIT, idle=2, waiting={UPLOAD: 1})
    yield Row("listings for nobody leave two places", BEHIND, WAIT, idle=2, leased={AHEAD: 2})
    yield Row(
        "listing ahead does not stand back for one behind", AHEAD, TAKE, idle=2, waiting={BEHIND: 1}
    )
    yield Row(
        "listing is not counted behind one for nobody",
        LISTING,
        WAIT,
        grooming=1,
        waiting={BEHIND: 1, AHEAD: 1},
    )
    yield Row("prefetch leaves the last idle session", PREFETCH, WAIT_FOR_SPARE, idle=1)
    yield Row("prefetch takes the last one at the cap", PREFETCH, TAKE, cap=2, idle=1, grooming=1)
    yield Row("prefetch takes the last one beside a spare", PREFETCH, TAKE, idle=1, spares=1)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_admission_decides_as_in_table(row: Row) -> None:
    assert decide(row.use, row.books()) == row.expected


counts = st.integers(0, 4)
per_use = st.fixed_dictionaries(dict.fromkeys(Use, counts))


@given(
    use=st.sampled_from(Use),
    cap=st.integers(1, 8),
    more=st.booleans(),
    idle=counts,
    grooming=counts,
    spares=counts,
    leased=per_use,
    connecting=per_use,
    waiting=per_use,
    let_in=st.booleans(),
)
def test_admission_keeps_its_invariants(
    use: Use,
    cap: int,
    more: bool,
    idle: int,
    grooming: int,
    spares: int,
    leased: dict[Use, int],
    connecting: dict[Use, int],
    waiting: dict[Use, int],
    let_in: bool,
) -> None:
    waiting[use] += 1
    books = Books(cap, cap + more, idle, grooming, spares, leased, connecting, waiting, let_in)
    decision = decide(use, books)
    logs_in = decision.spare or decision.verdict is Verdict.CONNECT
    assert not logs_in or books.has_room
    assert decision.verdict is not Verdict.TAKE or idle
    if not let_in and (spares or sum(connecting.values())):
        # One login goes first; no other thread sends a refused password again.
        assert decision.verdict is not Verdict.CONNECT
        assert decision.verdict is Verdict.TAKE or not decision.spare
    if use in TRANSFERS and decision.verdict is not Verdict.WAIT and books.cap_now > 1:
        assert sum(books.under_way(each) for each in TRANSFERS) < books.cap_now - 1
    if use is METADATA and idle:
        assert decision == TAKE
