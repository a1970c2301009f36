"""The table of options, and the reading of `-o` strings.

Owns which words of fstab are options, which go to the kernel, and which are ignored. `config`
declares the options; the command line makes its flags from `OPTIONS`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ftpfs.errors import InvalidArgument, printable
from ftpfs.settings.config import Cache, Declaration, Mount, Network, Server, Write
from ftpfs.settings.credentials import PASSWORD_VARIABLE
from ftpfs.settings.values import Kind


@dataclass(frozen=True)
class Option:
    """One option. Its name is a word of `-o` and, with dashes, a flag."""

    name: str
    part: type  # the dataclass of `config` that declares it
    field: str
    help: str
    kind: Kind | None  # None: a switch
    value: object  # what the switch sets
    default: str  # as the help shows it; "": it shows none

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def read(self, text: str) -> object:
        """Parse a value. Raises InvalidArgument."""
        if self.kind is None:
            raise InvalidArgument(f"option {self.name} takes no value")
        try:
            return self.kind.parse(text)
        except ValueError as error:
            raise InvalidArgument(f"option {self.name}: {error}") from None


def _options_of(part: type) -> Iterable[Option]:
    for each in dataclasses.fields(part):
        declared: Declaration | None = each.metadata.get("option")
        if declared is None:
            continue
        shown = ""
        if declared.kind and each.default not in (dataclasses.MISSING, None, ""):
            shown = declared.kind.show(each.default)
        name = declared.name or each.name
        yield Option(
            name, part, each.name, declared.help, declared.kind, declared.value, default=shown
        )


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for part in (Server, Network, Cache, Write, Mount)
    for option in _options_of(part)
}

# Names that options had before. `-o` and the file of named servers take them.
FORMER = {"disk_cache": "cache_size", "disk_cache_dir": "cache_dir"}

# Words of fstab for mount(8), systemd and desktops: ignored. `user` with a value is an option of
# ftpfs; alone it is mount(8)'s, which adds nosuid and nodev by itself. FTP has no access times, so
# the words about them are ignored, too.
_FSTAB_WORDS = (
    r"defaults|_netdev|nofail|(?:no)?auto|(?:no)?users?|owner|group|async|silent|loud"
    r"|(?:no)?(?:atime|diratime|relatime|lazytime|strictatime|iversion|mand)|x-.*|comment=.*"
)
# Words for the kernel, passed on unchanged. Without them libfuse adds nosuid and nodev.
_KERNEL_WORDS = r"(?:no)?(?:exec|dev|suid)"
KERNEL_FLAGS = "kernel_flags"  # their key among the values of options


def parse_options(text: str) -> dict[str, object]:
    """The values in one `-o a,b=c` string, by option name. Raises InvalidArgument.

    A value here cannot contain a comma; the flag of the same name takes one.
    """
    values: dict[str, object] = {}
    kernel_flags: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        if re.fullmatch(_FSTAB_WORDS, item):
            continue
        if re.fullmatch(_KERNEL_WORDS, item):
            kernel_flags[item.removeprefix("no")] = item  # the last of two wins
            continue
        name, has_value, value = item.partition("=")
        name = name.replace("-", "_")
        if item == "rw":
            values["ro"] = False
        elif name in FORMER and has_value:
            values[name] = OPTIONS[FORMER[name]].read(value)
        elif name not in OPTIONS:
            raise InvalidArgument(_unknown_option(name))
        elif has_value:
            values[name] = OPTIONS[name].read(value)
        elif OPTIONS[name].kind:
            raise InvalidArgument(f"option {name} needs a value")
        else:
            values[name] = OPTIONS[name].value
    if kernel_flags:
        values[KERNEL_FLAGS] = tuple(kernel_flags.values())
    return values


def _unknown_option(name: str) -> str:
    # The message repeats the name only: the value may be a password.
    if name in ("pass", "passwd", "password"):
        return f"no option {name}: use password_file, ${PASSWORD_VARIABLE} or ~/.netrc"
    import difflib

    close = difflib.get_close_matches(name, OPTIONS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"no option {printable(name[:40])}{hint}"
