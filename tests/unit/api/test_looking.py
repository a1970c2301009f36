"""Listings, single names and trees, and that a network failure is never a missing file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timezone

import pytest

from ftpfs import FTPFileSystem
from tests.support.relay import Relay
from tests.unit.api.conftest import Served, options_of

Closing = Callable[[FTPFileSystem], FTPFileSystem]


@pytest.fixture(scope="session")
def scheme() -> str:
    return "ftp"


def fill(served: Served) -> list[str]:
    """Make a small tree; returns its files."""
    names = ["a/b/1", "a/b/2", "a/c/3", "a/c/d/4", "top"]
    for number, name in enumerate(names):
        served.write(name, b"x" * number)
    return sorted(f"{served.path}/{name}" for name in names)


def test_ls_tells_full_names_types_sizes_and_aware_times(served: Served, fs: FTPFileSystem) -> None:
    os.utime(served.write("file", b"12345"), (1_600_000_000, 1_600_000_000))
    served.write("folder/inner", b"")
    told = {info["name"]: info for info in fs.ls(served.path)}
    assert set(told) == {f"{served.path}/file", f"{served.path}/folder"}
    file = told[f"{served.path}/file"]
    assert (file["type"], file["size"]) == ("file", 5)
    assert file["mtime"].tzinfo is timezone.utc
    assert told[f"{served.path}/folder"]["type"] == "directory"
    assert fs.ls(f"{served.path}/file", detail=False) == [f"{served.path}/file"]


def test_trees_are_found_walked_and_summed(served: Served, fs: FTPFileSystem) -> None:
    files = fill(served)
    assert fs.find(served.path) == files
    assert fs.find(served.path, maxdepth=1) == [f"{served.path}/top"]
    assert f"{served.path}/a/c" in fs.find(served.path, withdirs=True)
    assert fs.glob(f"{served.path}/a/*/?") == [
        f"{served.path}/a/{name}" for name in ("b/1", "b/2", "c/3", "c/d")
    ]
    assert fs.du(served.path) == sum(range(5))
    walked = list(fs.walk(served.path))
    assert walked[0] == (served.path, ["a"], ["top"])
    assert {folder for folder, _, _ in walked} == {
        served.path + below for below in ("", "/a", "/a/b", "/a/c", "/a/c/d")
    }
    assert [folder for folder, _, _ in fs.walk(served.path, topdown=False)][-1] == served.path


def test_walk_does_not_go_into_folders_that_the_program_takes_out(
    served: Served, fs: FTPFileSystem
) -> None:
    fill(served)
    seen = []
    for folder, folders, _ in fs.walk(served.path):
        seen.append(folder)
        if "c" in folders:
            folders.remove("c")
    assert seen == [served.path, f"{served.path}/a", f"{served.path}/a/b"]


def test_link_is_told_as_what_it_leads_to(served: Served, fs: FTPFileSystem) -> None:
    served.write("folder/file", b"12345")
    (served.disk / "link").symlink_to("folder/file")
    (served.disk / "way").symlink_to("folder")
    info = fs.info(f"{served.path}/link")
    assert (info["type"], info["size"]) == ("file", 5)
    assert fs.isdir(f"{served.path}/way")
    with fs.open(f"{served.path}/link") as file:
        assert file.read() == b"12345"
    assert fs.cat(f"{served.path}/link") == b"12345"


def test_missing_name_is_no_file_and_a_name_below_a_file_is_none(
    served: Served, fs: FTPFileSystem
) -> None:
    served.write("file", b"")
    assert not fs.exists(f"{served.path}/none")
    assert not fs.exists(f"{served.path}/none/deeper")
    assert not fs.exists(f"{served.path}/file/below")
    with pytest.raises(FileNotFoundError) as caught:
        fs.info(f"{served.path}/none")
    assert caught.value.filename == f"{served.path}/none"
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{served.path}/none")
    assert fs.find(f"{served.path}/none") == []


def test_folder_that_may_not_be_read_is_left_out_or_told(served: Served, fs: FTPFileSystem) -> None:
    files = fill(served)
    closed = served.disk / "a" / "b"
    closed.chmod(0)
    try:
        assert set(fs.find(served.path)) == {each for each in files if "/b/" not in each}
        with pytest.raises(PermissionError):
            fs.find(served.path, on_error="raise")
        told: list[OSError] = []
        list(fs.walk(served.path, on_error=told.append))
        assert [type(error) for error in told] == [PermissionError]
    finally:
        closed.chmod(0o755)


def test_name_that_others_made_is_found_despite_a_remembered_listing(
    served: Served, fs: FTPFileSystem
) -> None:
    fs.ls(served.path)
    served.write("later", b"123")
    assert fs.info(f"{served.path}/later")["size"] == 3


def test_listing_counts_as_long_as_the_program_says(served: Served) -> None:
    brief = served.filesystem(listings_expiry_time=0.1)
    assert brief.ls(served.path) == []
    served.write("later", b"")
    time.sleep(0.2)
    assert brief.ls(served.path, detail=False) == [f"{served.path}/later"]
    without = served.filesystem(use_listings_cache=False)
    served.write("last", b"")
    assert len(without.ls(served.path)) == 2


def test_change_of_one_file_system_shows_in_the_others_at_once(served: Served) -> None:
    one, other = served.filesystem(), served.filesystem()
    assert other.ls(served.path) == []
    one.pipe(f"{served.path}/file", b"12")
    assert [info["size"] for info in other.ls(served.path)] == [2]
    one.rm(f"{served.path}/file")
    assert other.ls(served.path) == []


def test_ukey_changes_with_the_file_also_if_others_change_it(
    served: Served, fs: FTPFileSystem
) -> None:
    served.write("file", b"1")
    fs.ls(served.path)
    before = fs.ukey(f"{served.path}/file")
    assert fs.ukey(f"{served.path}/file") == before
    served.write("file", b"12")
    assert fs.ukey(f"{served.path}/file") != before


# The network fails.


def test_network_failure_is_an_error_and_no_missing_file(
    served: Served, relay: Relay, closing: Closing
) -> None:
    fill(served)
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    assert fs.exists(f"{served.path}/top")
    relay.vanish()
    for ask in (fs.exists, fs.isdir, fs.isfile, fs.find, fs.info, fs.glob, fs.ukey):
        with pytest.raises(ConnectionError):
            ask(f"{served.path}/a/c")
    with pytest.raises(ConnectionError):
        list(fs.walk(served.path))
    relay.come_back()
    deadline = time.monotonic() + 20
    while True:  # the pool asks a server again that was down, after seconds
        try:
            assert len(fs.find(served.path)) == 5
            break
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_tree_is_whole_although_connections_are_cut_while_it_is_listed(
    served: Served, relay: Relay, closing: Closing
) -> None:
    files = fill(served)
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    assert fs.exists(served.path)
    for verb in ("MLSD", "LIST"):
        relay.cut_control(verb, when="before")
    assert fs.find(served.path) == files
