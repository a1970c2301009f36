"""`ftpfs completion`."""

from __future__ import annotations

import click

from ftpfs.commands import arguments


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    bash: source <(ftpfs completion bash), in ~/.bashrc; zsh: the same, in
    ~/.zshrc after compinit; fish: ftpfs completion fish > ~/.config/fish/completions/ftpfs.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is not None:
        program = context.find_root().command
        click.echo(kind(program, {}, "ftpfs", arguments.COMPLETE_VARIABLE).source())
