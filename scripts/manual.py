"""The manual page docs/ftpfs.1, made from the commands' help and the table of options.

`UPDATE_DOCS=1 scripts/test tests/unit/test_documentation.py` writes it.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from ftpfs import __version__, cli
from ftpfs.settings.config import Cache, Mount, Network, Server, Write
from ftpfs.settings.options import OPTIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ftpfs.1"

_INTRODUCTION = (
    "Each is a flag, and with underscores a word for -o. Whatever takes a SOURCE or URL also takes "
    "--config PATH, a file of named servers."
)
_TITLES = {
    Server: "Server",
    Network: "Network",
    Cache: "Caches",
    Write: "Writing",
    Mount: "Mount",
}
_FILES = [
    ("~/.config/ftpfs/config.toml", "Named servers, and defaults for all."),
    ("~/.netrc", "User names and passwords by host; mode 600."),
    ("~/.cache/ftpfs/store", "Contents of files: see cache_size."),
    ("~/.local/state/ftpfs/log/ftpfs.log", "The log of mounts in the background."),
]
_ENVIRONMENT = [
    ("FTPFS_PASSWORD", "The password; taken away at once."),
    ("FTPFS_PROXY_PASSWORD", "The password of the user in the option proxy; taken away, too."),
    (
        "CREDENTIALS_DIRECTORY",
        "Where systemd keeps the credentials ftpfs-password and ftpfs-proxy-password.",
    ),
    (
        "XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME",
        "Instead of ~/.config, ~/.local/state and ~/.cache.",
    ),
]
_EXAMPLES = [
    "ftpfs mount ftpes://me@nas.local/photos /mnt/photos",
    "ftpfs mount nas.local /mnt/nas \\-o ro,list_ttl=10",
    "mount \\-t ftpfs me@nas.local /mnt/nas \\-o password_file=/etc/ftpfs/nas.password",
]


def page() -> str:
    """The page in man(7) macros."""
    parts = [
        f'.TH FTPFS 1 "" "ftpfs {__version__}" "User Commands"',
        ".SH NAME",
        "ftpfs \\- FTP and FTPS servers as local folders",
        ".SH SYNOPSIS",
        ".B ftpfs",
        ".I command",
        "[options] arguments",
        ".SH DESCRIPTION",
        _text(inspect.cleandoc(cli.cli.help or "")),
        ".SH COMMANDS",
    ]
    program = click.Context(cli.cli)
    for name in cli.cli.list_commands(program):
        if command := cli.cli.get_command(program, name):
            parts += _command(name, command)
            for below, each in getattr(command, "commands", {}).items():
                parts += _command(f"{name} {below}", each)
    parts.append(".SH OPTIONS")
    parts.append(_text(_INTRODUCTION))
    part = None
    for option in OPTIONS.values():
        if option.part is not part:
            part = option.part
            parts.append(f".SS {_TITLES[part]}")
        value = f" {option.kind.metavar}" if option.kind else ""
        default = f" Default: {option.default}." if option.default else ""
        parts += [".TP", f".B {_text(option.flag + value)}", _text(option.help + default)]
    for title, rows in (("FILES", _FILES), ("ENVIRONMENT", _ENVIRONMENT)):
        parts.append(f".SH {title}")
        for name, text in rows:
            parts += [".TP", f".B {_text(name)}", _text(text)]
    parts += [".SH EXAMPLES", ".nf", *_EXAMPLES, ".fi"]
    parts += [".SH SEE ALSO", ".BR mount (8),", ".BR fuse (8),", ".BR netrc (5)"]
    return "\n".join(parts) + "\n"


def _command(name: str, command: click.Command) -> list[str]:
    places = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join([name, *(p.metavar or str(p.name).upper() for p in places)])
    parts = [".TP", f".B ftpfs {_text(usage)}"]
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        parts += [".IP", _text(paragraph)] if number else [_text(paragraph)]
    for param in command.params:
        if isinstance(param, click.Option) and not _in_table(param):
            flags = ", ".join(param.opts)
            value = f" {param.metavar}" if param.metavar else ""
            parts += [".RS", ".TP", f".B {_text(flags + value)}", _text(param.help or ""), ".RE"]
    return parts


def _in_table(param: click.Option) -> bool:
    """Whether the page lists it under OPTIONS."""
    if param.opts == ["--config"]:
        return True
    option = OPTIONS.get(param.name or "")
    return option is not None and option.help in (param.help or "")


def _text(text: str) -> str:
    """`text` for roff: nothing in it is a request, an escape or a hyphen."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti")
    lines = [line.strip() for line in escaped.splitlines()]
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)
