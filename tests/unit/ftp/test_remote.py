"""A server as path operations, on the four real servers: names, refusals, lost replies."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.settings.config import Network, Server
from tests.conftest import RemoteDir, StartServer, skip_if_cannot
from tests.support import servers
from tests.support.relay import Command, Relay

pytestmark = pytest.mark.far

NETWORK = Network(
    connect_timeout=2.0, reply_timeout=3.0, data_timeout=3.0, finish_timeout=3.0, max_connections=4
)


@pytest.fixture
def network() -> Network:
    return NETWORK


def put(
    remote: Remote,
    path: str,
    data: bytes,
    *,
    replace: bool = False,
    mtime: int | None = 1_600_000_000,
    mode: int | None = None,
) -> None:
    """Store `data`, over any content. `replace` only documents the test's intent."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        content = FileContent(file.fileno(), len(data), mtime, mode)
        remote.store(path, content, base=None, check=False)


def get(remote: Remote, path: str) -> bytes:
    download = remote.open_read(path)
    try:
        data = bytearray()
        view = memoryview(bytearray(1 << 16))
        while count := download.readinto(view):
            data += view[:count]
        return bytes(data)
    finally:
        download.close()


def names(remote: Remote, path: str = "/") -> list[str]:
    return sorted(entry.name for entry in remote.list(path))


def test_mlst_of_one_name_agrees_with_listing_or_is_not_used(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    """proftpd's MLST follows links in part, and its MLSD does not."""
    remote_dir.write("file", b"123").chmod(0o640)
    remote_dir.write("folder/inside", b"")
    for name, target in (("to-file", "file"), ("to-folder", "folder"), ("to-nothing", "none")):
        (remote_dir.disk / name).symlink_to(target)
    listed = {entry.name: entry for entry in remote.list("/")}
    told = {name: remote.peek(f"/{name}") for name in listed}
    for name, entry in told.items():
        assert entry is None or entry == listed[name], name
    by_mlst = remote_dir.server.kind != "vsftpd"
    assert (told["file"] is not None) is by_mlst
    assert (told["folder"] is not None) is by_mlst
    assert remote.peek("/missing") is None


def on_disk(folder: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(folder)))


# Names.


@pytest.mark.parametrize(
    "raw", [b"a\xffb", b"a\xff\xffb", b"a\xff\xf4b", b"\xff", b"a\xff\xfe\xff"]
)
def test_name_with_byte_255_survives_round_trip(
    remote: Remote, remote_dir: RemoteDir, raw: bytes
) -> None:
    name = os.fsdecode(raw)
    put(remote, f"/{name}", b"content")
    assert on_disk(remote_dir.disk) == [raw]
    assert names(remote) == [name]
    assert remote.stat(f"/{name}").size == 7
    assert get(remote, f"/{name}") == b"content"
    remote.mkdir(f"/{name}.d")
    remote.rename(f"/{name}", f"/{name}.d/{name}", replace=False)
    assert names(remote, f"/{name}.d") == [name]
    remote.remove(f"/{name}.d/{name}")
    remote.rmdir(f"/{name}.d")
    assert on_disk(remote_dir.disk) == []


@pytest.mark.parametrize("what", ["trailing space", "control byte", "delete byte", "tab"])
def test_name_that_server_changed_raises_an_error(
    remote: Remote, remote_dir: RemoteDir, what: str
) -> None:
    """pure-ftpd stores such a name with underscores and reports success."""
    name = os.fsdecode(servers.NAMES[what])
    remote_dir.write("plain", b"x")
    if what in servers.CANNOT[remote_dir.server.kind]:
        with pytest.raises(errors.InvalidName, match="another name"):
            put(remote, f"/{name}", b"content")
        with pytest.raises(errors.InvalidName, match="another name"):
            put(remote, f"/{name}", b"content", replace=True)
        with pytest.raises(errors.InvalidName, match="another name"):
            remote.mkdir(f"/{name}.{name}")
        with pytest.raises(errors.InvalidName, match="another name"):
            remote.rename("/plain", f"/{name}-{name}", replace=False)
    else:
        put(remote, f"/{name}", b"content")
        remote.mkdir(f"/{name}.{name}")
        remote.rename("/plain", f"/{name}-{name}", replace=False)
        assert len(on_disk(remote_dir.disk)) == 3


def test_drop_folder_without_read_access_takes_files(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """Scanners write into folders that they may not read: SIZE and listings are refused."""
    relayed.list("/")
    for verb in ("SIZE", "MDTM", "MLSD", "LIST", "MLST"):
        relay.refuse(verb, "550 Permission denied.")
    put(relayed, "/scan.pdf", b"content")
    assert (remote_dir.disk / "scan.pdf").read_bytes() == b"content"


# Modes.


@pytest.mark.parametrize("name", ["plain", "two  spaces", " lead", "tail ", "0640 x"])
def test_chmod_changes_only_named_file(remote: Remote, remote_dir: RemoteDir, name: str) -> None:
    remote_dir.write(name, b"")
    other = remote_dir.write(name.strip() + "x", b"")
    if name != name.strip():
        other = remote_dir.write(name.strip(), b"")
    before = other.stat().st_mode
    remote.chmod(f"/{name}", 0o640)
    assert stat.S_IMODE((remote_dir.disk / name).stat().st_mode) == 0o640
    assert other.stat().st_mode == before


def test_upload_sets_mode(remote: Remote, remote_dir: RemoteDir) -> None:
    put(remote, "/run", b"#!/bin/sh\n", mode=0o755)
    found = (remote_dir.disk / "run").stat()
    assert stat.S_IMODE(found.st_mode) == 0o755
    assert int(found.st_mtime) == 1_600_000_000


# Refusals.


def test_refusal_raises_error_that_names_cause(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"x")
    remote_dir.write("folder/inside", b"x")
    with pytest.raises(errors.NotFound):
        remote.open_read("/missing")
    with pytest.raises(errors.NotFound):
        remote.remove("/missing")
    with pytest.raises(errors.NotFound):
        remote.list("/missing")
    with pytest.raises(errors.NotADirectory):
        remote.list("/file")
    with pytest.raises(errors.NotEmpty):
        remote.rmdir("/folder")
    remote_dir.write("other/.ftpfs-0123.old", b"moved aside by a mount that was killed")
    with pytest.raises(errors.NotEmpty, match="0123"):
        remote.rmdir("/other")
    with pytest.raises(errors.Exists):
        remote.mkdir("/folder")
    with pytest.raises(errors.NotFound):
        remote.mkdir("/missing/folder")
    with pytest.raises(errors.NotFound):
        put(remote, "/missing/file", b"x")
    with pytest.raises(errors.NotFound):
        remote.rename("/missing", "/other", replace=False)
    with pytest.raises(errors.NotFound):
        remote.rename("/file", "/missing/file", replace=False)
    with pytest.raises(errors.IsADirectory):
        remote.rename("/file", "/folder", replace=False)
    with pytest.raises(errors.NotFound):
        remote.chmod("/missing", 0o600)


def test_refusal_that_listing_cannot_explain_stays_unchanged(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"x")
    relay.refuse("DELE", "550 no")
    with pytest.raises(errors.PermissionDenied):
        relayed.remove("/file")
    relay.clear()
    relay.refuse("DELE", "451 local error")
    with pytest.raises(errors.Refused, match="451"):
        relayed.remove("/file")


def test_error_tells_whether_server_may_have_got_command(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("first", b"content")
    relayed.rename("/first", "/file", replace=False)  # ftpfs now knows that the server has RNTO
    relayed.list("/")
    rule = relay.cut_control("RNTO", when="final", times=None)
    with pytest.raises(errors.NetworkError) as lost:
        relayed.rename("/file", "/done", replace=False)
    assert lost.value.asked
    rule.remove()
    relay.refuse_connections()
    relay.cut_all()
    with pytest.raises(errors.NetworkError):  # no session is left afterwards
        relayed.list("/")
    with pytest.raises(errors.NetworkError) as away:
        relayed.rename("/done", "/other", replace=False)
    assert not away.value.asked
    assert sorted(os.listdir(remote_dir.disk)) == ["done"]


def test_451_for_missing_file_is_not_found(relayed: Remote, relay: Relay) -> None:
    relay.refuse("RNFR", "451 rename failure")
    with pytest.raises(errors.NotFound):
        relayed.rename("/missing", "/other", replace=False)


# Listings.


def test_unreadable_folder_is_not_listed_as_empty(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("folder/inside", b"x")
    (remote_dir.disk / "folder").chmod(0o311)
    names(remote)
    with pytest.raises(errors.PermissionDenied):
        remote.list("/folder")


def test_empty_folder_lists_nothing(remote: Remote, remote_dir: RemoteDir) -> None:
    remote.mkdir("/folder")
    for _ in range(3):
        assert remote.list("/folder") == []


@pytest.mark.parametrize("after", [1, 57, 300, 700])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_listing_that_is_always_cut_short_raises_an_error(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, after: int, how: str
) -> None:
    for number in range(20):
        remote_dir.write(f"file {number}", b"")
    relayed.list("/")
    rule = relay.cut_data("down", after=after, times=None, how=how)  # type: ignore[arg-type]
    with pytest.raises(errors.NetworkError):
        relayed.list("/")
    rule.remove()
    assert len(relayed.list("/")) == 20


# Lost replies.


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["MKD", "RMD", "DELE", "RNFR", "RNTO", "STOR", "SIZE", "EPSV"])
def test_connection_cut_at_one_command_is_retried_silently(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, verb: str, when: str
) -> None:
    relayed.list("/")
    relay.cut_control(verb, when=when)  # type: ignore[arg-type]
    relayed.mkdir("/folder")
    put(relayed, "/folder/file", b"one")
    put(relayed, "/folder/file", b"two!", replace=True)
    relayed.rename("/folder/file", "/folder/.ftpfs-deleted-x", replace=False)
    assert (remote_dir.disk / "folder/.ftpfs-deleted-x").read_bytes() == b"two!"
    relayed.remove("/folder/.ftpfs-deleted-x")
    assert on_disk(remote_dir.disk / "folder") == []
    relayed.rmdir("/folder")
    assert on_disk(remote_dir.disk) == []


# Retries: the first attempt may have been carried out, was not, or found something else.


@pytest.fixture
def closed_folder(remote_dir: RemoteDir) -> Iterator[Path]:
    """A folder in which the server's user may not write. Others put files into it."""
    folder = remote_dir.disk / "closed"
    folder.mkdir(mode=0o755)
    yield folder
    assert folder.is_dir()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("there", ["nothing", "a file", "a folder in use"])
def test_mkdir_is_refused_after_connection_broke_first(
    relayed: Remote, relay: Relay, closed_folder: Path, there: str, when: str
) -> None:
    expected: type[errors.FtpfsError] = errors.Exists
    if there == "nothing":
        expected = errors.PermissionDenied
    elif there == "a file":
        (closed_folder / "new").write_bytes(b"of others")
    else:
        (closed_folder / "new").mkdir()
        (closed_folder / "new/inside").write_bytes(b"of others")
    relayed.list("/")
    relay.cut_control("MKD", when=when)  # type: ignore[arg-type]
    with pytest.raises(expected):
        relayed.mkdir("/closed/new")


@pytest.mark.parametrize("when", ["before", "after"])
def test_deletion_is_refused_after_connection_broke_first(
    relayed: Remote, relay: Relay, closed_folder: Path, when: str
) -> None:
    (closed_folder / "file").write_bytes(b"of others")
    (closed_folder / "folder").mkdir()
    relayed.list("/")
    relay.cut_control("DELE", when=when)  # type: ignore[arg-type]
    with pytest.raises(errors.PermissionDenied):
        relayed.remove("/closed/file")
    relay.cut_control("RMD", when=when)  # type: ignore[arg-type]
    with pytest.raises(errors.PermissionDenied):
        relayed.rmdir("/closed/folder")
    assert sorted(os.listdir(closed_folder)) == ["file", "folder"]


def test_deletion_in_unreadable_folder_is_refused_by_retry_too(
    relayed: Remote, relay: Relay, closed_folder: Path
) -> None:
    (closed_folder / "file").write_bytes(b"of others")
    closed_folder.chmod(0o700)
    relayed.list("/")
    relay.cut_control("DELE", when="before")
    with pytest.raises(errors.FtpfsError):
        relayed.remove("/closed/file")
    assert os.listdir(closed_folder) == ["file"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_rename_is_refused_after_connection_broke_first(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, closed_folder: Path, when: str
) -> None:
    (closed_folder / "file").write_bytes(b"of others")
    remote_dir.write("target", b"old")
    relayed.list("/")
    relay.cut_control("RNTO", when=when)  # type: ignore[arg-type]
    with pytest.raises(errors.PermissionDenied):
        relayed.rename("/closed/file", "/target", replace=True)
    assert (remote_dir.disk / "target").read_bytes() == b"old"
    assert os.listdir(closed_folder) == ["file"]


def test_upload_cut_in_middle_leaves_no_temporary_file(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"old")
    relay.cut_data("up", after=100_000, control=True)
    put(relayed, "/file", bytes(1_000_000), replace=True)
    assert on_disk(remote_dir.disk) == [b"file"]
    assert (remote_dir.disk / "file").read_bytes() == bytes(1_000_000)


def test_upload_replaces_file_on_server_whose_rename_does_not_replace(
    remote_dir: RemoteDir,
    start_server: StartServer,
    start_relay: Callable[..., Relay],
) -> None:
    place, port = remote_dir, 0
    if place.server.kind == "proftpd":  # proftpd has an option for that
        server = start_server("proftpd", options=servers.Options(extra=("AllowOverwrite off",)))
        place = RemoteDir(server, server.root, "/")
    else:

        def over_a_file(command: Command) -> bool:
            return (place.disk / command.arg.rpartition("/")[2]).exists()

        relay = start_relay(place.server)
        relay.refuse("RNTO", "553 File exists", where=over_a_file)
        port = relay.port
    place.write("file", b"old")
    remote = place.remote(NETWORK, port)
    put(remote, "/file", b"new", replace=True)
    remote.close()
    assert on_disk(place.disk) == [b"file"]
    assert (place.disk / "file").read_bytes() == b"new"


def test_replacement_succeeds_when_old_content_cannot_be_deleted(
    start_server: StartServer, start_relay: Callable[..., Relay]
) -> None:
    # Of the four, only this server refuses to rename over a file.
    server = start_server("proftpd", options=servers.Options(extra=("AllowOverwrite off",)))
    place = RemoteDir(server, server.root, "/")
    place.write("file", b"old")
    relay = start_relay(server)
    relay.refuse("DELE", "550 No")
    remote = place.remote(NETWORK, relay.port)
    put(remote, "/file", b"new", replace=True)
    assert (place.disk / "file").read_bytes() == b"new"
    assert names(remote) == ["file"], "what is left is hidden"
    remote.close()
    left = [path for path in place.disk.iterdir() if path.name != "file"]
    assert [path.read_bytes() for path in left] == [b"old"]


def test_folder_time_is_set(remote: Remote, remote_dir: RemoteDir) -> None:
    skip_if_cannot(remote_dir.server.kind, "set mtime of folders")
    remote.mkdir("/folder")
    remote.set_mtime("/folder", 1_600_000_000, directory=True)
    assert int((remote_dir.disk / "folder").stat().st_mtime) == 1_600_000_000


# Links. No server is asked.


PARTS = st.sampled_from(["..", ".", "a", "srv", "ftp", "", "b c", "\udcff", "..."])


@settings(max_examples=500)
@given(
    target=st.lists(PARTS, max_size=8).map("/".join).filter(bool) | st.text(min_size=1),
    folder=st.sampled_from(["/", "/a", "/a/b/c"]),
    root=st.sampled_from(["", "/srv/ftp", "/"]),
)
def test_no_link_target_leads_out_of_mount(target: str, folder: str, root: str) -> None:
    remote = Remote(Server("host", path=root), NETWORK)
    remote.profile.known = True  # as after a login with "/" as the login folder
    leads = remote.read_link(f"{folder.rstrip('/')}/link", target)
    assert not leads.startswith("/")
    depth = len([part for part in folder.split("/") if part])
    for part in leads.split("/"):
        depth += {"..": -1, ".": 0}.get(part, 1)
        assert depth >= 0
    remote.close()
