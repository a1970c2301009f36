"""Stores on disk what was learned about a server, for the next mounts.

Owns the file, and the decision when to trust it. The profile owns the content. At the first login
the session finds out whether it is still the same server.

The file is a convenience. If it cannot be read or written, the mount asks and probes again, and the
log has a line. It holds no secret, but it names the server.

Threading: `load` before any session; `save` by one thread at a time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ftpfs import errors
from ftpfs.ftp.profile import Profile
from ftpfs.local import private

log = logging.getLogger(__name__)

# Version of the file's format; files of another version are ignored.
FORMAT = 1
# After this time (s) everything is learned anew: a server's settings can change while its greeting
# stays the same, and one bad day of a network should not slow mounts down permanently.
MAX_AGE_SECONDS = 30 * 86400
# A larger file (bytes) is not ours: a year of time zones takes 2 KB.
MAX_BYTES = 1 << 20


class Memory:
    """The file of one server's profile."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """`clock`: the wall clock, in seconds since the epoch."""
        self._path = path
        self._clock = clock
        self._began = clock()
        self._since = self._began  # when the content of the file began to be learned
        self._saved: dict[str, object] | None = None  # the content of the file

    def load(self, profile: Profile) -> None:
        """Let the profile recall the content of the file, if the file is valid and recent."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                content = json.loads(file.read(MAX_BYTES))
            if content["format"] != FORMAT:
                return
            since, learned = float(content["since"]), dict(content["learned"])
            if not 0 <= self._clock() - since <= MAX_AGE_SECONDS:
                return
            profile.recall(learned)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("ignoring the stored profile %s: %s", self._path, error)
            return
        self._since, self._saved = since, learned

    def save(self, profile: Profile) -> None:
        """Store what the profile has learned since the last call. Never raises."""
        learned = profile.learned()
        if not profile.known or learned == self._saved:
            return
        self._saved = learned
        since = self._since if profile.recalled else self._began
        content = {"format": FORMAT, "since": int(since), "learned": learned}
        try:
            private.make_folder(self._path.parent)
            self._replace(json.dumps(content, indent=1))
        except (OSError, errors.FtpfsError) as error:
            log.info("cannot store the profile of the server: %s", error)

    def _replace(self, text: str) -> None:
        """Replace the file atomically: two mounts may do it at once. mkstemp gives it mode 0600."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f"{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
