"""A short run of scripts/soak: programs, broken networks, killed daemons, changes by others."""

from __future__ import annotations

import os

import pytest

from scripts.soaking import rounds
from scripts.soaking.model import Counts
from tests.conftest import skip_unless_available
from tests.support.servers import Kind

pytestmark = pytest.mark.mount


SECONDS = float(os.environ.get("FTPFS_SOAK_SECONDS", "8"))


def is_enough(counts: Counts) -> bool:
    """On a busy machine a round of some seconds may be over before much has happened."""
    return counts.kills >= 2 and min(counts.operations, counts.faults, counts.files) >= 10


@pytest.mark.long
@pytest.mark.parametrize(("kind", "seed"), [("vsftpd", 1), ("proftpd", 2)])
def test_nothing_is_lost_or_torn_while_everything_breaks(kind: Kind, seed: int) -> None:
    skip_unless_available(kind)
    counts = rounds.run_round(
        kind, seed, SECONDS, enough=is_enough, kill_every=0.8, settle_every=SECONDS / 2.5
    )
    print(counts)
    assert counts.settled >= 1
