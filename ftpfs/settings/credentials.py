"""The login: which user, which password, and the places that a password may come from.

Owns `Secret`, the order of the places, and the checks of file permissions. No message repeats a
password. `secrecy` keeps other processes from reading it out of this one.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ftpfs.errors import InvalidArgument, printable

ANONYMOUS = "anonymous"
PASSWORD_VARIABLE = "FTPFS_PASSWORD"  # noqa: S105 - the variable's name, not its value
# The name of systemd's credential: `LoadCredential=ftpfs-password:/path`, systemd.exec(5).
CREDENTIAL = "ftpfs-password"
_CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
# The same two for a proxy that asks for a login.
PROXY_PASSWORD_VARIABLE = "FTPFS_PROXY_PASSWORD"  # noqa: S105 - as above
PROXY_CREDENTIAL = "ftpfs-proxy-password"
_LINE_MAX_CHARACTERS = 4096
_WAYS = f"--password-file, ${PASSWORD_VARIABLE}, ~/.netrc or a keyring"


class Secret:
    """A password that never shows in repr, str, logs or tracebacks.

    Only the code that sends it to the server or proxy calls `reveal()`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True)
class Surroundings:
    """The environment of the process, passed in so that tests can make their own."""

    environ: Mapping[str, str]
    home: Path | None  # None: the process has none, as at boot
    prompt: Callable[[str], str] | None  # None: there is no terminal
    warn: Callable[[str], None]


class _Entry(NamedTuple):
    """The entry for a host in ~/.netrc."""

    user: str
    password: Secret
    exposed: bool  # others can read the file


def login(
    host: str, *, user: str, password: Secret | None, file: Path | None, around: Surroundings
) -> tuple[str, Secret]:
    """The user and the password for `host`.

    Option or address give `user` ("": neither does) and `password`; `file` is the password file.
    The first place that has a password wins: that file, systemd's credential, the environment, the
    address, ~/.netrc, the keyring, the terminal.

    A password goes with the user that it stands beside. An anonymous login does not send the
    password of the environment, which is meant for another server. Raises InvalidArgument if no
    place has a password.
    """
    entry = _netrc_entry(host, around.home) if not user else None
    user = user or (entry and entry.user) or ANONYMOUS
    anonymous = user in (ANONYMOUS, "ftp")

    if given := password_given(file, {} if anonymous else around.environ, around.warn):
        return user, given
    if password:
        if not anonymous:
            around.warn(
                "a password in the address ends up in shell histories and process lists; "
                f"better: {_WAYS}"
            )
        return user, password
    if anonymous and not entry:
        return user, Secret("anonymous@")
    entry = entry or _netrc_entry(host, around.home)
    if entry and entry.user == user:
        return user, entry.password if anonymous else _not_exposed(entry)
    if kept := _from_keyring(host, user, around.warn):
        return user, kept
    who = printable(f"{user}@{host}")
    if not around.prompt:
        raise InvalidArgument(f"no password for {who}: use {_WAYS}")
    return user, _checked(around.prompt(f"Password for {who}: "), "the password")


def password_given(
    file: Path | None, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Secret | None:
    """The password in `file`, else systemd's credential, else in the environment, else None.

    Raises InvalidArgument if `file` cannot be read.
    """
    if file:
        password = _from_file(file)
        # The check is for regular files: others cannot read a pipe or /dev/fd/3.
        if file.is_file() and file.stat().st_mode & 0o077:
            warn(f"others can read the password in {file}; run: chmod 600 {file}")
        return password
    return _from_environment(environ, CREDENTIAL, PASSWORD_VARIABLE)


def proxy_password(host: str, user: str, around: Surroundings) -> Secret:
    """The password of `user` at the proxy `host`: systemd's credential, the environment, ~/.netrc.

    Raises InvalidArgument when there is none.
    """
    if given := _from_environment(around.environ, PROXY_CREDENTIAL, PROXY_PASSWORD_VARIABLE):
        return given
    entry = _netrc_entry(host, around.home)
    if not entry or entry.user != user:
        raise InvalidArgument(
            f"no password for {printable(user)} at the proxy: use ${PROXY_PASSWORD_VARIABLE} or "
            "~/.netrc"
        )
    return _not_exposed(entry)


def _from_environment(environ: Mapping[str, str], credential: str, variable: str) -> Secret | None:
    """The content of systemd's credential, else the environment variable, else None."""
    if (folder := environ.get(_CREDENTIALS_VARIABLE)) and Path(folder, credential).exists():
        return _from_file(Path(folder, credential))
    if value := environ.get(variable):
        return _checked(value, f"${variable}")
    return None


def _not_exposed(entry: _Entry) -> Secret:
    if entry.exposed:
        raise InvalidArgument(
            "~/.netrc holds a password and others can read it; run: chmod 600 ~/.netrc"
        )
    return entry.password


def has_line_break(text: str) -> bool:
    """Whether `text` would end an FTP command early (RFC 959, 4.1: CRLF ends it)."""
    return any(c in text for c in "\r\n\0")


def _checked(password: str, where: str) -> Secret:
    if has_line_break(password):
        raise InvalidArgument(f"{where} contains a line break or NUL")
    return Secret(password)


def _from_file(file: Path) -> Secret:
    try:
        # Read a bounded number of characters: the path may be a device, or the wrong file.
        with file.open(encoding="utf-8", errors="surrogateescape") as stream:
            line = stream.readline(_LINE_MAX_CHARACTERS)
    except OSError as error:
        raise InvalidArgument(f"password file {file}: {error.strerror}") from None
    return _checked(line.rstrip("\r\n"), f"password file {file}")


def _netrc_entry(host: str, home: Path | None) -> _Entry | None:
    """The entry for `host` (or `default`) in ~/.netrc. Raises InvalidArgument if it is broken."""
    import netrc

    file = home and home / ".netrc"
    if not file:
        return None
    try:
        exposed = bool(file.stat().st_mode & 0o077)
        with _with_backslashes(file) as plain:
            entry = netrc.netrc(plain).authenticators(host)
    except (FileNotFoundError, NotADirectoryError):  # a home such as /dev/null
        return None
    except OSError as error:
        raise InvalidArgument(f"{file}: {error.strerror}") from None
    except netrc.NetrcParseError as error:
        # The message quotes the word that it could not parse, which may be part of a password.
        raise InvalidArgument(f"{file}, line {error.lineno}: not in netrc format") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{file} is not valid text") from None
    if not entry or not entry[0]:
        return None
    user, _, password = entry
    if has_line_break(user):
        raise InvalidArgument(f"{file}: the user of {printable(host)} contains a line break")
    return _Entry(user, _checked(password or "", str(file)), exposed)


@contextlib.contextmanager
def _with_backslashes(file: Path) -> Iterator[str]:
    """The path of a copy in memory, with each backslash outside of quotes doubled.

    Python's netrc treats a backslash as an escape and turns `DOMAIN\\me` into `DOMAINme`. ftp(1)
    and curl treat it as an ordinary character.
    """
    text = file.read_bytes()
    if sys.version_info >= (3, 11):  # Python 3.10 treats it as ordinary, too
        text = re.sub(rb'(?<!\S)"(?:\\.|[^"\\\n])*"|\\', _doubled, text)
    with os.fdopen(os.memfd_create("netrc"), "wb") as copy:
        copy.write(text)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


def _doubled(found: re.Match[bytes]) -> bytes:
    return b"\\\\" if found[0] == b"\\" else found[0]


def _from_keyring(host: str, user: str, warn: Callable[[str], None]) -> Secret | None:
    """The password in the desktop's keyring for the service `ftp://host`, if there is one."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        password = keyring.get_password(f"ftp://{host}", user)
    except Exception as error:  # noqa: BLE001 - its back ends raise anything
        # The class only: the message of a back end may quote anything.
        warn(f"the keyring cannot be read ({type(error).__name__})")
        return None
    return _checked(password, "the keyring's password") if password else None
