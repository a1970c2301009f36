"""What a fact about a server is: its default, its form on disk, and its words in `--quirk`.

A group of facts is a dataclass on `Facts`. A field with `fact(...)` metadata is kept for the next
mount, or can be stated by the user. Owns how a fact is read from JSON and from a quirk, and who may
replace it. Knows no single fact.

Threading: as the package.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from ftpfs import errors
from ftpfs.ftp import clock
from ftpfs.ftp.manners import Manners

# Makes a fact of its JSON value. Raises ValueError or TypeError if that is none.
FromJson = Callable[[object], object]


class Quirk(NamedTuple):
    """How the user states a fact, in `--quirk name=word`."""

    read: Callable[[str, str], object]  # the value of (name, word); raises InvalidArgument
    tell: Callable[[Any], str] | None  # the word for a value; None: it is the link's, not told


class Declaration(NamedTuple):
    """How a fact enters and leaves the profile."""

    name: str  # in the file on disk and in `--quirk`; "": as the attribute
    kept: FromJson | None  # None: an earlier mount does not tell it to a later one
    quirk: Quirk | None  # None: the user cannot state it


def fact(
    name: str = "", *, kept: FromJson | None = None, quirk: Quirk | None = None
) -> dict[str, Declaration]:
    """Metadata of a field that is kept for the next mount, or that the user can state."""
    return {"fact": Declaration(name, kept, quirk)}


class Facts:
    """A group of facts about one server. `None` in a learned fact means: not tried yet.

    A fact that the user states is pinned: nothing learned replaces it. A brief fact is believed by
    this mount alone: the next one asks again.
    """

    _pinned: frozenset[str] = frozenset()
    _brief: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._pinned:
            super().__setattr__(name, value)

    def pin(self, name: str, value: object) -> None:
        """Set a fact that the user states."""
        super().__setattr__(name, value)
        self._pinned |= {name}

    def is_pinned(self, name: str) -> bool:
        return name in self._pinned

    def believe_briefly(self, name: str, value: object) -> None:
        """Set a fact that the next mount is not told."""
        setattr(self, name, value)
        self._brief |= {name}

    def believe(self, name: str, value: object) -> None:
        """Set a fact that the next mount is told, although it may have been brief."""
        setattr(self, name, value)
        self._brief -= {name}

    def is_brief(self, name: str) -> bool:
        return name in self._brief

    def is_missing(self, name: str, value: object, code: int, *, ours: bool = False) -> None:
        """Note that a command is missing, by its reply `code`: attribute `name` becomes `value`.

        The next mount takes this over only if it was found on a file of `ours`, or if the server
        does not know the command at all: any other refusal may concern one name.
        """
        if ours or code in (500, 502):
            setattr(self, name, value)
        else:
            self.believe_briefly(name, value)


def declarations(group: type) -> dict[str, Declaration]:
    """The facts of a group (a dataclass), by the attribute that holds each."""
    return {each.name: each.metadata["fact"] for each in fields(group) if "fact" in each.metadata}


# The server does not know a command, or a form of it. (501 is about its argument: a name, a mode.)
UNKNOWN = (500, 502, 504)


# How facts are written to JSON and read back from it.


def as_json(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Manners):
        return value.learned()
    if isinstance(value, tuple):
        return [list(each) if isinstance(each, tuple) else each for each in value]
    return value


def known(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r}")
    return value


def maybe_known(value: object) -> bool | None:
    return None if value is None else known(value)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def one_of(choices: type[enum.Enum]) -> FromJson:
    def choose(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, str) or value not in choices.__members__:
            raise ValueError(f"no {choices.__name__}: {value!r}")
        return choices[value]

    return choose


def zone_name(value: object) -> str | None:
    if value is None:
        return None
    try:
        clock.zone_of(text(value))
    except errors.InvalidArgument as error:
        raise ValueError(str(error)) from None
    return text(value)


# How the user states them.


def choice(words: dict[str, object], tell: Callable[[Any], str] | None = None) -> Quirk:
    """A quirk whose value is one of these words, in capitals or not."""
    meanings = {word.lower(): meaning for word, meaning in words.items()}

    def read(name: str, word: str) -> object:
        if word.lower() not in meanings:
            raise errors.InvalidArgument(f"quirk {name} must be one of {', '.join(words)}")
        return meanings[word.lower()]

    return Quirk(read, tell or {meaning: word for word, meaning in words.items()}.__getitem__)


def members(choices: type[enum.Enum]) -> Quirk:
    """A quirk whose value is a member of an enum."""
    return choice({each.name: each for each in choices})


def number(pattern: str, what: str, read: Callable[[str], float | None]) -> Quirk:
    """A quirk whose value is a number that fits the pattern, in the unit that `what` names.

    `read` returns None for a number that is too small.
    """

    def value_of(name: str, word: str) -> float:
        value = read(word) if re.fullmatch(pattern, word, re.ASCII) else None
        if value is None:
            raise errors.InvalidArgument(f"quirk {name} must be a number of {what}")
        return value

    return Quirk(value_of, None)


def _zone_named(_name: str, word: str) -> str:
    clock.zone_of(word)  # raises for an unknown zone
    return word


SWITCH = choice({"yes": True, "no": False})
ZONE = Quirk(_zone_named, str)
