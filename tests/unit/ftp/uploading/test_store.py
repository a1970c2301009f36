"""Whole files on their way to the four real servers: under a temporary name, checked, renamed."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.health import DOWN_SECONDS
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import CHUNK_BYTES
from ftpfs.ftp.uploading.sender import SMALL_BYTES
from ftpfs.settings.config import Server, Tls
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Command, Relay
from tests.support.uploading import (
    MEG,
    NETWORK,
    WHEN,
    Local,
    blob,
    found,
    on_disk,
)

# A whole file.


def test_new_file_is_complete_under_its_temporary_name_before_the_rename(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.hold_reply("STOR")
    data = blob(300_000)
    storing = threading.Thread(
        target=lambda: relayed.store("/new", Local(data, mode=0o640), base=None)
    )
    storing.start()
    assert relay.wait_for(lambda: relay.count("STOR") == 1)
    time.sleep(0.2)
    (name,) = on_disk(remote_dir.disk)
    assert name.startswith(".ftpfs-")
    relay.release()
    storing.join()
    assert on_disk(remote_dir.disk) == {"new": data}
    status = (remote_dir.disk / "new").stat()
    assert (int(status.st_mtime), status.st_mode & 0o777) == (WHEN, 0o640)


def test_first_file_without_a_time_has_that_of_its_writing(
    relayed: Remote, remote_dir: RemoteDir
) -> None:
    before = int(time.time())
    relayed.store("/new", Local(b"data", mtime=None), base=None)
    assert before - 1 <= (remote_dir.disk / "new").stat().st_mtime <= time.time() + 1


def test_content_overwritten_while_it_waits_in_a_socket_is_not_renamed(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    given_out = threading.Event()
    overtaken = threading.Event()

    def each(offset: int) -> None:
        if overtaken.is_set():
            raise errors.Superseded("written over")
        if offset:
            given_out.set()

    local = Local(blob(30_000), each=each)
    relay.stall_data("up", after=0)
    failures: list[errors.FtpfsError] = []

    def store() -> None:
        try:
            relayed.store("/new", local, base=None)
        except errors.FtpfsError as error:
            failures.append(error)

    storing = threading.Thread(target=store)
    storing.start()
    assert given_out.wait(5)
    os.ftruncate(local.fileno(), 100)
    overtaken.set()
    relay.release()
    storing.join()
    assert [type(error) for error in failures] == [errors.Superseded]
    assert "new" not in on_disk(remote_dir.disk)


def test_returned_entry_equals_the_servers(remote: Remote, remote_dir: RemoteDir) -> None:
    for mtime in (WHEN, None):
        stored = remote.store(f"/file{mtime}", Local(b"abc", mtime=mtime), base=None)
        looked = remote.look_again(f"/file{mtime}", stored)
        assert (stored.size, stored.mtime) == (looked.size, looked.mtime) == (3, looked.mtime)
        assert stored.exact


@pytest.mark.parametrize("replacing", [False, True])
def test_small_file_costs_one_exchange_after_its_data(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, replacing: bool
) -> None:
    base = None
    relayed.store("/warm", Local(b"x"), base=None)
    if replacing:
        remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
    relay.reset()
    relay.latency = 0.5
    begun = time.monotonic()
    relayed.store("/file", Local(bytes(4096)), base=base)
    took = time.monotonic() - begun
    # The port, the 150, the 226, and all the rest.
    assert took < 5 * 0.5, relay.verbs
    look = ["SIZE", "MDTM"] if remote_dir.server.kind == "vsftpd" else ["MLST"]
    set_time = "MDTM" if remote_dir.server.kind == "vsftpd" else "MFMT"
    end = [set_time, "RNFR", "RNTO", "SIZE", "SIZE"]
    # A link as long as this has a spare connection log in meanwhile.
    aside = {"EPSV", "USER", "PASS", "FEAT", "TYPE", "OPTS", "PWD"}
    assert [v for v in relay.verbs if v not in aside] == [*look, "STOR", *end]


def test_big_file_is_verified_before_it_has_its_name(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relayed.profile.times.zone_seen, relayed.profile.setting.time_grain = True, 1
    relayed.store("/file", Local(bytes(SMALL_BYTES + 1)), base=None)
    verbs = relay.verbs
    assert "SIZE" in verbs[verbs.index("STOR") : verbs.index("RNFR")]


def test_holes_and_what_lies_beyond_the_end_of_the_local_file_are_zeros(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    content = Local(b"")
    os.pwrite(content.fileno(), b"x", 3 * MEG)
    content._size = 5 * MEG + 7
    remote.store("/sparse", content, base=None)
    assert on_disk(remote_dir.disk) == {"sparse": bytes(3 * MEG) + b"x" + bytes(2 * MEG + 6)}


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, CHUNK_BYTES + 1])
def test_every_size_arrives(remote: Remote, remote_dir: RemoteDir, size: int) -> None:
    remote.store("/file", Local(blob(size)), base=None)
    assert on_disk(remote_dir.disk) == {"file": blob(size)}


@pytest.mark.parametrize("kind", ["vsftpd", "proftpd", "pure-ftpd", "pyftpdlib"])
def test_under_tls(kind: servers.Kind, start_server: StartServer) -> None:
    server = start_server(kind, tls="explicit")
    remote = Remote(
        Server(
            "localhost",
            server.port,
            user=server.user,
            password=Secret(server.password),
            tls=Tls.EXPLICIT,
            tls_ca=server.ca,
        ),
        NETWORK,
    )
    data = blob(3 * MEG + 5)
    stored = remote.store("/file", Local(data), base=None)
    changed = data[: 2 * MEG] + b"changed" + data[2 * MEG + 7 :] + b"more"
    ranges = [(2 * MEG, 2 * MEG + 7), (len(data), len(changed))]
    if kind != "pure-ftpd":
        remote.patch("/file", Local(changed), ranges, base=stored)
        assert on_disk(server.root) == {"file": changed}
    else:
        assert on_disk(server.root) == {"file": data}
    remote.close()


# Content that is still being written, or written over.


def test_application_that_pauses_for_longer_than_any_deadline_is_waited_for(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    data = blob(2 * MEG)

    class Slow(Local):
        def ready(self, offset: int) -> int:
            if offset == MEG:
                time.sleep(NETWORK.data_timeout * 1.5)
            return min(offset + MEG, self._size)

    remote.store("/file", Slow(data), base=None)
    assert on_disk(remote_dir.disk) == {"file": data}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_superseded_upload_is_deleted_and_leaves_the_old_file(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, at: int
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(relayed, "/file")
    calls = 0

    class Changing(Local):
        def ready(self, offset: int) -> int:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise errors.Superseded("written over")
            return min(offset + MEG, self._size)

    with pytest.raises(errors.Superseded):
        relayed.store("/file", Changing(blob(3 * MEG)), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"what was there"}
    relay.reset()
    relayed.store("/file", Local(b"new"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"new"}
    assert not relay.connections[1:], "the session is still good"


# Taken, before all of it has arrived.


def test_content_hears_that_the_server_accepts_it_while_most_of_it_is_unsent(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = Local(blob(24 * MEG))
    relay.data_rate = 8 * MEG
    storing = threading.Thread(target=lambda: relayed.store("/file", content, base=None))
    storing.start()
    assert content.taken.wait(10)
    assert relay.data_bytes("up") < 12 * MEG
    relay.data_rate = None
    storing.join()
    assert on_disk(remote_dir.disk) == {"file": blob(24 * MEG)}


def test_that_a_server_says_150_and_then_550_is_not_taken_for_a_yes(
    relayed: Remote, relay: Relay
) -> None:
    content = Local(blob(MEG + 1))
    relay.refuse("STOR", "150 Here it comes.\r\n550 Permission denied.")
    with pytest.raises(errors.PermissionDenied):
        relayed.store("/file", content, base=None)
    assert not content.taken.is_set()


def test_replacing_file_is_not_shown_before_it_has_replaced(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    content = Local(blob(3 * MEG))
    remote.store("/file", content, base=found(remote, "/file"))
    assert not content.taken.is_set()


BUSY = "550 The process cannot access the file because it is being used by another process."


@pytest.mark.parametrize("size", [500, 3_000_000])
def test_file_in_use_on_the_server_is_not_written_in_place(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int
) -> None:
    """The bytes that had arrived by then are not sent again."""
    remote_dir.write("file", b"read by somebody")
    base = found(relayed, "/file")
    refusals = [
        relay.do_instead(verb, f"{verb} /missing/x", BUSY, where=lambda c: c.arg.endswith("/file"))
        for verb in ("RNTO", "STOR")
    ]
    content = Local(blob(size))
    for _ in range(2):
        with pytest.raises(errors.Busy, match="used by another process") as busy:
            relayed.store("/file", content, base=base)
        assert errors.errno_of(busy.value) == errno.EBUSY
        assert (remote_dir.disk / "file").read_bytes() == b"read by somebody"
    assert refusals[1].hits == 0
    for rule in refusals:
        rule.remove()
    relayed.store("/file", content, base=base)
    stored = [command.arg for command in relay.commands if command.verb == "STOR"]
    assert len(stored) == 1
    relayed.store("/last", Local(b""), base=None)  # takes litter away
    assert on_disk(remote_dir.disk) == {"file": blob(size), "last": b""}


# A server that says 226 for less.


@pytest.mark.parametrize("size", [5000, 500_000])
@pytest.mark.parametrize("replacing", [False, True])
def test_226_for_a_truncated_upload_is_noticed_and_sent_again(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int, replacing: bool
) -> None:
    base = None
    if replacing:
        remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
    relay.replace_reply("STOR", "226 Transfer complete.")
    relay.cut_data("up", after=size // 2, how="fin")
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(size)}


def test_other_content_replaces_what_a_truncated_upload_has_left(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """The file was written anew before the first content could be sent again."""
    relay.replace_reply("STOR", "226 Transfer complete.", times=1)
    relay.cut_data("up", after=0, how="fin")
    relay.cut_control("STOR", times=None)
    with pytest.raises(errors.NetworkError):
        relayed.store("/file", Local(blob(5000)), base=None)
    relay.clear()
    assert on_disk(remote_dir.disk)["file"] == b""
    relayed.store("/file", Local(blob(7000), mtime=WHEN + 9), base=None)
    assert on_disk(remote_dir.disk)["file"] == blob(7000)


@pytest.mark.parametrize("still_away", [False, True])
@pytest.mark.parametrize("changed_by_others", [False, True])
def test_torn_file_whose_rename_was_not_answered_is_no_work_of_others(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, changed_by_others: bool, still_away: bool
) -> None:
    """The file was written anew before the first content could be sent again."""
    relayed.store("/other", Local(b"x"), base=None)
    relay.replace_reply("STOR", "226 Transfer complete.", times=1)
    relay.cut_data("up", after=1000, how="fin", times=1)

    def and_is_gone(command: Command) -> bool:
        last = command.arg.endswith("/file")
        if last:
            relay.refuse_connections()
        return last

    relay.cut_control("RNTO", when="after", where=and_is_gone)
    with pytest.raises(errors.NetworkError):
        relayed.store("/file", Local(blob(5000)), base=None)
    if still_away:  # the content that was written first is not sent either
        with pytest.raises(errors.NetworkError):
            relayed.store("/file", Local(blob(6000), mtime=WHEN + 5), base=None)
    relay.clear()
    relay.refuse_connections(None)
    time.sleep(DOWN_SECONDS * 3)  # that long, no login is tried
    torn = on_disk(remote_dir.disk)["file"]
    assert len(torn) < 5000
    if changed_by_others:
        remote_dir.write("file", b"by others")
        with pytest.raises(errors.Conflict):
            relayed.store("/file", Local(blob(7000), mtime=WHEN + 9), base=None)
        assert on_disk(remote_dir.disk)["file"] == b"by others"
    else:
        relayed.store("/file", Local(blob(7000), mtime=WHEN + 9), base=None)
        assert on_disk(remote_dir.disk) == {"file": blob(7000), "other": b"x"}


@pytest.mark.parametrize("size", [5000, 500_000])
def test_upload_fails_when_each_226_is_for_a_truncated_file(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(relayed, "/file")
    relay.replace_reply("STOR", "226 Transfer complete.")
    relay.cut_data("up", after=1000, how="fin", times=None)
    with pytest.raises((errors.DataMismatch, errors.DataConnectionFailed)):
        relayed.store("/file", Local(blob(size)), base=base)
    relay.clear()
    relayed.store("/other", Local(b"x"), base=None)
    # A small file is seen to be torn when it has its name: then none is there.
    left = {"file": b"what was there"} if size > SMALL_BYTES else {}
    assert on_disk(remote_dir.disk) == {"other": b"x", **left}
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk)["file"] == blob(size)


# Replies that are late or lost.


@pytest.mark.parametrize(("size", "replacing"), [(5000, False), (3 * MEG, True)])
def test_upload_is_not_repeated_when_its_226_never_comes(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int, replacing: bool
) -> None:
    base = None
    if replacing:
        remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
    relay.drop_reply("STOR")
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(size)}
    assert relay.count("STOR") == 1


def test_upload_is_not_repeated_when_its_226_is_lost_with_the_connection(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.cut_control("STOR", when="final")
    relayed.store("/file", Local(blob(3 * MEG)), base=None)
    assert on_disk(remote_dir.disk) == {"file": blob(3 * MEG)}
    assert relay.count("STOR") == 1
