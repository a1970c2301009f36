"""Named servers: `ftpfs mount nas /mnt` for what `~/.config/ftpfs/config.toml` says of `nas`.

Owns the place of that file, its syntax, and the `Source` with options that it makes of a name.
`options` parses the values.

    [defaults]                  # for every server, named or not
    list_ttl = "30s"

    [servers.nas]
    url = "ftpes://me@nas.local/photos"
    password_file = "~/.config/ftpfs/nas.password"
    ro = true
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from ftpfs.errors import InvalidArgument, printable
from ftpfs.settings.options import FORMER, OPTIONS, parse_options
from ftpfs.settings.source import Source, parse_source


def default_file() -> Path:
    """The file that is read without `--config`, by the XDG base directory specification."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder, "ftpfs", "config.toml")


def names(file: Path | None) -> list[str]:
    """The servers in `file`, for shell completion. Empty if it cannot be read."""
    try:
        return sorted(_read(file).get("servers", {}))
    except InvalidArgument:
        return []


def file_that_names(text: str, file: Path | None) -> Path | None:
    """The absolute path of the file that defines a SOURCE; None: the SOURCE is an address.

    Under sudo, root reads a file of its own. A name that only the calling user's file defines would
    be taken for a host, so it raises InvalidArgument.
    """
    name = text.partition("/")[0]
    if name in names(file):
        return (file or default_file()).absolute()
    behind = os.environ.get("SUDO_USER", "")
    try:
        theirs = Path(pwd.getpwnam(behind).pw_dir, ".config", "ftpfs", "config.toml")
    except KeyError:
        return None
    if file is None and name in names(theirs):
        raise InvalidArgument(
            f"{printable(name)} is named in the file of {behind}: add --config {theirs}"
        )
    return None


def resolve(text: str, file: Path | None) -> Source:
    """The Source that `text` means: an address, or `name` or `name/path` of a named server.

    `file` None: the default one, which may be missing. A path after the name goes below the path
    of its URL. Raises InvalidArgument with a message that repeats no password.
    """
    table = _read(file)
    defaults = _values("defaults", table.get("defaults", {}))
    name, slash, path = text.partition("/")
    server = table.get("servers", {}).get(name)
    if server is None:
        return _with_options(parse_source(text), defaults)
    where = f"[servers.{printable(name)}]"
    server = dict(server)
    url = server.pop("url", None)
    if not isinstance(url, str):
        raise InvalidArgument(f'{where}: url is missing: add url = "ftp://..."')
    source = parse_source(url)
    if source.password:
        _check_closed(file or default_file())
    if slash:
        below = parse_source(f"host/{path}").path
        above = source.path.rstrip("/") + "/" if source.path else ""
        source = dataclasses.replace(source, path=above + below)
    return _with_options(source, {**defaults, **_values(where, server)})


def _check_closed(file: Path) -> None:
    """Refuse a file that holds a password and that others can read, like ~/.netrc."""
    if file.is_file() and file.stat().st_mode & 0o077:
        raise InvalidArgument(
            f"{file} holds a password and others can read it; run: chmod 600 {file}"
        )


def _with_options(source: Source, values: Mapping[str, object]) -> Source:
    given = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(source, options=given)


def _read(file: Path | None) -> Mapping[str, dict[str, dict[str, object]]]:
    path = file or default_file()
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if file is None:
            return {}
        raise InvalidArgument(f"{path}: no such file") from None
    except PermissionError:
        if file is None:  # another user's home, under sudo
            return {}
        raise InvalidArgument(f"{path}: permission denied") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise InvalidArgument(f"{path}: {reason}") from None
    table = _parse(text, path)
    for part, value in table.items():
        if part not in ("defaults", "servers") or not isinstance(value, dict):
            raise InvalidArgument(f"{path}: [{printable(part)}] is neither [defaults] nor a server")
    for name, server in table.get("servers", {}).items():
        if not isinstance(server, dict) or "/" in name:
            raise InvalidArgument(f"{path}: servers.{printable(name)} is not a table")
    return table


def _parse(text: str, path: Path) -> dict[str, dict[str, dict[str, object]]]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        # The message names the line and column, and quotes at most one character.
        raise InvalidArgument(f"{path}: {error}") from None


def _values(where: str, table: Mapping[str, object]) -> dict[str, object]:
    """The values of options in TOML: text, numbers, true or false for switches (None: off)."""
    values: dict[str, object] = {}
    for name, value in table.items():
        key = name.replace("-", "_")
        option = OPTIONS.get(FORMER.get(key, key))
        try:
            if value is False and option and option.kind is None:
                values[option.name] = None
            elif isinstance(value, str | int | float) and option and not isinstance(value, bool):
                values[key] = option.read(str(value))
            elif value is True or option is None:
                values.update(parse_options(name))
            else:
                raise InvalidArgument(f"option {option.name}: not text or a number")
        except InvalidArgument as error:
            raise InvalidArgument(f"{where}: {error}") from None
    return values
