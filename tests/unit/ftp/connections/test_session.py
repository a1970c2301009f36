"""One control connection: deadlines, cuts, refusals, and replies that match their commands."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import hearing
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Passive, Profile
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.servers import FtpServer

pytestmark = pytest.mark.far

NETWORK = Network(
    connect_timeout=2.0, reply_timeout=3.0, data_timeout=3.0, finish_timeout=3.0, max_connections=4
)


def session_to(server: FtpServer, port: int = 0, network: Network = NETWORK) -> Session:
    place = Server(
        server.host, port or server.port, user=server.user, password=Secret(server.password)
    )
    return Session(place, network, Profile())


@pytest.fixture
def session(server: FtpServer) -> Iterator[Session]:
    opened = session_to(server)
    yield opened
    opened.close()


@pytest.fixture
def relayed(server: FtpServer, relay: Relay) -> Iterator[Session]:
    opened = session_to(server, relay.port)
    yield opened
    opened.close()


class Scripted:
    """A minimal server: `answers` by verb, sent unchanged (None: it hangs up); 200 to all else."""

    def __init__(self, answers: Mapping[str, bytes | None], drip: float = 0.0) -> None:
        self.answers: dict[str, bytes | None] = {
            "USER": b"331 ?\r\n",
            "PASS": b"230 in\r\n",
            "FEAT": b"500 ?\r\n",
            **answers,
        }
        self._drip = drip
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(self.answers.get("greeting") or b"220 hello\r\n")
            for line in client.makefile("rb"):
                self.heard.append(line)
                answer = self.answers.get(line.split()[0].decode(), b"200 fine\r\n")
                if answer and self._drip and line.startswith(b"DRIP"):
                    for byte in answer:
                        client.sendall(bytes([byte]))
                        time.sleep(self._drip)
                elif answer is None:
                    return
                else:
                    client.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    started: list[Scripted] = []

    def start(answers: Mapping[str, bytes | None], drip: float = 0.0) -> Scripted:
        started.append(Scripted(answers, drip))
        return started[-1]

    yield start
    for each in started:
        each.close()


def connect(server: Scripted, network: Network = NETWORK) -> Session:
    return Session(Server("127.0.0.1", server.port), network, Profile())


# Replies.


def test_reply_that_comes_byte_by_byte_does_not_extend_its_deadline(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted({"DRIP": b"200 " + b"x" * 100 + b"\r\n"}, drip=0.1)
    session = connect(server, Network(reply_timeout=0.5))
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        session.command("DRIP")
    assert time.monotonic() - begun < 5  # the deadline is 10 s
    assert not session.alive


def test_500_oops_of_vsftpd_is_connection_loss(
    scripted: Callable[..., Scripted],
) -> None:
    session = connect(scripted({"NOOP": b"500 OOPS: priv_sock_get_cmd\r\n"}))
    with pytest.raises(errors.ConnectionLost, match="OOPS"):
        session.command("NOOP")
    assert not session.alive


def test_421_to_command_ends_session(scripted: Callable[..., Scripted]) -> None:
    session = connect(scripted({"NOOP": b"421 timeout\r\n"}))
    with pytest.raises(errors.ConnectionLost, match="421"):
        session.command("NOOP")
    assert not session.alive


@pytest.mark.parametrize("after", [b"421 idle too long\r\n", b"200 one more\r\n", b"4"])
def test_idle_session_with_unasked_for_reply_is_not_used_again(
    scripted: Callable[..., Scripted], after: bytes
) -> None:
    session = connect(scripted({"NOOP": b"200 fine\r\n" + after}))
    session.command("NOOP")
    assert not session.fresh()


def test_undisturbed_idle_session_is_fresh(session: Session) -> None:
    assert session.fresh()
    assert session.command("NOOP").code == 200


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\0b"])
def test_name_with_line_break_is_not_sent(scripted: Callable[..., Scripted], bad: str) -> None:
    server = scripted({})
    session = connect(server)
    session.command("NOOP")
    heard = len(server.heard)
    with pytest.raises(errors.InvalidName):
        session.command(f"DELE {bad}")
    assert session.command("NOOP").code == 200
    assert server.heard[heard:] == [b"NOOP\r\n"]


@pytest.mark.parametrize(
    ("greeting", "sent"),
    [(b"220 ProFTPD Server\r\n", b"DELE a\xff\xffb\r\n"), (b"220 x\r\n", b"DELE a\xffb\r\n")],
)
def test_byte_255_is_doubled_for_proftpd_only(
    scripted: Callable[..., Scripted], greeting: bytes, sent: bytes
) -> None:
    server = scripted({"greeting": greeting})
    connect(server).command("DELE a\udcffb")
    assert server.heard[-1] == sent


def test_vsftpd_doubles_byte_255_in_its_reply_to_pwd(scripted: Callable[..., Scripted]) -> None:
    answers = {"greeting": b"220 (vsFTPd 3.0.3)\r\n", "PWD": b'257 "/a\xff\xff""b" is it\r\n'}
    assert connect(scripted(answers)).profile.names.home == '/a\udcff"b'


@pytest.mark.parametrize(
    ("said", "home"),
    [
        ('257 "/a ""b"" c" is current directory.', '/a "b" c'),
        ('250 "/home/me"', "/home/me"),
        ('257 Now in "/home/me".', "/home/me"),
        ('257-"/home/me" is\r\n257 where you are', "/home/me"),
        ("257 /home/me", "/home/me"),
        ("257 /home/me is the current directory", "/home/me"),
        ("257 /home/My Files", "/home/My Files"),
        ("257 /home/My Files (current directory)", "/home/My Files"),
        ("257 Current directory is /home/me.", "/home/me"),
        ("257 Working directory: /srv/x y ", "/srv/x y"),
        ("257 '/home/me' is cwd", "/home/me"),
        ('257 "/home/me', "/home/me"),
        ("257 / is current directory", "/"),
        ("257 fine", "/"),
        ('257 ""', "/"),
        ("550 no", "/"),
    ],
)
def test_home_is_read_with_and_without_quotes(
    scripted: Callable[..., Scripted], said: str, home: str
) -> None:
    assert connect(scripted({"PWD": f"{said}\r\n".encode()})).profile.names.home == home


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("257 DISK$USER:[SMITH] is default", b"CWD DISK$USER:[SMITH.A]\r\n"),
        ("257 'SMITH.' is working directory", b"CWD 'SMITH.A'\r\n"),
    ],
)
def test_foreign_home_is_read_without_quotes(
    scripted: Callable[..., Scripted], said: str, written: bytes
) -> None:
    server = scripted({"PWD": f"{said}\r\n".encode()})
    connect(server).command("CWD /A")
    assert server.heard[-1] == written


@pytest.mark.parametrize(
    ("greeting", "most"),
    [(b"220 (vsFTPd 3.0.3)\r\n", 4000), (b"220 ready\r\n", 2048)],
)
def test_line_longer_than_server_reads_is_not_sent(
    scripted: Callable[..., Scripted], greeting: bytes, most: int
) -> None:
    server = scripted({"greeting": greeting})
    session = connect(server)
    session.command("DELE " + "x" * (most - 7))
    assert len(server.heard[-1]) == most
    with pytest.raises(errors.NameTooLong):
        session.command("DELE " + "x" * (most - 6))
    assert session.command("NOOP").code == 200
    assert server.heard[-1] == b"NOOP\r\n"


def test_longest_line_sent_is_read_as_one_command(session: Session) -> None:
    most = session.profile.identity.longest_line
    for verb in ("CWD", "SIZE", "MDTM", "RNFR", "SITE CHMOD 0644"):
        path = ("/" + "d" * 99) * 41
        long = f"{verb} {path}"[: most - 2]
        codes = [reply.code for reply in session.exchange([long, "NOOP", long, "NOOP"])]
        assert codes[1::2] == [200, 200], verb
        assert all(code >= 400 for code in codes[::2]), verb
    with pytest.raises(errors.NameTooLong):
        session.exchange(["NOOP", "CWD /" + "d" * most])
    assert session.command("NOOP").code == 200


def test_user_can_state_longest_line(scripted: Callable[..., Scripted]) -> None:
    server = scripted({})
    place = Server("127.0.0.1", server.port)
    session = Session(place, NETWORK, Profile([("line_limit", "300")]))
    with pytest.raises(errors.NameTooLong):
        session.command("DELE " + "x" * 300)
    with pytest.raises(errors.InvalidArgument, match="line_limit"):
        Profile([("line_limit", "12")])


@pytest.mark.parametrize(
    "refusal",
    [
        b"530 Non-anonymous sessions must use encryption.\r\n",
        b"550 SSL/TLS required on the control channel\r\n",
        b"421 Sorry, cleartext sessions are not accepted on this server.\r\n",
    ],
)
def test_error_says_that_server_demands_tls(
    scripted: Callable[..., Scripted], refusal: bytes
) -> None:
    server = scripted({"USER": refusal})
    with pytest.raises(errors.TlsError, match="demands TLS"):
        connect(server)
    assert not any(line.startswith(b"PASS") for line in server.heard)


def test_error_of_further_login_hides_password_that_server_repeats(
    scripted: Callable[..., Scripted],
) -> None:
    answers = {"greeting": b"220 (vsFTPd 3.0.3)\r\n"}
    server = scripted(answers)
    where = Server("127.0.0.1", server.port, user="me", password=Secret("p\u00e4sswort"))
    profile = Profile()
    Session(where, NETWORK, profile)
    server.answers["PASS"] = "530 not p\u00e4sswort\r\n".encode()
    with pytest.raises(errors.LoginFailed) as caught:
        Session(where, NETWORK, profile)
    assert str(caught.value).startswith("server replied 530: not *** (logging in as ")


GREETING = {"greeting": b"220 (vsFTPd 3.0.3)\r\n"}


def logged_in_before(server: Scripted) -> tuple[Server, Profile]:
    """The first session logged in step by step: the next one logs in by one write."""
    where = Server("127.0.0.1", server.port, user="me", password=Secret("secret"))
    profile = Profile()
    Session(where, QUICK, profile).close()
    assert profile.wire.takes_login_at_once
    server.heard.clear()
    return where, profile


QUICK = Network(reply_timeout=0.5, connect_timeout=2.0)


@pytest.mark.parametrize("verb", ["USER", "PASS", "TYPE"])
@pytest.mark.parametrize("answer", [b"", None], ids=["silence", "cut"])
def test_login_goes_step_by_step_after_one_write_broke_twice(
    scripted: Callable[..., Scripted], verb: str, answer: bytes | None
) -> None:
    """A firewall on the way may reject it; a server that failed once gets a second chance."""
    server = scripted(GREETING)
    where, profile = logged_in_before(server)
    usual = server.answers.get(verb, b"200 well\r\n")
    for _ in range(2):
        server.answers[verb] = answer
        with pytest.raises(errors.ConnectionLost):
            Session(where, QUICK, profile)
    assert not profile.wire.takes_login_at_once
    server.answers[verb] = usual
    assert Session(where, QUICK, profile).command("NOOP").ok


def test_single_broken_login_in_one_write_changes_nothing(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted(GREETING)
    where, profile = logged_in_before(server)
    for _ in range(3):
        server.answers["PASS"] = b""
        with pytest.raises(errors.ConnectionLost):
            Session(where, QUICK, profile)
        server.answers["PASS"] = b"230 in\r\n"
        assert Session(where, QUICK, profile).command("NOOP").ok
    assert profile.wire.takes_login_at_once


@pytest.mark.parametrize(
    ("verb", "answer", "kind"),
    [
        ("USER", b"530 who?\r\n", errors.LoginFailed),
        ("PASS", b"530 no\r\n", errors.LoginFailed),
        ("USER", b"421 full\r\n", errors.ServerBusy),
        ("PASS", b"421 full\r\n", errors.ServerBusy),
    ],
)
def test_refused_login_in_one_write_is_not_repeated_step_by_step(
    scripted: Callable[..., Scripted],
    verb: str,
    answer: bytes,
    kind: type[errors.FtpfsError],
) -> None:
    server = scripted(GREETING)
    where, profile = logged_in_before(server)
    server.answers.update({"PASS": b"503 USER first\r\n", verb: answer})
    for _ in range(3):
        with pytest.raises(kind):
            Session(where, QUICK, profile)
    assert profile.wire.takes_login_at_once
    assert sum(line.startswith(b"PASS") for line in server.heard) <= 3, "one for each"


@pytest.mark.parametrize("answer", [b"503 already\r\n", b"530 twice\r\n", b"230 in\r\n"])
def test_login_by_user_name_alone_succeeds_with_every_reply_to_pass(
    scripted: Callable[..., Scripted], answer: bytes
) -> None:
    server = scripted(GREETING)
    where, profile = logged_in_before(server)
    server.answers.update({"USER": b"230 in\r\n", "PASS": answer})
    assert Session(where, QUICK, profile).command("NOOP").ok


def test_session_works_when_settings_are_refused_after_login_in_one_write(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted(GREETING)
    where, profile = logged_in_before(server)
    server.answers["TYPE"] = b"500 what\r\n"
    session = Session(where, QUICK, profile)
    assert session.command("NOOP").ok
    # Unless told otherwise, a server sends text (RFC 959, 5.1).
    assert session._conversation.hearing.text_mode


# Data connections.


def test_swallowed_epsv_is_not_sent_again(scripted: Callable[..., Scripted]) -> None:
    session = connect(scripted({"EPSV": b""}), Network(reply_timeout=0.3))
    with pytest.raises(errors.ConnectionLost, match="EPSV"):
        session.listing("LIST")
    assert session.profile.wire.passive is Passive.PASV


def test_replies_match_commands_after_download_left_early(
    session: Session, remote_dir: RemoteDir
) -> None:
    remote_dir.write("big", bytes(8 << 20))
    sizes = [3, 141, 5926]
    for number, size in enumerate(sizes):
        remote_dir.write(f"small{number}", bytes(size))
    for turn in range(20):
        with session.download(f"{remote_dir.path}/big", turn * 1000) as download:
            if turn % 3:
                download.readinto(memoryview(bytearray(1 << (turn % 16))))
        assert session.alive
        number = turn % 3
        answer, time_of = session.exchange(
            [
                f"SIZE {remote_dir.path}/small{number}",
                f"MDTM {remote_dir.path}/small{(number + 1) % 3}",
            ]
        )
        assert (answer.code, answer.text.strip()) == (213, str(sizes[number]))
        assert (time_of.code, len(time_of.text.strip())) == (213, 14)
        with session.download(f"{remote_dir.path}/small{number}") as download:
            view = memoryview(bytearray(10_000))
            got = 0
            while count := download.readinto(view[got:]):
                got += count
        assert got == sizes[number]


def test_rest_before_refused_retr_is_reset(session: Session, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"0123456789")
    with pytest.raises(errors.Refused):
        session.download(f"{remote_dir.path}/missing", 5)
    with session.download(f"{remote_dir.path}/file") as download:
        view = memoryview(bytearray(100))
        assert download.readinto(view) == 10


def send(session: Session, path: str, mebibytes: int) -> None:
    with session.upload(path) as upload:
        for _ in range(mebibytes):
            upload.write(bytes(1 << 20))
        upload.finish()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("452 Insufficient storage space.", errors.NoSpace),
        ("552 Quota exceeded.", errors.QuotaExceeded),
    ],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_broken_upload_raises_reason_of_server(
    relayed: Session,
    relay: Relay,
    remote_dir: RemoteDir,
    reply: str,
    error: type[errors.FtpfsError],
    how: str,
) -> None:
    relay.replace_reply("STOR", reply)
    relay.cut_data("up", after=100_000, how=how)  # type: ignore[arg-type]
    with pytest.raises(error):
        send(relayed, f"{remote_dir.path}/file", 100)
    assert relayed.command("NOOP").code == 200


def test_upload_refused_at_its_end_raises_reason_of_server(
    relayed: Session, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.replace_reply("STOR", "452 Insufficient storage space.")
    with pytest.raises(errors.NoSpace):
        send(relayed, f"{remote_dir.path}/file", 1)
    assert relayed.command("NOOP").code == 200


def test_stalled_upload_ends_within_its_deadline(
    server: FtpServer, relay: Relay, remote_dir: RemoteDir
) -> None:
    session = session_to(server, relay.port, Network(data_timeout=0.5))
    relay.stall_data("up", after=100_000)
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        send(session, f"{remote_dir.path}/file", 100)
    assert time.monotonic() - begun < 3
    assert not session.alive


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_listing_cut_short_is_never_taken_for_whole(
    server: FtpServer, relay: Relay, remote_dir: RemoteDir, how: str
) -> None:
    """A cut by FIN at a line's end cannot be detected, because the server says 226 even so."""
    for number in range(20):
        remote_dir.write(f"file {number}", b"")
    session = session_to(server, relay.port)
    command = "LIST -a" if server.kind == "vsftpd" else "MLSD"
    session.require(f"CWD {remote_dir.path}")
    whole, *_ = session.listing(command)
    for after in [*range(1, len(whole), 53), len(whole) - 1]:
        rule = relay.cut_data("down", after=after, how=how)  # type: ignore[arg-type]
        try:
            if not session.alive:
                session = session_to(server, relay.port)
                session.require(f"CWD {remote_dir.path}")
            if how == "fin" and whole[:after].endswith(b"\n"):
                continue
            with pytest.raises(errors.DataConnectionFailed):
                session.listing(command)
        finally:
            rule.remove()
    session.close()


# Sessions that were quiet.


def test_first_command_after_sleep_of_machine_has_short_deadline(
    remote_dir: RemoteDir, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "WAKE_TIMEOUT", 0.5)
    session = session_to(remote_dir.server, relay.port, Network())
    asleep = hearing._time_asleep()
    relay.reset()
    assert session.command("NOOP").ok
    assert relay.verbs == ["NOOP"]
    monkeypatch.setattr(hearing, "_time_asleep", lambda: asleep + 3600)
    assert [reply.ok for reply in session.exchange(["NOOP", "NOOP"])] == [True, True]
    assert relay.verbs == ["NOOP", "TYPE", "NOOP", "NOOP"]
    assert session.fresh()
    monkeypatch.setattr(hearing, "_time_asleep", lambda: asleep + 7200)
    relay.forget()
    began = time.monotonic()
    with pytest.raises(errors.ConnectionLost, match="silent for"):
        session.command("NOOP")
    assert time.monotonic() - began < 5
    assert not session.alive
