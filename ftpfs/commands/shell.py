"""`ftpfs sh`: commands typed at a prompt, on one server that stays connected.

Owns the words of the prompt, the local commands, and completion. The commands themselves are those
of the command line: `held` gives them the server.

Threading: the main thread.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import posixpath
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from ftpfs.commands.held import Held, hold
from ftpfs.errors import FtpfsError, printable
from ftpfs.model.entry import Kind
from ftpfs.trees.server import Server

# Commands of the command line that make sense on one server, and those that may go without a word:
# then the folder at hand is meant.
_COMMANDS = (
    *("cat", "chmod", "cp", "du", "find", "get", "ls", "mkdir", "mv", "put", "rm", "stat"),
    *("touch", "tree"),
)
_ABOUT_HERE = ("ls", "du", "find", "tree", "stat")
# Other names for them, from ftp(1) and lftp.
_ALIASES = {"dir": "ls -l", "ll": "ls -l", "mget": "get", "mput": "put", "delete": "rm"}
_ENDS = ("exit", "quit", "bye")
# How long a listing serves for completion (seconds).
_LISTING_SECONDS = 10.0
_HELP = """\
on the server: cd pwd {commands}
here:          lcd lpwd !COMMAND
besides:       quote COMMAND (raw FTP), help [COMMAND], exit
"""


class Shell:
    """One session at a prompt."""

    def __init__(self, server: Held, context: click.Context) -> None:
        self._server = server
        self._context = context
        self._listed: tuple[str, float, list[str]] = ("", 0.0, [])
        self._own: dict[str, Callable[[list[str]], int]] = {
            "cd": self._cd,
            "pwd": self._pwd,
            "lcd": self._lcd,
            "lpwd": self._lpwd,
            "quote": self._quote,
            "help": self._help,
        }
        hold(context, server)

    def run(self, lines: Iterator[str], *, stops: bool) -> int:
        """Run lines until the end. `stops`: at the first failure, as scripts want it.

        Returns the exit code: that of the last command, or of the one that failed.
        """
        code = 0
        for line in lines:
            if line.strip() in _ENDS:
                break
            code = self.execute(line)
            if code and stops:
                break
        return code

    def execute(self, line: str) -> int:
        """Run one line. Tells what fails. Returns the exit code, as the command line does."""
        from ftpfs import cli

        if line.lstrip().startswith("!"):
            return subprocess.run(line.lstrip()[1:], shell=True, check=False).returncode  # noqa: S602 (`!` asks for a shell)
        try:
            words = shlex.split(line, comments=True)
            return self._execute(words) if words else 0
        except ValueError as error:  # a quote without its end
            click.echo(f"ftpfs: {error}", err=True)
            return 2
        except click.exceptions.Exit as done:
            return done.exit_code
        except click.ClickException as error:
            return cli.usage(error)
        except (KeyboardInterrupt, click.Abort) as interrupted:
            click.echo(f"ftpfs: {printable(str(interrupted) or 'interrupted')}", err=True)
            return 130
        except (FtpfsError, OSError) as error:
            click.echo(f"ftpfs: {printable(str(error))}", err=True)
            return 1

    def _execute(self, words: list[str]) -> int:
        if words[0] in _ALIASES:
            words = [*_ALIASES[words[0]].split(), *words[1:]]
        name, *rest = words
        if name in self._own:
            return self._own[name](rest)
        if name not in _COMMANDS:
            click.echo(f"ftpfs: no command {printable(name)} (see: help)", err=True)
            return 2
        plain = [word for word in rest if not word.startswith("-")]
        if (name in _ABOUT_HERE and not plain) or (name == "put" and len(plain) == 1):
            rest.append(".")
        command = _command(name)
        with command.make_context(name, rest, parent=self._context) as context:
            return int(command.invoke(context) or 0)

    # Commands of the prompt alone.

    def _cd(self, words: list[str]) -> int:
        path = self._server.path(words[0] if words else "/")
        entry = Server(self._server.remote).stat(path)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            what = "no such folder" if entry is None else "not a folder"
            click.echo(f"ftpfs: {printable(path)}: {what}", err=True)
            return 1
        self._server.cwd = path
        return 0

    def _pwd(self, _words: list[str]) -> int:
        click.echo(printable(self._server.cwd))
        return 0

    def _lcd(self, words: list[str]) -> int:
        os.chdir(os.path.expanduser(words[0] if words else "~"))
        return 0

    def _lpwd(self, _words: list[str]) -> int:
        click.echo(printable(os.getcwd()))
        return 0

    def _quote(self, words: list[str]) -> int:
        from ftpfs.commands import files

        is_ok = files.command(self._server.remote, " ".join(words), sys.stdout, welcome=False)
        return 0 if is_ok else 1

    def _help(self, words: list[str]) -> int:
        if words and words[0] in _COMMANDS:
            return self._execute([words[0], "--help"])
        click.echo(_HELP.format(commands=" ".join(_COMMANDS)), nl=False)
        return 0

    # Completion.

    def complete(self, begun: str) -> list[str]:
        """What the last word of a line could become, up to the cursor."""
        words = begun.split(" ")
        last = words[-1]
        if len(words) == 1:
            names = sorted([*_COMMANDS, *self._own, *_ALIASES, *_ENDS])
            return [name for name in names if name.startswith(last)]
        is_here = words[0] in ("lcd", "put", "mput") or begun.startswith("!")
        found = _local_names(last) if is_here else self._remote_names(last)
        return [shlex.quote(each) if " " in each else each for each in found]

    def _remote_names(self, begun: str) -> list[str]:
        above, name = posixpath.split(begun)
        folder = self._server.path(above or ".")
        path, when, names = self._listed
        if path != folder or time.monotonic() - when > _LISTING_SECONDS:
            try:
                entries = self._server.remote.list(folder)
            except FtpfsError:
                return []
            names = sorted(
                entry.name + ("/" if entry.kind is Kind.DIRECTORY else "") for entry in entries
            )
            self._listed = folder, time.monotonic(), names
        return [posixpath.join(above, each) for each in names if each.startswith(name)]


def _local_names(begun: str) -> list[str]:
    above, name = os.path.split(begun)
    with contextlib.suppress(OSError), os.scandir(os.path.expanduser(above) or ".") as found:
        return sorted(
            os.path.join(above, each.name) + ("/" if each.is_dir() else "")
            for each in found
            if each.name.startswith(name)
        )
    return []


def _command(name: str) -> click.Command:
    from ftpfs import cli

    command: Any = getattr(importlib.import_module(f"ftpfs.commands.{cli.FAMILIES[name]}"), name)
    assert isinstance(command, click.Command)  # noqa: S101 (a table of ours)
    return command


def typed(shell: Shell, prompt: Callable[[], str]) -> Iterator[str]:
    """The lines that a person types, with history and completion if prompt_toolkit is there."""
    ask = _asking(shell, prompt)
    while True:
        try:
            yield ask()
        except KeyboardInterrupt:
            continue
        except EOFError:
            click.echo()
            return


def _asking(shell: Shell, prompt: Callable[[], str]) -> Callable[[], str]:
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import InMemoryHistory
    except ImportError:
        return lambda: input(prompt())

    class Names(Completer):  # type: ignore[misc,unused-ignore]  # may be missing
        def get_completions(self, document: Any, _event: Any) -> Iterator[Any]:
            begun = document.text_before_cursor
            for each in shell.complete(begun):
                yield Completion(each, start_position=-len(begun.split(" ")[-1]))

    history = _history() or InMemoryHistory()
    session: Any = PromptSession(
        history=history, completer=Names(), complete_while_typing=False, complete_in_thread=False
    )
    return lambda: str(session.prompt(prompt()))


def _history() -> Any:
    """The lines of earlier sessions. Lines with a password in them are not kept."""
    from prompt_toolkit.history import FileHistory

    from ftpfs.daemon import places
    from ftpfs.local import private

    class Kept(FileHistory):  # type: ignore[misc,unused-ignore]  # may be missing
        def store_string(self, string: str) -> None:
            if "pass" not in string.lower():
                super().store_string(string)

    path = places.state() / "sh-history"
    try:
        private.make_folder(path.parent)
        private.check_file(path)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_WRONLY, 0o600))
    except (FtpfsError, OSError):
        return None
    return Kept(str(path))


def divided(line: str) -> Iterator[str]:
    """The commands of a line, divided by semicolons outside of quotes."""
    for found in re.finditer(r"""(?:[^;'"]|'[^']*'|"[^"]*"|['"])+""", line):
        yield found[0]


def quoted(path: str) -> str:
    """A path as one word of a line."""
    return shlex.quote(path)


def place(server: Held) -> str:
    """The prompt: where the user is."""
    return f"{printable(server.url.host)}:{printable(server.cwd)}> "


def script() -> Iterator[str]:
    """The lines of stdin."""
    for line in sys.stdin:
        yield line.rstrip("\n")
