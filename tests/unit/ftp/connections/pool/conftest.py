"""A pool with a server and a clock of its own."""

from __future__ import annotations

import pytest

from ftpfs.ftp.connections.pool import Pool
from tests.support.clock import Clock
from tests.support.pools import (
    FakeServer,
    MakePool,
)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_pool(server: FakeServer, clock: Clock) -> MakePool:
    def make(cap: int = 4) -> Pool:
        def sleep(seconds: float) -> None:
            clock.now += seconds

        return Pool(server.connect, cap=cap, idle_timeout=50, clock=clock, sleep=sleep)

    return make
