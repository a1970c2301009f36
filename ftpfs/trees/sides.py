"""What the engine needs of a side of a copy: this machine, or a server.

Threading: any thread.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from ftpfs.model.entry import Entry, FolderAttributes


class Side(Protocol):
    """A place with files and folders, by absolute paths. Raises FtpfsError and OSError."""

    def join(self, folder: str, name: str) -> str:
        """The path of `name` in `folder`."""

    def list(self, path: str) -> list[Entry]:
        """The entries of a folder, without the hidden ones of ftpfs."""

    def stat(self, path: str) -> Entry | None:
        """One entry; None: nothing is there. Links in the last name are followed."""

    def links_in(self, path: str) -> Set[str]:
        """Names in a folder that are links, although `list` may show folders in their place."""

    def make_folder(self, path: str, mode: int | None) -> None:
        """Make a folder into which only those may look whom `mode` allows."""

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> None:
        """Set modes and times of folders, as far as this side can. Refusals are logged."""

    def remove(self, path: str) -> None:
        """Delete a file or link."""

    def remove_folder(self, path: str) -> None:
        """Delete an empty folder."""
