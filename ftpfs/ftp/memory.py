"""What was learned about a server, kept on disk for the mounts to come.

Owns: the file, and when it is believed. What is in it is `profile`'s; whether it is this server
still is found out at the first login, by `session`.

The file is a convenience: one that cannot be read, or written, costs the questions and the probes
that it would have saved, and a line in the log. It holds no secret, but names the server.

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

from ftpfs.ftp.profile import Profile

log = logging.getLogger(__name__)

# Of what is in the file; another one is ignored.
FORMAT = 1
# What was learned is learned anew after so long (s): a server's settings change without its
# greeting, and one bad day of a network should not slow a mount down for ever.
MAX_AGE = 30 * 86400
# More than this (bytes) is none of ours: a year of time zones takes 2 KB.
MAX_SIZE = 1 << 20


class Memory:
    """The file of one server's profile."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """`clock`: the wall clock, in seconds."""
        self._path = path
        self._clock = clock
        self._began = clock()
        self._since = self._began  # when what the file holds was begun to be learned
        self._saved: dict[str, object] | None = None  # what it holds now

    def load(self, profile: Profile) -> None:
        """Have the profile recall what the file says, if it can be believed."""
        try:
            with self._path.open("rb") as file:
                content = json.loads(file.read(MAX_SIZE))
            if content["format"] != FORMAT:
                return
            since, learned = float(content["since"]), dict(content["learned"])
            if not 0 <= self._clock() - since <= MAX_AGE:
                return
            profile.recall(learned)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s is of no use, and ignored: %s", self._path, error)
            return
        self._since, self._saved = since, learned

    def save(self, profile: Profile) -> None:
        """Write down what the profile has learned since the last time. Never raises."""
        learned = profile.learned()
        if not profile.known or learned == self._saved:
            return
        self._saved = learned
        since = self._since if profile.recalled else self._began
        content = {"format": FORMAT, "since": int(since), "learned": learned}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._replace(json.dumps(content, indent=1))
        except OSError as error:
            log.info("what was learned about the server is not kept: %s", error)

    def _replace(self, text: str) -> None:
        """Whole, or not at all: two mounts may do it at once. mkstemp makes it mode 0600."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f"{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
