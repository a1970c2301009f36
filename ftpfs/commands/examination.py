"""The work of `ftpfs doctor`: what a server can do, how fast it is, what will not work and why.

Owns the questions, and the words of the answers. It uses the same FTP code as a mount, so a mount
finds the same. It changes nothing on the server without `write`.

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import secrets
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.daemon import places, stranger
from ftpfs.daemon.mount import passthrough_obstacle
from ftpfs.errors import printable, printable_lines
from ftpfs.ftp.clock import UTC
from ftpfs.ftp.connections.neighbours import Neighbours
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Restart, SetTime
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import HIDDEN_PREFIX
from ftpfs.settings.config import Config, DataMode, Tls

_TIMED_NOOPS = 5  # the median of them is the round trip
_PIPELINED_NOOPS = 50  # sent in one write
# A throughput is measured over this many bytes or seconds, whichever ends first.
_SAMPLE_BYTES = 8 << 20
_SAMPLE_SECONDS = 3.0
_SCRATCH_BYTES = 1 << 20  # the file that `write` uploads
_READ_BYTES = 256 << 10  # one read; fewer bytes in all give no speed
_NO_DIGEST = "no command tells them"
_NO_DIGEST_MEANS = "verify=content compares only sizes"


@dataclass(frozen=True)
class Finding:
    """One ability of the server. `works` None: unknown."""

    name: str
    works: bool | None
    how: str  # by which command, how many; or why not
    means: str = ""  # what follows for a mount, if that is not obvious


@dataclass(frozen=True)
class Report:
    """All results. Times in seconds, speeds in bytes a second; None: not measured."""

    source: str
    welcome: str
    system: str
    tls: str | None
    features: tuple[str, ...]
    login: float
    round_trip: float
    download: float | None
    upload: float | None
    findings: tuple[Finding, ...]
    learned: dict[str, str]  # in the words of --quirk
    quirks: dict[str, str]  # what the user set instead


def examine(config: Config, *, write: bool, progress: Callable[[str], None]) -> Report:
    """Connect and try everything. `write`: also upload a scratch file, and delete it.

    Calls `progress` with each step. Raises FtpfsError if the server cannot be reached or refuses
    the login; a later failure is a finding.
    """
    neighbours = Neighbours(places.neighbours_folder(config.server), "ftpfs doctor")
    remote = Remote(config.server, config.network, neighbours=neighbours)
    try:
        progress("logging in")
        began = time.monotonic()
        remote.connect()
        login = time.monotonic() - began
        return _Examination(config, remote, progress).report(login, write=write)
    finally:
        remote.close()


class _Examination:
    def __init__(self, config: Config, remote: Remote, progress: Callable[[str], None]) -> None:
        self._config = config
        self._remote = remote
        self._profile = remote.profile
        self._progress = progress
        self._found: list[Finding] = []

    def report(self, login: float, *, write: bool) -> Report:
        self._progress("timing round trips")
        round_trip = self._round_trip()
        self._pipelining(round_trip)
        self._progress("listing the folder")
        entries = self._listing()
        self._passive()
        download = self._download(entries)
        upload = None
        if write:
            self._progress("uploading a scratch file")
            upload = self._write()
        else:
            self._note("uploads", None, "not tried (--write tries them, with a scratch file)")
        self._promised(tried=write)
        self._progress("counting connections")
        tls = self._connections()
        self._passthrough()
        self._stranger()
        learned, quirks = self._profile.in_quirks()
        return Report(
            source=str(self._config.server),
            welcome=printable_lines(self._profile.identity.welcome),
            system=printable(self._profile.identity.system),
            tls=tls,
            features=tuple(sorted(map(printable, self._profile.identity.features))),
            login=login,
            round_trip=round_trip,
            download=download,
            upload=upload,
            findings=tuple(self._found),
            learned=learned,
            quirks=quirks,
        )

    def _note(self, name: str, works: bool | None, how: str, means: str = "") -> None:
        self._found.append(Finding(name, works, printable(how), means))

    @contextlib.contextmanager
    def _trying(self, name: str, means: str = "") -> Iterator[None]:
        """Record an error inside the block as a finding."""
        try:
            yield
        except errors.FtpfsError as error:
            self._note(name, False, str(error), means)

    def _round_trip(self) -> float:
        times = []
        for _ in range(_TIMED_NOOPS):
            began = time.monotonic()
            self._remote.command("NOOP")
            times.append(time.monotonic() - began)
        return statistics.median(times)

    def _pipelining(self, round_trip: float) -> None:
        means = "attributes of many names cost one round trip"
        with self._trying("pipelining", "try --quirk pipelining=no"):
            began = time.monotonic()
            replies = self._remote.commands(["NOOP"] * _PIPELINED_NOOPS)
            took = time.monotonic() - began
            if not all(reply.ok for reply in replies):
                raise errors.ProtocolError("not every command was answered")
            gain = _PIPELINED_NOOPS * round_trip / took
            self._note(
                "pipelining", True, f"{_PIPELINED_NOOPS} commands, {gain:.0f} times as fast", means
            )

    def _listing(self) -> list[Entry]:
        entries: list[Entry] = []
        with self._trying("listings", "nothing can be shown"):
            began = time.monotonic()
            entries = self._remote.list("/")
            took = (time.monotonic() - began) * 1000
            known = self._profile.listings
            by = "MLSD" if known.mlsd else "LIST -a" if known.list_all else "LIST"
            self._note("listings", True, f"{by}: {len(entries)} names in {took:.0f} ms")
        files = [entry for entry in entries if entry.kind is Kind.FILE]
        if files:
            exact = all(entry.exact for entry in files)
            how = "MLSD" if self._profile.listings.mlsd else "MDTM, pipelined"
            self._note(
                "exact times",
                exact,
                how if exact else "LIST has minutes at best",
                "" if exact else "changes within a minute that keep the size are not seen",
            )
        else:
            self._note("exact times", None, "no file in this folder to look at")
        return entries

    def _passive(self) -> None:
        if self._config.server.data_mode is DataMode.ACTIVE:
            self._note("data connections", True, "active: the server connects to us")
        elif way := self._profile.wire.passive:
            self._note("data connections", True, way.value)
            ahead = self._profile.wire.arming
            how = "made ahead, so that a transfer costs one round trip"
            self._note("armed connections", ahead, how if ahead else "made ahead, they fail here")
        else:
            self._note("data connections", False, "none could be made", "try --active")

    def _download(self, entries: list[Entry]) -> float | None:
        """Measure bytes a second with one file of the folder. Also try to read from its middle."""
        files = [e for e in entries if e.kind is Kind.FILE and e.size]
        if not files:
            self._note("reading from the middle", None, "no file in this folder to read")
            return None
        entry = min(files, key=lambda e: abs((e.size or 0) - _SAMPLE_BYTES))
        path = "/" + entry.name
        self._progress(f"reading {printable(entry.name)}")
        speed = None
        with self._trying("reading"):
            speed = self._read_for_a_while(path)
        with self._trying(
            "reading from the middle", "a read inside a file fetches all that lies before"
        ):
            middle = (entry.size or 0) // 2
            with self._remote.open_read(path, middle) as download:
                download.read(1)
            self._note("reading from the middle", True, "REST")
        return speed

    def _read_for_a_while(self, path: str) -> float | None:
        """Bytes a second; None if the file is so small that only round trips were measured."""
        began = time.monotonic()
        total = 0
        buffer = memoryview(bytearray(_READ_BYTES))
        with self._remote.open_read(path) as download:
            while total < _SAMPLE_BYTES and time.monotonic() - began < _SAMPLE_SECONDS:
                count = download.readinto(buffer)
                if not count:
                    break
                total += count
            took = time.monotonic() - began
        return total / took if total >= _READ_BYTES else None

    def _write(self) -> float | None:
        name = f"/{HIDDEN_PREFIX}doctor-{secrets.token_hex(4)}"
        speed = None
        try:
            with self._trying("uploads", "mount it read-only: -o ro"):
                speed = self._upload(name)
                self._note("uploads", True, "STOR, the size agrees")
                self._clock()
                self._change(name)
        finally:
            for each in (name, name + "-2"):
                with contextlib.suppress(errors.FtpfsError):
                    self._remote.remove(each)
        return speed

    def _upload(self, name: str) -> float:
        with tempfile.TemporaryFile() as file:
            file.truncate(_SCRATCH_BYTES)
            content = FileContent(file.fileno(), _SCRATCH_BYTES, None, None)
            began = time.monotonic()
            self._remote.store(name, content, base=None, check=False)
            return _SCRATCH_BYTES / (time.monotonic() - began)

    def _change(self, name: str) -> None:
        with self._trying("partial uploads"):
            restart = self._remote.restart_of_uploads()
            self._note(
                "partial uploads",
                restart is not Restart.NOTHING,
                f"REST and STOR: {restart.value}",
                _RESTART_MEANS[restart],
            )
        with self._trying("replacing by renaming", "a file is deleted before it is replaced"):
            self._upload(name + "-2")
            self._remote.rename(name + "-2", name, replace=True)
            self._note("replacing by renaming", True, "RNFR, RNTO: others see the old or the new")
        self._digest(name)
        with self._trying("setting times", "rsync needs --size-only or --checksum"):
            self._remote.set_mtime(name, 1_000_000_000)
            way = (self._profile.setting.set_time or SetTime.NONE).name.replace("_", " ")
            self._note("setting times", True, way)
        with self._trying("setting modes", "chmod succeeds without effect (-o attr_errors=report)"):
            self._remote.chmod(name, 0o600)
            by_mff = self._profile.identity.mff_mode
            self._note("setting modes", True, "MFF" if by_mff else "SITE CHMOD")

    def _clock(self) -> None:
        """Record what the uploaded file showed of the server's clock."""
        times, said = self._profile.times.zone, "times" in self._profile.in_quirks()[1]
        if times in (None, UTC):
            self._note(
                "times in UTC", True, "as said" if said else "a file written now is shown so"
            )
        else:
            self._note(
                "times in UTC",
                False,
                f"told in {times}" + (", as said" if said else ""),
                "" if said else "right from a mount's first upload on; --quirk times=ZONE: at once",
            )

    def _digest(self, name: str) -> None:
        with self._trying("checksums"):
            told = self._remote.digest_of(name, _SCRATCH_BYTES)
            command = self._profile.contents.digest_command()
            how = f"{command}: {told.algorithm}" if told else _NO_DIGEST
            self._note("checksums", told is not None, how, "" if told else _NO_DIGEST_MEANS)

    def _promised(self, *, tried: bool) -> None:
        """Record what the server promises, for what was not tried."""
        if not tried:
            features = self._profile.identity.features
            command = self._profile.contents.digest_command() if features else ""
            self._note("checksums", True if command else None, command or "not tried")
            way = "MFMT" if "MFMT" in features else ""
            self._note("setting times", True if way else None, way or "not tried")
        space = None
        with contextlib.suppress(errors.FtpfsError):
            space = self._remote.space()
        self._note(
            "free space",
            space is not None,
            f"AVBL: {space.free} bytes" if space else "the server does not tell",
            "" if space else "df shows a large figure",
        )
        utf8 = self._profile.identity.utf8
        self._note(
            "names in UTF-8",
            utf8 or None,
            "FEAT says so" if utf8 else "not promised",
            "" if utf8 else "--encoding, where names look garbled",
        )

    def _connections(self) -> str | None:
        """Open as many sessions as a mount would. Returns their TLS version."""
        wanted = self._config.network.max_connections
        sessions: list[Session] = []
        refusal = ""
        try:
            # Idle sessions of the pool count at the server, too.
            for _ in range(wanted - self._remote.status().idle):
                sessions.append(self._session())
        except errors.FtpfsError as error:
            refusal = f"; then: {error}"
        finally:
            version = next((session.tls_version() for session in sessions), None)
            count = len(sessions) + self._remote.status().idle
            for session in sessions:
                session.close()
        self._note(
            "connections at once",
            not refusal,
            f"{count} of {wanted}{refusal}",
            "ftpfs goes on with fewer" if refusal else "",
        )
        tls = self._config.server.tls
        if tls is Tls.OFF or (tls is Tls.OPTIONAL and version is None):
            self._note(
                "protected by TLS",
                False,
                "password and files travel in clear",
                "ftpes:// if the server offers it: "
                + ("it does" if "AUTH" in self._profile.identity.features else "it does not say"),
            )
        else:
            self._note("protected by TLS", True, version or "yes")
        return version

    def _passthrough(self) -> None:
        with self._trying("passthrough"):
            why = passthrough_obstacle(self._config)
            told = "the kernel uses files on this disk itself"
            if not why and self._config.mount.ro:
                told += ", but no stored contents on a read-only mount"
            self._note("passthrough", not why, why or told)

    def _stranger(self) -> None:
        if other := stranger.warning():
            self._note("installed alone", False, other)

    def _session(self) -> Session:
        return Session(self._config.server, self._config.network, self._profile)


_RESTART_MEANS = {
    Restart.ALL: "a change inside a big file sends only that",
    Restart.HEAD: "a change that reaches to a file's end sends only that; one inside, all of it",
    Restart.NOTHING: "a change inside a file sends all of it",
}


def speed(value: float | None) -> str:
    """Bytes a second for people."""
    return "not measured" if value is None else f"{value / 1e6:.1f} MB/s"


def text(report: Report) -> str:
    """The report for people."""
    lines = [
        report.source,
        f"  server       {report.welcome.splitlines()[0] if report.welcome else '(no welcome)'}",
        f"  system       {report.system or '(not told)'}",
        f"  login        {report.login * 1000:.0f} ms",
        f"  round trip   {report.round_trip * 1000:.1f} ms",
        f"  download     {speed(report.download)}",
        f"  upload       {speed(report.upload)}",
        "",
    ]
    for finding in report.findings:
        mark = {True: "yes", False: "NO", None: "?"}[finding.works]
        means = f" ({finding.means})" if finding.means else ""
        lines.append(f"  {mark:3}  {finding.name}: {finding.how}{means}")
    heads = (
        ("learned; --quirk NAME=VALUE overrules it", report.learned),
        ("as you say", report.quirks),
    )
    for head, words in heads:
        if words:
            lines += ["", f"  {head}:"]
            lines += textwrap.wrap(
                ", ".join(f"{name}={word}" for name, word in words.items()),
                width=96,
                initial_indent="    ",
                subsequent_indent="    ",
            )
    return "\n".join(lines)
