"""Contents of files: read, written, appended to, changed, copied; and what a failure leaves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback

from ftpfs import FTPFileSystem
from tests.support.relay import Relay
from tests.support.uploading import blob
from tests.unit.api.conftest import Served, options_of

Closing = Callable[[FTPFileSystem], FTPFileSystem]


@pytest.fixture(scope="session")
def scheme() -> str:
    return "ftp"


def names(served: Served) -> list[str]:
    return sorted(os.listdir(served.disk))


# Reading.


@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0, 5), (7, None), (-9, None), (3, -2), (90, 200), (200, 300)]
)
def test_range_of_a_file_is_that_of_a_slice(
    start: int | None, end: int | None, served: Served, fs: FTPFileSystem
) -> None:
    data = blob(100)
    served.write("file", data)
    assert fs.cat_file(f"{served.path}/file", start, end) == data[start:end]


def test_many_ranges_come_in_their_order_and_near_ones_together(
    served: Served, relay: Relay, closing: Closing
) -> None:
    data = blob(3_000_000)
    served.write("one", data)
    served.write("two", data[::-1])
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    one, two, none = (f"{served.path}/{name}" for name in ("one", "two", "none"))
    starts = [2_000_000, 0, 100, 2_900_000, 5]
    ends = [2_000_010, 50, 300, 3_100_000, 6]
    found = fs.cat_ranges([one, one, one, two, none], starts, ends)
    assert found[:3] == [data[2_000_000:2_000_010], data[:50], data[100:300]]
    assert found[3] == data[::-1][2_900_000:]
    assert isinstance(found[4], FileNotFoundError)
    assert relay.count("RETR") == 4  # two of them for one file, and one that is refused
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([one, none], 0, 5, on_error="raise")


def test_several_contents_are_fetched_by_path(served: Served, fs: FTPFileSystem) -> None:
    contents = {f"{served.path}/d/{number}": blob(number) for number in range(20)}
    fs.pipe(contents)
    assert fs.cat(f"{served.path}/d/*") == contents
    assert fs.cat(f"{served.path}/d", recursive=True) == contents
    some = [f"{served.path}/d/1", f"{served.path}/none"]
    assert fs.cat(some, on_error="omit") == {some[0]: blob(1)}
    with pytest.raises(FileNotFoundError):
        fs.cat(some)


def test_open_file_is_read_line_by_line_at_offsets_and_as_text(
    served: Served, fs: FTPFileSystem
) -> None:
    lines = [b"line %d\n" % number for number in range(50_000)]
    data = b"".join(lines)
    served.write("file", data)
    with fs.open(f"{served.path}/file") as file:
        assert file.size == len(data)
        assert [file.readline() for _ in range(3)] == lines[:3]
        file.seek(-7, 2)
        assert file.read() == data[-7:]
        file.seek(300_000)
        assert file.read(10) == data[300_000:300_010]
    with fs.open(f"{served.path}/file", "r") as text:
        assert text.read() == data.decode()
    with fs.open(f"{served.path}/file", cache_type="readahead", block_size=1000) as file:
        assert file.read(5) == data[:5]


def test_program_uses_other_paths_while_files_are_open(served: Served, fs: FTPFileSystem) -> None:
    for name in "abc":
        served.write(name, blob(2_000_000))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(fs.open(f"{served.path}/{name}")) for name in "abc"]
        assert {file.read(1_000_000) for file in files} == {blob(2_000_000)[:1_000_000]}
        fs.pipe(f"{served.path}/d", b"d")
        assert len(fs.ls(served.path, refresh=True)) == 4
        assert {file.read() for file in files} == {blob(2_000_000)[1_000_000:]}


def test_content_is_whole_although_its_connection_is_cut(
    served: Served, relay: Relay, closing: Closing, tmp_path: Path
) -> None:
    data = blob(3_000_000)
    served.write("file", data)
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    relay.cut_data("down", after=1_000_000)
    assert fs.cat(f"{served.path}/file") == data
    relay.cut_data("down", after=2_000_000)
    fs.get(f"{served.path}/file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == data


def test_content_that_ends_early_is_an_error_and_leaves_the_local_file(
    served: Served, relay: Relay, closing: Closing, tmp_path: Path
) -> None:
    served.write("file", blob(3_000_000))
    (tmp_path / "file").write_bytes(b"old")
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    relay.cut_data("down", after=1_000_000, times=None)
    with pytest.raises(OSError, match="file"):
        fs.cat(f"{served.path}/file")
    with pytest.raises(OSError, match="file"):
        fs.get(f"{served.path}/file", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


# Writing.


def test_file_appears_on_the_server_when_it_is_closed(served: Served, fs: FTPFileSystem) -> None:
    path = f"{served.path}/new/folder/file"
    with fs.open(path, "wb") as file:
        file.write(b"con")
        file.write(b"tent")
        assert names(served) == []
    assert (served.disk / "new/folder/file").read_bytes() == b"content"
    with fs.open(path, "w") as text:
        text.write("other")
    assert fs.cat(path) == b"other"


def test_file_whose_block_fails_is_not_sent(served: Served, fs: FTPFileSystem) -> None:
    served.write("file", b"old")

    def fail(mode: str) -> None:
        with fs.open(f"{served.path}/file", mode) as file:
            file.write(b"new")
            raise ValueError

    for mode in ("wb", "ab", "r+b"):
        with pytest.raises(ValueError):
            fail(mode)
    assert (served.disk / "file").read_bytes() == b"old"


def test_append_goes_behind_what_is_there(served: Served, fs: FTPFileSystem) -> None:
    path = f"{served.path}/log"
    for line in (b"one\n", b"two\n", b""):
        with fs.open(path, "ab") as file:
            file.write(line)
    assert fs.cat(path) == b"one\ntwo\n"
    served.write("log", b"one\ntwo\nothers\n")
    with fs.open(path, "ab") as file:
        assert file.tell() == len(b"one\ntwo\nothers\n")
        file.write(b"three\n")
    assert (served.disk / "log").read_bytes() == b"one\ntwo\nothers\nthree\n"


def test_file_is_changed_in_the_middle(served: Served, fs: FTPFileSystem) -> None:
    served.write("file", b"0123456789")
    with fs.open(f"{served.path}/file", "r+b") as file:
        assert file.read(2) == b"01"
        file.write(b"XY")
        file.truncate(6)
    assert (served.disk / "file").read_bytes() == b"01XY45"


def test_change_of_a_file_that_others_replaced_is_refused(
    served: Served, fs: FTPFileSystem
) -> None:
    served.write("file", b"old")
    file = fs.open(f"{served.path}/file", "r+b")
    file.write(b"new")
    served.write("file", b"of others")
    with pytest.raises(OSError, match="somebody else"):
        file.close()
    assert (served.disk / "file").read_bytes() == b"of others"


def test_exclusive_file_replaces_none_that_was_made_meanwhile(
    served: Served, fs: FTPFileSystem
) -> None:
    file = fs.open(f"{served.path}/file", "xb")
    file.write(b"ours")
    served.write("file", b"of others")
    with pytest.raises(FileExistsError):
        file.close()
    with pytest.raises(FileExistsError):
        fs.pipe(f"{served.path}/file", b"ours", mode="create")
    assert (served.disk / "file").read_bytes() == b"of others"


def test_replaced_file_keeps_its_mode(served: Served, fs: FTPFileSystem) -> None:
    served.write("file", b"secret").chmod(0o600)
    fs.pipe(f"{served.path}/file", b"new secret")
    assert (served.disk / "file").stat().st_mode & 0o777 == 0o600


def test_upload_is_whole_although_its_connection_is_cut(
    served: Served, relay: Relay, closing: Closing
) -> None:
    data = blob(3_000_000)
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    relay.cut_data("up", after=1_000_000)
    fs.pipe(f"{served.path}/file", data)
    assert (served.disk / "file").read_bytes() == data
    assert names(served) == ["file"]


def test_upload_that_fails_leaves_the_old_file(
    served: Served, relay: Relay, closing: Closing
) -> None:
    served.write("file", b"old")
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    relay.cut_data("up", after=1_000, times=None)
    with pytest.raises(OSError, match="file"):
        fs.pipe(f"{served.path}/file", blob(3_000_000))
    assert (served.disk / "file").read_bytes() == b"old"


def test_folder_is_made_when_others_make_the_one_above_just_after_the_refusal(
    served: Served, relay: Relay, closing: Closing
) -> None:
    """The look for the reason shows the folder above: the refusal reads as a missing permission."""
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    fs.pipe(f"{served.path}/before", b"")  # from now on the server is known to take paths
    above = served.disk / "above"
    refused = 0

    def made_meanwhile(_: object) -> bool:
        nonlocal refused
        refused += 1
        if refused == 1:
            above.mkdir()
            served.give(above)
        return refused == 1

    relay.refuse("MKD", "550 No such file or directory", where=made_meanwhile)
    fs.pipe(f"{served.path}/above/folder/file", b"content")
    assert (above / "folder/file").read_bytes() == b"content"


def test_transaction_sends_all_files_at_its_end_or_none(
    served: Served, fs: FTPFileSystem, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(b"local")

    def write() -> None:
        fs.pipe(f"{served.path}/one", b"1")
        with fs.open(f"{served.path}/two", "wb") as file:
            file.write(b"2")
        fs.put(str(tmp_path / "local"), f"{served.path}/three")
        assert names(served) == []

    def fail() -> None:
        with fs.transaction:
            write()
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert names(served) == []
    with fs.transaction:
        write()
    assert fs.cat([f"{served.path}/{name}" for name in ("one", "two", "three")]) == {
        f"{served.path}/one": b"1",
        f"{served.path}/two": b"2",
        f"{served.path}/three": b"local",
    }


class Counting(Callback):
    """Counts the bytes of each file."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.files: dict[str, Callback] = {}

    def branched(self, path_1: str, path_2: str, **_: Any) -> Callback:
        child = self.files[os.path.basename(path_1)] = Callback()
        return child


def test_file_that_is_newer_than_its_listing_is_read_as_it_is(
    served: Served, fs: FTPFileSystem
) -> None:
    served.write("file", b"old")
    fs.ls(served.path)
    served.write("file", b"newer and longer")
    with fs.open(f"{served.path}/file") as file:
        assert file.read() == b"newer and longer"
    assert fs.cat(f"{served.path}/file") == b"newer and longer"


def test_progress_of_each_file_and_of_all_is_told(
    served: Served, fs: FTPFileSystem, tmp_path: Path
) -> None:
    for number in range(10):
        (tmp_path / f"file{number}").write_bytes(blob(number * 100_000))
    up, down = Counting(), Counting()
    fs.put(f"{tmp_path}/*", f"{served.path}/new/", callback=up)
    fs.get(f"{served.path}/new/", str(tmp_path / "back"), recursive=True, callback=down)
    for counting in (up, down):
        counted = [counting.files[f"file{number}"] for number in range(10)]
        assert [each.value for each in counted] == [number * 100_000 for number in range(10)]
        assert [each.size for each in counted] == [number * 100_000 for number in range(10)]
        assert counting.value == counting.size


# Names.


def test_rename_replaces_a_file_and_goes_into_a_folder(served: Served, fs: FTPFileSystem) -> None:
    served.write("old", b"old")
    served.write("new", b"new")
    served.write("folder/inner", b"inner")
    fs.mv(f"{served.path}/old", f"{served.path}/new")
    assert fs.cat(f"{served.path}/new") == b"old"
    fs.mv(f"{served.path}/new", f"{served.path}/folder")
    fs.mv(f"{served.path}/folder", f"{served.path}/other")
    assert fs.find(served.path) == [f"{served.path}/other/{name}" for name in ("inner", "new")]
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{served.path}/none", f"{served.path}/new")


def test_removing_a_tree_leaves_what_its_links_lead_to(served: Served, fs: FTPFileSystem) -> None:
    served.write("kept/file", b"kept")
    served.write("tree/deep/file", b"")
    (served.disk / "tree" / "link").symlink_to("../kept")
    with pytest.raises(OSError, match="tree"):
        fs.rm(f"{served.path}/tree")
    fs.rm(f"{served.path}/tree/deep", recursive=True)
    assert sorted(os.listdir(served.disk / "tree")) == ["link"]
    if fs.ls(f"{served.path}/tree")[0]["type"] == "link":  # pyftpdlib shows folders instead
        fs.rm(f"{served.path}/tree", recursive=True)
        assert names(served) == ["kept"]
    assert (served.disk / "kept" / "file").read_bytes() == b"kept"


def test_folders_are_made_and_removed(served: Served, fs: FTPFileSystem) -> None:
    path = f"{served.path}/a/b"
    with pytest.raises(FileNotFoundError):
        fs.mkdir(path, create_parents=False)
    fs.mkdir(path)
    with pytest.raises(FileExistsError):
        fs.mkdir(path)
    with pytest.raises(FileExistsError):
        fs.makedirs(path)
    fs.makedirs(path, exist_ok=True)
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{served.path}/a")
    fs.rmdir(path)
    assert names(served) == ["a"]


def test_touch_makes_a_file_and_sets_the_time_of_one(served: Served, fs: FTPFileSystem) -> None:
    path = f"{served.path}/file"
    fs.touch(path)
    os.utime(served.write("file", b"123"), (1_000_000_000, 1_000_000_000))
    fs.invalidate_cache()
    before = fs.modified(path)
    fs.touch(path, truncate=False)
    assert fs.modified(path) > before
    assert fs.cat(path) == b"123"
    fs.touch(path)
    assert fs.size(path) == 0


def test_command_is_sent_and_refusal_is_an_error(fs: FTPFileSystem) -> None:
    assert fs.welcome.startswith("220")
    assert fs.command("PWD").startswith("257")
    with pytest.raises(OSError, match="50"):
        fs.command("XNONE")
