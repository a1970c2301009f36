"""Uploads through connections that break at every command and at random bytes: no byte is torn."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Sequence

import pytest

from ftpfs import errors
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.checks import Checksums, Looks, TornFiles
from ftpfs.ftp.uploading.context import Context
from ftpfs.ftp.uploading.folders import Folders
from ftpfs.ftp.uploading.probes import Probes
from ftpfs.ftp.uploading.restart import BrokenUploads
from ftpfs.ftp.uploading.store import Store
from ftpfs.ftp.uploading.temporaries import Temporaries
from tests.conftest import RemoteDir
from tests.support.relay import Command, Relay
from tests.support.uploading import (
    MEG,
    Local,
    blob,
    found,
    mode_of,
    on_disk,
    sent_up,
)
from tests.support.watching import Watcher


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("replacing", [False, True])
def test_broken_upload_resumes_where_it_broke_off(
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
    # A busy server may not have read all that had passed the relay: a reset drops the rest.
    resumed = [int(each.arg) for each in relay.commands if each.verb == "REST"]
    assert max(resumed) >= MEG
    assert sent_up(relay) < 9 * MEG + len(data) - max(resumed) + 2 * MEG


def test_upload_that_breaks_repeatedly_arrives_while_it_makes_progress(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    data = blob(16 * MEG)
    relay.cut_data("up", after=3 * MEG // 2, times=None, control=True)
    relayed.store("/file", Local(data), base=None)
    assert on_disk(remote_dir.disk) == {"file": data}
    assert sent_up(relay) < len(data) + 2 * MEG


@pytest.mark.parametrize("same", [True, False])
def test_upload_resumes_with_the_same_content_when_the_server_is_back(
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
    before = sent_up(relay)
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
        assert sent_up(relay) - before < 5 * MEG


def test_busy_server_after_a_lost_rename_does_not_hide_a_change_by_others(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(relayed, "/file")

    def others_change_it(command: Command) -> bool:
        if not command.arg.endswith("/file"):
            return False
        remote_dir.write("file", b"xyz")
        return True

    relay.cut_control("RNTO", where=others_change_it)
    busy = relay.refuse("SIZE", "450 busy", times=1, where=lambda asked: asked.arg.endswith(".tmp"))
    with pytest.raises(errors.Conflict):
        relayed.store("/file", Local(b"new"), base=base)
    assert busy.hits == 1
    assert on_disk(remote_dir.disk) == {"file": b"xyz"}


class Work:
    """An upload, and the content that the server's disk has after it."""

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


class Private(Work):
    """A file that no other user may read at any time of its upload."""

    def do(self) -> None:
        with Watcher(self.place.disk) as watcher:
            self.remote.store(f"/{self.name}", Local(self.new, mode=0o600), base=None)
        assert watcher.readable() == {}

    def check(self) -> None:
        super().check()
        assert mode_of(self.place, self.name) == 0o600


WORKS = [Work, Replace, Patch, Append, Private]


CUTS = int(os.environ.get("FTPFS_CUTS", "3"))


@pytest.mark.parametrize("when", ["before", "final"])
@pytest.mark.parametrize("kind", WORKS)
def test_upload_succeeds_when_the_connection_is_killed_at_every_command(
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
def test_upload_succeeds_when_the_connection_is_killed_at_random_bytes(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, kind: type[Work], how: str
) -> None:
    dice = random.Random(f"{kind.__name__} {how}")
    faults = 0
    for number in range(CUTS):
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
    print(f"{remote_dir.server.kind} {kind.__name__}: {faults} cuts, {CUTS} files compared")


# Which upload a call resumes. An upload with an old file aside is always worth keeping.


@pytest.fixture
def context() -> Context:
    profile = Profile()
    temporaries, folders = Temporaries(None), Folders(profile)
    probes = Probes(profile, temporaries, folders)
    checksums = Checksums(profile, verify_content=False)
    return Context(profile, temporaries, folders, probes, checksums, TornFiles(profile), Looks())


def test_broken_upload_is_resumed_once_with_the_same_content(context: Context) -> None:
    broken, content = BrokenUploads(context.temporaries), Local(b"new")
    upload = Store(context, "/file", content, "/.aside")
    broken.keep("/file", content, upload)
    assert broken.take_up("/file", content) == (upload, "", None)
    assert broken.take_up("/file", content) == (None, "", None)


def test_broken_upload_is_given_up_for_other_content(context: Context) -> None:
    broken, content = BrokenUploads(context.temporaries), Local(b"new")
    broken.keep("/file", content, Store(context, "/file", content, "/.aside"))
    assert broken.take_up("/other", Local(b"other")) == (None, "", None)
    assert broken.take_up("/file", Local(b"newer")) == (None, "/.aside", None)
    assert broken.take_up("/file", content) == (None, "", None)


def test_place_of_the_old_file_is_kept_when_the_content_is_gone(context: Context) -> None:
    broken, content = BrokenUploads(context.temporaries), Local(b"new")
    broken.keep("/file", content, Store(context, "/file", content, "/.aside"))
    del content
    gc.collect()
    assert broken.take_up("/other", Local(b"other")) == (None, "", None)
    assert broken.take_up("/file", Local(b"newer")) == (None, "/.aside", None)


def test_upload_that_saves_nothing_is_not_kept(context: Context) -> None:
    broken, content = BrokenUploads(context.temporaries), Local(b"new")
    broken.keep("/file", content, Store(context, "/file", content, ""))
    assert broken.take_up("/file", content) == (None, "", None)


def test_upload_that_failed_tells_the_next_one_where_the_old_file_is(context: Context) -> None:
    broken, content = BrokenUploads(context.temporaries), Local(b"new")
    broken.give_up("/file", Store(context, "/file", content, "/.aside"))
    assert broken.take_up("/file", content) == (None, "/.aside", None)
