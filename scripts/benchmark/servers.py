"""A real server for the run, on loopback or at the far end of a long link.

The servers are those of the tests (tests/support/servers.py). Their files are in memory (tmpfs):
then a dropped page cache affects the client only, and no peer waits for a disk that another one has
just filled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.link import Wire
from scripts.benchmark.parameters import BadParameter, Link
from tests.support import servers as real
from tests.support.servers import KINDS


@dataclass(frozen=True)
class Endpoint:
    """The server's address for clients, and its files for this process."""

    kind: str
    host: str
    port: int
    user: str
    password: str
    root: Path
    uid: int
    gid: int
    device: str  # the interface on this side by which packets to it leave

    def give(self, path: Path) -> None:
        """Give files on the server's disk to the server's user."""
        os.chown(path, self.uid, self.gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), self.uid, self.gid)


# Options that make a server of the tests listen on more than 127.0.0.1. pure-ftpd uses the first
# address it is given, and pyftpdlib is given none.
_EVERYWHERE: dict[str, tuple[str, ...]] = {
    "vsftpd": ("listen_address=0.0.0.0",),
    "proftpd": ("DefaultServer on", "SocketBindTight off"),
}


@contextlib.contextmanager
def running(kind: str, link: Link, folder: Path) -> Iterator[Endpoint]:
    """The running server. `folder` gets its root and its logs."""
    if kind not in KINDS:
        raise BadParameter(f"no such server: {kind} (there are {', '.join(KINDS)})")
    known: real.Kind = kind
    if reason := real.why_unavailable(known):
        raise BadParameter(reason)
    if not link.loopback and kind not in _EVERYWHERE:
        raise BadParameter(f"--link works with {' and '.join(_EVERYWHERE)} only, not with {kind}")
    # Its sessions write to the log while they work, so the log is in memory too.
    root, work = folder / "root", folder / "server"
    with contextlib.ExitStack() as stack:
        host, device = "127.0.0.1", "lo"
        if link.loopback:
            server = stack.enter_context(real.start(known, root, work))
        else:
            wire = stack.enter_context(Wire(link))
            host, device = wire.far, wire.device
            with wire.inside():
                options = real.Options(extra=_EVERYWHERE[kind])
                server = real.start(known, root, work, options=options)
            stack.enter_context(server)
        yield Endpoint(
            kind=kind,
            host=host,
            port=server.port,
            user=server.user,
            password=server.password,
            root=server.root,
            uid=server.uid,
            gid=server.gid,
            device=device,
        )


def memory_folder(need: int) -> Path:
    """A folder in memory with room for `need` bytes, which every user may enter; else on disk."""
    for parent in (Path("/dev/shm"), Path("/var/tmp")):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(parent).free > need:
                return parent
    raise BadParameter(f"neither /dev/shm nor /var/tmp has {need >> 20} MiB free")
