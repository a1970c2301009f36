"""Mounts of odd servers. How a connection copes with them: tests/unit/ftp/test_odd_servers.py."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.mount.conftest import Mounted, MountServer, ftpfs
from tests.support import listings, odd_server, servers
from tests.support.listings import Dialect, File
from tests.support.odd_server import OddServer, Script
from tests.unit.ftp.test_foreign import mvs, vms

pytestmark = pytest.mark.mount

MountOdd = Callable[..., Path]


@pytest.fixture
def mount_odd(mount_server: MountServer, fuse_binding: str) -> MountOdd:
    """`mount_odd(server, options="")`: where it is mounted."""

    def mount(odd: OddServer, options: str = "") -> Path:
        return mount_server(odd, odd.root, binding=fuse_binding, options=options).path

    return mount


def settled(here: Path) -> None:
    """Wait until everything that was written is on the server."""
    done = ftpfs("sync", str(here), env={"XDG_STATE_HOME": str(here.parent / "state")})
    assert done.returncode == 0, done.stderr


def test_find_ends_in_a_tree_with_looping_links(mounted: Mounted) -> None:
    (mounted.disk / "sub").mkdir()
    (mounted.disk / "sub" / "file").write_text("content")
    os.symlink(".", mounted.disk / "self")
    os.symlink("../sub", mounted.disk / "sub" / "up")
    os.symlink("nowhere/to/be/found", mounted.disk / "dangling")
    os.symlink("b", mounted.disk / "a")
    os.symlink("a", mounted.disk / "b")
    for path in (mounted.disk / "sub", mounted.disk / "sub" / "file"):
        os.chown(path, mounted.server.uid, mounted.server.gid)
    # -P and -L: as links, and through them; find itself may complain of the loops.
    for how in ("-P", "-L"):
        done = subprocess.run(
            ["find", how, ".", "-maxdepth", "6"],
            cwd=mounted.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "./sub/file" in done.stdout.split("\n")
    assert (mounted.path / "sub" / "file").read_text() == "content"
    for name in ("a", "dangling"):
        with pytest.raises(OSError, match=r"symbolic links|No such file"):
            (mounted.path / name).read_text()
    mounted.unmount()


def test_mount_works_with_a_server_that_takes_one_connection(
    tmp_path: Path, mount_odd: MountOdd
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(20):
        (root / f"f{number}").write_bytes(b"x" * 300_000)
    with odd_server.start(root, Script(max_clients=1)) as odd:
        here = mount_odd(odd)
        done = subprocess.run(
            f"cat {here}/* | wc -c; cp -r {here}/f1 {here}/copy; ls {here} | wc -l",
            shell=True,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.split() == ["6000000", "21"]
        settled(here)
        assert (root / "copy").read_bytes() == b"x" * 300_000


def test_names_in_another_encoding_are_translated_in_both_directions(
    tmp_path: Path, mount_odd: MountOdd
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / os.fsdecode("grün".encode("latin-1"))).write_bytes(b"content")
    with odd_server.start(root) as odd:
        here = mount_odd(odd, "encoding=latin-1")
        assert os.listdir(here) == ["grün"]
        assert (here / "grün").read_bytes() == b"content"
        (here / "größer").write_bytes(b"new")
        with pytest.raises(OSError, match="Invalid argument"):
            (here / "日本").write_bytes(b"cannot be said in latin-1")
        settled(here)
        assert "größer".encode("latin-1") in os.listdir(os.fsencode(root))


def test_everyday_work_succeeds_on_a_server_with_nothing_but_rfc_959(
    tmp_path: Path, mount_odd: MountOdd
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    script = Script(
        unknown={
            *("SIZE", "MLSD", "MLST", "MDTM", "MFMT", "EPSV", "EPRT", "FEAT", "OPTS", "SITE"),
            *("SITE CHMOD", "REST"),
        }
    )
    big = os.urandom(2_000_000)
    (root / "big").write_bytes(big)
    with odd_server.start(root, script) as odd:
        here = mount_odd(odd)
        subprocess.run(
            "mkdir d && echo one > d/f && echo two >> d/f && mv d/f d/g && cp d/g h"
            " && sed -i s/one/1/ h && cmp <(cat h) <(printf '1\\ntwo\\n') && rm d/g && rmdir d",
            shell=True,
            executable="/bin/bash",
            cwd=here,
            timeout=60,
            check=True,
        )
        settled(here)
        assert (root / "h").read_text() == "1\ntwo\n"
        assert (here / "big").read_bytes() == big
        with open(here / "big", "rb") as file:
            file.seek(1_500_000)
            assert file.read(1000) == big[1_500_000:1_501_000]


def test_verify_content_finds_flipped_bits_and_keeps_files_that_never_arrive(
    tmp_path: Path, mount_odd: MountOdd
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    spoiling: list[bool] = []

    def spoil(path: Path) -> None:
        if spoiling and (data := bytearray(path.read_bytes())):
            data[0] ^= 1
            path.write_bytes(data)

    def tell(path: Path) -> str:
        return f"250 {hashlib.md5(path.read_bytes()).hexdigest()}"

    with odd_server.start(root, Script(tells={"XMD5": tell}, received=spoil)) as odd:
        here = mount_odd(odd, "verify=content")
        (here / "first").write_bytes(b"the folder takes files")
        settled(here)
        spoiling.append(True)
        (here / "file").write_bytes(b"never arrives so")
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        done = ftpfs("sync", str(here), env=state)
        assert done.returncode == 1
        assert "instead of" in done.stderr
        assert os.listdir(root) == ["first"]
        assert (here / "file").read_bytes() == b"never arrives so"
        spoiling.clear()
        with pytest.raises(OSError, match="Input/output"), open(here / "file", "ab"):
            pass  # once, for the next upload
        with open(here / "file", "ab") as file:
            file.write(b", but now")
        settled(here)
        assert (root / "file").read_bytes() == b"never arrives so, but now"


def test_verify_content_works_on_a_real_server_with_checksums(
    tmp_path: Path, mount_server: MountServer, fuse_binding: str, start_server: StartServer
) -> None:
    digests = servers.Options(extra=("LoadModule mod_digest.c", "DigestEngine on"))
    server = start_server("proftpd", options=digests)
    mounted = mount_server(server, server.root, binding=fuse_binding, options="verify=content")
    tree = tmp_path / "tree with spaces"
    tree.mkdir()
    for number in range(30):
        (tree / f"file {number}").write_bytes(os.urandom(number * 7000))
    (tree / "big").write_bytes(os.urandom(8 << 20))
    subprocess.run(["cp", "-r", tree, mounted.path / "copy"], check=True, timeout=120)
    with open(mounted.path / "copy" / "big", "r+b") as file:
        file.seek(4 << 20)
        file.write(b"changed")
        file.seek(0, os.SEEK_END)
        file.write(b"appended")
    (mounted.path / "copy" / "file 9").write_bytes(b"another one")
    disk = mounted.disk / "copy"
    assert {p.name: p.read_bytes() for p in disk.iterdir()} == {
        p.name: p.read_bytes() for p in (mounted.path / "copy").iterdir()
    }
    log = mounted.log_text()
    assert "sending it again" not in log
    assert "checksum" not in log


@pytest.mark.parametrize("system", [vms, mvs])
def test_everyday_work_succeeds_on_a_server_without_slashes(
    tmp_path: Path, mount_odd: MountOdd, system: Callable[[Path], Script]
) -> None:
    root = tmp_path / "root"
    (root / "A").mkdir(parents=True)
    (root / "A" / "FILE").write_bytes(b"content\n")
    if system is vms:
        (root / "A" / "FILE").rename(root / "A" / "FILE.TXT")
    name = os.listdir(root / "A")[0]
    with odd_server.start(root, system(root)) as odd:
        here = mount_odd(odd)
        assert os.listdir(here) == ["A"]
        assert os.listdir(here / "A") == [name]
        for _ in range(2):
            assert (here / "A" / name).read_bytes() == b"content\n"
        with (here / "A" / name).open("ab") as file:
            file.write(b"more\n")
        new = name.replace("FILE", "NEW")
        (here / "A" / new).write_bytes(b"new")
        with pytest.raises(FileNotFoundError):
            (here / "A" / "MISSING").read_bytes()
        settled(here)
        assert (root / "A" / name).read_bytes() == b"content\nmore\n"
        assert (root / "A" / new).read_bytes() == b"new"
        assert sorted(os.listdir(root / "A")) == [name, new]


DISKS = {
    "two seconds": Script(keeps_time=lambda now: now // 2 * 2),
    "minutes": Script(keeps_time=lambda now: now // 60 * 60),
    "up to two seconds": Script(keeps_time=lambda now: -(-now // 2) * 2),
    "ignored": Script(ignores_times=True),
    "renames": Script(dates_renames=True),
    "LIST and minutes": Script(
        keeps_time=lambda now: now // 60 * 60, unknown={"MLSD", "MLST", "MFMT"}
    ),
}


@pytest.mark.parametrize("disk", DISKS)
def test_repeated_edits_make_no_conflict_copies_when_the_server_keeps_coarse_times(
    tmp_path: Path, mount_odd: MountOdd, disk: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with odd_server.start(root, DISKS[disk]) as odd:
        here = mount_odd(odd)
        done = subprocess.run(
            "for i in 1 2 3 4 5; do echo line $i >> log; printf 'draft %s\n' $i > draft;"
            " sqlite3 a.db 'create table if not exists t(x); insert into t values(1);' || exit 1;"
            " sleep 1.1; done; touch -d 2001-02-03T04:05:07Z log; echo line 6 >> log",
            shell=True,
            cwd=here,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert not done.stderr
        settled(here)
        assert sorted(os.listdir(root)) == ["a.db", "draft", "log"]
        assert (root / "log").read_text() == "".join(f"line {i}\n" for i in range(1, 7))
        assert (root / "draft").read_text() == "draft 5\n"
        count = ["sqlite3", str(root / "a.db"), "select count(*) from t"]
        assert subprocess.check_output(count, text=True) == "5\n"


def written_as(dialect: Dialect) -> Callable[[Path], bytes]:
    """The lines that LIST prints for a folder on the server's disk, in that dialect."""

    def write(folder: Path) -> bytes:
        files = []
        for path in sorted(folder.iterdir()):
            seen = path.stat()
            when = datetime.fromtimestamp(seen.st_mtime // 60 * 60, tz=timezone.utc)
            files.append(File(path.name, path.is_dir(), seen.st_size, when))
        return b"".join(line + b"\r\n" for line in listings.listing(dialect, files))

    return write


@pytest.mark.parametrize("kind", ["unix, thousands", "unix, Japanese", "mvs", "os-9", "vxworks"])
def test_everyday_work_succeeds_on_a_server_with_another_dialect(
    tmp_path: Path, mount_odd: MountOdd, kind: str
) -> None:
    root = tmp_path / "root"
    (root / "FOLDER").mkdir(parents=True)
    content = os.urandom(1_234_567)
    (root / "FILE").write_bytes(content)
    (root / "FOLDER" / "INSIDE").write_bytes(b"inside")
    script = Script(
        unknown={"MLSD", "MLST", "MDTM", "MFMT"}, listing=written_as(listings.DIALECTS[kind])
    )
    with odd_server.start(root, script) as odd:
        here = mount_odd(odd)
        assert sorted(os.listdir(here)) == ["FILE", "FOLDER"]
        assert (here / "FOLDER").is_dir()
        assert (here / "FILE").read_bytes() == content
        assert (here / "FILE").stat().st_size == len(content)
        assert abs((here / "FILE").stat().st_mtime - (root / "FILE").stat().st_mtime) <= 86400
        (here / "FOLDER" / "NEW").write_bytes(b"new" * 1000)
        (here / "FILE").rename(here / "FOLDER" / "MOVED")
        settled(here)
        assert (root / "FOLDER" / "MOVED").read_bytes() == content
        assert (root / "FOLDER" / "NEW").read_bytes() == b"new" * 1000


def test_file_without_date_is_as_old_in_each_mount_and_no_news_for_cp(
    tmp_path: Path, mount_odd: MountOdd
) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    lines = {"root": b"-rw-r--r-- 1 me us 7 file\r\ndrwxr-xr-x 1 me us 0 folder\r\n"}
    script = Script(
        unknown={"MLSD", "MLST", "MDTM", "MFMT"}, listing=lambda path: lines.get(path.name, b"")
    )
    copy = tmp_path / "copy"
    copy.write_bytes(b"edited here since")
    os.utime(copy, (1_000_000_000, 1_000_000_000))
    with odd_server.start(root, script) as odd:
        here = mount_odd(odd)
        assert sorted(os.listdir(here)) == ["file", "folder"]
        assert (here / "file").stat().st_mtime == 0
        assert (here / "folder").stat().st_mtime == 0
        assert (here / "file").read_bytes() == b"content"
        assert (here / "file").stat().st_mtime == 0
        subprocess.run(["cp", "-u", here / "file", copy], check=True)
        assert copy.read_bytes() == b"edited here since"
        assert here.stat().st_mtime > 1_000_000_000


def test_mlsd_is_used_when_the_server_has_no_mlst(tmp_path: Path, mount_odd: MountOdd) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    os.utime(root / "file", (1_000_000_007, 1_000_000_007))
    script = Script(
        unknown={"MLST", "LIST", "MDTM"}, replies={"FEAT": "211-Features\n MLSD\n SIZE\n211 End"}
    )
    with odd_server.start(root, script) as odd:
        here = mount_odd(odd)
        assert (here / "file").stat().st_mtime == 1_000_000_007
        assert (here / "file").read_bytes() == b"content"
