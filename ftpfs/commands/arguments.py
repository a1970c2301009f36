"""Arguments that commands share: SOURCE, flags for options, and the configuration from them.

Owns how options look on the command line, and how passwords leave the environment. Imports only
what the help and shell completion need; the rest when a command runs.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftpfs.errors import InvalidArgument, printable
from ftpfs.settings import credentials, secrecy
from ftpfs.settings.build import build_config
from ftpfs.settings.config import Config, Network, Server
from ftpfs.settings.options import OPTIONS, Option, parse_options
from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The variable by which a shell asks for completions: click's name for a program called ftpfs.
COMPLETE_VARIABLE = "_FTPFS_COMPLETE"
# The key in click's meta for the value of --config. It is set before SOURCE is read.
_CONFIG_FILE = "ftpfs.config_file"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Misuse(click.UsageError):
    """Wrong usage. The message is ours and repeats no argument."""


# SOURCE and paths.


class _SourceType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """An address, or a name from the file of named servers."""

    name = "source"

    def convert(
        self,
        value: str,
        param: click.Parameter | None,  # noqa: ARG002 (click's signature)
        ctx: click.Context | None,
    ) -> Source:
        from ftpfs.commands.held import held
        from ftpfs.settings import named

        if (shell := held(ctx)) is not None:
            return shell.source(value)
        try:
            return named.resolve(value, config_file(ctx) if ctx else None)
        except InvalidArgument as error:
            raise Misuse(str(error)) from None

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 (click's signature)
        incomplete: str,
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ftpfs.settings import named

        known = named.names(config_file(ctx))
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class PlaceType(click.Path):
    """A path that the shell completes and nobody checks here.

    The command reports what is wrong with it. A look at a mountpoint may block while its server is
    away.
    """

    def convert(self, value: Any, *_: object) -> Any:
        return value


class _StreamsType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """A number of connections from 1 to 16; None for auto."""

    name = "streams"

    def convert(
        self,
        value: str | int,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        if value == "auto":
            return None
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= 16:
            self.fail("a number from 1 to 16, or auto", param, ctx)
        return number


SOURCE = _SourceType()
STREAMS = _StreamsType()
PLACE = PlaceType()
FOLDER = PlaceType(file_okay=False)


def takes_config(command: _Command) -> _Command:
    """Add the flag --config, for commands that take a SOURCE."""

    def keep(context: click.Context, _param: click.Parameter, value: Path | None) -> None:
        context.meta[_CONFIG_FILE] = value

    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="PATH",
        is_eager=True,
        expose_value=False,
        callback=keep,
        help="File of named servers.  [default: ~/.config/ftpfs/config.toml]",
    )(command)


def config_file(context: click.Context) -> Path | None:
    """The value of --config."""
    file: Path | None = context.meta.get(_CONFIG_FILE)
    return file


# Flags for options.

CONNECTION = [each for each in OPTIONS.values() if each.part in (Server, Network)]
# A command without a daemon logs to the terminal, so only warnings by default.
LOG_LEVEL = dataclasses.replace(OPTIONS["log_level"], default="warning")

takes_words = click.option(
    "-o", "strings", multiple=True, metavar="A,B=C", help="Options by name, as in fstab."
)


def takes_flags(*options: Option) -> Callable[[_Command], _Command]:
    """Add a flag for each option. The command's `**flags` gets the values by option name."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            shown = f"{option.help}  [default: {option.default}]" if option.default else option.help
            if option.kind is None:
                command = click.option(option.flag, option.name, is_flag=True, help=shown)(command)
            else:
                command = click.option(
                    option.flag,
                    option.name,
                    type=_reader(option),
                    metavar=option.kind.metavar,
                    help=shown,
                    shell_complete=_offering(option.kind.metavar),
                )(command)
        return command

    return decorate


def _reader(option: Option) -> Callable[[str], object]:
    def value(text: str) -> object:
        try:
            return option.read(text)
        except InvalidArgument as error:
            raise Misuse(str(error)) from None

    return value


def _offering(
    metavar: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What the shell offers for the value of an option: one of its words, or a file."""

    def offer(_context: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if metavar == "PATH":
            return [CompletionItem(begun, type="file")]
        words = metavar.split("|") if "|" in metavar else []
        return [CompletionItem(word) for word in words if word.startswith(begun)]

    return offer


def values_of(flags: dict[str, Any], strings: Iterable[str] = ()) -> dict[str, object]:
    """The values given by flags and by -o strings, by option name. Flags win."""
    values: dict[str, object] = {}
    for string in strings:
        values.update(parse_words(string))
    for name, value in flags.items():
        if OPTIONS[name].kind is not None and value is not None:
            values[name] = value
        elif OPTIONS[name].kind is None and value:
            values[name] = OPTIONS[name].value
    return values


def parse_words(string: str) -> dict[str, object]:
    """The values in one -o string. Raises Misuse."""
    try:
        return parse_options(string)
    except InvalidArgument as error:
        raise Misuse(str(error)) from None


# The configuration.


def build(source: Source, values: dict[str, object]) -> Config:
    """The configuration for `source`. From here on this process may hold a password."""
    home = os.path.expanduser("~")  # asks the user database if HOME is missing
    around = credentials.Surroundings(
        environ=take_environment(),
        home=Path(home) if os.path.isabs(home) else None,
        prompt=_ask if sys.stdin and sys.stdin.isatty() else None,
        warn=warn,
    )
    secrecy.protect_memory()
    return build_config(source, values, around)


def take_environment() -> dict[str, str]:
    """A copy of the environment. Takes the passwords out of the one that programs inherit."""
    environ = dict(os.environ)
    os.environ.pop(credentials.PASSWORD_VARIABLE, None)
    os.environ.pop(credentials.PROXY_PASSWORD_VARIABLE, None)
    return environ


def warn(line: str) -> None:
    click.echo(f"ftpfs: warning: {printable(line)}", err=True)


def _ask(question: str) -> str:
    from getpass import getpass

    return getpass(question)


def log_to_terminal(values: dict[str, object], default: str = LOG_LEVEL.default) -> None:
    from ftpfs.daemon import logs

    logs.to_terminal(str(values.get("log_level", default)))
