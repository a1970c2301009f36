"""Remotes on the real servers; the fixture `network` is the module's that uses them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.support.relay import Relay


@pytest.fixture
def remote(remote_dir: RemoteDir, network: Network) -> Iterator[Remote]:
    """A fresh folder of each server."""
    made = remote_dir.remote(network)
    yield made
    made.close()


@pytest.fixture
def relayed(remote_dir: RemoteDir, relay: Relay, network: Network) -> Iterator[Remote]:
    """The same folder, behind a relay."""
    made = remote_dir.remote(network, relay.port)
    yield made
    made.close()
