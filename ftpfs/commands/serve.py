"""Commands with a server of their own: `ftpfs serve`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftpfs.commands import arguments
from ftpfs.errors import InvalidArgument
from ftpfs.settings import credentials
from ftpfs.settings.options import OPTIONS


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--write", is_flag=True, help="Let clients change the folder.")
@click.option("--user", metavar="NAME", help="Require this login; without it, anyone may log in.")
@arguments.takes_flags(OPTIONS["password_file"])
@click.option("--tls-cert", metavar="PATH", help="Require explicit TLS, with this certificate.")
@click.option("--tls-key", metavar="PATH", help="Its private key, if not in the same file.")
@click.option("-v", "--verbose", is_flag=True, help="Log logins and transfers.")
def serve(password_file: Path | None, verbose: bool, **settings: Any) -> None:
    """Serve FOLDER by FTP until interrupted.

    Clients on this machine may read. --host lets in others, --write lets clients
    change the folder.
    """
    from ftpfs.commands import embedded_server

    arguments.log_to_terminal({}, default="info" if verbose else "warning")
    password = None
    if user := settings["user"]:
        environ = arguments.take_environment()
        password = credentials.password_given(password_file, environ, arguments.warn)
        if not password:
            raise InvalidArgument(
                f"no password for {user}: use --password-file or ${credentials.PASSWORD_VARIABLE}"
            )
    service = embedded_server.Service(**settings, password=password)
    embedded_server.run(service, click.echo)


@click.command()
def demo() -> None:
    """Show what a mount does, on a sample server."""
    from ftpfs.commands import demonstration

    demonstration.run()
