"""Changes by others on the server show in a mount with default options.

Each way in which programs take a file's length is tried: by fstat, by reading to its end, by what
the kernel itself believes it to be.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, MountServer, ftpfs, wait_until_sent
from tests.support import odd_server
from tests.support.odd_server import OddServer, Script
from tests.support.relay import Relay
from tests.support.waiting import until

pytestmark = pytest.mark.mount

# Seconds after which an open checks the file on the server (`open_ttl`), and a little more.
LOOKED_AT_AGAIN = 2.3
SHORT, LONG = 30_000, 300_000


def blob(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def script(size: int, seed: object) -> bytes:
    """A shell script of `size` bytes whose last line is the only one that prints."""
    last = f"\necho {seed}\n".encode()
    return b"#!/bin/sh\n:".ljust(size - len(last), b"x") + last


# Ways to read a file; each returns what it found.

Way = Callable[[Path, Path], bytes]


def by_cp(path: Path, here: Path) -> bytes:
    subprocess.run(["cp", path, here], check=True)
    return here.read_bytes()


def by_mv(path: Path, here: Path) -> bytes:
    subprocess.run(["mv", path, here], check=True)
    return here.read_bytes()


def by_cat(path: Path, _here: Path) -> bytes:
    return subprocess.run(["cat", path], check=True, capture_output=True).stdout


def by_wc_and_dd(path: Path, _here: Path) -> bytes:
    """Read as many bytes as `wc -c` counts."""
    told = subprocess.run(["wc", "-c", path], check=True, capture_output=True).stdout
    count = told.split()[0].decode()
    dd = ["dd", f"if={path}", "bs=1M", "iflag=fullblock,count_bytes", f"count={count}"]
    return subprocess.run(dd, check=True, capture_output=True).stdout


def by_fstat(path: Path, _here: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def by_seeking_to_the_end(path: Path, _here: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    finally:
        os.close(fd)


def by_small_reads(path: Path, _here: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(4096), b""))


def by_mmap(path: Path, _here: Path) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return mapped[:]


def by_sendfile(path: Path, here: Path) -> bytes:
    with path.open("rb", buffering=0) as source, here.open("wb", buffering=0) as target:
        while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
            pass
    return here.read_bytes()


def by_splice(path: Path, _here: Path) -> bytes:
    found = bytearray()
    reading, writing = os.pipe()
    with path.open("rb", buffering=0) as source:
        while count := _splice(source.fileno(), writing, 32 << 10):
            while count:
                found += (piece := os.read(reading, count))
                count -= len(piece)
    os.close(reading)
    os.close(writing)
    return bytes(found)


def _splice(source: int, target: int, size: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    count = libc.splice(source, None, target, None, ctypes.c_size_t(size), 0)
    assert count >= 0, os.strerror(ctypes.get_errno())
    return int(count)


def by_copy_file_range(path: Path, _here: Path) -> bytes:
    here = path.with_name("copy")  # Linux uses this within one file system
    with path.open("rb", buffering=0) as source, here.open("wb", buffering=0) as target:
        while os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
            pass
    return here.read_bytes()


READS: list[Way] = [
    by_cp,
    by_mv,
    by_cat,
    by_wc_and_dd,
    by_fstat,
    by_seeking_to_the_end,
    by_small_reads,
    by_mmap,
    by_sendfile,
    by_splice,
    by_copy_file_range,
]
ROW = b"a row of ours\n"


def add_by_seeking(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        file.write(ROW)


def add_by_appending(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, ROW)
    os.close(fd)


def add_by_shell(path: Path) -> None:
    subprocess.run(["sh", "-c", f"printf '{ROW.decode()[:-1]}\\n' >> '{path}'"], check=True)


ADDS = [add_by_seeking, add_by_appending, add_by_shell]
CHANGES = {
    "longer": (SHORT, LONG),
    "shorter": (LONG, SHORT),
    "as long": (LONG, LONG),
    "from empty": (0, SHORT),
}


class Changing:
    """Files that were looked at here, and some of them read, before another client changes them."""

    def __init__(self, remote_dir: RemoteDir, mounted: Mounted) -> None:
        self.remote_dir, self.mounted = remote_dir, mounted
        self.changes: dict[str, bytes] = {}

    def add(self, name: str, old: bytes, new: bytes, mode: int = 0o644) -> None:
        path = self.remote_dir.write(name, old)
        path.chmod(mode)
        os.utime(path, (1_600_000_000, 1_600_000_000))
        self.changes[name] = new

    def happen(self) -> None:
        """Change the files after they were listed, and those with "read" in their names read.

        Then their listing is so old that an open asks the server.
        """
        subprocess.run(["ls", "-l", self.mounted.path], check=True, capture_output=True)
        for name in self.changes:
            if "read" in name:
                (self.mounted.path / name).read_bytes()
        time.sleep(LOOKED_AT_AGAIN)
        for name, new in self.changes.items():
            with (self.remote_dir.disk / name).open("r+b") as file:
                file.truncate(len(new))
                file.write(new)
            os.utime(self.remote_dir.disk / name, (1_600_001_000, 1_600_001_000))


@pytest.fixture
def changing(remote_dir: RemoteDir, mounted: Mounted) -> Changing:
    return Changing(remote_dir, mounted)


def test_file_changed_by_others_is_read_as_it_is_now_in_every_way(
    changing: Changing, tmp_path: Path
) -> None:
    ways = {way.__name__: way for way in READS}
    cases = [(way, how, seen) for way in ways for how in CHANGES for seen in ("listed", "read")]
    for case in cases:
        old, new = CHANGES[case[1]]
        changing.add(" ".join(case), blob(old, case), blob(new, (case, "new")))
    changing.happen()
    wrong = []
    for case in cases:
        name = " ".join(case)
        # A shell finds its script like this; so do `test -f`, `ls` and file managers.
        assert (changing.mounted.path / name).exists()
        found = ways[case[0]](changing.mounted.path / name, tmp_path / "here")
        if found != changing.changes[name]:
            wrong.append((name, len(found), len(changing.changes[name])))
    assert not wrong, "\n".join(map(str, wrong))


def test_file_changed_right_after_it_was_listed_is_read_as_it_is_now(
    remote_dir: RemoteDir, mounted: Mounted, tmp_path: Path
) -> None:
    """Within `open_ttl`, an open asks nothing: what it reads shows that the file has changed."""
    ways = [by_cp, by_cat, by_wc_and_dd, by_fstat, by_mmap, by_mv]
    cases = [(way, how) for way in ways for how in CHANGES]
    cases.remove((by_mmap, "from empty"))  # nothing can be mapped of an empty file
    names = [f"{way.__name__} {how}" for way, how in cases]
    for name, (_, how) in zip(names, cases, strict=True):
        remote_dir.write(name, blob(CHANGES[how][0], name))
    wrong = []
    for name, (way, how) in zip(names, cases, strict=True):
        mounted.forget()
        subprocess.run(["ls", "-l", mounted.path], check=True, stdout=subprocess.DEVNULL)
        new = blob(CHANGES[how][1], (name, "new"))
        time.sleep(0.2)
        remote_dir.write("coming", new).rename(remote_dir.disk / name)
        os.utime(remote_dir.disk / name, (1_600_001_000, 1_600_001_000))
        found = way(mounted.path / name, tmp_path / "here")
        # An empty file and one of the same length may show their older content: it is whole.
        old = blob(CHANGES[how][0], name) if how in ("from empty", "as long") else new
        if found not in (new, old):
            wrong.append((name, len(found), len(new)))
    assert not wrong, "\n".join(map(str, wrong))


def test_row_appended_to_a_file_changed_by_others_goes_behind_theirs(
    changing: Changing,
) -> None:
    ways = {way.__name__: way for way in ADDS}
    cases = [(way, how, seen) for way in ways for how in CHANGES for seen in ("listed", "read")]
    for case in cases:
        old, new = CHANGES[case[1]]
        changing.add(" ".join(case), blob(old, case), blob(new, (case, "new")))
    changing.happen()
    seen = {}
    for case in cases:
        name = " ".join(case)
        ways[case[0]](changing.mounted.path / name)
        seen[name] = (changing.mounted.path / name).read_bytes()
    wanted = {name: new + ROW for name, new in changing.changes.items()}
    assert [name for name in wanted if seen[name] != wanted[name]] == []
    disk = changing.mounted.disk
    assert [n for n in wanted if (disk / n).read_bytes() != wanted[n]] == []


def test_program_replaced_by_others_runs_as_it_is_now(changing: Changing) -> None:
    true, echo = (Path(shutil.which(name) or "").read_bytes() for name in ("true", "echo"))
    for seen in ("listed", "read"):
        changing.add(f"binary {seen}", true[:200], echo, 0o755)
        changing.add(f"script longer {seen}", script(SHORT, "old"), script(LONG, "new"), 0o755)
        changing.add(f"script shorter {seen}", script(LONG, "old"), script(SHORT, "new"), 0o755)
    changing.happen()
    for name in changing.changes:
        done = subprocess.run(
            [changing.mounted.path / name, "new"], check=False, capture_output=True
        )
        assert (done.returncode, done.stdout) == (0, b"new\n"), (name, done)


def test_file_is_read_as_it_is_now_when_listed_between_stat_and_open(
    remote_dir: RemoteDir, mount_dir: MountDir, fuse_binding: str
) -> None:
    # The listing has to expire within the second that the kernel believes a look.
    mounted = mount_dir(binding=fuse_binding, options="list_ttl=3")
    remote_dir.write("file", blob(SHORT, 1))
    mounted.path.joinpath("file").read_bytes()
    time.sleep(2.5)
    (mounted.path / "file").stat()  # the kernel caches it for a second
    remote_dir.write("file", blob(LONG, 2))
    time.sleep(0.6)
    os.listdir(mounted.path)
    assert by_fstat(mounted.path / "file", mounted.path) == blob(LONG, 2)


def test_file_deleted_by_others_is_created_by_an_open_with_o_creat(
    remote_dir: RemoteDir, mounted: Mounted
) -> None:
    """The kernel still has the file's attributes in its cache."""
    for name in ("made", "gone"):
        remote_dir.write(name, b"old")
    os.listdir(mounted.path)
    time.sleep(LOOKED_AT_AGAIN)
    for name in ("made", "gone"):
        (mounted.path / name).stat()
        (remote_dir.disk / name).unlink()
    subprocess.run(["sh", "-c", 'echo new >"$1"', "sh", mounted.path / "made"], check=True)
    assert (mounted.disk / "made").read_bytes() == b"new\n"
    with pytest.raises(FileNotFoundError):
        (mounted.path / "gone").read_bytes()


# Files that grow.


def test_tail_follows_a_log_that_grows_on_the_server(
    remote_dir: RemoteDir, mounted: Mounted, tmp_path: Path
) -> None:
    """Each line is there within the second that `tail` waits and the one that the kernel believes
    a size, and what a busy machine adds."""
    log = remote_dir.write("log", b"line 0\n")
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        tail = subprocess.Popen(["tail", "-f", mounted.path / "log"], stdout=out)
        try:
            for number in range(1, 6):
                time.sleep(0.4 * number)
                with log.open("ab") as file:
                    file.write(f"line {number}\n".encode() * (1 if number % 2 else 3000))
                until(lambda: shown.read_bytes() == log.read_bytes(), within=4)
        finally:
            tail.terminate()
            tail.wait()


def test_reading_a_long_file_does_not_ask_for_its_size_more_often(
    remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    data = blob(6_000_000, 1)
    remote_dir.write("big", data)
    mounted = mount_dir(binding=fuse_binding, through=relay)
    os.listdir(mounted.path)
    relay.data_rate = 1_500_000
    relay.reset()
    assert by_small_reads(mounted.path / "big", mounted.path) == data
    assert relay.count("MLST", "SIZE") <= 2, "one for the open, one together with RETR"


def test_log_stays_readable_while_the_server_is_away(
    remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay
) -> None:
    log = remote_dir.write("log", b"one\n")
    mounted = mount_dir(through=relay)
    with (mounted.path / "log").open("rb", buffering=0) as file:
        assert file.read() == b"one\n"
        relay.vanish()
        time.sleep(1.2)
        assert os.fstat(file.fileno()).st_size == 4
        assert file.read() == b""
        relay.come_back()
        with log.open("ab") as more:
            more.write(b"two\n")
        until(lambda: file.read() == b"two\n", within=15)


# Sizes that the server reports wrong.


@pytest.fixture
def mount_odd(mount_server: MountServer, fuse_binding: str) -> Callable[[OddServer], Path]:
    return lambda odd: mount_server(odd, odd.root, binding=fuse_binding).path


@contextlib.contextmanager
def kernel_file(remote_dir: RemoteDir, name: str) -> Iterator[None]:
    """A file of /proc on the server: 0 bytes, and content."""
    target = remote_dir.write(name, b"")
    subprocess.run(["mount", "--bind", "/proc/version", target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def test_generated_file_is_read_to_its_end(
    remote_dir: RemoteDir, mounted: Mounted, tmp_path: Path
) -> None:
    # The other servers send as much as the size that they reported: nothing.
    sends = remote_dir.server.kind == "pyftpdlib"
    content = Path("/proc/version").read_bytes() if sends else b""
    with kernel_file(remote_dir, "version"):
        path = mounted.path / "version"
        assert path.stat().st_size == 0
        for way in (by_cat, by_cp, by_small_reads):
            assert way(path, tmp_path / "here") == content
        mounted.unmount()


def test_large_generated_file_is_read_in_one_transfer_by_the_mount_and_by_get(
    tmp_path: Path, mount_odd: Callable[[OddServer], Path]
) -> None:
    content = blob(3_000_000, 1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "generated").write_bytes(content)
    listed = b"-rw-r--r-- 1 odd odd 0 Sep 13  2020 generated\r\n"
    script = Script(
        unknown={"MLSD", "MLST"}, replies={"SIZE": "213 0"}, listing=lambda _folder: listed
    )
    with odd_server.start(root, script) as odd:
        path = mount_odd(odd) / "generated"
        assert path.stat().st_size == 0
        odd.commands.clear()
        assert by_small_reads(path, tmp_path) == content
        assert odd.verbs().count("RETR") == 1
        with path.open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 100, 2_000_000) == content[2_000_000:2_000_100]
        got = ftpfs(
            "get",
            f"ftp://{odd_server.USER}@127.0.0.1:{odd.port}/generated",
            str(tmp_path / "got"),
            env={"FTPFS_PASSWORD": odd_server.PASSWORD},
        )
        assert got.returncode == 0, got.stderr
        assert (tmp_path / "got").read_bytes() == content


def make_long(path: Path, size: int) -> None:
    """Make a sparse file that begins and ends with its own words."""
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")


def test_size_is_requested_when_the_listing_lacks_its_upper_bits(
    tmp_path: Path, mount_odd: Callable[[OddServer], Path]
) -> None:
    size = (1 << 32) + 5000
    root = tmp_path / "root"
    root.mkdir()
    make_long(root / "long", size)
    listed = b"-rw-r--r-- 1 odd odd 5000 Sep 13  2020 long\r\n"
    script = Script(unknown={"MLSD", "MLST"}, listing=lambda _folder: listed)
    with odd_server.start(root, script) as odd:
        path = mount_odd(odd) / "long"
        assert path.exists()
        time.sleep(LOOKED_AT_AGAIN)
        for _ in range(2):
            with path.open("rb", buffering=0) as opened:
                assert opened.seek(0, os.SEEK_END) == size
                assert os.pread(opened.fileno(), 100, size - 3) == b"end"
        time.sleep(1.1)
        assert path.stat().st_size == size


@pytest.mark.parametrize("unknown", [{"MLSD", "MLST"}, {"MLSD", "MLST", "MDTM"}])
def test_first_reader_gets_all_of_a_file_when_the_listing_lacks_its_upper_bits(
    unknown: set[str], tmp_path: Path, mount_odd: Callable[[OddServer], Path]
) -> None:
    listed_size = 1 << 30
    size = (1 << 32) + listed_size
    root = tmp_path / "root"
    root.mkdir()
    make_long(root / "long", size)
    listed = f"-rw-r--r-- 1 odd odd {listed_size} Sep 13  2020 long\r\n".encode()
    script = Script(unknown=unknown, listing=lambda _folder: listed)
    with odd_server.start(root, script) as odd:
        path = mount_odd(odd) / "long"
        assert path.exists()
        with path.open("rb", buffering=0) as opened:
            assert os.pread(opened.fileno(), 5, 0) == b"begin"
            assert opened.seek(0, os.SEEK_END) == size
            assert os.pread(opened.fileno(), 100, size - 3) == b"end"


def test_empty_files_made_here_are_read_without_asking_the_server(
    mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay)
    (mounted.path / "empty").touch()
    wait_until_sent(mounted.path)
    relay.reset()
    assert (mounted.path / "empty").read_bytes() == b""
    assert relay.verbs == []


# Names.

# Seconds after which a listing is stale about names that it lacks.
NAMES_BELIEVED = 5.0
# Seconds after which no `ls` is answered from a listing.
SHOWN_WITHIN = 10.0


def test_names_made_and_deleted_by_others_show_after_seconds(
    remote_dir: RemoteDir, mounted: Mounted
) -> None:
    remote_dir.write("folder/old", b"x")
    folder = mounted.path / "folder"
    assert os.listdir(folder) == ["old"]
    remote_dir.write("folder/new", b"new")
    remote_dir.write("folder/sub/file", b"file")
    time.sleep(NAMES_BELIEVED + 1.2)
    assert (folder / "new").read_bytes() == b"new"
    assert (folder / "sub" / "file").read_bytes() == b"file"
    (remote_dir.disk / "folder" / "old").unlink()
    remote_dir.write("folder/newer", b"")
    time.sleep(SHOWN_WITHIN + 0.2)
    assert sorted(os.listdir(folder)) == ["new", "newer", "sub"]


def test_making_many_files_costs_one_listing_every_few_seconds(
    remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    remote_dir.write("listed/old", b"x")
    mounted = mount_dir(binding=fuse_binding, through=relay)
    os.listdir(mounted.path / "listed")
    (mounted.path / "made").mkdir()
    wait_until_sent(mounted.path)
    relay.reset()
    begun, made = time.monotonic(), 0
    while time.monotonic() - begun < 12:
        for folder in ("listed", "made"):
            (mounted.path / folder / f"file {made}").write_bytes(b"x")
        made += 1
        time.sleep(0.02)
    wait_until_sent(mounted.path)
    passed = time.monotonic() - begun
    assert made > 20
    assert relay.count("LIST", "MLSD") <= 2 * (passed / NAMES_BELIEVED + 1)
    # What an upload itself asks. On a busy machine a listing takes long: then missing names are
    # asked for by themselves, for a twentieth of the time.
    asked = relay.count("MLST") if relay.count("MLST") else relay.count("SIZE") / 3
    assert asked <= 2.2 * made + 2


def test_older_listing_is_shown_while_the_server_is_away(
    remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay
) -> None:
    remote_dir.write("folder/file", b"x")
    mounted = mount_dir(through=relay, options="connect_timeout=1,reply_timeout=2")
    assert os.listdir(mounted.path / "folder") == ["file"]
    relay.vanish()
    time.sleep(NAMES_BELIEVED + 0.2)
    assert os.listdir(mounted.path / "folder") == ["file"]
    with pytest.raises(FileNotFoundError):
        (mounted.path / "folder" / "missing").stat()
    relay.come_back()


def test_many_files_changed_by_others_are_opened_at_once(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    """Each open waits for a thread of the daemon that calls the kernel, which calls the daemon."""
    count = 64
    for number in range(count):
        remote_dir.write(f"d/{number}", blob(SHORT, number))
    mounted = mount_dir(binding=fuse_binding)
    paths = [mounted.path / f"d/{number}" for number in range(count)]
    assert [path.stat().st_size for path in paths] == [SHORT] * count
    for number in range(count):
        remote_dir.write(f"d/{number}", blob(LONG, number))
    time.sleep(LOOKED_AT_AGAIN)
    assert [path.stat().st_size for path in paths] == [SHORT] * count, "what the kernel believes"
    begun = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda path: by_seeking_to_the_end(path, path), paths))
    assert time.monotonic() - begun < 15
    assert found == [blob(LONG, number) for number in range(count)]


@pytest.mark.parametrize("how", ["lazily unmounted", "mounted over"])
def test_file_changed_by_others_is_opened_on_a_lazily_unmounted_or_hidden_mount(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, how: str
) -> None:
    remote_dir.write("file", blob(SHORT, 1))
    mounted = mount_dir(binding=fuse_binding)
    folder = os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)
    os.stat("file", dir_fd=folder)
    remote_dir.write("file", blob(LONG, 1))
    time.sleep(LOOKED_AT_AGAIN)
    os.stat("file", dir_fd=folder)
    if how == "mounted over":
        subprocess.run(["mount", "-t", "tmpfs", "none", mounted.path], check=True)
    else:
        subprocess.run(["umount", "-l", mounted.path], check=True)
    try:
        begun = time.monotonic()
        fd = os.open("file", os.O_RDONLY, dir_fd=folder)
        assert time.monotonic() - begun < 4
        assert os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0) == blob(LONG, 1)
        os.close(fd)
    finally:
        os.close(folder)
        if how == "mounted over":
            subprocess.run(["umount", mounted.path], check=True)
