"""Fixtures of the tests of arming.

On loopback nothing is armed, because arming does not pay there. These tests lower the round trip
from which it pays.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpfs.ftp.connections import channels
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support.arming import NETWORK, MakeRemote
from tests.support.relay import Relay
from tests.support.servers import FtpServer


@pytest.fixture(autouse=True)
def _arming_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "ARMING_PAYS_SECONDS", 0.0)


@pytest.fixture
def make_remote(server: FtpServer, relay: Relay) -> Iterator[MakeRemote]:
    made: list[Remote] = []

    def make(network: Network = NETWORK, **options: object) -> Remote:
        place = Server(
            server.host,
            relay.port,
            user=server.user,
            password=Secret(server.password),
            **options,  # type: ignore[arg-type]
        )
        made.append(Remote(place, network))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def remote(make_remote: MakeRemote) -> Remote:
    return make_remote()
