"""The command line: `python -m scripts.benchmark`, as root; scripts/bench prepares and calls it."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scripts.benchmark import chart, peers, report, servers, tools
from scripts.benchmark.commands import COMMANDS
from scripts.benchmark.data import MIB, Buffer, Store
from scripts.benchmark.parameters import (
    QUICK_BUDGET,
    BadParameter,
    Link,
    Parameters,
    choose_for_commands,
    choose_sizes,
    parse_link,
)
from scripts.benchmark.runner import run_all
from scripts.benchmark.trial import Bench
from scripts.benchmark.wire import Tap
from scripts.benchmark.workloads import CASES, Case
from tests.support.servers import KINDS

REPO = Path(__file__).resolve().parents[2]

_ROUNDS = 3
_TIMEOUT, _QUICK_TIMEOUT = 600.0, 10.0  # seconds for one case
_TIMEOUT_RTTS = 400  # the quick timeout is at least this many round trips


def main(arguments: Sequence[str] | None = None) -> int:
    """One run. Returns 0 with tables, including failed cases; 2 for invalid arguments."""
    options = _parser().parse_args(arguments)
    try:
        if os.geteuid() != 0:
            raise BadParameter("this needs root: page caches are dropped, servers started")
        if options.into and not options.into.exists():
            raise BadParameter(f"{options.into}: no such file")
        run = _run(_parameters(options))
    except BadParameter as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; everything is unmounted and ended", file=sys.stderr)
        return 128 + signal.SIGINT
    _publish(run, options)
    return 0


def _terminate(number: int, _frame: object) -> NoReturn:
    """Exit by an exception, so that everything is taken down."""
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="The same work through ftpfs and its peers, on a real server.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes, one round, within three minutes")
    add("--link", metavar="RTT[,MBIT]", help="a long link, in ms and Mbit/s (default: loopback)")
    add("--rounds", type=int, metavar="N", help=f"default: {_ROUNDS}, or 1 with --quick")
    add("--only", metavar="CASE,...", help=", ".join(case.name for case in CASES))
    add("--commands", action="store_true", help="get, put and mirror, beside lftp, rclone and curl")
    add("--big", type=int, metavar="MIB", help="with --commands: size of the big file (1024)")
    add("--peers", metavar="PEER,...", help=", ".join(peers.names()) + " (default: all there are)")
    add("--server", metavar="NAME", help=", ".join(KINDS) + " (default: vsftpd)")
    add("--timeout", type=float, metavar="SECONDS", help="for one case by one peer")
    add("--repeat", metavar="FILE", type=Path, help="with the parameters of that run's JSON")
    add("--out", metavar="PREFIX", type=Path, help="write PREFIX.json, .md and .svg there")
    add("--into", metavar="FILE", type=Path, help="replace the section of this run in FILE, too")
    return parser


def _parameters(options: argparse.Namespace) -> Parameters:
    chosen = (options.quick, options.link, options.rounds, options.only, options.peers)
    if options.repeat:
        if any((*chosen, options.commands, options.big, options.server, options.timeout)):
            raise BadParameter("--repeat takes all parameters from the file: give no others")
        return _repeated(options.repeat)
    link = parse_link(options.link or "loopback")
    rounds = options.rounds if options.rounds is not None else (1 if options.quick else _ROUNDS)
    if rounds < 1:
        raise BadParameter("--rounds begins at 1")
    return Parameters(
        link=link,
        server=options.server or "vsftpd",
        peers=tuple(options.peers.split(",") if options.peers else _present(options.commands)),
        only=tuple(
            options.only.split(",")
            if options.only
            else (case.name for case in _all_cases(options.commands))
        ),
        rounds=rounds,
        timeout=options.timeout or (_quick_timeout(link) if options.quick else _TIMEOUT),
        # A user who asks for more rounds has the time for them.
        budget=QUICK_BUDGET if options.quick and rounds == 1 else None,
        sizes=choose_for_commands(link, options.quick, options.big)
        if options.commands
        else choose_sizes(link, options.quick),
        quick=options.quick,
        commands=options.commands,
    )


def _quick_timeout(link: Link) -> float:
    return max(_QUICK_TIMEOUT, link.rtt / 1000 * _TIMEOUT_RTTS)


def _repeated(path: Path) -> Parameters:
    try:
        return report.Run.from_json(path.read_text()).parameters
    except OSError as error:
        raise BadParameter(f"{path}: {error.strerror}") from error


def _all_cases(commands: bool) -> Sequence[Case]:
    return COMMANDS if commands else CASES


def _present(commands: bool) -> list[str]:
    return tools.names() if commands else peers.present()


def _cases(names: Sequence[str], commands: bool) -> list[Case]:
    known = {case.name: case for case in _all_cases(commands)}
    for name in names:
        if name not in known:
            raise BadParameter(f"no such case: {name} (there are {', '.join(known)})")
    return [known[name] for name in dict.fromkeys(names)]


def _run(parameters: Parameters) -> report.Run:
    cases = _cases(parameters.only, parameters.commands)
    find = tools.find if parameters.commands else peers.find
    chosen = [find(name) for name in parameters.peers]
    machine = report.machine()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        # Four times the big file (the master, the server's, the buffer, a written one), and small
        # files.
        memory = servers.memory_folder(parameters.sizes.big * MIB * 4 + (256 << 20))
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ftpfs-bench-", dir=memory))
        )
        folder.chmod(0o755)  # the server runs as another user
        server = stack.enter_context(servers.running(parameters.server, parameters.link, folder))
        master = folder / "master"
        master.mkdir()
        buffer = Buffer(parameters.sizes.big * MIB)
        stack.callback(buffer.close)
        tap = stack.enter_context(Tap(server.device, server.port))
        store = Store(master, parameters.sizes, parameters.seed)
        bench = Bench(parameters, server, store, buffer, tap)
        results = run_all(bench, cases, chosen, _say)
    _say(f"took {time.monotonic() - started:.0f} s")
    versions = {peer.name: peer.version() for peer in chosen}
    return report.Run(parameters, machine, versions, tuple(results))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _name(run: report.Run) -> str:
    """The name of the run: `loopback-quick`, `100-100`."""
    link = run.parameters.link.text.replace(",", "-")
    if run.parameters.commands:
        link = f"commands-{link}"
    return f"{link}-quick" if run.parameters.quick else link


def _command(options: argparse.Namespace) -> str:
    """The command line without the options that say where the report goes."""
    words = ["scripts/bench"]
    for name, value in vars(options).items():
        if name not in ("out", "into") and value not in (None, False):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def _publish(run: report.Run, options: argparse.Namespace) -> None:
    text = report.document(run, _command(options))
    prefix: Path = options.out or REPO / ".cache" / "bench" / _name(run)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(prefix.name + ".json").write_text(run.to_json())
    prefix.with_name(prefix.name + ".md").write_text(text + "\n")
    prefix.with_name(prefix.name + ".svg").write_text(chart.draw(run))
    if options.into:
        page = options.into.read_text()
        options.into.write_text(report.replace_section(page, _name(run), text))
        options.into.with_name(f"bench-{_name(run)}.svg").write_text(chart.draw(run))
    print(text)
    _say(f"\nWritten: {prefix}.json, .md and .svg")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())
