"""The arguments of a file system, as options of ftpfs; and addresses.

Owns what the arguments of fsspec's own FTP file system mean here. `settings` owns all options,
named servers, and the places that a password may come from. Nothing is read before `config`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftpfs.errors import InvalidArgument
from ftpfs.settings import named
from ftpfs.settings.build import build_config
from ftpfs.settings.config import Config, Network, Server, Tls
from ftpfs.settings.credentials import PASSWORD_VARIABLE, Secret, Surroundings, has_line_break
from ftpfs.settings.options import OPTIONS
from ftpfs.settings.source import Source, parse_source
from ftpfs.settings.values import MIB_BYTES

log = logging.getLogger(__name__)

SCHEMES = ("ftp", "ftps", "ftpes", "ftpfs")
# Several processes often work beside each other, and many servers allow ten connections. A refusal
# lowers the number.
CONNECTIONS = 8
# Half of it is for reading ahead: eight files at once get 2 MiB each.
BLOCK_CACHE_BYTES = 32 * MIB_BYTES
_DEFAULTS = {"max_connections": CONNECTIONS, "block_cache": BLOCK_CACHE_BYTES}
_ALSO = ("block_cache", "read_ahead")
# Arguments of fsspec itself that have no effect here.
OF_FSSPEC = ("max_paths", "asynchronous", "loop")
# Words for implicit TLS, most of them of fsspec's own file system: the newest version to use.
_IMPLICIT = {"tls": "", "sslv23": "", "tlsv1_2": "1.2", "implicit": ""}
_TLS_WORDS = {"explicit": "required", "required": "required", "optional": "optional"}
_URL = re.compile(r"([a-z]+)://([^/]*)(.*)", re.DOTALL)


def split_url(text: str) -> tuple[str, str, str]:
    """Scheme, server and path of one of our URLs; else "", "" and the text."""
    match = _URL.fullmatch(text)
    if match is None or match[1] not in SCHEMES:
        return "", "", text
    return match[1], match[2], match[3]


def in_url(text: str) -> dict[str, Any]:
    """The arguments that a URL holds. Raises ValueError, with a message without a password."""
    _, server, _ = split_url(text)
    if not server:
        return {}
    try:
        source = parse_source(server)
    except InvalidArgument as error:
        raise ValueError(str(error)) from None
    given = {
        "host": source.host,
        "port": source.port,
        "username": source.user,
        "password": source.password and source.password.reveal(),
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the program gave. `tls`: what its words say; None: nothing. `values`: by option."""

    host: str
    port: int | None
    user: str | None
    password: Secret | None
    tls: Tls | None
    values: Mapping[str, object]


def read(
    host: str,
    port: int | None,
    username: str | None,
    password: str | None,
    tls: bool | str | None,
    options: Mapping[str, object],
) -> Arguments:
    """The arguments of a program. Raises ValueError, and TypeError for an unknown one."""
    if has_line_break(password or ""):
        raise ValueError("the password contains a line break or NUL")
    values: dict[str, object] = {}
    for name, value in options.items():
        if value is not None:
            values[name] = _value(name, value)
    kind: Tls | None = None
    if isinstance(tls, str) and tls in _IMPLICIT:
        kind = Tls.IMPLICIT
        if _IMPLICIT[tls]:
            values["tls_max"] = _IMPLICIT[tls]
    elif isinstance(tls, str) and tls in _TLS_WORDS:
        values["tls"] = _TLS_WORDS[tls]
    elif isinstance(tls, str):
        raise ValueError(f"tls={tls!r}: not True, False, 'explicit', 'implicit' or 'optional'")
    elif tls:
        kind = Tls.EXPLICIT
    secret = Secret(password) if password is not None else None
    return Arguments(host, port, username or None, secret, kind, values)


def _value(name: str, value: object) -> object:
    option = OPTIONS.get(name)
    if option is None or not (option.part in (Server, Network) or name in _ALSO):
        raise TypeError(f"FTPFileSystem() got an unexpected keyword argument {name!r}")
    if option.kind is None:
        return option.value if value else None
    try:
        return option.read(str(value))
    except InvalidArgument as error:
        raise ValueError(str(error)) from None


def config(arguments: Arguments) -> Config:
    """The settings, with a password from wherever there is one. Nobody is asked for it.

    Raises InvalidArgument, also if no place has a password.
    """
    source = _source(arguments)
    values = {name: value for name, value in arguments.values.items() if value is not None}
    for name, value in _DEFAULTS.items():
        if name not in source.options:
            values.setdefault(name, value)
    environ: Mapping[str, str] = os.environ
    if arguments.password is not None:
        # The password of the program wins over all places. It may be empty.
        environ = {PASSWORD_VARIABLE: arguments.password.reveal() or "-"}
    home = os.path.expanduser("~")
    around = Surroundings(
        environ=environ,
        home=Path(home) if os.path.isabs(home) else None,
        prompt=None,
        warn=lambda line: log.warning("%s", line),
    )
    built = build_config(source, values, around)
    if arguments.password is None:
        return built
    server = dataclasses.replace(built.server, password=arguments.password)
    return dataclasses.replace(built, server=server)


def _source(arguments: Arguments) -> Source:
    host = arguments.host
    source = named.resolve(f"[{host}]" if ":" in host else host, None)
    if not source.path:
        # An address without a folder: "/" is the server's root, as for fsspec's own file system. A
        # named server may name another one.
        is_named = named.file_that_names(host, None) is not None
        source = dataclasses.replace(source, path="" if is_named else "/")
    if arguments.tls is not None:
        source = dataclasses.replace(source, tls=arguments.tls)
    return dataclasses.replace(
        source,
        port=arguments.port or source.port,
        user=arguments.user or source.user,
        password=source.password if arguments.password is None else None,
    )
