"""A town: a server that goes away and comes back at its address, and mounts of it with a store."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.servers import FtpServer
from tests.support.stoppable import Stoppable
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.mount.conftest import Mounted, MountServer

OLD = 1_000_000_000  # long past: files that changed within the last minute are not stored
MIB = 1 << 20


class Town(Stoppable):
    """A server that goes away and comes back at its address, and mounts of it with a store."""

    def __init__(self, root: Path, work: Path, folder: Path, mount_server: MountServer) -> None:
        self.root = root
        self._work = work
        self._folder = folder
        self._mount = mount_server
        self._server: FtpServer = servers.start("vsftpd", root, work)

    def stop(self) -> None:
        self._server.stop()

    def back(self) -> None:
        self._server = servers.start("vsftpd", self.root, self._work, port=self._server.port)

    def write(self, name: str, data: bytes, mtime: int = OLD) -> None:
        path = self.root / name
        for parent in [*reversed(path.relative_to(self.root).parents)][1:]:
            (self.root / parent).mkdir(exist_ok=True)
            os.chown(self.root / parent, self._server.uid, self._server.gid)
        path.write_bytes(data)
        os.chown(path, self._server.uid, self._server.gid)
        os.utime(path, (mtime, mtime))

    def own(self) -> None:
        """Give everything on its disk to the user of the server."""
        for path in self.root.rglob("*"):
            os.lchown(path, self._server.uid, self._server.gid)

    def mount(self, options: str = "", binding: str = "auto") -> Mounted:
        words = f"cache_size=1G,cache_dir={self._folder}"
        words = f"{words},{options}" if options else words
        return self._mount(self._server, self.root, options=words, binding=binding)

    def try_to_mount(
        self, where: Path, options: str = "", password: str = ""
    ) -> subprocess.CompletedProcess[str]:
        where.mkdir(exist_ok=True)
        server = self._server
        words = f"cache_size=1G,cache_dir={self._folder},log_file={where}.log"
        from tests.mount.conftest import ftpfs

        done = ftpfs(
            "mount",
            f"ftp://{server.user}@{server.host}:{server.port}//",
            str(where),
            "-o",
            f"{words},{options}" if options else words,
            env={
                "FTPFS_PASSWORD": password or server.password,
                "XDG_STATE_HOME": str(where.parent / "state"),
            },
        )
        if done.returncode == 0:
            subprocess.run(["umount", str(where)], check=True)
        return done

    def command(self, mounted: Mounted, *words: str) -> subprocess.CompletedProcess[str]:
        """`ftpfs WORDS... SERVER`, by the user of this mount."""
        from tests.mount.conftest import ftpfs

        server = self._server
        state = {"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(mounted.state)}
        return ftpfs(*words, f"ftp://{server.user}@{server.host}:{server.port}//", env=state)

    def look(self, files: dict[str, bytes]) -> None:
        """Write these files, read all of them through a mount, and unmount it."""
        for name, data in files.items():
            self.write(name, data)
        mounted = self.mount()
        seen = {
            str((Path(at) / name).relative_to(mounted.path)): (Path(at) / name).read_bytes()
            for at, _, names in os.walk(mounted.path)
            for name in names
        }
        assert seen == files
        leave(mounted)


def leave(mounted: Mounted) -> None:
    from tests.mount.conftest import _daemons

    mounted.unmount()
    until(lambda: not _daemons(str(mounted.log)))


FILES_THERE = {"a": b"a" * 10, "sub/b": b"b" * 3 * MIB, "sub/deep/c": b"c" * 300_000, "empty": b""}


def fails_at_once(call: Callable[[], object]) -> None:
    begun = time.monotonic()
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == errno.ENETUNREACH
    assert time.monotonic() - begun < 5  # a deadline of the network is 10 s or more


def stored_as(path: Path) -> str:
    """What this machine has of a file's content: "cached" or "remote"."""
    return os.getxattr(path, "user.ftpfs.stored").decode()
