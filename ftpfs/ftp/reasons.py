"""Reasons: why the server refused an operation on a path, found by looking at the path.

Each method returns the error that a local file system would give, or None if only a missing
permission is left as the reason. They cost round trips, so they are called only after a refusal.
"""

from __future__ import annotations

import posixpath

from ftpfs import errors
from ftpfs.ftp.looking import Looking
from ftpfs.model.entry import Kind

Reason = errors.FtpfsError | None


class Reasons:
    """The reasons of refusals on one server."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking

    def not_listed(self, path: str) -> Reason:
        return self._looking.why_not_listed(path)

    def not_read(self, path: str) -> Reason:
        entry = self._looking.find(path)
        if entry is None:
            return errors.NotFound(f"{path}: no such file")
        if entry.kind is Kind.DIRECTORY:
            return errors.IsADirectory(f"{path}: is a directory")
        return None

    def not_written(self, path: str) -> Reason:
        parent = self._looking.find(posixpath.dirname(path))
        if parent is None:
            return errors.NotFound(f"{path}: its directory is not there")
        if parent.kind is Kind.FILE:
            return errors.NotADirectory(f"{path}: its parent is not a directory")
        entry = self._looking.find(path)
        if entry is not None and entry.kind is Kind.DIRECTORY:
            return errors.IsADirectory(f"{path}: is a directory")
        return None

    def not_made(self, path: str) -> Reason:
        if self._looking.find(path) is not None:
            return errors.Exists(f"{path}: exists")
        reason = self.not_written(path)
        if isinstance(reason, errors.IsADirectory):  # made between the two looks
            return errors.Exists(f"{path}: exists")
        return reason

    def not_removed(self, path: str) -> Reason:
        return self.not_read(path)

    def folder_not_removed(self, path: str) -> Reason:
        reason = self.not_listed(path)
        if reason is not None:
            return reason
        if self._looking.entries(path):
            return errors.NotEmpty(f"{path}: not empty")
        # Hidden files count, too: deleted ones that are open, and files moved aside.
        hidden = self._looking.all_entries(path)
        names = ", ".join(errors.printable(entry.name) for entry in hidden)
        return errors.NotEmpty(f"{path}: not empty, {names} is in it") if hidden else None

    def not_changed(self, path: str) -> Reason:
        if self._looking.find(path):
            return None
        return errors.NotFound(f"{path}: no such file or directory")

    def not_renamed(self, old: str, new: str) -> Reason:
        source = self._looking.find(old)
        if source is None:
            return errors.NotFound(f"{old}: no such file or directory")
        target = self._looking.find(new)
        if target is None:
            return self.not_written(new)
        if target.kind is Kind.DIRECTORY:
            if source.kind is not Kind.DIRECTORY:
                return errors.IsADirectory(f"{new}: is a directory")
            return errors.NotEmpty(f"{new}: not empty") if self._looking.entries(new) else None
        if source.kind is Kind.DIRECTORY:
            return errors.NotADirectory(f"{new}: not a directory")
        return None
