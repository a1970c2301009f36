"""Uploads to the four real servers, through a relay that breaks them: no byte is lost or torn."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.config import Network, Server, Tls
from ftpfs.credentials import Secret
from ftpfs.ftp import upload
from ftpfs.ftp.listing import Entry, Kind
from ftpfs.ftp.profile import Restart
from ftpfs.ftp.remote import Remote
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Relay

NETWORK = Network(
    connect_timeout=2.0, reply_timeout=2.0, data_timeout=2.0, finish_timeout=1.5, max_connections=4
)
WHEN = 1_600_000_000
MEG = 1 << 20


class Local:
    """Content in a local file. `each` is called with the offset before a piece is given out."""

    def __init__(
        self,
        data: bytes,
        *,
        mtime: int | None = WHEN,
        mode: int | None = None,
        each: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with this object)
        self._file.write(data)
        self._file.flush()
        self._size = len(data)
        self._attributes = mtime, mode
        self._each = each
        self.taken = threading.Event()

    def fileno(self) -> int:
        return self._file.fileno()

    def ready(self, offset: int) -> int:
        self._each(offset)
        return max(offset, self._size)

    def whole(self) -> int | None:
        return self._size

    def accepted(self) -> None:
        assert not self.taken.is_set()
        self.taken.set()

    def attributes(self) -> tuple[int | None, int | None]:
        return self._attributes


@pytest.fixture
def network() -> Network:
    return NETWORK


@pytest.fixture
def relayed(relayed: Remote) -> Remote:
    relayed.list("/")  # what is asked before the first listing is not what these tests are about
    return relayed


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def found(remote: Remote, path: str) -> Entry:
    """What a mount would know of it."""
    return next(entry for entry in remote.list("/") if entry.name == path[1:])


# A whole file.


def test_a_new_file_is_whole_under_a_temporary_name_before_it_has_its_own(
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


def test_content_that_is_written_over_while_it_waits_in_a_socket_does_not_get_its_name(
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


def test_the_entry_returned_is_what_a_look_shows(remote: Remote, remote_dir: RemoteDir) -> None:
    for mtime in (WHEN, None):
        stored = remote.store(f"/file{mtime}", Local(b"abc", mtime=mtime), base=None)
        looked = remote.look_again(f"/file{mtime}", stored)
        assert (stored.size, stored.mtime) == (looked.size, looked.mtime) == (3, looked.mtime)
        assert stored.exact


@pytest.mark.parametrize("replacing", [False, True])
def test_a_small_file_costs_one_exchange_after_its_data(
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


def test_a_big_file_is_verified_before_it_has_its_name(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relayed.store("/file", Local(bytes(upload.SMALL + 1)), base=None)
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


@pytest.mark.parametrize("size", [0, 1, upload.SMALL, upload.SMALL + 1, upload.PIECE + 1])
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


def test_an_application_that_pauses_for_longer_than_any_deadline_is_waited_for(
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
def test_superseded_content_is_taken_away_and_leaves_what_was_there(
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


def test_that_the_server_takes_a_file_is_told_while_most_of_it_is_still_to_be_sent(
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


def test_of_what_replaces_a_file_nothing_is_told_before_it_did(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    content = Local(blob(3 * MEG))
    remote.store("/file", content, base=found(remote, "/file"))
    assert not content.taken.is_set()


def test_a_file_that_is_written_in_place_is_taken(relayed: Remote, relay: Relay) -> None:
    relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    content = Local(blob(3 * MEG))
    relayed.store("/file", content, base=None)
    assert content.taken.is_set()


# What others did.


def conflicts(remote: Remote, place: RemoteDir, base: Entry | None, then: bytes) -> None:
    before = (place.disk / "file").stat()
    with pytest.raises(errors.Conflict):
        remote.store("/file", Local(b"mine", mtime=WHEN + 7), base=base)
    assert on_disk(place.disk) == {"file": then}
    assert (place.disk / "file").stat().st_mtime == before.st_mtime


def test_a_file_that_somebody_else_made_is_not_replaced(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"theirs")
    conflicts(remote, remote_dir, None, b"theirs")


def test_a_file_that_somebody_else_changed_is_not_replaced(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    os.utime(path, (WHEN, WHEN))
    base = found(remote, "/file")
    path.write_bytes(b"another size")
    os.utime(path, (WHEN, WHEN))
    conflicts(remote, remote_dir, base, b"another size")
    path.write_bytes(b"another time!!")
    os.utime(path, (WHEN + 1, WHEN + 1))
    conflicts(remote, remote_dir, base, b"another time!!")


def test_a_time_that_was_not_exact_is_not_compared(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"what was there")
    base = Entry("file", Kind.FILE, size=14, mtime=WHEN, exact=False)
    remote.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_a_file_that_somebody_else_deleted_is_made_again(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    base = found(remote, "/file")
    path.unlink()
    remote.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_a_change_during_a_long_upload_is_seen_before_the_rename(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    path = remote_dir.write("file", b"what was there")
    base = found(remote, "/file")

    def meanwhile(offset: int) -> None:
        if offset:
            path.write_bytes(b"theirs")
            time.sleep(upload.RECHECK_AFTER)

    with pytest.raises(errors.Conflict):
        remote.store("/file", Local(b"mine", each=meanwhile), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"theirs"}


def test_a_folder_in_the_way_is_no_conflict_to_be_copied_around(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file/inside", b"x")
    with pytest.raises((errors.IsADirectory, errors.Conflict)):
        remote.store("/file", Local(b"mine"), base=None)
    assert os.listdir(remote_dir.disk) == ["file"]
    assert os.listdir(remote_dir.disk / "file") == ["inside"]


@pytest.mark.parametrize("theirs", [False, True])
def test_what_a_killed_mount_had_renamed_already_is_no_conflict(
    remote: Remote, remote_dir: RemoteDir, theirs: bool
) -> None:
    data = blob(2 * MEG)
    there = data[:-1] + b"?" if theirs else data
    path = remote_dir.write("file", there)
    os.utime(path, (WHEN, WHEN))
    for base in (None, Entry("file", Kind.FILE, size=7, mtime=5, exact=True)):
        if theirs:
            with pytest.raises(errors.Conflict):
                remote.store("/file", Local(data), base=base)
        else:
            entry = remote.store("/file", Local(data), base=base)
            assert (entry.size, entry.mtime) == (len(data), WHEN)
        assert on_disk(remote_dir.disk) == {"file": there}


@pytest.mark.parametrize("size", [0, 4])
def test_what_a_killed_mount_had_renamed_and_not_measured_yet_is_made_whole(
    remote: Remote, remote_dir: RemoteDir, size: int
) -> None:
    os.utime(remote_dir.write("file", b"small content"[:size]), (WHEN, WHEN))
    entry = remote.store("/file", Local(b"small content"), base=None)
    assert entry.size == 13
    assert on_disk(remote_dir.disk) == {"file": b"small content"}


# Servers that do not do what others do.


@pytest.mark.parametrize("answer", ["250 Renamed.", "553 File exists", "550 no"])
@pytest.mark.parametrize("size", [5, 200_000])
def test_where_a_rename_over_a_file_is_not_done_the_old_one_is_moved_aside(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, answer: str, size: int
) -> None:
    remote_dir.write("file", bytes(size))  # of the same size: only the temporary name tells
    base = found(relayed, "/file")
    relay.do_instead("RNTO", "RNTO /missing/x", answer, times=1)
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(size)}
    assert relay.count("STOR") == 1
    assert int((remote_dir.disk / "file").stat().st_mtime) == WHEN


@pytest.mark.parametrize("answer", ["250 Renamed.", "553 no renames", "502 what?"])
@pytest.mark.parametrize("replacing", [False, True])
def test_where_nothing_is_ever_renamed_the_file_is_written_in_place(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, answer: str, replacing: bool
) -> None:
    base = None
    if replacing:
        remote_dir.write("file", bytes(500))
        base = found(relayed, "/file")
    relay.do_instead("RNTO", "RNTO /missing/x", answer)
    entry = relayed.store("/file", Local(blob(500)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(500)}
    assert (entry.size, entry.mtime) == (500, WHEN)


def test_a_drop_folder_keeps_one_temporary_file_at_most(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """Upload only: nothing can be seen, renamed or deleted there."""
    for verb in ("SIZE", "MDTM", "MLSD", "LIST", "MLST", "RNFR", "DELE", "MFMT"):
        relay.refuse(verb, "550 Permission denied.")
    for number in range(4):
        relayed.store(f"/scan{number}", Local(b"content"), base=None)
    left = on_disk(remote_dir.disk)
    assert {name: data for name, data in left.items() if name[0] != "."} == {
        f"scan{number}": b"content" for number in range(4)
    }
    assert len(left) == 5


def test_where_the_folder_takes_no_new_names_the_file_is_written_in_place(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(remote, "/file")
    remote_dir.disk.chmod(0o555)
    remote.store("/file", Local(b"mine"), base=base)
    with pytest.raises(errors.PermissionDenied):
        remote.store("/other", Local(b"mine"), base=None)
    remote_dir.disk.chmod(0o755)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_in_place_too_others_changes_are_not_overwritten(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    for number in range(2):  # the second time it is known that there are no new names
        path = remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
        path.write_bytes(b"theirs")
        conflicts(relayed, remote_dir, base, b"theirs")
        relayed.store("/file", Local(b"mine"), base=found(relayed, "/file"))
        assert on_disk(remote_dir.disk) == {"file": b"mine"}, number


def test_a_server_without_size_and_times(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    for verb in ("SIZE", "MDTM", "MLST", "MFMT", "MFF", "SITE"):
        relay.refuse(verb, "500 what?")
    relayed.store("/file", Local(blob(200_000), mode=0o600), base=None)
    base = Entry("file", Kind.FILE, size=200_000, mtime=WHEN, exact=True)
    relayed.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


# A server that says 226 for less.


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


@pytest.mark.parametrize("size", [5000, 500_000])
def test_226_for_what_is_truncated_each_time_is_an_error(
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
    left = {"file": b"what was there"} if size > upload.SMALL else {}
    assert on_disk(remote_dir.disk) == {"other": b"x", **left}
    relayed.store("/file", Local(blob(size)), base=base)
    assert on_disk(remote_dir.disk)["file"] == blob(size)


# Replies that are late or lost.


@pytest.mark.parametrize(("size", "replacing"), [(5000, False), (3 * MEG, True)])
def test_a_226_that_never_comes_does_not_make_it_send_again(
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


def test_a_226_that_is_lost_with_the_connection_does_not_make_it_send_again(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.cut_control("STOR", when="final")
    relayed.store("/file", Local(blob(3 * MEG)), base=None)
    assert on_disk(remote_dir.disk) == {"file": blob(3 * MEG)}
    assert relay.count("STOR") == 1


# Connections that break.


def up(relay: Relay) -> int:
    return relay.data_bytes("up")


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("replacing", [False, True])
def test_a_broken_upload_goes_on_where_it_broke(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, control: bool, replacing: bool
) -> None:
    base = None
    if replacing:
        remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
    data = blob(12 * MEG)
    relay.cut_data("up", after=9 * MEG, control=control)
    relayed.store("/file", Local(data), base=base)
    assert on_disk(remote_dir.disk) == {"file": data}
    assert relay.count("REST") >= 1
    assert up(relay) < len(data) + 2 * MEG


def test_an_upload_that_breaks_again_and_again_arrives_as_long_as_it_gets_on(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    data = blob(16 * MEG)
    relay.cut_data("up", after=3 * MEG // 2, times=None, control=True)
    relayed.store("/file", Local(data), base=None)
    assert on_disk(remote_dir.disk) == {"file": data}
    assert up(relay) < len(data) + 2 * MEG


@pytest.mark.parametrize("same", [True, False])
def test_a_server_that_was_away_gets_the_rest_of_the_same_content(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, same: bool
) -> None:
    data = blob(12 * MEG)

    def away(offset: int) -> None:
        if offset >= 8 * MEG and not relay.count("REST"):
            time.sleep(0.2)  # for what was sent to arrive
            relay.vanish()

    class Pieces(Local):
        def ready(self, offset: int) -> int:
            return min(super().ready(offset), offset + MEG)

    content = Pieces(data, each=away)
    with pytest.raises(errors.NetworkError):
        relayed.store("/file", content, base=None)
    assert all(name.startswith(".ftpfs-") for name in on_disk(remote_dir.disk))
    relay.come_back()
    content._each = lambda _: None
    before = up(relay)
    again = content if same else Local(b"another")
    deadline = time.monotonic() + 10
    while True:
        try:
            relayed.store("/file", again, base=None)
            break
        except errors.NetworkError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert on_disk(remote_dir.disk) == {"file": data if same else b"another"}
    if same:
        assert up(relay) - before < 5 * MEG


class Work:
    """Something to be uploaded, and what is then on the server's disk."""

    size = 3 * MEG

    def __init__(self, remote: Remote, place: RemoteDir, number: int) -> None:
        self.remote = remote
        self.place = place
        self.name = f"n{number}"
        self.old = blob(self.size, number)
        self.new = blob(5000 if number % 2 else self.size - 7, number + 1000)

    def prepare(self) -> None:
        pass

    def do(self) -> None:
        self.remote.store(f"/{self.name}", Local(self.new), base=None)

    def check(self) -> None:
        assert on_disk(self.place.disk) == {self.name: self.new}


class Replace(Work):
    def prepare(self) -> None:
        self.place.write(self.name, self.old)
        self.base = found(self.remote, f"/{self.name}")

    def do(self) -> None:
        self.remote.store(f"/{self.name}", Local(self.new), base=self.base)


class Patch(Replace):
    ranges: Sequence[tuple[int, int]] = ((MEG, MEG + 1000), (2 * MEG, 2 * MEG + 70_000))

    def prepare(self) -> None:
        super().prepare()
        new = bytearray(self.old)
        for start, end in self.ranges:
            new[start:end] = blob(end - start, start)
        self.new = bytes(new)

    def do(self) -> None:
        content = Local(self.new)
        try:
            self.remote.patch(f"/{self.name}", content, self.ranges, base=self.base)
        except errors.NotSupported:
            self.remote.store(f"/{self.name}", content, base=self.base)
        except errors.DeadlineExceeded:
            # pyftpdlib says nothing at all of some resets; and a session of vsftpd that was cut off
            # while it waited for its data connection keeps the file locked until it gives that up.
            # The queue then tries it again.
            assert self.place.server.kind in ("pyftpdlib", "vsftpd")
            self.do()
        except errors.NetworkError:
            raise
        except errors.FtpfsError:
            # As its contract has it: look, then again.
            base = self.remote.stat(f"/{self.name}")
            self.remote.store(f"/{self.name}", content, base=base)


class Append(Patch):
    ranges = ((Work.size, Work.size + 100_000),)


WORKS = [Work, Replace, Patch, Append]


@pytest.mark.parametrize("when", ["before", "final"])
@pytest.mark.parametrize("kind", WORKS)
def test_a_connection_killed_at_every_command(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, kind: type[Work], when: str
) -> None:
    relayed.store("/warm", Local(blob(10)), base=None)
    (remote_dir.disk / "warm").unlink()
    number = faults = 0
    while True:
        work = kind(relayed, remote_dir, number)
        work.prepare()
        rule = relay.cut_control(skip=number, when=when)  # type: ignore[arg-type]
        work.do()
        rule.remove()
        work.check()
        (remote_dir.disk / work.name).unlink()
        if not rule.hits:
            break
        faults += rule.hits
        number += 1
    print(f"{remote_dir.server.kind} {kind.__name__}: {faults} cuts, {number + 1} files compared")
    assert faults >= 5


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("kind", WORKS)
def test_a_connection_killed_at_random_bytes(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, kind: type[Work], how: str
) -> None:
    dice = random.Random(f"{kind.__name__} {how}")
    faults = 0
    for number in range(6):
        work = kind(relayed, remote_dir, number)
        work.prepare()
        rule = relay.cut_data(
            "up",
            after=dice.choice([0, 1, dice.randrange(5000), dice.randrange(work.size)]),
            times=dice.choice([1, 1, 2]),
            how=how,  # type: ignore[arg-type]
            control=dice.random() < 0.5,
        )
        try:
            work.do()
        except errors.DataMismatch:  # twice a 226 that was not true
            assert (how, rule.times) == ("fin", 2)
            work.do()
        rule.remove()
        work.check()
        (remote_dir.disk / work.name).unlink()
        faults += rule.hits
    print(f"{remote_dir.server.kind} {kind.__name__}: {faults} cuts, 6 files compared")


# Ranges.

ALL_KEPT = ("vsftpd", "proftpd", "pyftpdlib")


def test_what_rest_and_stor_keep_is_probed_once(
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
        assert up(relay) < 100
    expected = Restart.ALL if remote_dir.server.kind in ALL_KEPT else Restart.HEAD
    assert relayed.profile.restart is expected
    assert sorted(on_disk(remote_dir.disk)) == ["file"]


@pytest.mark.parametrize("same", [bytes(100_000), blob(100_000, 7)], ids=["zeros", "anything"])
def test_a_patch_cut_short_is_noticed_where_its_end_was_there_before(
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


def test_an_append_needs_no_probe(relayed: Remote, relay: Relay, remote_dir: RemoteDir) -> None:
    data = blob(4 * MEG)
    remote_dir.write("file", data)
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
def test_what_cannot_be_patched_or_is_not_worth_it_is_said_before_anything_is_sent(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, size: int, ranges: list[tuple[int, int]]
) -> None:
    base = Entry("file", Kind.FILE, size=size, mtime=WHEN, exact=True)
    relay.reset()
    with pytest.raises(errors.NotSupported):
        relayed.patch("/file", Local(bytes(5 * MEG)), ranges, base=base)
    assert relay.commands == []


@pytest.mark.parametrize("ranges", [[(MEG, MEG + 10)], [(4 * MEG, 4 * MEG + 10)]])
def test_a_file_that_somebody_else_changed_is_not_patched(
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


def test_a_patch_that_was_superseded_can_be_repeated_from_what_is_there(
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


# What crashes leave.


def test_a_listing_cleans_up_after_crashed_mounts_and_leaves_others_uploads_alone(
    remote_dir: RemoteDir,
) -> None:
    ours, theirs, now = "0123abcd", "89abcdef", int(time.time())
    old = now - 2 * 86400
    names = {
        f".ftpfs-{ours}-{now:08x}-01.tmp": (now, False),  # of the last run of this mount
        f".ftpfs-probe-{ours}-{now:08x}-01.tmp": (now, False),
        f".ftpfs-{theirs}-{old:08x}-02.tmp": (old, False),
        f".ftpfs-{theirs}-{now:08x}-03.tmp": (now, True),  # under way
        f".ftpfs-{theirs}-{old:08x}-04.tmp": (now, True),  # under way for long
        f".ftpfs-{theirs}-{now:08x}-05.tmp": (old, True),  # the server's clock is wrong
        ".ftpfs-deleted-0123": (old, True),  # open somewhere
        ".ftpfs-0123456789abcdef.old": (old, True),  # the only copy, perhaps
        "file": (old, True),
    }
    for name, (when, _) in names.items():
        path = remote_dir.write(name, b"x")
        os.utime(path, (when, when))
    kept = {name for name, (_, stays) in names.items() if stays}
    server = remote_dir.server
    place = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        path=remote_dir.path,
    )
    for owner in (None, ours):
        remote = Remote(place, NETWORK, owner=owner)
        assert [entry.name for entry in remote.list("/")] == ["file"]
        assert set(on_disk(remote_dir.disk)) == (set(names) if owner is None else kept)
        remote.close()


def test_a_listing_during_an_upload_leaves_it_alone(remote_dir: RemoteDir) -> None:
    server = remote_dir.server
    place = Server(
        server.host,
        server.port,
        user=server.user,
        password=Secret(server.password),
        path=remote_dir.path,
    )
    remote = Remote(place, NETWORK, owner="0123abcd")
    seen: list[int] = []

    def look(offset: int) -> None:
        if offset:
            listing = threading.Thread(target=remote.list, args=["/"])
            listing.start()
            listing.join()
            seen.append(len(on_disk(remote_dir.disk)))

    remote.store("/file", Local(blob(MEG), each=look), base=None)
    assert seen == [1, 1]  # after its only piece, and before its rename
    assert on_disk(remote_dir.disk) == {"file": blob(MEG)}
    remote.close()
