"""The command line: the entry points, the list of commands, exit codes, and the report of failures.

Owns which module of `commands` has which command. What a command takes and does is in that module.
No password stays in the process list, and no message repeats one.

Exit codes: 0; 1 failed (one line on stderr says why); 2 wrong usage. As a shell reports them: 130
interrupted, 143 terminated, 141 the reader of the output is gone.

A family's module is imported when one of its commands runs or shows its help. It imports what its
work needs inside of its functions, so that help and shell completion stay quick.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from ftpfs import __version__
from ftpfs.commands.arguments import COMPLETE_VARIABLE, Misuse
from ftpfs.errors import FtpfsError, printable, printable_lines
from ftpfs.settings import secrecy

# The module in `commands` that has each command. A function there has the name of its command, with
# an underscore for a dash.
FAMILIES = {
    "mount": "mount",
    **dict.fromkeys(("status", "set", "sync", "forget", "umount", "recover"), "manage"),
    **dict.fromkeys(("ls", "cat", "get", "put", "cmd"), "transfer"),
    "mirror": "mirror",
    "sh": "interactive",
    **dict.fromkeys(("mkdir", "rm", "mv", "cp", "touch", "chmod"), "changing"),
    **dict.fromkeys(("find", "du", "tree", "stat"), "listing"),
    "cache": "cache",
    "fetch": "fetch",
    "keep": "keep",
    "queue": "queue",
    "doctor": "doctor",
    **dict.fromkeys(("serve", "demo"), "serve"),
    **dict.fromkeys(("install-service", "install-helper"), "install"),
    "completion": "completion",
}

# Commands whose names Python uses itself. Their functions have an underscore at the end.
_TAKEN = ("set",)


class _Commands(click.Group):
    """A group that imports the module of a command when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted(FAMILIES)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 (click's signature)
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in FAMILIES:
            return None
        family = importlib.import_module(f"ftpfs.commands.{FAMILIES[cmd_name]}")
        name = cmd_name.replace("-", "_")
        command: Any = getattr(family, f"{name}_" if name in _TAKEN else name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="ftpfs %(version)s")
def cli() -> None:
    """FTP and FTPS servers as local folders.

    SOURCE and URL are written host, host:port, host/path or
    ftp://user@host:port/path; ftpes:// asks for explicit TLS, ftps:// for
    implicit TLS. A path is relative to the login folder; ftp://host//path is
    absolute.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    secrecy.hide_passwords()
    if len(given) > 3 and given[0] not in FAMILIES and given[2] == "-o":
        # For `mount -t fuse.ftpfs`, mount.fuse(8) calls ftpfs as SOURCE MOUNTPOINT -o OPTIONS. It
        # adds suid and dev by itself. With them, a server's mode bits could make anybody root.
        asked = [word for word in given[3].split(",") if word not in ("suid", "dev")]
        return mount_helper([*given[:3], ",".join(asked), *given[4:]])
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "ftpfs", COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context("ftpfs", given or ["--help"]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return usage(error)
    except (KeyboardInterrupt, click.Abort) as interrupted:
        if str(interrupted):
            click.echo(f"ftpfs: {printable(str(interrupted))}", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader is gone. Not even the destructor of stdout may write to it now.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except FtpfsError as error:
        return _failure(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failure(f"{where}{error.strerror or error}")
    return int(code or 0)


# mount(8) may run its helpers with an empty environment.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# mount(8)'s exit codes.
_MOUNT_USAGE, _MOUNT_FAILURE = 1, 32


def mount_helper(arguments: Sequence[str] | None = None) -> int:
    """`mount.ftpfs SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]`, which mount(8) runs; its exit codes."""
    import getopt

    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("PATH", _PATH)
    try:
        found, places = getopt.gnu_getopt(given, "sfnvo:t:N:")
    except getopt.GetoptError as error:
        click.echo(f"mount.ftpfs: {printable(error.msg)}", err=True)
        return _MOUNT_USAGE
    if len(places) != 2:
        click.echo("mount.ftpfs: expected SOURCE MOUNTPOINT [-o OPTIONS]", err=True)
        return _MOUNT_USAGE
    if ("-f", "") in found:  # mount --fake: do everything but mount
        return 0
    words = ",".join(value for name, value in found if name == "-o").split(",")
    command = ["mount"]
    for word in words:
        if word.startswith("config="):
            command += ["--config", word.removeprefix("config=")]
    kept = [word for word in words if not word.startswith("config=")]
    code = main([*command, "-o", ",".join(kept), "--", *places])
    return {1: _MOUNT_FAILURE, 2: _MOUNT_USAGE}.get(code, code)


def _failure(message: str) -> int:
    """Report a failure in one line, and with a traceback at the log level debug."""
    if _debugging():
        import traceback

        click.echo(printable_lines(traceback.format_exc().rstrip()), err=True)
    click.echo(f"ftpfs: {printable(message)}", err=True)
    return 1


def _debugging() -> bool:
    logging = sys.modules.get("logging")
    return bool(logging and logging.getLogger().isEnabledFor(logging.DEBUG))


def usage(error: click.ClickException) -> int:
    """Report wrong usage in one line. Returns the exit code."""
    context = getattr(error, "ctx", None)
    help_command = f"{context.command_path if context else 'ftpfs'} --help"
    message = error.format_message()
    if not isinstance(error, Misuse):
        # click repeats the argument that it rejects. It may be an address with a password.
        message = " ".join(re.sub(r":(?!//).*@", ":***@", message, flags=re.DOTALL).split())
    click.echo(f"ftpfs: {printable(message)} (see: {help_command})", err=True)
    return error.exit_code
