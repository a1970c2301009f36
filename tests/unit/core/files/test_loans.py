"""Which opens are lent a stored content to, as a table. What follows from it is tested on real
mounts: `tests/mount/test_passthrough_reading.py`."""

from __future__ import annotations

import pytest

from ftpfs.core.files.loans import STILL_SECONDS, Ask, obstacle
from ftpfs.core.store.lent import LEAST_BYTES, Unlent

NOW = 2_000_000_000.0
OLD = int(NOW - STILL_SECONDS)
GOOD = Ask(
    writes=False,
    is_read_only=False,
    is_open=False,
    follows=True,
    size=LEAST_BYTES,
    mtime=OLD,
    now=NOW,
)


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (GOOD, None),
        (GOOD._replace(writes=True), Unlent.UNSUITABLE),
        (GOOD._replace(follows=False), Unlent.UNSUITABLE),
        (GOOD._replace(size=LEAST_BYTES - 1), Unlent.UNSUITABLE),
        (GOOD._replace(size=0), Unlent.UNSUITABLE),
        (GOOD._replace(is_read_only=True), Unlent.READ_ONLY),
        (GOOD._replace(is_open=True), Unlent.OPEN),
        (GOOD._replace(mtime=OLD + 1), Unlent.CHANGED_LATELY),
        (GOOD._replace(mtime=int(NOW) + 100_000), Unlent.CHANGED_LATELY),
        (GOOD._replace(mtime=None), Unlent.CHANGED_LATELY),
    ],
)
def test_open_is_lent_to_or_not(ask: Ask, why: Unlent | None) -> None:
    assert obstacle(ask) is why
