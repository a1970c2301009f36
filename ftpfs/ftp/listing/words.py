"""Pure: splits a line of a listing into words, and reads the sizes among them.

The kinds of the words and their order tell the dialects apart, not columns: servers pad, shift and
glue columns.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ftpfs.ftp.listing.collecting import SIZE_MAX

_WORD = re.compile(rb"[^ \t]+")
MOST_WORDS = 40  # fewer precede a name; the rest of the line belongs to the name


class Words:
    """The first words of a line, and the position of each."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.texts: list[bytes] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        for found in _WORD.finditer(line):
            self.texts.append(found[0])
            self._starts.append(found.start())
            self._ends.append(found.end())
            if len(self.texts) == MOST_WORDS:
                break

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> bytes:
        """A word; b"" beyond the last one."""
        return self.texts[number] if number < len(self.texts) else b""

    def after(self, number: int) -> bytes:
        """The text after word `number` and one blank: a name, including its own blanks."""
        return self.line[self._ends[number] + 1 :]

    def since(self, number: int) -> bytes:
        """The line from word `number` on."""
        return self.line[self._starts[number] :] if number < len(self.texts) else b""

    def before(self, number: int) -> bytes:
        """The line up to word `number`, without the blanks before that word."""
        return self.line[: self._starts[number]].rstrip(b" \t")


class Size(NamedTuple):
    """A size in bytes; `rounded` if it was shown in larger units."""

    value: int
    rounded: bool


# Thousands are separated by a comma, a point, an apostrophe (' or U+2019), or a no-break space
# (U+00A0, U+202F), in UTF-8 or Latin-1. India groups by two after the first three.
SEPARATOR = rb"(?:[,.'\xa0]|\xc2\xa0|\xe2\x80\xaf|\xe2\x80\x99)"
GROUPED = rb"\d{1,3}(?:%b\d{2,3}){0,6}%b\d{3}" % (SEPARATOR, SEPARATOR)
_GROUPED = re.compile(GROUPED)
_NO_DIGIT = re.compile(rb"\D")
_IN_UNITS = re.compile(rb"(\d{1,15})(?:[.,](\d{1,6}))?([kKmMgGtTpP])?(?:i?[bB])?(?:ytes)?")
_POWERS = {b"k": 10, b"m": 20, b"g": 30, b"t": 40, b"p": 50}


def size_in(word: bytes) -> Size | None:
    """The size in a word: digits, digits in groups, or a number with a unit."""
    if word.isdigit():
        return _bounded(int(word), rounded=False) if len(word) <= 19 else None
    if _GROUPED.fullmatch(word):
        return _bounded(int(_NO_DIGIT.sub(b"", word)), rounded=False)
    units = _IN_UNITS.fullmatch(word)
    if units is None or (units[2] and not units[3]):
        return None
    fraction = int(units[2] or b"0") / 10 ** len(units[2] or b"")
    power = _POWERS.get((units[3] or b"").lower(), 0)
    return _bounded(int((int(units[1]) + fraction) * (1 << power)), rounded=power > 0)


def _bounded(count: int, *, rounded: bool) -> Size | None:
    return Size(count, rounded) if count <= SIZE_MAX else None
