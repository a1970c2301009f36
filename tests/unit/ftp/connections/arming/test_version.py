"""Downloads that expect one version of a file."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import channels
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry
from tests.conftest import RemoteDir
from tests.support.arming import (
    LATENCY,
    NETWORK,
    arm,
    quiet,
    round_trips,
    then_a_port,
)
from tests.support.relay import Relay


def test_read_with_expected_version_costs_no_extra_round_trip(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = os.urandom(10_000)
    path = arm(remote, remote_dir, content)
    (entry,) = remote.list(remote_dir.path)
    quiet(remote)
    relay.latency = LATENCY
    relay.reset()
    download = remote.open_read(path, 5000, expect=entry)
    assert download.confirmed
    assert download.read(10_000) == content[5000:]
    download.close()
    quiet(remote)
    trips = round_trips(relay)
    ahead, *after = then_a_port(remote, ["REST", "RETR"])
    assert trips[0][-len(ahead) :] == ahead
    assert trips[0][: -len(ahead)] in (["MLST"], ["SIZE", "MDTM"])
    assert trips[1:] == after


@pytest.mark.parametrize("ahead", [True, False])
def test_read_of_changed_file_is_refused(
    remote: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
) -> None:
    monkeypatch.setattr(channels, "ARMING_PAYS_SECONDS", 0.0 if ahead else 1.0)
    content = os.urandom(10_000)
    disk = remote_dir.write("file", content)
    path = f"{remote_dir.path}/file"
    os.utime(disk, (1_700_000_000, 1_700_000_000))

    def read_on(entry: Entry) -> bytes:
        download = remote.open_read(path, 5000, expect=entry)
        try:
            return download.read(10_000)
        finally:
            download.close()

    (entry,) = remote.list(remote_dir.path)
    assert read_on(entry) == content[5000:]
    os.utime(disk, (1_700_000_007, 1_700_000_007))
    for _ in range(3):
        with pytest.raises(errors.Changed):
            read_on(entry)
        assert remote.command(f"SIZE {path}").text.strip() == "10000"
    assert read_on(replace(entry, exact=False)) == content[5000:]
    disk.write_bytes(content + b"x")
    with pytest.raises(errors.Changed):
        read_on(replace(entry, exact=False))
    disk.unlink()
    with pytest.raises(errors.NotFound):
        read_on(entry)
    assert relay.count("USER") <= NETWORK.max_connections


def test_attribute_that_server_does_not_report_is_not_compared(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"0123456789")
    path = f"{remote_dir.path}/file"
    (entry,) = remote.list(remote_dir.path)
    for verb in ("MLST", "SIZE", "MDTM"):
        relay.refuse(verb, "502 not here")
    for _ in range(2):
        download = remote.open_read(path, 5, expect=entry)
        assert not download.confirmed
        assert download.read(10) == b"56789"
        download.close()
        quiet(remote)


def test_same_time_in_two_zones_is_no_change(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"0123456789")
    path = f"{remote_dir.path}/file"
    (entry,) = remote.list(remote_dir.path)
    assert entry.mtime is not None
    elsewhere = replace(entry, mtime=entry.mtime + 5 * 3600 + 1800)
    download = remote.open_read(path, expect=elsewhere)
    assert download.read(10) == b"0123456789"
    download.close()
