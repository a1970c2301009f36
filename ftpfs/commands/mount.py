"""`ftpfs mount`."""

from __future__ import annotations

from typing import Any

import click

from ftpfs.commands import arguments
from ftpfs.settings.options import OPTIONS
from ftpfs.settings.source import Source


@click.command()
@click.argument("source", type=arguments.SOURCE)
@click.argument("mountpoint", type=arguments.FOLDER)
@arguments.takes_config
@arguments.takes_words
@arguments.takes_flags(*OPTIONS.values())
def mount(source: Source, mountpoint: str, strings: tuple[str, ...], **flags: Any) -> int:
    """Mount the server SOURCE at the folder MOUNTPOINT.

    Every option is also a word for -o, with underscores: -o ro,list_ttl=5.
    """
    config = arguments.build(source, arguments.values_of(flags, strings))
    from ftpfs.daemon import mount as daemon

    return daemon.run(config, mountpoint)
