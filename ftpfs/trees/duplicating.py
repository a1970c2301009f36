"""Duplicating: copies on one server. The server makes them itself, or they go through this machine.

Servers with SITE CPFR and CPTO (proftpd's mod_copy) copy a file without sending it. The copy gets a
temporary name first, and its final name when its size is right. Other servers send the file here,
and it goes back: first the one, then the other, because a server may allow one connection only.

Owns: which of the two ways a file takes. `ways` moves the bytes of the second one.

Threading: any thread; each file belongs to one thread. A miscount of `_can_copy` among threads
costs a command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import check_name
from ftpfs.trees.plan import Rules
from ftpfs.trees.server import Server
from ftpfs.trees.sides import Side
from ftpfs.trees.ways import Fetch, Item, Progress, Send

log = logging.getLogger(__name__)


class Duplicate:
    """A `Way` from a server to the same server. `_can_copy`: None: not tried yet."""

    def __init__(
        self, remote: Remote, uploading: Callable[[str], contextlib.AbstractContextManager[None]]
    ) -> None:
        """`uploading(path)`: see `Send`."""
        self.source: Side = Server(remote)
        self.target: Side = self.source
        self._remote = remote
        self._uploading = uploading
        self._fetch = Fetch(remote)
        self._send = Send(remote, uploading)
        self._can_copy: bool | None = None

    def copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        entry = item.entry
        check_name(item.target)
        self._remote.check_name(item.target)
        progress(0)
        may_copy = self._can_copy is not False and _is_kept(item.source) and _is_kept(item.target)
        if may_copy and entry.kind is Kind.FILE and entry.size is not None:
            with self._uploading(item.target):
                is_done = self._copy_there(item, entry.size, mode)
            if self._can_copy is None:
                self._can_copy = is_done
            if is_done:
                progress(entry.size)
                return entry.size
        return self._through_here(item, mode, progress)

    def _copy_there(self, item: Item, size: int, mode: int | None) -> bool:
        """Have the server copy it. False, with nothing changed: it does not."""
        temporary = self._remote.temporary(item.target)
        try:
            if not self._remote.copy(item.source, temporary, size):
                return False
            if self._remote.stat(temporary).size != size:
                log.info("%s: the server's own copy has another size", item.source)
                self._remote.remove(temporary)
                return False
            self._set_attributes(item.entry, temporary, mode)
            self._remote.rename(temporary, item.target, replace=item.old is not None)
        except errors.NetworkError:
            raise
        except errors.FtpfsError:
            with contextlib.suppress(errors.FtpfsError):
                self._remote.remove(temporary)
            raise
        return True

    def _set_attributes(self, entry: Entry, path: str, mode: int | None) -> None:
        try:
            if mode is not None:
                self._remote.chmod(path, mode)
            if entry.mtime is not None:
                self._remote.set_mtime(path, entry.mtime)
        except errors.NetworkError:
            raise
        except errors.FtpfsError as error:
            log.info("%s: %s", path, error)

    def _through_here(self, item: Item, mode: int | None, progress: Progress) -> int:
        with tempfile.TemporaryDirectory(prefix="ftpfs-") as folder:
            here = os.path.join(folder, "file")
            size = self._fetch.copy(replace(item, target=here, old=None), 0o600, progress)
            return self._send.copy(replace(item, source=here), mode, lambda _: progress(size))

    def new_mode(self, entry: Entry) -> int | None:
        return self._send.new_mode(entry)

    def link(self, item: Item) -> bool:
        raise errors.NotSupported(f"a link (to {item.entry.target}): FTP makes no links")

    def look(self, item: Item) -> Item:
        return self._fetch.look(item)

    def is_same_content(self, item: Item) -> bool | None:  # noqa: ARG002 (of `mirror` alone)
        return None

    def rules(self, rules: Rules) -> Rules:
        return self._send.rules(rules)

    def jobs(self) -> int:
        return self._send.jobs()

    def expect(self, tasks: int) -> None:
        self._send.expect(tasks)


def _is_kept(path: str) -> bool:
    """Whether the path arrives as it is: mod_copy splits what follows CPFR into words."""
    return " ".join(path.split()) == path
