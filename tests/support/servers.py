"""The four real FTP servers, each as a daemon of its own on a free loopback port.

Owns: their configuration, their processes, and the list of what each cannot do (`CANNOT`). Knows
nothing of ftpfs. `scripts/lib/servers.sh` installs the programs.

    with servers.start("vsftpd", root, workdir) as server:
        ftp = ftplib.FTP(); ftp.connect(server.host, server.port)

The daemons serve as the system user `ftpfstest`, which setup makes; that needs root. Only pyftpdlib
does not need it (and then serves as the user who runs the tests).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.stoppable import Stoppable

Kind = Literal["vsftpd", "proftpd", "pure-ftpd", "pyftpdlib"]
KINDS: tuple[Kind, ...] = ("vsftpd", "proftpd", "pure-ftpd", "pyftpdlib")
Tls = Literal["explicit", "implicit"]

USER = "ftpfstest"
# No secret: the account has no shell, is expired, and exists for daemons on loopback.
PASSWORD = "ftpfs-Test.1"
# SHA-512 with the fewest rounds possible: setup's default would cost 45 ms at every login. The same
# hash is in scripts/lib/servers.sh. (Python lost its own `crypt` in 3.13.)
HASH = (
    "$6$rounds=1000$ftpfstest$3rSAqP2.nA1G.JEQPX4ZUgIXwTzGa2P/p8L"
    "HzSbzK8zsrYy7fg08e2wpflnvEY1uwT5yhQ6.ApfukdS7F.B4E/"
)
PAM_SERVICE = "ftpfs-test"

CHECKOUT = Path(__file__).resolve().parents[2]
# Where servers listen: a number of ports for each of a number of processes.
FIRST_PORT, PORTS, WORKERS = 12_000, 1000, 20
_turns = itertools.count(random.randrange(PORTS))  # simultaneous test runs begin at different ports
START_DEADLINE = 15.0  # seconds; the slowest (proftpd with TLS) takes half a second


class ServerUnavailable(Exception):
    """This machine cannot run this kind of server; the message says what is missing."""


class CannotDo(Exception):
    """This kind of server has no such option."""


@dataclass(frozen=True)
class Options:
    """How the server behaves; the defaults do not get in a test's way."""

    read_only: bool = False
    anonymous: bool = False
    mlsd: bool = True  # False: the server does not know MLSD and MLST
    max_clients: int = 0  # 0: no limit
    max_per_ip: int = 0  # 0: no limit
    idle_timeout: int = 0  # seconds; 0: an hour
    umask: int = 0o022
    use_localtime: bool = False  # listings in the server's zone `tz` instead of UTC
    tz: str = "UTC"
    extra: tuple[str, ...] = ()  # lines of its configuration (arguments for pure-ftpd)


DEFAULT = Options()
IDLE = 3600


@dataclass
class FtpServer(Stoppable):
    """A running server. Leaving the `with` block, or `stop()`, ends it and all its processes."""

    kind: Kind
    port: int
    root: Path  # the folder on this disk that the user sees as "/"
    log: Path
    tls: Tls | None
    ca: Path | None  # the authority that signed its certificate
    process: subprocess.Popen[bytes]
    watchdog: subprocess.Popen[bytes]
    host: str = "127.0.0.1"
    user: str = USER
    password: str = PASSWORD
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    _paused: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def sessions(self) -> list[int]:
        """Process ids of the daemon's forks, one or two per connection.

        Always empty for pyftpdlib, which serves all clients in one process.
        """
        return _family(self.pid)[1:]

    def kill_sessions(self) -> None:
        """Kill every session, as an administrator or the kernel's memory killer would.

        The clients see their connections reset or closed; the daemon accepts new ones.
        """
        if self.kind == "pyftpdlib":
            raise CannotDo("pyftpdlib has no session processes")
        for pid in self.sessions():
            _signal(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the daemon and its sessions: sockets stay open, nothing answers.

        The kernel still accepts connections until the backlog is full.
        """
        # The daemon first, so that it cannot fork while its children are being looked up.
        _signal(self.pid, signal.SIGSTOP)
        self._paused = _family(self.pid)
        for pid in self._paused[1:]:
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(self._paused):
            _signal(pid, signal.SIGCONT)
        self._paused = []

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Kill the daemon and its sessions and wait until they have ended. May be called twice."""
        if self.process.returncode is None:
            _signal(self.pid, signal.SIGSTOP)
            family = _family(self.pid)
            for pid in reversed(family):
                _signal(pid, signal.SIGKILL)
            self.process.wait(10)
            _wait_gone(family[1:])
        if self.watchdog.returncode is None:
            self.watchdog.kill()
            self.watchdog.wait(10)
            if self.watchdog.stdin:
                self.watchdog.stdin.close()
        atexit.unregister(self.stop)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def can_tls(kind: Kind, tls: Tls) -> bool:
    """Whether this kind of server supports TLS in this way (as Debian 12 ships it)."""
    return (kind, tls) != ("pure-ftpd", "implicit")


def programs() -> Path:
    """The folder into which setup unpacked the servers, a sub-folder per kind."""
    return Path(os.environ.get("FTPFS_TEST_SERVERS") or CHECKOUT / ".cache" / "servers")


def why_unavailable(kind: Kind) -> str | None:
    """What this machine lacks to run `kind`, or None."""
    if kind == "pyftpdlib":
        return None
    if os.geteuid() != 0:
        return f"{kind} needs root to start (run scripts/test as root or with sudo)"
    if not _program(kind).exists():
        return f"{kind} is not set up (run scripts/test once)"
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return f"there is no user {USER} (run scripts/test once)"
    return None


def start(
    kind: Kind,
    root: Path,
    workdir: Path,
    *,
    tls: Tls | None = None,
    require_tls: bool = False,
    require_ssl_reuse: bool = True,
    certificate: Path | None = None,
    ca: Path | None = None,
    options: Options = DEFAULT,
    port: int | None = None,
) -> FtpServer:
    """Start a server whose user sees `root` as "/", and wait until it accepts connections.

    `root` is created, and given to the test user; every folder above it must be open to all users.
    `workdir` gets configuration and log. TLS needs `certificate`, a PEM file with key and chain
    (see certificates.py); `ca` is only passed on. `require_ssl_reuse` is the default of vsftpd and
    proftpd: a data connection must resume the TLS session of the control connection.

    Raises ServerUnavailable, CannotDo, or RuntimeError with the log when it does not come up.
    """
    reason = why_unavailable(kind)
    if reason:
        raise ServerUnavailable(reason)
    if tls and not can_tls(kind, tls):
        raise CannotDo(f"{kind} has no {tls} TLS")
    if tls and certificate is None:
        raise ValueError("TLS needs a certificate")
    workdir.mkdir(parents=True, exist_ok=True)
    uid, gid = os.getuid(), os.getgid()
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(USER)
            uid, gid = entry.pw_uid, entry.pw_gid
    root.mkdir(parents=True, exist_ok=True)
    os.chown(root, uid, gid)
    plan = _Plan(
        kind=kind,
        root=root.resolve(),
        workdir=workdir.resolve(),
        port=port or free_port(),
        tls=tls,
        require_tls=require_tls,
        require_ssl_reuse=require_ssl_reuse,
        certificate=certificate,
        options=options,
        uid=uid,
        gid=gid,
    )
    argv, env = _PLANS[kind](plan)
    # proftpd appends to its log, also across a restart.
    with plan.output.open("ab") as output:
        process = subprocess.Popen(
            argv,
            # vsftpd complains on its standard input, which it takes for a connection.
            stdin=output if kind == "vsftpd" else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT if kind == "pyftpdlib" else workdir,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TZ": options.tz, **env},
            start_new_session=True,
        )
    # When the test run is killed without cleaning up, its pipe closes, and this ends the daemon's
    # process group.
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; kill -s KILL -- -{process.pid}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = FtpServer(
        kind=kind,
        port=plan.port,
        root=plan.root,
        log=plan.log,
        tls=tls,
        ca=ca,
        process=process,
        watchdog=watchdog,
        uid=uid,
        gid=gid,
    )
    atexit.register(server.stop)
    try:
        _wait_ready(server, plan)
    except BaseException:
        server.stop()
        raise
    return server


def free_port() -> int:
    """A loopback port that is free, and stays free until a server listens there.

    The kernel assigns no port below 32768 by itself, and each process of a test run has its own
    range.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(PORTS):
        port = FIRST_PORT + worker % WORKERS * PORTS + next(_turns) % PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the servers do: remains of earlier connections do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


# Odd names by their oddity. Problems of the client itself (CR, LF, NUL, "/") are not among them.
NAMES: dict[str, bytes] = {
    "leading space": b" lead",
    "trailing space": b"trail ",
    "two spaces": b"a  b",
    "only a space": b" ",
    "tab": b"a\tb",
    "control byte": b"a\x01b",
    "escape sequence": b"a\x1b[31mb",
    "delete byte": b"a\x7fb",
    "backslash": b"a\\b",
    "double quote": b'a"b',
    "single quote": b"a'b",
    "semicolon": b"a;b; c",
    "arrow": b"a -> b",
    "asterisk": b"a*b",
    "question mark": b"a?b",
    "brackets": b"a[x]b",
    "braces": b"a{x,y}b",
    "leading tilde": b"~root",
    "dollar": b"a$HOME",
    "leading dash": b"-la",
    "leading dot": b".hidden",
    "three dots": b"...",
    "trailing dot": b"a.",
    "colon": b"a:b",
    "shell": b"a|b&c<d>`e`",
    "percent": b"100%s%n",
    "leading hash": b"#a",
    "like a listing": b"Jan 01 12:00 x",
    "latin-1": b"caf\xe9",
    "invalid utf-8": b"a\x80\x81\xfe",
    "byte 255": b"a\xffb",
    "byte 255 twice": b"a\xff\xffb",
    "telnet command": b"a\xff\xf4b",
    "nfc": "\u00e9".encode(),
    "nfd": "e\u0301".encode(),
    "no-break space": b"\xc2\xa0x\xc2\xa0",
    "emoji": "\U0001f600".encode(),
    "255 bytes": b"n" * 255,
    "255 bytes of utf-8": "\u00e9".encode() * 127 + b"x",
}

# What each server cannot do at all, as measured with the versions of Debian 12 (test_servers.py
# verifies the names). For a name: STOR with an absolute path cannot store it under that name.
_UNDERSCORE = "control characters in a name become underscores"
_TELNET = "reads IAC as Telnet; doubling byte 255 (IAC IAC) gets it through"
CANNOT: dict[Kind, dict[str, str]] = {
    "vsftpd": {
        "mlsd": "no MLSD, no MLST",
        "set mtime of folders": "MDTM date name takes files only",
    },
    "proftpd": {
        "byte 255 twice": _TELNET,
        "telnet command": _TELNET,
        "asterisk, a folder": "550 Invalid directory name to a MKD with * in it",
    },
    "pure-ftpd": {
        "implicit tls": "no implicit TLS",
        "read only": "no read-only mode for users with a password",
        "anonymous": "takes a system user named ftp",
        "no mlsd": "MLSD cannot be turned off",
        "trailing space": "a trailing space in a new name becomes an underscore",
        "only a space": "a trailing space in a new name becomes an underscore",
        "tab": _UNDERSCORE,
        "control byte": _UNDERSCORE,
        "escape sequence": _UNDERSCORE,
        "delete byte": _UNDERSCORE,
        "backslash": "553 Prohibited file name, also for one that is there",
    },
    "pyftpdlib": {
        "list -a": "LIST takes -a for a name",
        "set mtime of folders": "MFMT takes files only",
        "kill sessions": "one process serves everybody",
        "paths over 2 KiB": "a command line ends at 2048 bytes",
    },
}


# How each server is configured.


@dataclass(frozen=True)
class _Plan:
    kind: Kind
    root: Path
    workdir: Path
    port: int
    tls: Tls | None
    require_tls: bool
    require_ssl_reuse: bool
    certificate: Path | None
    options: Options
    uid: int
    gid: int

    @property
    def log(self) -> Path:
        return self.workdir / f"{self.kind}.log"

    @property
    def output(self) -> Path:
        """The file with the program's output."""
        return self.workdir / f"{self.kind}.out" if self.kind in _LOGGING else self.log


_LOGGING = ("vsftpd", "proftpd")  # these write a log of their own
_Start = tuple[list[str], Mapping[str, str]]


def _program(kind: Kind) -> Path:
    return programs() / kind / "usr" / "sbin" / kind


def _yes(value: object) -> str:
    return "YES" if value else "NO"


def _vsftpd(plan: _Plan) -> _Start:
    options = plan.options
    # An empty folder that confines the unprivileged half of a session.
    empty = plan.workdir / "empty"
    empty.mkdir(exist_ok=True)
    settings = {
        "listen": "YES",
        "listen_address": "127.0.0.1",
        "listen_port": plan.port,
        "background": "NO",
        "local_enable": "YES",
        "anonymous_enable": _yes(options.anonymous),
        "anon_root": plan.root,
        # Not the test user: vsftpd refuses an anonymous root that the anonymous user may write to.
        # And a user whose home exists (that of nobody does not): vsftpd goes there first.
        "ftp_username": "daemon",
        "no_anon_password": "NO",
        "write_enable": _yes(not options.read_only),
        "local_root": plan.root,
        "chroot_local_user": "YES",
        "allow_writeable_chroot": "YES",
        "secure_chroot_dir": empty,
        "pam_service_name": PAM_SERVICE,
        "session_support": "NO",
        "accept_timeout": 10,  # a session holds the lock on its file meanwhile
        "tcp_wrappers": "NO",
        # A new network namespace per session: 30 ms at every login.
        "isolate_network": "NO",
        # Its filter predates the system calls of current libraries.
        "seccomp_sandbox": "NO",
        "delay_failed_login": 0,
        "max_clients": options.max_clients,
        "max_per_ip": options.max_per_ip,
        "idle_session_timeout": options.idle_timeout or IDLE,
        "data_connection_timeout": options.idle_timeout or IDLE,
        "local_umask": f"{options.umask:03o}",
        "use_localtime": _yes(options.use_localtime),
        "xferlog_enable": "YES",
        "log_ftp_protocol": "YES",
        "vsftpd_log_file": plan.log,
        "ssl_enable": _yes(plan.tls),
    }
    if plan.tls:
        settings |= {
            "rsa_cert_file": plan.certificate or "",
            "rsa_private_key_file": plan.certificate or "",
            "implicit_ssl": _yes(plan.tls == "implicit"),
            "force_local_logins_ssl": _yes(plan.require_tls),
            "force_local_data_ssl": _yes(plan.require_tls),
            "require_ssl_reuse": _yes(plan.require_ssl_reuse),
            "ssl_ciphers": "HIGH",
        }
    config = plan.workdir / "vsftpd.conf"
    lines = [f"{name}={value}" for name, value in settings.items()]
    config.write_text("\n".join([*lines, *options.extra]) + "\n")
    return [str(_program("vsftpd")), str(config)], {}


def _proftpd(plan: _Plan) -> _Start:
    options = plan.options
    idle = options.idle_timeout
    users = plan.workdir / "proftpd.passwd"
    users.write_text(f"{USER}:{HASH}:{plan.uid}:{plan.gid}::{plan.root}:/bin/sh\n")
    users.chmod(0o600)  # the server refuses a file that others may read
    modules = programs() / "proftpd" / "usr" / "lib" / "proftpd"
    # Debian 12 has these built in, Debian 13 as modules.
    apart = [name for name in ("mod_xfer", "mod_ls") if (modules / f"{name}.so").exists()]
    lines = [
        'ServerName "ftpfs test server"',
        "ServerType standalone",
        "DefaultAddress 127.0.0.1",
        f"Port {plan.port}",
        "UseIPv6 off",
        f"ModulePath {modules}",
        *(f"LoadModule {name}.c" for name in apart),
        f"User {USER}",
        f"Group {USER}",
        f"PidFile {plan.workdir}/proftpd.pid",
        f"ScoreboardFile {plan.workdir}/proftpd.scoreboard",
        f"SystemLog {plan.log}",
        "TransferLog none",
        "WtmpLog off",
        # Settings that make its login slow: names of the peer, a delay that hides which users
        # exist.
        "UseReverseDNS off",
        # If it is a module of its own (Debian 13), it is not loaded.
        "<IfModule mod_delay.c>",
        "  DelayEngine off",
        "</IfModule>",
        "AuthOrder mod_auth_file.c",
        "AuthPAM off",
        f"AuthUserFile {users}",
        "RequireValidShell off",
        "UseFtpUsers off",
        "DefaultRoot ~",
        f"Umask {options.umask:03o}",
        "AllowOverwrite on",
        "AllowRetrieveRestart on",
        "AllowStoreRestart on",
        # Names are bytes: no conversion from or to a locale.
        "UseEncoding off",
        f"TimesGMT {'off' if options.use_localtime else 'on'}",
        "MaxInstances none",
        f"MaxClients {options.max_clients or 'none'}",
        f"MaxClientsPerHost {options.max_per_ip or 'none'}",
        f"TimeoutIdle {idle or IDLE}",
        f"TimeoutNoTransfer {IDLE}",
        f"TimeoutStalled {IDLE}",
        f"TimeoutLogin {idle or IDLE}",
    ]
    if options.read_only:
        lines += ["<Limit WRITE>", "  DenyAll", "</Limit>"]
    if not options.mlsd:
        lines += ["FactsAdvertise off", "<Limit MLSD MLST>", "  DenyAll", "</Limit>"]
    if options.anonymous:
        lines += [
            f"<Anonymous {plan.root}>",
            f"  User {USER}",
            f"  Group {USER}",
            f"  UserAlias anonymous {USER}",
            "  RequireValidShell off",
            "  <Limit WRITE>",
            "    DenyAll",
            "  </Limit>",
            "</Anonymous>",
        ]
    if plan.tls:
        flags = ["UseImplicitSSL"] if plan.tls == "implicit" else []
        flags += [] if plan.require_ssl_reuse else ["NoSessionReuseRequired"]
        lines += [
            "LoadModule mod_tls.c",
            "TLSEngine on",
            f"TLSLog {plan.workdir}/proftpd-tls.log",
            f"TLSRSACertificateFile {plan.certificate}",
            f"TLSRSACertificateKeyFile {plan.certificate}",
            f"TLSRequired {'on' if plan.require_tls else 'off'}",
            "TLSVerifyClient off",
        ]
        if flags:
            lines.append("TLSOptions " + " ".join(flags))
    config = plan.workdir / "proftpd.conf"
    # Of two equal directives proftpd takes the first: the test's.
    loading = [line for line in lines if line.startswith(("ModulePath", "LoadModule"))]
    rest = [line for line in lines if line not in loading]
    config.write_text("\n".join([*loading, *options.extra, *rest]) + "\n")
    # Every session closes all descriptors up to the limit: 90 ms of a login if that is 20,000.
    script = 'ulimit -n 1024; exec "$@"'
    argv = [str(_program("proftpd")), "--nodaemon", "--config", str(config)]
    return ["/bin/sh", "-c", script, "sh", *argv], {}


def _pure_ftpd(plan: _Plan) -> _Start:
    options = plan.options
    for name, asked in (
        ("read-only mode for users", options.read_only),
        ("anonymous login without a system user ftp", options.anonymous),
        ("switch to turn MLSD off", not options.mlsd),
    ):
        if asked:
            raise CannotDo(f"pure-ftpd has no {name}")
    users = plan.workdir / "pureftpd.passwd"
    # account:password:uid:gid:gecos:home, then limits; "/./" is where the chroot ends.
    users.write_text(f"{USER}:{HASH}:{plan.uid}:{plan.gid}::{plan.root}/./" + ":" * 12 + "\n")
    users.chmod(0o600)
    database = plan.workdir / "pureftpd.pdb"
    tool = programs() / "pure-ftpd" / "usr" / "bin" / "pure-pw"
    subprocess.run([tool, "mkdb", database, "-f", users], check=True, capture_output=True)
    argv = [
        str(_program("pure-ftpd")),
        f"--bind=127.0.0.1,{plan.port}",
        f"--login=puredb:{database}",
        "--chrooteveryone",
        "--noanonymous",
        "--dontresolve",
        "--ipv4only",
        "--minuid=1",
        f"--umask={options.umask:03o}:{options.umask:03o}",
        # By default it cuts listings off at 10,000 names.
        "--limitrecursion=1000000:50",
        f"--maxclientsnumber={options.max_clients or 1000}",
        # It knows minutes only.
        f"--maxidletime={-(-(options.idle_timeout or IDLE) // 60)}",
        f"--pidfile={plan.workdir}/pure-ftpd.pid",
        "--syslogfacility=none",
        f"--altlog=clf:{plan.workdir}/pure-ftpd.transfers",
    ]
    if options.max_per_ip:
        argv.append(f"--maxclientsperip={options.max_per_ip}")
    if plan.tls:
        argv += [f"--tls={3 if plan.require_tls else 1}", f"--certfile={plan.certificate}"]
    return [*argv, *options.extra], {}


def _pyftpdlib(plan: _Plan) -> _Start:
    options = asdict(plan.options)
    for name in ("tz", "extra"):
        del options[name]
    settings = {
        **options,
        "port": plan.port,
        "root": str(plan.root),
        "user": USER,
        "password": PASSWORD,
        "certificate": str(plan.certificate) if plan.tls else None,
        "implicit": plan.tls == "implicit",
        "require_tls": plan.require_tls,
    }
    if os.geteuid() == 0:
        settings |= {"uid": plan.uid, "gid": plan.gid}
    argv = [sys.executable, "-m", "tests.support.pyftpd_server", json.dumps(settings)]
    # UTF-8 mode: the daemon's own reading of the disk must not depend on the caller's locale.
    return argv, {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


_PLANS = {
    "vsftpd": _vsftpd,
    "proftpd": _proftpd,
    "pure-ftpd": _pure_ftpd,
    "pyftpdlib": _pyftpdlib,
}


# Processes.


def _wait_ready(server: FtpServer, plan: _Plan) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while True:
        if server.process.poll() is not None:
            raise RuntimeError(f"{plan.kind} ended at once:\n{_said(plan)}")
        try:
            with socket.create_connection((server.host, server.port), timeout=5) as probe:
                # Implicit TLS greets only after the handshake: accepting the connection must be
                # enough.
                if server.tls == "implicit" or probe.recv(1):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{plan.kind} did not come up:\n{_said(plan)}")
        time.sleep(0.01)


def _said(plan: _Plan) -> str:
    paths = dict.fromkeys([plan.output, plan.log])
    return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _family(pid: int) -> list[int]:
    """`pid` and all its living descendants, parents before children."""
    children: dict[int, list[int]] = {}
    for child, parent in _processes():
        children.setdefault(parent, []).append(child)
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _processes() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text(errors="replace")
            except OSError:
                continue  # it ended in between
            # "pid (name) state ppid": the name may contain anything, including brackets.
            yield int(name), int(stat.rpartition(")")[2].split()[1])


def _wait_gone(pids: list[int]) -> None:
    """Wait for processes that are not our children: init reaps them."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(running(pid) for pid in pids):
            return
        time.sleep(0.005)


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
