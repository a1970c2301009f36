"""A short run of scripts/soak: programs, broken networks, killed daemons, changes by others."""

from __future__ import annotations

import pytest

from scripts import soaking
from tests.conftest import skip_unless_available
from tests.support.servers import Kind

pytestmark = pytest.mark.mount


@pytest.mark.long
@pytest.mark.parametrize(("kind", "seed"), [("vsftpd", 1), ("proftpd", 2)])
def test_nothing_is_lost_or_torn_while_everything_breaks(kind: Kind, seed: int) -> None:
    skip_unless_available(kind)
    counts = soaking.run_round(kind, seed, 16, kill_every=0.8, settle_every=6)
    print(counts)
    assert min(counts.operations, counts.faults, counts.files) >= 10
    assert counts.kills >= 2
    assert counts.settled >= 1
