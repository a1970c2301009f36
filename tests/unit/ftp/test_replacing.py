"""A rename over a file that breaks at any step: one of the two contents has the name."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp import replacing
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Command, Relay, When
from tests.support.uploading import Local, found
from tests.unit.ftp.test_remote import NETWORK, put

pytestmark = pytest.mark.far

OWNER = "0123abcd"
CUTS: tuple[When, ...] = ("before", "after")


@pytest.fixture(params=["replaces", "does not"])
def place(request: pytest.FixtureRequest, start_server: StartServer) -> tuple[RemoteDir, bool]:
    """A folder on a server whose rename replaces files, and on one whose rename does not."""
    replaces = request.param == "replaces"
    extra = () if replaces else ("AllowOverwrite off",)
    server = start_server("proftpd", options=servers.Options(extra=extra))
    return RemoteDir(server, server.root, "/"), replaces


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def remote_of(place: RemoteDir, port: int = 0, *, owner: str | None = None) -> Remote:
    server = place.server
    address = Server(
        server.host,
        port or server.port,
        user=server.user,
        password=Secret(server.password),
        path=place.path,
    )
    return Remote(address, NETWORK, owner=owner)


def nth_renames(*numbers: int) -> Callable[[Command], bool]:
    """A condition: whether a command is one of these RNTO, counted from 0."""
    count = itertools.count()
    return lambda _: next(count) in numbers


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("cuts", [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 2), (2, 3), (1, 3)])
def test_rename_over_file_survives_cut_at_each_step(
    place: tuple[RemoteDir, bool],
    start_relay: Callable[..., Relay],
    cuts: tuple[int, ...],
    when: When,
) -> None:
    folder, _ = place
    folder.write("a", b"new")
    folder.write("b", b"old")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port, owner=OWNER)
    remote.list("/")
    relay.cut_control("RNTO", times=len(cuts), when=when, where=nth_renames(*cuts))
    remote.rename("/a", "/b", replace=True)
    assert files(folder.disk) == {"b": b"new"}
    remote.close()


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("cuts", [(), (0,), (1,), (2,), (3,), (1, 2), (0, 1), (2, 3)])
@pytest.mark.parametrize("keep", [False, True])
def test_refused_rename_leaves_both_files_after_each_cut(
    place: tuple[RemoteDir, bool],
    start_relay: Callable[..., Relay],
    cuts: tuple[int, ...],
    when: When,
    keep: bool,
) -> None:
    folder, _ = place
    closed = folder.disk / "closed"
    closed.mkdir(mode=0o755)
    (closed / "a").write_bytes(b"not to be moved")
    folder.write("b", b"only copy")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port, owner=OWNER)
    remote.list("/")
    if cuts:
        relay.cut_control("RNTO", times=len(cuts), when=when, where=nth_renames(*cuts))
    with pytest.raises(errors.PermissionDenied):
        remote.rename("/closed/a", "/b", replace=True, keep=keep)
    assert files(folder.disk) == {"b": b"only copy"}
    assert files(closed) == {"a": b"not to be moved"}
    remote.close()


def test_refused_rename_moves_nothing_aside_when_renames_replace(
    place: tuple[RemoteDir, bool], start_relay: Callable[..., Relay]
) -> None:
    folder, replaces = place
    closed = folder.disk / "closed"
    closed.mkdir(mode=0o755)
    (closed / "a").write_bytes(b"not to be moved")
    folder.write("b", b"only copy")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port)
    for _ in range(2):
        with pytest.raises(errors.PermissionDenied):
            remote.rename("/closed/a", "/b", replace=True)
    moved = [c for c in relay.commands if c.verb == "RNFR" and c.arg == "/b"]
    assert bool(moved) is not replaces
    assert remote.replaces() is replaces
    assert relay.count("STOR") == 2, "that is found out once"
    remote.close()


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("cut", [None, 0, 1, 2, 3])
def test_replaced_content_keeps_hidden_name_and_new_content_gets_its_place(
    place: tuple[RemoteDir, bool], start_relay: Callable[..., Relay], cut: int | None, when: When
) -> None:
    folder, _ = place
    folder.write("a", b"new")
    folder.write("b", b"read by somebody")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port)
    remote.list("/")
    if cut is not None:
        relay.cut_control("RNTO", when=when, where=nth_renames(cut))
    remote.rename("/a", "/b", replace=True, aside="/.ftpfs-kept", keep=True)
    assert files(folder.disk) == {"b": b"new", ".ftpfs-kept": b"read by somebody"}
    remote.close()


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("cuts", [(0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3)])
def test_upload_over_file_survives_cut_at_each_rename(
    place: tuple[RemoteDir, bool],
    start_relay: Callable[..., Relay],
    cuts: tuple[int, ...],
    when: When,
) -> None:
    folder, _ = place
    folder.write("b", b"old")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port, owner=OWNER)
    base = found(remote, "/b")
    relay.cut_control("RNTO", times=len(cuts), when=when, where=nth_renames(*cuts))
    remote.store("/b", Local(b"new content"), base=base)
    assert files(folder.disk) == {"b": b"new content"}
    remote.close()


def test_upload_of_newer_content_removes_file_that_broken_upload_moved_aside(
    place: tuple[RemoteDir, bool], start_relay: Callable[..., Relay]
) -> None:
    folder, _ = place
    folder.write("b", b"old")
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port, owner=OWNER)
    base = found(remote, "/b")
    # Cuts do not teach that a server has no RNTO, after it has answered one.
    folder.write("c", b"renamed before")
    remote.rename("/c", "/d", replace=False)
    relay.cut_control("RNTO", times=None, when="after")
    with contextlib.suppress(errors.NetworkError):
        remote.store("/b", Local(b"first"), base=base)
    relay.clear()
    assert {b"old", b"first"} & set(files(folder.disk).values())
    if "b" in files(folder.disk):
        base = found(remote, "/b")
    remote.store("/b", Local(b"second"), base=base)
    assert files(folder.disk)["b"] == b"second"
    assert b"old" not in files(folder.disk).values()
    remote.close()


def test_listing_restores_names_of_files_that_earlier_mount_moved_aside(
    remote_dir: RemoteDir, caplog: pytest.LogCaptureFixture
) -> None:
    now = int(time.time())
    old = now - 2 * 86400
    theirs = "89abcdef"
    for name, content in {
        f".ftpfs-{OWNER}-{now - 60:08x}-01.old-mine": b"mine",
        f".ftpfs-{OWNER}-{now - 60:08x}-02.old-taken": b"old",
        "taken": b"new",
        f".ftpfs-{OWNER}-{now + 60:08x}-03.old-under way": b"of this mount",
        f".ftpfs-{theirs}-{old:08x}-04.old-theirs": b"theirs",
        f".ftpfs-{theirs}-{now:08x}-05.old-busy": b"under way elsewhere",
        f".ftpfs-{OWNER}-{now - 60:08x}-06.old": b"of a name too long",
        f".ftpfs-{OWNER}-{now - 60:08x}-07.old~its beginn": b"of another one",
    }.items():
        remote_dir.write(name, content)
    remote = remote_of(remote_dir, owner=OWNER)
    shown = {entry.name for entry in remote.list("/")}
    assert shown == {"mine", "theirs", "taken"}
    after = files(remote_dir.disk)
    assert [after[name] for name in ("mine", "theirs", "taken")] == [b"mine", b"theirs", b"new"]
    assert set(after.values()) >= {b"old", b"of this mount", b"under way elsewhere"}
    assert set(after.values()) >= {b"of a name too long", b"of another one"}
    assert len(after) == 8
    told = caplog.text.replace(remote_dir.path, "")
    assert "/mine had been moved aside" in told
    assert "02.old-taken holds what was /taken before" in told
    remote.list("/")
    assert caplog.text.count("02.old-taken holds") == 1
    assert caplog.text.count("06.old holds a file") == 1
    assert caplog.text.count("07.old~its beginn holds a file") == 1
    remote.close()


def test_hidden_name_contains_owner_time_and_original_name() -> None:
    name = replacing.aside_name(OWNER, "a name.txt")
    told = replacing.told_by(name)
    assert told is not None
    assert (told[0], told[2]) == (OWNER, "a name.txt")
    assert abs(told[1] - time.time()) < 5
    longest = replacing.aside_name(OWNER, "ä" * 127)
    assert 254 <= len(longest.encode()) <= 255
    assert longest.endswith(".old~" + "ä" * 108)
    told = replacing.told_by(longest)
    assert told is not None
    assert (told[0], told[2]) == (OWNER, "")


def test_replacing_takes_one_exchange(
    place: tuple[RemoteDir, bool], start_relay: Callable[..., Relay]
) -> None:
    folder, replaces = place
    relay = start_relay(folder.server)
    remote = remote_of(folder, relay.port)
    for name in ("a", "b", "c", "d"):
        put(remote, f"/{name}", b"1")
    remote.rename("/a", "/b", replace=True)
    relay.reset()
    remote.rename("/c", "/d", replace=True)
    assert relay.verbs == ["RNFR", "RNTO"] if replaces else relay.count("RNTO") == 3
    remote.close()
