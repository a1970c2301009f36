"""Commands to running mounts: `ftpfs status`, `set`, `sync`, `forget`, `umount`, `recover`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from ftpfs import errors
from ftpfs.commands import arguments
from ftpfs.errors import printable
from ftpfs.settings.options import OPTIONS
from ftpfs.settings.source import Source


@click.command()
@click.argument("mountpoint", type=arguments.FOLDER, required=False)
@click.option("--json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--check", is_flag=True, help="Print one line for a monitor, such as Nagios.")
def status(mountpoint: str | None, json: bool, watch: bool, check: bool) -> int:
    """Show what the mount at MOUNTPOINT does.

    Without MOUNTPOINT, shows all of your mounts. Exits with 1 when a daemon does
    not answer, or an upload failed for good.

    With --check, exits with 0 (OK), 1 (WARNING: ftpfs goes on by itself), 2
    (CRITICAL: a person must look) or 3 (UNKNOWN).
    """
    if json + watch + check > 1:
        raise arguments.Misuse("either --json or --watch or --check")
    if check:
        return _check(mountpoint)
    from ftpfs.commands import mounts, show

    if watch:
        show.watch(lambda: mounts.mounts(mountpoint))
        return 0
    found = mounts.mounts(mountpoint)
    if json:
        click.echo(show.as_json(found))
    else:
        show.status(found, sys.stdout)
    return 0 if all(mount.is_well for mount in found) else 1


def _check(mountpoint: str | None) -> int:
    """Print the line for a monitor. Returns its exit code, whatever happens."""
    from ftpfs.commands import health, mounts

    try:
        verdict, line = health.check(mounts.mounts(mountpoint))
    except (errors.InvalidArgument, errors.NotFound) as error:  # nothing is mounted there
        verdict, line = health.missing(str(error))
    except (errors.FtpfsError, OSError) as error:
        verdict, line = health.unknown(str(error))
    click.echo(line)
    return verdict


@click.command()
@click.argument("path", type=arguments.PlaceType(), required=False)
def sync(path: str | None) -> int:
    """Wait until the server has everything that is below PATH.

    Without PATH, waits for all mounts. Retries at once what failed and what
    waits for a server that was away. Exits with 1 when something could not be
    uploaded, and prints a line for each such file.
    """
    from ftpfs.commands import mounts, show

    with show.upload_bar() as progress:
        failures = mounts.sync(path, progress)
    return _complain(failures)


@click.command()
@click.argument("path", type=arguments.PlaceType(), required=False)
def forget(path: str | None) -> None:
    """Discard what is cached of PATH and of all below it.

    Without PATH, discards the caches of all mounts. The next look shows what
    others have changed on the server.
    """
    from ftpfs.commands import mounts

    mounts.forget(path)


@click.command("set")
@click.argument("mountpoint", type=arguments.FOLDER)
@click.argument("words", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_(mountpoint: str, words: Sequence[str]) -> None:
    """Change options of the mount at MOUNTPOINT while it runs.

    These can be changed: limit_down, limit_up. For example limit_up=2M, or
    limit_up=off.
    """
    from ftpfs.commands import mounts

    values = {}
    for word in words:
        name, has_value, value = word.partition("=")
        if not has_value:
            raise arguments.Misuse("expected NAME=VALUE, for example limit_up=2M")
        values[name.replace("-", "_")] = value
    mounts.change(mountpoint, values)


@click.command()
@click.argument("mountpoint", type=arguments.FOLDER)
@click.option("--now", is_flag=True, help="Do not wait; the next mount uploads the rest.")
@click.option("-l", "--lazy", is_flag=True, help="Unmount even if it is in use; do not wait.")
def umount(mountpoint: str, now: bool, lazy: bool) -> int:
    """Unmount MOUNTPOINT and wait until all is uploaded.

    Ctrl-C leaves the rest of the uploads to the background. Exits with 1 when
    something is left.
    """
    from ftpfs.commands import mounts, show
    from ftpfs.daemon import mountpoints

    if lazy:
        mountpoints.unmount(mountpoints.absolute(mountpoint), lazy=True)
        return 0
    return _complain(mounts.umount(mountpoint, show.upload_bar, now=now))


@click.command()
@click.argument("source", type=arguments.SOURCE)
@arguments.takes_config
@arguments.takes_words
@arguments.takes_flags(*OPTIONS.values())
def recover(source: Source, strings: tuple[str, ...], **flags: Any) -> int:
    """Upload what earlier mounts of SOURCE have left.

    After a crash, a power cut or SIGTERM, the next mount uploads the rest. This
    command does the same. Exits with 1 when something is still left, and prints
    a line for each such file.
    """
    values = arguments.values_of(flags, strings)
    arguments.log_to_terminal(values)
    config = arguments.build(source, values)
    from ftpfs.commands import mounts, show

    with show.upload_bar() as progress:
        lines = mounts.recover(config, progress)
    return _complain(lines)


def _complain(lines: Sequence[str]) -> int:
    """Print what went wrong, a line each; the exit code."""
    for line in lines:
        click.echo(f"ftpfs: {printable(line)}", err=True)
    return 1 if lines else 0
