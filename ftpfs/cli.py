"""The commands: arguments in, configuration out, exit codes.

Owns: what the command line looks like, what is printed when something fails, and that no password
stays in the process list. Owns nothing else: each command hands over to one function elsewhere.

Exit codes: 0; 1 it failed (one line on stderr says why); 2 it was called wrongly; 130 interrupted,
143 terminated, 141 nobody reads the output any more, as a shell reports them.

Modules that a command needs are imported by that command, so that `ftpfs --help` and shell
completion stay quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getopt
import os
import posixpath
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ftpfs import __version__, config, credentials, secrecy
from ftpfs.config import OPTIONS, Option, Source
from ftpfs.errors import FtpfsError, InvalidArgument, printable, printable_lines

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ftpfs.ftp.remote import Remote

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    secrecy.hide_passwords()
    if len(given) > 3 and given[0] not in cli.commands and given[2] == "-o":
        # As mount.fuse(8) calls us for `mount -t fuse.ftpfs`: SOURCE MOUNTPOINT -o OPTIONS. It adds
        # suid and dev by itself, and then a server's mode bits could make anybody root here.
        asked = [word for word in given[3].split(",") if word not in ("suid", "dev")]
        return mount_helper([*given[:3], ",".join(asked), *given[4:]])
    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "ftpfs", _COMPLETE, instruction)
    try:
        with cli.make_context("ftpfs", given or ["--help"]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort) as interrupted:
        if str(interrupted):
            click.echo(f"ftpfs: {printable(str(interrupted))}", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads: nothing may be written to stdout any more, not even by its destructor.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except FtpfsError as error:
        return _failure(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failure(f"{where}{error.strerror or error}")
    return int(code or 0)


# What a shell sets to ask for completions; click's name for a program called ftpfs.
_COMPLETE = "_FTPFS_COMPLETE"
# mount(8) runs us with nothing of the user's in the environment, perhaps not even this.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# mount(8)'s exit codes.
_MOUNT_USAGE, _MOUNT_FAILURE = 1, 32


def mount_helper(arguments: Sequence[str] | None = None) -> int:
    """`mount.ftpfs SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]`: what mount(8) runs; its exit codes."""
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
    if ("-f", "") in found:  # mount --fake: everything but the mounting
        return 0
    words = ",".join(value for name, value in found if name == "-o").split(",")
    command = ["mount"]
    for word in words:
        if word.startswith("config="):
            command += ["--config", word.removeprefix("config=")]
    kept = [word for word in words if not word.startswith("config=")]
    code = main([*command, "-o", ",".join(kept), "--", *places])
    return {1: _MOUNT_FAILURE, 2: _MOUNT_USAGE}.get(code, code)


class _Misuse(click.UsageError):
    """Wrong usage, in our own words: they repeat no argument."""


def _failure(message: str) -> int:
    """Report a failure in one line; in full where the log level is debug."""
    if _debugging():
        import traceback

        click.echo(printable_lines(traceback.format_exc().rstrip()), err=True)
    click.echo(f"ftpfs: {printable(message)}", err=True)
    return 1


def _debugging() -> bool:
    """Whether the user asked for everything there is to know."""
    logging = sys.modules.get("logging")
    return bool(logging and logging.getLogger().isEnabledFor(logging.DEBUG))


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    help_command = f"{context.command_path if context else 'ftpfs'} --help"
    message = error.format_message()
    if not isinstance(error, _Misuse):
        # click repeats the argument it did not like: it may be an address with a password.
        message = " ".join(re.sub(r":(?!//).*@", ":***@", message, flags=re.DOTALL).split())
    click.echo(f"ftpfs: {printable(message)} (see: {help_command})", err=True)
    return error.exit_code


# Arguments.


_CONFIG_FILE = "ftpfs.config_file"  # in click's meta: what --config said, before SOURCE is read


class _SourceType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """An address, or the name of a server that the file of named servers knows."""

    name = "source"

    def convert(
        self,
        value: str,
        param: click.Parameter | None,  # noqa: ARG002 (click's signature)
        ctx: click.Context | None,
    ) -> Source:
        from ftpfs import named

        try:
            return named.resolve(value, ctx.meta.get(_CONFIG_FILE) if ctx else None)
        except InvalidArgument as error:
            raise _Misuse(str(error)) from None

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 (click's signature)
        incomplete: str,
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ftpfs import named

        known = named.names(ctx.meta.get(_CONFIG_FILE))
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


_source = _SourceType()


def _takes_config(command: _Command) -> _Command:
    """The flag --config, for whoever takes a SOURCE."""

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


def _reader(option: Option) -> Callable[[str], object]:
    def value(text: str) -> object:
        try:
            return option.read(text)
        except InvalidArgument as error:
            raise _Misuse(str(error)) from None

    return value


def _offering(
    metavar: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers for the value of an option: one of its words, or a file."""

    def offer(_context: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if metavar == "PATH":
            return [CompletionItem(begun, type="file")]
        words = metavar.split("|") if "|" in metavar else []
        return [CompletionItem(word) for word in words if word.startswith(begun)]

    return offer


def _flags(*options: Option) -> Callable[[_Command], _Command]:
    """The flags for these options; each arrives in the command's `**flags` by its name."""

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


def _given(flags: dict[str, Any]) -> dict[str, object]:
    """The values of the flags that were given, by option name."""
    values: dict[str, object] = {}
    for name, value in flags.items():
        if OPTIONS[name].kind is not None and value is not None:
            values[name] = value
        elif OPTIONS[name].kind is None and value:
            values[name] = OPTIONS[name].value
    return values


def _given_twice(strings: Iterable[str], flags: dict[str, Any]) -> dict[str, object]:
    """The values given as words for -o and as flags; flags win."""
    values: dict[str, object] = {}
    try:
        for string in strings:
            values.update(config.parse_options(string))
    except InvalidArgument as error:
        raise _Misuse(str(error)) from None
    return {**values, **_given(flags)}


def _build(source: Source, values: dict[str, object]) -> config.Config:
    home = os.path.expanduser("~")  # asks the user database where HOME is missing
    around = credentials.Surroundings(
        environ=_environment(),
        home=Path(home) if os.path.isabs(home) else None,
        prompt=_ask if sys.stdin and sys.stdin.isatty() else None,
        warn=_warn,
    )
    secrecy.protect_memory()
    return config.build(source, values, around)


def _environment() -> dict[str, str]:
    """The environment, from which passwords are taken: no program started from here gets them."""
    environ = dict(os.environ)
    os.environ.pop(credentials.PASSWORD_VARIABLE, None)
    os.environ.pop(credentials.PROXY_PASSWORD_VARIABLE, None)
    return environ


def _warn(line: str) -> None:
    click.echo(f"ftpfs: warning: {printable(line)}", err=True)


def _ask(question: str) -> str:
    from getpass import getpass

    return getpass(question)


class _Place(click.Path):
    """Completed by the shell, but not looked at here: what is wrong with it is for the command to
    say, and a mountpoint whose server is away may take its time to answer."""

    def convert(self, value: Any, *_: object) -> Any:
        return value


_FOLDER = _Place(file_okay=False)
_CONNECTION = [o for o in OPTIONS.values() if o.part in (config.Server, config.Network)]
# Without a daemon the log goes to the terminal, where only what matters is welcome.
_LOG_LEVEL = dataclasses.replace(OPTIONS["log_level"], default="warning")


def _log_to_terminal(values: dict[str, object], default: str = _LOG_LEVEL.default) -> None:
    from ftpfs import logs

    logs.to_terminal(str(values.get("log_level", default)))


# The commands.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="ftpfs %(version)s")
def cli() -> None:
    """FTP and FTPS servers as local folders.

    SOURCE and URL are written host, host:port, host/path or
    ftp://user@host:port/path; ftpes:// asks for explicit TLS, ftps:// for
    implicit TLS. A path is relative to the login folder; ftp://host//path is
    absolute.
    """


@cli.command()
@click.argument("source", type=_source)
@click.argument("mountpoint", type=_FOLDER)
@_takes_config
@click.option("-o", "strings", multiple=True, metavar="A,B=C", help="Options by name, as in fstab.")
@_flags(*OPTIONS.values())
def mount(source: Source, mountpoint: str, strings: tuple[str, ...], **flags: Any) -> int:
    """Mount the server SOURCE at the folder MOUNTPOINT.

    Every option is also a word for -o, with underscores: -o ro,list_ttl=5.
    """
    built = _build(source, _given_twice(strings, flags))
    from ftpfs import mount as mounting

    return mounting.run(built, mountpoint)


@cli.command()
@click.argument("mountpoint", type=_FOLDER)
@click.option("--now", is_flag=True, help="Leave what is not uploaded to the next mount.")
@click.option("-l", "--lazy", is_flag=True, help="Also when it is in use; do not wait.")
def umount(mountpoint: str, now: bool, lazy: bool) -> int:
    """Unmount MOUNTPOINT, and wait until the server has what was written.

    Ctrl-C leaves that to the background. Exits with 1 when something is left.
    """
    from ftpfs import manage, mountpoints, show

    if lazy:
        mountpoints.unmount(mountpoints.absolute(mountpoint), lazy=True)
        return 0
    return _complaints(manage.umount(mountpoint, show.upload_bar, now=now))


@cli.command()
@click.argument("mountpoint", type=_FOLDER, required=False)
@click.option("--json", is_flag=True, help="As JSON.")
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
def status(mountpoint: str | None, json: bool, watch: bool) -> int:
    """Show what the mount at MOUNTPOINT does, or all of yours.

    Exits with 1 when a daemon does not answer, or an upload failed for good.
    """
    if json and watch:
        raise _Misuse("either --json or --watch")
    from ftpfs import manage, show

    if watch:
        show.watch(lambda: manage.mounts(mountpoint))
        return 0
    found = manage.mounts(mountpoint)
    if json:
        click.echo(show.as_json(found))
    else:
        show.status(found, sys.stdout)
    return 0 if all(mount.is_well for mount in found) else 1


@cli.command()
@click.argument("path", type=_Place(), required=False)
def sync(path: str | None) -> int:
    """Wait until the servers have everything, or what is below PATH.

    What had failed, or waits for a server that was away, is tried again at once. Exits with 1
    when something could not be uploaded: a line for each.
    """
    from ftpfs import manage, show

    with show.upload_bar() as progress:
        failures = manage.sync(path, progress)
    return _complaints(failures)


@cli.command()
@click.argument("path", type=_Place(), required=False)
def forget(path: str | None) -> None:
    """Look again at PATH and below, or at everything: others changed something.

    What is cached of it is not believed any more.
    """
    from ftpfs import manage

    manage.forget(path)


@cli.command()
@click.argument("source", type=_source)
@_takes_config
@click.option("-o", "strings", multiple=True, metavar="A,B=C", help="Options by name, as in fstab.")
@_flags(*OPTIONS.values())
def recover(source: Source, strings: tuple[str, ...], **flags: Any) -> int:
    """Upload what earlier mounts of SOURCE left behind, without mounting.

    A crash, a power cut or SIGTERM leave what was not uploaded yet to the next
    mount, or to this. Exits with 1 when something is still left: a line for each.
    """
    values = _given_twice(strings, flags)
    _log_to_terminal(values)
    built = _build(source, values)
    from ftpfs import manage, show

    with show.upload_bar() as progress:
        lines = manage.recover(built, progress)
    return _complaints(lines)


def _complaints(lines: Sequence[str]) -> int:
    for line in lines:
        click.echo(f"ftpfs: {printable(line)}", err=True)
    return 1 if lines else 0


def _transfer_command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command over one connection, with the flags that a connection takes."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return cli.command(name)(_takes_config(_flags(*_CONNECTION, _LOG_LEVEL)(function)))

    return decorate


@contextlib.contextmanager
def _connected(url: Source, flags: dict[str, Any]) -> Iterator[tuple[Remote, str]]:
    """The server of `url`, and the path on it."""
    from ftpfs import transfer
    from ftpfs.ftp.remote import Remote

    values = _given(flags)
    _log_to_terminal(values)
    signal.signal(signal.SIGTERM, _terminate)
    root, path = transfer.locate(url.path)
    built = _build(dataclasses.replace(url, path=root), values)
    remote = Remote(built.server, built.network)
    try:
        remote.connect()
        yield remote, path
    finally:
        remote.close()


def _terminate(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that half-written files are taken away."""
    raise SystemExit(128 + number)


@_transfer_command("ls")
@click.argument("url", type=_source)
@click.option("-l", "long", is_flag=True, help="Show mode, size and time (UTC).")
@click.option("-a", "dotfiles", is_flag=True, help="Show names that begin with a dot.")
def ls(url: Source, long: bool, dotfiles: bool, **flags: Any) -> None:
    """List the folder (or file) at URL."""
    from ftpfs import transfer

    with _connected(url, flags) as (remote, path):
        transfer.list_folder(remote, path, sys.stdout, long=long, dotfiles=dotfiles)


_text = click.option("--text", is_flag=True, help="Transfer as text and convert line ends.")


@_transfer_command("cat")
@click.argument("url", type=_source)
@_text
def cat(url: Source, text: bool, **flags: Any) -> None:
    """Print the file at URL."""
    from ftpfs import transfer

    with _connected(url, flags) as (remote, path):
        transfer.cat(remote, path, sys.stdout.buffer, text=text)


@_transfer_command("get")
@click.argument("url", type=_source)
@click.argument("local", default=".")
@_text
def get(url: Source, local: str, text: bool, **flags: Any) -> None:
    """Copy the file at URL to LOCAL (a file, a folder, or - for stdout)."""
    from ftpfs import transfer

    with _connected(url, flags) as (remote, path):
        if local == "-":
            transfer.cat(remote, path, sys.stdout.buffer, text=text)
        else:
            transfer.get(remote, path, local, text=text)


@_transfer_command("put")
@click.argument("local")
@click.argument("url", type=_source)
@_text
def put(local: str, url: Source, text: bool, **flags: Any) -> None:
    """Copy LOCAL (a file, or - for stdin) to URL, or into it where it ends with /."""
    from ftpfs import transfer

    into = url.path.endswith("/") or not url.path
    if into and local == "-":
        raise _Misuse("what comes from stdin needs a file name in the URL")
    with (
        contextlib.nullcontext(sys.stdin.buffer) if local == "-" else open(local, "rb") as stream,
        _connected(url, flags) as (remote, path),
    ):
        target = posixpath.join(path, os.path.basename(local)) if into else path
        transfer.put(remote, stream, target, text=text)


@_transfer_command("cmd")
@click.argument("url", type=_source)
@click.argument("command")
@click.option("-v", "--verbose", is_flag=True, help="Show the server's welcome message first.")
def cmd(url: Source, command: str, verbose: bool, **flags: Any) -> int:
    """Send one raw FTP COMMAND, such as PWD or 'SITE HELP', and print the reply.

    In the folder that login lands in, whatever the path of URL. Exits with 1
    when the server refuses it.
    """
    from ftpfs import transfer

    with _connected(url, flags) as (remote, _path):
        return 0 if transfer.command(remote, command, sys.stdout, welcome=verbose) else 1


@_transfer_command("doctor")
@click.argument("source", type=_source)
@click.option("--write", is_flag=True, help="Try uploads, too, with a scratch file.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def doctor(source: Source, write: bool, as_json: bool, **flags: Any) -> None:
    """Tell what the server SOURCE can do, how fast it is, and what will not work.

    Looks at the folder of SOURCE: one with a file in it shows more.
    """
    import json

    from ftpfs import doctor as examination

    values = _given(flags)
    _log_to_terminal(values, default="error")
    built = _build(source, values)
    progress = (lambda _line: None) if as_json else lambda line: click.echo(f"{line} ...", err=True)
    report = examination.examine(built, write=write, progress=progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        click.echo(examination.text(report))


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--write", is_flag=True, help="Let clients change the folder.")
@click.option("--user", metavar="NAME", help="Demand this login; else anonymous may in.")
@_flags(OPTIONS["password_file"])
@click.option("--tls-cert", metavar="PATH", help="Demand explicit TLS, with this certificate.")
@click.option("--tls-key", metavar="PATH", help="Its private key, if not in the same file.")
@click.option("-v", "--verbose", is_flag=True, help="Log logins and transfers.")
def serve(password_file: Path | None, verbose: bool, **settings: Any) -> None:
    """Serve FOLDER by FTP until interrupted: read-only, on this machine only, unless asked."""
    from ftpfs import serve as serving

    _log_to_terminal({}, default="info" if verbose else "warning")
    password = None
    if user := settings["user"]:
        password = credentials.password_given(password_file, _environment(), _warn)
        if not password:
            raise InvalidArgument(
                f"no password for {user}: use --password-file or ${credentials.PASSWORD_VARIABLE}"
            )
    serving.run(serving.Service(**settings, password=password), click.echo)


@cli.command("install-service")
@click.argument("source")
@click.argument("mountpoint", type=_FOLDER)
@_takes_config
@click.option("-o", "strings", multiple=True, metavar="A,B=C", help="Options, as for mount.")
@_flags(OPTIONS["password_file"])
@click.option("--user", is_flag=True, help="A service of this user, for systemctl --user.")
@click.option("--automount", is_flag=True, help="Mount when somebody looks into MOUNTPOINT.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; -: stdout.")
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

    The password, if one is needed, comes from --password-file, which systemd
    reads and hands over as a credential.
    """
    from ftpfs import systemd

    options = ",".join(strings)
    file = context.meta.get(_CONFIG_FILE)
    try:
        if _source.convert(source, None, context).password:
            raise _Misuse("a unit file is no place for a password: use --password-file")
        grace = config.parse_options(options).get("grace")
    except InvalidArgument as error:
        raise _Misuse(str(error)) from None
    if automount and user:
        raise _Misuse("--automount is the system's: mount(8) makes it, as root")
    service = systemd.Service(
        source,
        os.path.abspath(mountpoint),
        options,
        file and file.absolute(),
        password_file,
        user,
        grace if isinstance(grace, float) else None,
    )
    units = (
        systemd.automount_units(service)
        if automount
        else {service.name: systemd.service_unit(service)}
    )
    if str(folder) == "-":
        for name, text in units.items():
            click.echo(f"# {name}\n{text}")
        return
    for path in systemd.write_units(folder or systemd.unit_folder(user=user), units):
        click.echo(path)
    which = "systemctl --user" if user else "systemctl"
    click.echo(f"Now: {which} daemon-reload && {which} enable --now '{list(units)[-1]}'")


@cli.command("install-helper")
@click.option("--folder", type=click.Path(path_type=Path), help="Instead of /sbin.")
def install_helper(folder: Path | None) -> None:
    """Let mount(8), and so fstab, mount -t ftpfs: link its helpers in /sbin to this program."""
    from ftpfs import systemd

    for link in systemd.install_helpers(folder or systemd.SBIN):
        click.echo(link)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    bash: source <(ftpfs completion bash), in ~/.bashrc; zsh: the same, in
    ~/.zshrc after compinit; fish: ftpfs completion fish > ~/.config/fish/completions/ftpfs.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(cli, {}, "ftpfs", _COMPLETE).source())


@cli.command()
def demo() -> None:
    """Show what a mount does, on a sample server of its own."""
    from ftpfs import demo as demonstration

    demonstration.run()
