"""`ftpfs doctor`."""

from __future__ import annotations

from typing import Any

import click

from ftpfs.commands import arguments
from ftpfs.settings.source import Source


@click.command()
@click.argument("source", type=arguments.SOURCE)
@click.option("--write", is_flag=True, help="Try uploads, too, with a scratch file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@arguments.takes_config
@arguments.takes_flags(*arguments.CONNECTION, arguments.LOG_LEVEL)
def doctor(source: Source, write: bool, as_json: bool, **flags: Any) -> None:
    """Report what the server SOURCE can do, and how fast it is.

    It also tells what will not work in a mount. It looks at the folder of
    SOURCE; a folder with a file in it shows more.
    """
    import dataclasses
    import json

    from ftpfs.commands import examination

    values = arguments.values_of(flags)
    arguments.log_to_terminal(values, default="error")
    config = arguments.build(source, values)
    progress = (lambda _line: None) if as_json else lambda line: click.echo(f"{line} ...", err=True)
    report = examination.examine(config, write=write, progress=progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        click.echo(examination.text(report))
