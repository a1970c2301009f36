"""Ranges of a file, written in place on the four real servers."""

from __future__ import annotations

import os

import pytest

from ftpfs import errors
from ftpfs.ftp.profile import Restart
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.uploading import (
    MEG,
    WHEN,
    Local,
    blob,
    found,
    on_disk,
    sent_up,
)


@pytest.mark.parametrize("times", [1, 3])
def test_226_for_a_truncated_patch_is_noticed(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, times: int
) -> None:
    old, new = bytes(4 * MEG), bytes(MEG) + blob(1000) + bytes(3 * MEG - 1000)
    remote_dir.write("file", old)
    base = found(relayed, "/file")
    try:
        relayed.patch("/file", Local(new), [(MEG, MEG + 1000)], base=base)
    except errors.NotSupported:
        return
    base = found(relayed, "/file")
    relay.replace_reply("STOR", "226 Transfer complete.")
    relay.cut_data("up", after=500, how="fin", times=times)
    content = Local(new[:MEG] + blob(1000, 2) + new[MEG + 1000 :])
    if times == 1:
        relayed.patch("/file", content, [(MEG, MEG + 1000)], base=base)
        assert on_disk(remote_dir.disk) == {"file": os.pread(content.fileno(), 4 * MEG, 0)}
    else:
        with pytest.raises(errors.DataMismatch):
            relayed.patch("/file", content, [(MEG, MEG + 1000)], base=base)


ALL_KEPT = ("vsftpd", "proftpd", "pyftpdlib")


def test_rest_before_stor_is_probed_once(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    data = blob(4 * MEG)
    remote_dir.write("file", data)
    for number in range(3):
        base = found(relayed, "/file")
        data = data[:MEG] + bytes([number] * 10) + data[MEG + 10 :]
        relay.reset()
        if remote_dir.server.kind not in ALL_KEPT:
            with pytest.raises(errors.NotSupported):
                relayed.patch("/file", Local(data), [(MEG, MEG + 10)], base=base)
            continue
        entry = relayed.patch(
            "/file", Local(data, mtime=WHEN + number), [(MEG, MEG + 10)], base=base
        )
        assert (entry.size, entry.mtime) == (4 * MEG, WHEN + number)
        assert on_disk(remote_dir.disk) == {"file": data}
        assert relay.count("STOR") == (3 if number == 0 else 1)
        assert sent_up(relay) < 100
    expected = Restart.ALL if remote_dir.server.kind in ALL_KEPT else Restart.HEAD
    assert relayed.profile.contents.restart is expected
    assert sorted(on_disk(remote_dir.disk)) == ["file"]


@pytest.mark.parametrize("same", [bytes(100_000), blob(100_000, 7)], ids=["zeros", "anything"])
def test_truncated_patch_is_noticed_when_its_last_bytes_are_unchanged(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, same: bytes
) -> None:
    if remote_dir.server.kind not in ALL_KEPT:
        pytest.skip("server cannot: keep what lies behind a change")
    data = blob(2 * MEG) + same + blob(2 * MEG, 2)
    remote_dir.write("file", data)
    for start, end, after in ((MEG, MEG + 10, 0), (MEG, 2 * MEG + len(same), 500_000)):
        base = found(relayed, "/file")
        data = data[:start] + blob(min(end, 2 * MEG) - start, 3) + data[min(end, 2 * MEG) :]
        rule = relay.cut_data("up", after=after, how="fin") if after else None
        relayed.patch("/file", Local(data), [(start, end)], base=base)
        assert on_disk(remote_dir.disk) == {"file": data}
    assert rule
    assert rule.hits == 1


def test_append_needs_no_probe_of_rest(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    data = blob(4 * MEG)
    remote_dir.write("file", data)
    relayed.profile.contents.appends = (
        True  # what a server that is not known by name was asked once
    )
    base = found(relayed, "/file")
    relay.reset()
    relayed.patch("/file", Local(data + b"more"), [(len(data), len(data) + 4)], base=base)
    assert on_disk(remote_dir.disk) == {"file": data + b"more"}
    assert relay.count("APPE") == 1
    assert relay.count("STOR", "RETR", "REST") == 0


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (4 * MEG, [(0, 10)]),  # STOR without REST begins with an empty file
        (4 * MEG, [(4 * MEG + 1, 4 * MEG + 2)]),  # a hole
        (100_000, [(50_000, 50_010)]),
        (4 * MEG, [(MEG, 3 * MEG + MEG // 2)]),
        (4 * MEG, [(n * 1000 + 1, n * 1000 + 2) for n in range(20)]),
    ],
)
def test_patch_that_is_impossible_or_costly_is_refused_before_anything_is_sent(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int, ranges: list[tuple[int, int]]
) -> None:
    base = Entry("file", Kind.FILE, size=size, mtime=WHEN, exact=True)
    relay.reset()
    with pytest.raises(errors.NotSupported):
        relayed.patch("/file", Local(bytes(5 * MEG)), ranges, base=base)
    assert relay.commands == []


@pytest.mark.parametrize("ranges", [[(MEG, MEG + 10)], [(4 * MEG, 4 * MEG + 10)]])
def test_file_that_somebody_else_changed_is_not_patched(
    remote: Remote, remote_dir: RemoteDir, ranges: list[tuple[int, int]]
) -> None:
    path = remote_dir.write("file", bytes(4 * MEG))
    os.utime(path, (WHEN, WHEN))
    base = found(remote, "/file")
    for theirs in (blob(4 * MEG), blob(4 * MEG + 1)):
        path.write_bytes(theirs)
        now = path.stat().st_mtime
        with pytest.raises((errors.Conflict, errors.NotSupported)) as caught:
            remote.patch("/file", Local(bytes(5 * MEG)), ranges, base=base)
        if remote_dir.server.kind in ALL_KEPT or ranges[0][0] == 4 * MEG:
            assert caught.type is errors.Conflict
        assert on_disk(remote_dir.disk) == {"file": theirs}
        assert path.stat().st_mtime == now
    path.unlink()
    with pytest.raises(errors.NotSupported):
        remote.patch("/file", Local(bytes(5 * MEG)), ranges, base=base)
    assert on_disk(remote_dir.disk) == {}


def test_superseded_patch_is_repeated_from_the_servers_state(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    data = blob(4 * MEG)
    remote_dir.write("file", data)
    base = found(remote, "/file")
    new = data[:MEG] + bytes(1000) + data[MEG + 1000 :] + b"more"
    ranges = [(MEG, MEG + 1000), (4 * MEG, 4 * MEG + 4)]

    def stop(offset: int) -> None:
        if offset >= 4 * MEG:
            raise errors.Superseded("written over")

    if remote_dir.server.kind not in ALL_KEPT:
        with pytest.raises(errors.NotSupported):
            remote.patch("/file", Local(new), ranges, base=base)
        return
    with pytest.raises(errors.Superseded):
        remote.patch("/file", Local(new, each=stop), ranges, base=base)
    remote.patch("/file", Local(new), ranges, base=remote.stat("/file"))
    assert on_disk(remote_dir.disk) == {"file": new}


# What may end a patch after bytes of it were sent, though the server was able to do it before.
GIVEN_UP = ("REST is avoided", "REST is refused", "STOR is refused at its end")


@pytest.mark.parametrize("how", GIVEN_UP)
def test_patch_that_cannot_go_on_once_it_has_begun_is_no_patch_that_server_cannot_do(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, how: str
) -> None:
    """Else its file would be sent whole, and what the patch has left be taken for others' work."""
    if remote_dir.server.kind not in ALL_KEPT:
        pytest.skip("server cannot: keep what lies behind a change")
    data = blob(4 * MEG)
    remote_dir.write("file", data)
    data = data[:MEG] + b"first" + data[MEG + 5 :]
    relayed.patch("/file", Local(data), [(MEG, MEG + 5)], base=found(relayed, "/file"))
    data = data[:MEG] + b"again" + data[MEG + 5 :]
    rests: list[object] = []

    def is_second(command: object) -> bool:
        rests.append(command)
        return len(rests) == 2  # that of the reading back

    def give_up(_: int) -> None:
        if how == "REST is avoided":
            relayed.profile.wire.manners.avoid("REST")

    if how == "REST is refused":
        relay.refuse("REST", "502 not now", where=is_second)
    elif how == "STOR is refused at its end":
        relay.replace_reply("STOR", "504 not now")
    base = found(relayed, "/file")
    with pytest.raises(errors.DataMismatch, match="broke off"):
        relayed.patch("/file", Local(data, each=give_up), [(MEG, MEG + 5)], base=base)
    assert (remote_dir.disk / "file").stat().st_size == 4 * MEG
