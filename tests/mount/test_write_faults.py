"""Writing through real mounts while everything breaks: nothing is lost, and nothing is torn.

Server, network and disk fail; the server's disk is compared byte for byte when it is over. What a
test writes it makes sure of with fsync, so it does not matter when the mount uploads.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RemoteDir, StartServer
from tests.mount.conftest import MountDir, Mounted, MountServer
from tests.support.relay import Relay, When
from tests.support.servers import Kind
from tests.support.waiting import largest_upload, until, until_gone

pytestmark = [pytest.mark.mount, pytest.mark.far]

NETWORK = frozenset({errno.EIO, errno.ETIMEDOUT})
DEADLINES = "connect_timeout=1,reply_timeout=2,data_timeout=2,finish_timeout=1.5"
MEG = 1 << 20
WHEN = 1_600_000_000


@pytest.fixture(params=["vsftpd", "proftpd"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """One server with MLSD and one without."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def mounted(relay: Relay, mount_dir: MountDir) -> Mounted:
    return mount_dir(through=relay, options=DEADLINES)


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, data: bytes, *, flags: int = os.O_TRUNC, offset: int = 0) -> None:
    """Write, and return when the server has it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        os.pwrite(fd, data, offset) if offset else os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def insist(
    work: Callable[[], object], within: float = 30, expected: frozenset[int] = NETWORK
) -> int:
    """Repeat until it works. Return how often it failed with an `expected` error."""
    deadline = time.monotonic() + within
    failures = 0
    while True:
        try:
            work()
        except OSError as error:
            if error.errno not in expected or time.monotonic() > deadline:
                raise
            failures += 1
            time.sleep(0.2)
        else:
            return failures


def on_disk(folder: Path) -> dict[str, bytes]:
    """Everything on the server's disk except hidden names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".ftpfs-")
    }


def eventually_clean(folder: Path) -> None:
    """Wait until no temporary file is left."""
    until_gone(lambda: [path.name for path in folder.rglob(".ftpfs-*")])


# Connections killed.


class Make:
    """A file to be changed through the mount, from `old` (None: not there) to `new`."""

    old: bytes | None = None
    new = blob(700_000)

    def __init__(self, path: Path) -> None:
        self.path = path

    def do(self) -> None:
        write(self.path, self.new)


class Replace(Make):
    old = blob(300_000, 2)


class Patch(Make):
    old = blob(4 * MEG, 3)
    new = old[:MEG] + blob(1000, 4) + old[MEG + 1000 :]

    def do(self) -> None:
        write(self.path, blob(1000, 4), flags=0, offset=MEG)


class Append(Make):
    old = blob(2 * MEG, 5)
    new = old + blob(70_000, 6)

    def do(self) -> None:
        write(self.path, blob(70_000, 6), flags=0, offset=2 * MEG)


WORKS = [Make, Replace, Patch, Append]


@pytest.mark.parametrize("kind", WORKS)
def test_upload_survives_a_connection_killed_at_every_command(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, kind: type[Make]
) -> None:
    number = failures = 0
    while True:
        name = f"file{number}"
        if kind.old is not None:
            remote_dir.write(name, kind.old)
        mounted.forget()
        # Cut before the command reaches the server, or in place of its last answer.
        when: When = "final" if number % 2 else "before"
        rule = relay.cut_control(skip=number, when=when)
        failures += insist(kind(mounted.path / name).do)
        rule.remove()
        assert on_disk(mounted.disk) == {name: kind.new}, number
        (mounted.disk / name).unlink()
        if not rule.hits:
            break
        number += 1
    print(f"{number} cuts, {failures} errors seen, {number + 1} files compared")
    assert number >= 4
    eventually_clean(mounted.disk)


@pytest.mark.parametrize("kind", WORKS)
def test_upload_survives_a_connection_killed_at_random_bytes(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, kind: type[Make]
) -> None:
    dice = random.Random(kind.__name__)
    hits = failures = 0
    for number in range(8):
        name = f"file{number}"
        if kind.old is not None:
            remote_dir.write(name, kind.old)
        mounted.forget()
        rule = relay.cut_data(
            "up",
            after=dice.choice([0, dice.randrange(1000), dice.randrange(len(kind.new))]),
            how=dice.choice(["fin", "rst"]),
            control=dice.random() < 0.5,
        )
        failures += insist(kind(mounted.path / name).do)
        rule.remove()
        hits += rule.hits
        assert on_disk(mounted.disk) == {name: kind.new}, number
        (mounted.disk / name).unlink()
    print(f"{hits} cuts, {failures} errors seen, 8 files compared")
    eventually_clean(mounted.disk)


# Servers that stop, fill up, refuse or lie.


def test_upload_follows_a_rename_whose_answer_never_came(mounted: Mounted, relay: Relay) -> None:
    insist(lambda: write(mounted.path / "old", blob(MEG)))
    with open(mounted.path / "old", "ab") as file:
        file.write(b"written before, ")
        file.flush()
        relay.hold_reply("RNTO")
        mover = subprocess.Popen(["mv", "-f", mounted.path / "old", mounted.path / "new"])
        assert relay.wait_for(lambda: (mounted.disk_now / "new").exists())
        relay.vanish()
        assert mover.wait(60) != 0  # nobody can tell it
        relay.release()
        file.write(b"and after")
    time.sleep(2)
    relay.clear()
    relay.come_back()
    assert on_disk(mounted.disk) == {"new": blob(MEG) + b"written before, and after"}
    assert (mounted.path / "new").read_bytes() == blob(MEG) + b"written before, and after"
    assert os.listdir(mounted.path) == ["new"]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "away"), [("vsftpd", 30), ("proftpd", 5)])
def test_files_arrive_when_the_server_is_killed_and_restarted(
    kind: Kind,
    away: float,
    start_server: StartServer,
    start_relay: Callable[..., Relay],
    mount_server: MountServer,
) -> None:
    server = start_server(kind)
    relay = start_relay(server)
    mounted = mount_server(server, server.root, port=relay.port, options=DEADLINES)
    contents = {"big": blob(30 * MEG), **{f"small{n}": blob(5000 + n, n) for n in range(20)}}
    (server.root / "small1").write_bytes(b"what was there")
    os.chown(server.root / "small1", server.uid, server.gid)
    relay.data_rate = 20 * MEG
    failures = []

    def copy(name: str) -> None:
        failures.append(insist(lambda: write(mounted.path / name, contents[name]), away + 60))

    writer = threading.Thread(target=copy, args=["big"])
    writer.start()
    until(lambda: largest_upload(server.root) > 5 * MEG)
    server.stop()
    assert on_disk(server.root) == {"small1": b"what was there"}
    others = [threading.Thread(target=copy, args=[name]) for name in contents if name != "big"]
    for other in others:
        other.start()
    time.sleep(away)
    relay.data_rate = None
    start_server(kind, root=server.root, workdir=server.log.parent, port=server.port)
    for thread in (writer, *others):
        thread.join(60)
    assert on_disk(server.root) == contents
    eventually_clean(server.root)
    print(f"{kind}: {sum(failures)} errors seen, {len(contents)} files compared")


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    """A disk of 16 MB for a server to live on."""
    folder = open_folder / "small-disk"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_of_the_server_is_enospc_and_nothing_is_torn(
    server_kind: Kind, start_server: StartServer, mount_server: MountServer, small_disk: Path
) -> None:
    server = start_server(server_kind, root=small_disk)
    mounted = mount_server(server, server.root, options=DEADLINES)
    before = {"filler": blob(13 * MEG), "old": blob(MEG, 2), "small": b"what was there"}
    for name, data in before.items():
        (small_disk / name).write_bytes(data)
        os.chown(small_disk / name, server.uid, server.gid)
    mounted.forget()
    for name in ("new", "old"):
        with pytest.raises(OSError) as caught:
            write(mounted.path / name, blob(4 * MEG))
        assert caught.value.errno == errno.ENOSPC
        assert on_disk(small_disk) == before
    (small_disk / "filler").unlink()
    for name in ("new", "old"):
        # A refused upload may be tried again meanwhile and take the space.
        path = mounted.path / name
        insist(lambda: write(path, blob(3 * MEG)), expected=frozenset({errno.ENOSPC}))  # noqa: B023
    after = {"new": blob(3 * MEG), "old": blob(3 * MEG), "small": b"what was there"}
    assert on_disk(small_disk) == after
    eventually_clean(small_disk)


def test_refusals_in_the_middle_of_a_tree_stop_no_other_file(
    remote_dir: RemoteDir, mounted: Mounted, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    expected = {}
    for folder in ("a", "closed", "z"):
        (source / folder).mkdir(parents=True)
        for number in range(5):
            data = blob(3000 + number, number)
            (source / folder / f"file{number}").write_bytes(data)
            if folder != "closed":
                expected[f"{folder}/file{number}"] = data
    remote_dir.write("closed/there", b"what was there")
    remote_dir.write("a/file1", b"what was there")
    (remote_dir.disk / "closed").chmod(0o555)
    (remote_dir.disk / "a/file1").chmod(0o444)  # a rename needs no permission on the file
    refused = []
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (mounted.path / path.relative_to(source)).mkdir(exist_ok=True)
            continue
        try:
            write(mounted.path / path.relative_to(source), path.read_bytes())
        except OSError as error:
            refused.append((path.parent.name, error.errno))
    (remote_dir.disk / "closed").chmod(0o755)
    blocked = [each for each in refused if each[0] != "closed"]
    assert refused.count(("closed", errno.EACCES)) == 5
    if blocked:  # a program may not open a file without a write bit
        assert blocked == [("a", errno.EACCES)]
        expected["a/file1"] = b"what was there"
    assert on_disk(mounted.disk) == {**expected, "closed/there": b"what was there"}
    eventually_clean(mounted.disk)


@pytest.mark.parametrize(
    "fault", ["226 missing", "226 late", "226 for less", "rename that does nothing"]
)
def test_nothing_is_lost_on_a_server_that_lies(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, fault: str
) -> None:
    failures = 0
    for kind in WORKS:
        if kind.old is not None:
            remote_dir.write("file", kind.old)
        mounted.forget()
        for verb in ("STOR", "APPE"):
            if fault == "226 missing":
                relay.drop_reply(verb)
            elif fault == "226 late":
                relay.hold_reply(verb)
            elif fault == "226 for less":
                relay.replace_reply(verb, "226 Transfer complete.")
        if fault == "226 for less":
            relay.cut_data("up", after=500, how="fin")
        elif fault == "rename that does nothing":
            relay.do_instead("RNTO", "RNTO /missing/x", "250 Renamed.")
        failures += insist(kind(mounted.path / "file").do)
        assert on_disk(mounted.disk) == {"file": kind.new}, kind
        relay.clear()
        (mounted.disk / "file").unlink()
    print(f"{fault}: {failures} errors seen, {len(WORKS)} files compared")
    mounted.forget()
    write(mounted.path / "another", b"x")
    eventually_clean(mounted.disk)


def test_two_mounts_write_different_files_at_once(
    remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    mounts = [mount_dir(options=DEADLINES) for _ in range(2)]
    expected = {}
    for which in range(2):
        for number in range(30):
            expected[f"m{which}-{number}"] = blob(random.Random(number).randrange(200_000), number)

    def copy(which: int) -> None:
        for name, data in expected.items():
            if name.startswith(f"m{which}-"):
                os.listdir(mounts[which].path)  # cleans up, but does not touch the other's uploads
                write(mounts[which].path / name, data)

    threads = [threading.Thread(target=copy, args=[which]) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert on_disk(remote_dir.disk) == expected
    eventually_clean(remote_dir.disk)
    for mount in mounts:
        mount.forget()
        assert {name: (mount.path / name).read_bytes() for name in expected} == expected


def test_two_mounts_that_write_the_same_file_keep_both_contents(
    remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    mounts = [mount_dir(options=DEADLINES) for _ in range(2)]
    # Two are as long as the other's, and written in the same second.
    theirs = [blob(size, size) for size in (3000, 3001, 20, 3002)] + [blob(20)]
    for number in range(len(theirs)):
        name = f"file{number}"
        remote_dir.write(name, b"what was there")
        for mount in mounts:
            mount.forget()
        with open(mounts[0].path / name, "r+b", buffering=0) as held:
            held.write(b"from the first mount")
            write(mounts[1].path / name, theirs[number])
            try:
                os.fsync(held.fileno())
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017 (or nothing: both are kept)
    for mount in mounts:
        mount.unmount()  # everything that waits is uploaded
    contents = list(on_disk(remote_dir.disk).values())
    for each in theirs:
        assert each in contents
    assert contents.count(b"from the first mount") == len(theirs)
    eventually_clean(remote_dir.disk)


@pytest.mark.parametrize(
    "how", ["REST is refused", "REST is refused from then on", "STOR is refused at its end"]
)
def test_change_in_place_that_server_gives_up_midway_is_no_conflict(
    mounted: Mounted, relay: Relay, remote_dir: RemoteDir, how: str
) -> None:
    """The server could do it when it began, and has a part of it."""
    data = blob(4 * MEG)
    remote_dir.write("file", data)
    data = data[:MEG] + b"first" + data[MEG + 5 :]
    write(mounted.path / "file", b"first", flags=0, offset=MEG)
    os.utime(mounted.path / "file", (WHEN, WHEN))  # what is left of the patch has another time
    until(lambda: (remote_dir.disk / "file").stat().st_mtime == WHEN)
    rests: list[object] = []

    def is_refused(command: object) -> bool:
        rests.append(command)
        most = 2 if how == "REST is refused" else 1000
        return 2 <= len(rests) <= most  # the second one is that of the reading back

    if how.startswith("REST"):
        rule = relay.refuse("REST", "502 not now", where=is_refused)
    else:
        rule = relay.replace_reply("STOR", "504 not now", times=1)
    data = data[:MEG] + b"again" + data[MEG + 5 :]
    insist(lambda: write(mounted.path / "file", b"again", flags=0, offset=MEG))
    assert rule.hits == 1 or how == "REST is refused from then on"
    assert on_disk(remote_dir.disk) == {"file": data}
