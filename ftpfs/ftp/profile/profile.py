"""All that is known about one server: its groups of facts, and one table of all facts by name.

The table gives each fact the name that it has in the file on disk and in `--quirk`. Its names never
change, so a later version reads the files of an earlier one.

Threading: as the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ftpfs import errors
from ftpfs.ftp.profile.contents import Contents
from ftpfs.ftp.profile.facts import Declaration, Facts, FromJson, Quirk, as_json, declarations
from ftpfs.ftp.profile.identity import Identity, features_in
from ftpfs.ftp.profile.listings import Listings
from ftpfs.ftp.profile.names import Names
from ftpfs.ftp.profile.setting import Setting
from ftpfs.ftp.profile.times import Times
from ftpfs.ftp.profile.wire import Passive, Wire


class Profile:
    """One server's abilities, in groups (see the package).

    - `known`: a session has logged in and asked what the server can do.
    - `recalled`: the facts were learned by an earlier mount.
    """

    def __init__(self, quirks: Sequence[tuple[str, str]] = ()) -> None:
        """`quirks`: (name, value) of facts that the user states; nothing learned overrides them.

        Raises InvalidArgument for a name or a value that does not exist.
        """
        self.identity = Identity()
        self.wire = Wire(self.identity)
        self.names = Names()
        self.listings = Listings(self.identity)
        self.times = Times()
        self.setting = Setting(self.identity, self.times)
        self.contents = Contents(self.identity)
        self.known = False
        self.recalled = False
        for name, word in quirks:
            value = _quirk(name).read(name, word)
            self._group(name).pin(_FACTS[name].attribute, value)
        self.setting.set_time_works = self.setting.is_pinned("set_time")
        self.times.zone_seen = self.times.is_pinned("zone")

    def _group(self, name: str) -> Facts:
        """The group that holds the fact of that name."""
        group: Facts = getattr(self, _FACTS[name].group)
        return group

    def _get(self, name: str) -> object:
        return getattr(self._group(name), _FACTS[name].attribute)

    def _set(self, name: str, value: object) -> None:
        setattr(self._group(name), _FACTS[name].attribute, value)

    def _is_pinned(self, name: str) -> bool:
        return self._group(name).is_pinned(_FACTS[name].attribute)

    def _is_brief(self, name: str) -> bool:
        return self._group(name).is_brief(_FACTS[name].attribute)

    def in_quirks(self) -> tuple[dict[str, str], dict[str, str]]:
        """The known facts in the words of `--quirk`: those learned, and those the user stated.

        The user's facts win.
        """
        words = {
            name: quirk.tell(value)
            for name, quirk in _QUIRKS.items()
            if quirk.tell is not None and (value := self._get(name)) is not None
        }
        said = {name: word for name, word in words.items() if self._is_pinned(name)}
        return {name: word for name, word in words.items() if name not in said}, said

    def learned(self) -> dict[str, object]:
        """What an earlier mount can tell a later one, as JSON values by the names of the table.

        Leaves out what the user stated, and the round trip: that belongs to the link, and links
        change.
        """
        return {
            name: as_json(self._get(name))
            for name in _KEPT
            if not (self._is_pinned(name) or self._is_brief(name))
        }

    def recall(self, learned: dict[str, object]) -> None:
        """Take over what `learned` returned once.

        Raises ValueError or TypeError if the data is invalid, and then recalls nothing.
        """
        recalled = {
            name: from_json(learned[name]) for name, from_json in _KEPT.items() if name in learned
        }
        for name, value in recalled.items():
            self._set(name, value)
        if Passive.EPSV.value in self.wire.manners.avoided:
            self.wire.passive = Passive.PASV
        self.recalled = True

    def is_recalled_for(self, welcome: str) -> bool:
        """Whether the recalled facts may belong to the server that greets like this."""
        return self.recalled and self.identity.greets_as(welcome)

    def forget(self) -> None:
        """Forget recalled facts, because they belong to another server."""
        fresh = Profile()
        for name in _KEPT:
            self._set(name, fresh._get(name))
        self.recalled = False

    def read_features(self, lines: Iterable[str]) -> None:
        """Take the lines between 211- and 211 of a FEAT reply (RFC 2389, 3.2)."""
        self.identity.features = features = features_in(lines)
        if "MLST" not in features:  # RFC 3659, 7.8: FEAT names MLST for both
            self.listings.mlst = False
            if "MLSD" not in features:  # some servers name MLSD alone, and have no MLST
                self.listings.mlsd = False
        if "MDTM" in features:
            self.times.mdtm = True


class _Fact(NamedTuple):
    """Where a fact is, and what it is."""

    group: str  # the attribute of Profile
    attribute: str  # of the group
    declared: Declaration


def _facts() -> Iterator[tuple[str, _Fact]]:
    groups = {
        "listings": Listings,
        "times": Times,
        "setting": Setting,
        "contents": Contents,
        "names": Names,
        "wire": Wire,
        "identity": Identity,
    }
    for group, kind in groups.items():
        for attribute, declared in declarations(kind).items():
            yield declared.name or attribute, _Fact(group, attribute, declared)


# Every fact, by the name that it has on disk and in `--quirk`.
_FACTS = dict(_facts())
_KEPT: dict[str, FromJson] = {
    name: fact.declared.kept for name, fact in _FACTS.items() if fact.declared.kept
}
_QUIRKS: dict[str, Quirk] = {
    name: fact.declared.quirk for name, fact in _FACTS.items() if fact.declared.quirk
}


def _quirk(name: str) -> Quirk:
    if name not in _QUIRKS:
        raise errors.InvalidArgument(f"a quirk is one of {', '.join(_QUIRKS)}")
    return _QUIRKS[name]
