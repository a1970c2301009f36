"""The root: the folder of the server that is mounted; paths in the mount become server paths."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.uploading.temporaries import COMMAND_BYTES, NAME_BYTES
from ftpfs.model.names import folder_of
from ftpfs.settings.config import Server


class Root:
    """The folder of the server that is mounted.

    It is known after the first login, because it may be relative to the home folder.
    """

    def __init__(self, server: Server, profile: Profile, connect: Callable[[], object]) -> None:
        """`connect` logs in once, so that the profile knows the home folder."""
        self._path = server.path  # the path as the user gave it
        self._encoding = server.encoding
        self._profile = profile
        self._connect = connect
        self._root = ""  # set by any thread: each finds the same value

    def on_server(self, path: str) -> str:
        """The path on the server of a path inside the mount.

        Logs in if no session ever did. So a caller that holds a lease has to have called this
        before.
        """
        if not self._root:
            if not self._profile.known:
                self._connect()
            self._root = posixpath.normpath(
                posixpath.join("/", self._profile.names.home, self._path)
            ).replace("//", "/")
        if path == "/":
            return self._root
        return path if self._root == "/" else self._root + path

    def in_mount(self, target: str) -> str:
        """A link's target: an absolute one as a path inside the mount, a relative one unchanged."""
        root = self.on_server("/").rstrip("/")
        if root and (target == root or target.startswith(root + "/")):
            return target[len(root) :] or "/"
        return target

    def check_name(self, path: str) -> None:
        """Raises InvalidName or NameTooLong for a path that cannot be sent.

        InvalidName: the encoding cannot write it. NameTooLong: it does not fit into every command
        of an upload.
        """
        where = self.on_server(path)
        try:
            named = where.encode(self._encoding, "surrogateescape")
            folder = folder_of(where).encode(self._encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise errors.InvalidName(
                f"a name that {self._encoding} cannot write: {path!a}"
            ) from None
        longest = max(len(named), len(folder) + NAME_BYTES) + COMMAND_BYTES
        if longest > self._profile.identity.longest_line:
            raise errors.NameTooLong(
                f"a path that needs commands of {longest} bytes, and this server reads "
                f"{self._profile.identity.longest_line} in one line"
            )
