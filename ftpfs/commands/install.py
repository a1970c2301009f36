"""Commands that set ftpfs up on this system: `ftpfs install-service`, `install-helper`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ftpfs.commands import arguments
from ftpfs.errors import InvalidArgument, NotFound
from ftpfs.settings.options import OPTIONS


@click.command("install-service")
@click.argument("source")
@click.argument("mountpoint", type=arguments.FOLDER)
@arguments.takes_config
@click.option("-o", "strings", multiple=True, metavar="A,B=C", help="Options, as for mount.")
@arguments.takes_flags(OPTIONS["password_file"])
@click.option("--user", is_flag=True, help="Write a service of this user, for systemctl --user.")
@click.option("--automount", is_flag=True, help="Mount on the first access to MOUNTPOINT.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to write to; -: stdout.")
@click.pass_context
def install_service(
    context: click.Context,
    source: str,
    mountpoint: str,
    strings: tuple[str, ...],
    password_file: Path | None,
    user: bool,
    automount: bool,
    folder: Path | None,
) -> None:
    """Write systemd units that mount SOURCE at MOUNTPOINT.

    If a password is needed, give --password-file. systemd reads that file and
    hands the password over as a credential.
    """
    from ftpfs.daemon import systemd

    options = ",".join(strings)
    config = _config_file(context, source)
    grace = arguments.parse_words(options).get("grace")
    if automount and user:
        raise arguments.Misuse("--automount and --user exclude each other: mount(8) mounts as root")
    if not automount and not os.path.isdir(mountpoint):
        raise NotFound(f"{mountpoint}: no such folder: make it first (mkdir {mountpoint})")
    service = systemd.Service(
        source,
        os.path.abspath(mountpoint),
        options,
        config,
        password_file,
        user,
        grace if isinstance(grace, float) else None,
    )
    if automount:
        units = systemd.automount_units(service)
    else:
        units = {service.name: systemd.service_unit(service)}
    if str(folder) == "-":
        for name, text in units.items():
            click.echo(f"# {name}\n{text}")
        return
    for path in systemd.write_units(folder or systemd.unit_folder(user=user), units):
        click.echo(path)
    which = "systemctl --user" if user else "systemctl"
    click.echo(f"Now: {which} daemon-reload && {which} enable --now '{list(units)[-1]}'")


def _config_file(context: click.Context, source: str) -> Path | None:
    """The file of named servers that the service has to read, absolute.

    The service may run with another home than this command. Raises Misuse for a bad SOURCE, and
    for one with a password in it.
    """
    from ftpfs.settings import named

    if arguments.SOURCE.convert(source, None, context).password:
        raise arguments.Misuse("a unit file is no place for a password: use --password-file")
    given = arguments.config_file(context)
    try:
        file = named.file_that_names(source, given) or given
    except InvalidArgument as error:
        raise arguments.Misuse(str(error)) from None
    return file and file.absolute()


@click.command("install-helper")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder of the links, instead of /sbin."
)
def install_helper(folder: Path | None) -> None:
    """Let mount(8) and fstab mount the type ftpfs.

    Links the helpers of mount(8) in /sbin to this program.
    """
    from ftpfs.daemon import systemd

    for link in systemd.install_helpers(folder or systemd.SBIN):
        click.echo(link)
