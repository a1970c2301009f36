"""What a server says of itself, and what follows from its software."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ftpfs.ftp.profile.facts import Facts, fact, number, text

# Limits of a stored greeting and FEAT reply. Proftpd with every module names 40 features. Both are
# compared at each mount, and written to the disk.
MAX_WELCOME = 16 << 10  # characters
MAX_FEATURES, MAX_FEATURE = 250, 1000  # lines, characters of each

_NUMBER = re.compile(r"\d+")

_MEASURED = ("vsftpd", "proftpd", "pure-ftpd", "pyftpdlib")
_TAKE_CONTENT_AHEAD = ("vsftpd", "proftpd", "pure-ftpd")
# Measured: 4096 bytes (vsftpd), 4091 (proftpd), 4092 (pure-ftpd), 2050 (pyftpdlib); pure-ftpd never
# ends its reply to an MLST of 4037 bytes and more. Of other servers nothing is known.
_TAKE_LONG_LINES = ("vsftpd", "proftpd", "pure-ftpd")
_LONG_LINE, _SAFE_LINE = 4000, 2048
_SHORTEST_LIMIT = 128  # with less, no temporary name could be written

_WANTED_FACTS = {"type", "size", "modify", "unix.mode"}


def _features(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"no features: {value!r}")
    return {text(name): text(rest) for name, rest in value.items()}


@functools.lru_cache(maxsize=64)  # each upload asks three times
def _is_named(welcome: str, names: tuple[str, ...]) -> bool:
    welcome = welcome.lower()
    return any(name in welcome for name in names)


@dataclass(eq=False)
class Identity(Facts):
    """Greeting, SYST and FEAT, as far as they are known."""

    welcome: str = field(default="", metadata=fact(kept=text))
    # From FEAT: parameters by name (`features_in`).
    features: dict[str, str] = field(default_factory=dict, metadata=fact(kept=_features))
    system: str = field(default="", metadata=fact(kept=text))
    # Bytes of the longest command line, if the user has stated it: see `longest_line`.
    line_limit: int | None = field(
        default=None,
        metadata=fact(
            quirk=number(
                "[0-9]+",
                f"bytes, {_SHORTEST_LIMIT} or more",
                lambda word: limit if (limit := int(word)) >= _SHORTEST_LIMIT else None,
            )
        ),
    )

    def greets_as(self, welcome: str) -> bool:
        """Whether this greeting may come from the same server.

        Numbers in a greeting (of users, the time of day) differ each time, so they are not
        compared.
        """
        greets = _NUMBER.sub("0", welcome[:MAX_WELCOME])
        return _NUMBER.sub("0", self.welcome) == greets

    def _is_one_of(self, names: tuple[str, ...]) -> bool:
        """Whether the greeting names one of these servers."""
        return _is_named(self.welcome, names)

    @property
    def is_measured(self) -> bool:
        """Whether this is one of the servers that ftpfs was measured with, by its greeting."""
        return self._is_one_of(_MEASURED)

    @property
    def appends_by_seeking(self) -> bool:
        """Whether APPE seeks the end only when it opens the file, and overwrites later appends.

        Measured of these two; vsftpd locks the file meanwhile, and pyftpdlib opens it with
        O_APPEND.
        """
        return self._is_one_of(("proftpd", "pure-ftpd"))

    @property
    def in_order(self) -> bool:
        """Whether the server reads a command behind a running transfer only after its end.

        Known of vsftpd only. proftpd hangs, pyftpdlib drops the connection, and pure-ftpd answers
        500 to what it finds while the transfer is running.
        """
        return self._is_one_of(("vsftpd",))

    @property
    def takes_content_ahead(self) -> bool:
        """Whether a whole content, including its end, may reach the server before it reads STOR.

        With pyftpdlib it is a race: it may drop the connection that ended, and wait for another.
        """
        return self._is_one_of(_TAKE_CONTENT_AHEAD)

    @property
    def longest_line(self) -> int:
        """Bytes of the longest command line that the server takes whole, including its CRLF.

        Longer lines are dangerous: vsftpd and pure-ftpd hang up, proftpd takes the next command for
        the rest of the line, and pyftpdlib answers twice.
        """
        if self.line_limit is not None:
            return self.line_limit
        return _LONG_LINE if self._is_one_of(_TAKE_LONG_LINES) else _SAFE_LINE

    @property
    def mlst_options(self) -> str | None:
        """The OPTS MLST line that requests the facts ftpfs needs; None if they come already.

        FEAT marks facts with `*` that are sent already (RFC 3659, 7.8); pyftpdlib, for one, sends
        UNIX.mode only when asked.
        """
        offered = self.features.get("MLST", "")
        facts = [each for each in offered.split(";") if each]
        wanted = [f for f in facts if f.rstrip("*").lower() in _WANTED_FACTS]
        if all(each.endswith("*") for each in wanted):
            return None
        return "OPTS MLST " + "".join(f"{each.rstrip('*')};" for each in wanted)

    @property
    def mff_mode(self) -> bool:
        """Whether MFF sets mode bits (draft-somers-ftp-mfxx, 6)."""
        facts = self.features.get("MFF", "").lower().split(";")
        return "unix.mode" in facts

    @property
    def utf8(self) -> bool:
        return "UTF8" in self.features


def features_in(lines: Iterable[str]) -> dict[str, str]:
    """The features in the lines of a FEAT reply, and their parameters.

    Anything beyond MAX_FEATURES and MAX_FEATURE is left out.
    """
    features: dict[str, str] = {}
    for line in itertools.islice(lines, MAX_FEATURES):
        name, _, rest = line.strip()[:MAX_FEATURE].partition(" ")
        if name:
            features[name.upper()] = rest
    return features
