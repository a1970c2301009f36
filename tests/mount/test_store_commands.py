"""`ftpfs cache` and `ftpfs status` show what is stored; `ftpfs cache clear` frees it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20
OLD = 1_000_000_000


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side."""
    return "vsftpd"


@pytest.fixture
def mounted(remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path) -> Mounted:
    """A mount whose store holds one file of 3 MiB, and knows it."""
    os.utime(remote_dir.write("file", bytes(3 * MIB)), (OLD, OLD))
    options = f"cache_size=1G,cache_dir={tmp_path}/store,block_cache=0"
    mounted = mount_dir(through=relay, options=options)
    until(lambda: read(mounted) and store_of(mounted)["hits"] >= 24, within=60)
    return mounted


def read(mounted: Mounted) -> bytes:
    with open(mounted.path / "file", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def status(mounted: Mounted, *words: str) -> str:
    env = {"XDG_STATE_HOME": str(mounted.state)}
    return ftpfs("status", *words, str(mounted.path), env=env).stdout


def store_of(mounted: Mounted) -> dict[str, int]:
    (told,) = json.loads(status(mounted, "--json"))
    return told["store"] or {"hits": 0}


def cache(tmp_path: Path, *words: str) -> tuple[int, str]:
    done = ftpfs("cache", "--cache-dir", str(tmp_path / "store"), *words)
    return done.returncode, done.stdout + done.stderr


def test_what_is_stored_is_shown_by_server_and_of_a_mount(mounted: Mounted, tmp_path: Path) -> None:
    told = store_of(mounted)
    assert 3 * MIB <= told["used"] < 3.1 * MIB
    assert (told["files"], told["kept"], told["capacity"]) == (1, 0, 1 << 30)
    assert "3.2 MB of 1.1 GB, 1 file, " in status(mounted)
    code, shown = cache(tmp_path)
    head, line = shown.splitlines()
    assert code == 0
    assert head.split() == ["disk", "kept", "files", "found", "server"]
    assert line.split()[:3] == ["3.2", "MB", "1"]
    assert "%" in line
    assert "ftp://ftpfstest@127.0.0.1:" in line


def test_store_is_cleared_under_a_mount_that_uses_it(
    mounted: Mounted, relay: Relay, tmp_path: Path
) -> None:
    assert cache(tmp_path, "clear", "elsewhere") == (1, "ftpfs: nothing is stored of elsewhere\n")
    assert cache(tmp_path, "clear", f"127.0.0.1:{relay.port + 1}")[0] == 1
    code, told = cache(tmp_path, "clear", f"127.0.0.1:{relay.port}")
    assert (code, told.startswith("3.2 MB freed of ftp://ftpfstest@127.0.0.1:")) == (0, True)
    assert list((tmp_path / "store").glob("*/data/*")) == []
    assert read(mounted) == bytes(3 * MIB)
    relay.reset()
    until(lambda: read(mounted) and relay.count("RETR"))  # the mount has let go of the file
    until(lambda: list((tmp_path / "store").glob("*/data/file*")))
    assert read(mounted) == bytes(3 * MIB)
    # The mount stores behind its answers, and may still be at it.
    until(lambda: cache(tmp_path, "clear")[0] == 0 and "0 bytes" in cache(tmp_path)[1])


def test_nothing_is_stored_where_there_is_no_store(tmp_path: Path) -> None:
    assert cache(tmp_path) == (0, "nothing is stored\n")
    assert cache(tmp_path, "clear") == (0, "nothing is stored\n")
