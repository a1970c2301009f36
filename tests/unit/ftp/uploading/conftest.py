"""Fixtures of the tests of uploads."""

from __future__ import annotations

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from tests.support.uploading import NETWORK


@pytest.fixture
def network() -> Network:
    return NETWORK


@pytest.fixture
def relayed(relayed: Remote) -> Remote:
    """A relay before the server, after a first listing, which these tests do not count."""
    relayed.list("/")
    return relayed
