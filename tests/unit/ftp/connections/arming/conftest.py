"""Fixtures of the tests of arming.

On loopback nothing is armed, because arming does not pay there; these tests lower `ARMING_PAYS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpfs.ftp.connections import session as session_module
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support.arming import NETWORK, MakeRemote
from tests.support.relay import Relay
from tests.support.servers import FtpServer


@pytest.fixture(autouse=True)
def _arming_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "ARMING_PAYS", 0.0)


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
