"""Messages name what went wrong and what to type; docs/troubleshooting.md has a row for each."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ftpfs
from ftpfs import cli, errors
from ftpfs.core.store.store import Store
from ftpfs.daemon import leftovers
from ftpfs.ftp.remote import Remote
from ftpfs.settings import credentials
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from ftpfs.settings.options import parse_options
from ftpfs.settings.source import parse_source
from tests.conftest import StartServer
from tests.support import hostile_server, scripted_server, servers
from tests.support.certificates import Certificates
from tests.support.scripted_server import Manners
from tests.support.servers import FtpServer
from tests.support.waiting import until

TROUBLESHOOTING = servers.CHECKOUT / "docs" / "troubleshooting.md"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(words..., password=...)`: the command line, in a process of its own."""

    def command(*words: str, password: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        more["HOME"] = str(tmp_path)
        more["XDG_STATE_HOME"] = str(tmp_path / "state")
        if password:
            more["FTPFS_PASSWORD"] = password
        return subprocess.run(
            [sys.executable, "-m", "ftpfs", *words],
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return command


def url(server: FtpServer, scheme: str = "ftp", path: str = "/") -> str:
    return f"{scheme}://{server.user}@{server.host}:{server.port}/{path}"


# The network and TLS.


@pytest.mark.parametrize("tls", ["explicit", "implicit"])
def test_untrusted_certificate_is_shown_with_the_flag_that_trusts_it(
    start_server: StartServer, tls: servers.Tls, run: Run, certificates: Certificates
) -> None:
    server = start_server("vsftpd", tls=tls, require_tls=True)
    where = url(server, "ftpes" if tls == "explicit" else "ftps")
    refused = run("ls", where, password=server.password)
    pem = certificates.server.read_text()
    begin, end = pem.index(ssl.PEM_HEADER), pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:end])).hexdigest()
    assert refused.returncode == 1
    assert "certificate not trusted" in refused.stderr
    assert f"--tls-fingerprint {shown}" in refused.stderr
    trusted = run("ls", where, "--tls-fingerprint", shown, password=server.password)
    assert (trusted.returncode, trusted.stderr) == (0, "")


def test_wrong_password_and_refused_anonymous_say_what_to_do(
    start_server: StartServer, run: Run
) -> None:
    server = start_server("pyftpdlib")
    wrong = run("ls", url(server), password="wrong")
    assert f"logging in as {server.user}: is the password right?" in wrong.stderr
    nobody = run("ls", f"ftp://{server.host}:{server.port}/")
    assert f"no anonymous login there: name a user, ftp://NAME@{server.host}" in nobody.stderr


def test_implicit_tls_at_a_port_without_it_says_which_scheme_to_use(run: Run) -> None:
    with hostile_server.start("plain") as server:
        done = run("ls", url(hostile_server.as_server(server), "ftps"), password=server.password)
    assert "ftpes:// asks for explicit TLS" in done.stderr


def test_port_of_implicit_tls_without_it_says_which_scheme_to_use(
    start_server: StartServer, run: Run
) -> None:
    server = start_server("vsftpd", tls="implicit", require_tls=True)
    done = run("ls", url(server), "--reply-timeout", "2", password=server.password)
    assert "ftps:// asks for implicit TLS" in done.stderr


def test_deadline_names_the_step_the_seconds_and_the_option(run: Run) -> None:
    with hostile_server.start("dripped-reply", 0.1) as server:
        where = url(hostile_server.as_server(server))
        done = run("cmd", where, "FEAT", "--reply-timeout", "1", password=server.password)
    assert "waiting for the reply to FEAT: no answer after 1 s (reply_timeout" in done.stderr


def test_stalled_data_names_the_seconds_and_the_option(run: Run) -> None:
    with hostile_server.start("dripped-listing", 3600) as server:
        where = url(hostile_server.as_server(server))
        for command, path in (("ls", "trap"), ("cat", "big1")):
            words = (command, where + path, "--data-timeout", "1")
            done = run(*words, password=server.password)
            assert "nothing moved on the data connection for 1 s (data_timeout)" in done.stderr


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener in front of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("ftp", "waiting for the greeting of {}: no answer after 1 s (reply_timeout"),
        ("ftps", "TLS handshake with {}: no answer after 1 s (connect_timeout"),
    ],
)
def test_silent_server_names_the_step_and_the_seconds(
    run: Run, silent: socket.socket, scheme: str, message: str
) -> None:
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    words = ("--reply-timeout", "1", "--connect-timeout", "1")
    done = run("ls", f"{scheme}://me@{address}/", *words, password="secret")
    assert message.format(address) in done.stderr


@contextlib.contextmanager
def saying(*pieces: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server that sends these pieces to each client, with a pause (s) between, and hears nothing.

    Yields its address.
    """
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    clients.append(stack.enter_context(client))
                    for piece in pieces:
                        client.sendall(piece)
                        time.sleep(pause)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        server.join(20)


@pytest.mark.parametrize(
    "said",
    ["SSH-2.0-OpenSSH_9.2p1", "HTTP/1.1 400 Bad", "* OK ready", "+OK ready", "RFB 3"],
)
def test_server_of_another_protocol_is_quoted_at_once(run: Run, said: str) -> None:
    with saying(f"{said}\x1b[2J\r\n".encode()) as address:
        began = time.monotonic()
        done = run("ls", f"ftp://me@{address}/", "--reply-timeout", "50", password="x")
        assert time.monotonic() - began < 40, "it waited for a reply"
    assert f"not an FTP reply: {said}\\x1b[2J\n" in done.stderr
    assert done.returncode == 1


def test_server_that_says_no_reply_is_quoted(run: Run) -> None:
    with saying(b"welcome\r\n", b"to nothing\r\n") as address:
        done = run("ls", f"ftp://me@{address}/", "--reply-timeout", "1", password="x")
    assert "not an FTP reply: welcome; and no reply came" in done.stderr


def test_lines_before_the_greeting_are_ignored(run: Run) -> None:
    with saying(b"welcome\r\n", b"530 no more of you\r\n", pause=0.5) as address:
        done = run("ls", f"ftp://me@{address}/", "--reply-timeout", "5", password="x")
    assert "server replied 530: no more of you" in done.stderr


def test_address_that_drops_packets_names_the_step_and_the_seconds(run: Run) -> None:
    with socket.socket() as listener, contextlib.ExitStack() as others:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(4):  # fill the backlog
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        done = run("ls", f"ftp://me@{address}/", "--connect-timeout", "1", password="secret")
    assert f"connecting to {address}: no answer after 1 s (connect_timeout" in done.stderr


def test_refused_connection_and_unknown_host_say_what_to_check(run: Run) -> None:
    refused = run("ls", "ftp://me@127.0.0.1:1/", password="x")
    assert "127.0.0.1:1: connection refused (no server listens there" in refused.stderr
    unknown = run("ls", "ftp://me@nowhere.invalid/", password="x")
    assert "a path follows a slash" in unknown.stderr


@pytest.mark.parametrize(
    ("verb", "reply", "hint"),
    [
        (
            "PASS",
            "530 Sorry, the maximum number of clients (2) for this user are already connected.",
            "(the server takes no more connections now: try later, or end others)",
        ),
        (
            "USER",
            "530 This FTP server is anonymous only.",
            "(only anonymous logins there: ftp://anonymous@127.0.0.1)",
        ),
        ("USER", "503 Use AUTH first", "the server demands TLS (use ftpes:// or ftps://)"),
        ("PASS", "530 Login incorrect.", "is the password right?"),
    ],
)
def test_refused_login_says_what_to_do(
    run: Run, tmp_path: Path, verb: str, reply: str, hint: str
) -> None:
    with scripted_server.start(tmp_path, Manners(answers={verb: reply})) as server:
        address = f"ftp://{server.user}@{server.host}:{server.port}/"
        done = run("ls", address, password=server.password)
    assert hint in done.stderr
    assert ("is the password right?" in done.stderr) == (hint == "is the password right?")


# The command line.


def test_no_message_tells_to_install_ftpfs_from_the_package_index() -> None:
    """There the name belongs to another project. This one is `ftpfs-mount`."""
    package = Path(ftpfs.__file__).parent
    assert [p.name for p in package.rglob("*.py") if "ftpfs[" in p.read_text()] == []


@pytest.mark.mount
def test_mount_and_doctor_name_the_other_project_called_ftpfs(
    start_server: StartServer, run: Run, tmp_path: Path
) -> None:
    server = start_server("pyftpdlib")
    other = tmp_path / "site" / "ftpfs-0.2.4.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ftpfs\nVersion: 0.2.4\n")
    folder = tmp_path / "mnt"
    folder.mkdir()
    more = {"PYTHONPATH": str(other.parent)}
    mounted = run("mount", url(server), str(folder), password=server.password, **more)
    assert mounted.returncode == 0, mounted.stderr
    assert run("umount", str(folder)).returncode == 0
    named = "another project's ftpfs 0.2.4 is installed here"
    assert [named in line for line in mounted.stderr.splitlines()] == [True]
    assert named in run("doctor", url(server), password=server.password, **more).stdout


def test_path_behind_a_colon_is_explained() -> None:
    with pytest.raises(errors.InvalidArgument, match="a path follows a slash, not a colon"):
        parse_source("nas:photos")
    for typed in ("nas:21:/photos", "127.0.0.1:21:/photos", "ftp://cafe:21:/d"):
        with pytest.raises(errors.InvalidArgument, match="a path follows a slash, not a colon"):
            parse_source(typed)
    for typed in ("2001:db8:0:0:0:0:0:1", "::1", "fe80::1%eth0", "fe80::"):
        with pytest.raises(errors.InvalidArgument, match="needs brackets"):
            parse_source(typed)


def test_cache_folder_that_cannot_be_used_names_the_option(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    store = Store(file / "store", 100 << 20)
    store.close()
    assert store.status() is None
    assert "cache_dir=FOLDER names another place" in caplog.text


@pytest.mark.parametrize("word", ["async", "nolazytime", "silent", "mand", "noiversion"])
def test_words_of_fstab_for_the_kernel_alone_are_passed_over(word: str) -> None:
    assert parse_options(f"{word},ro") == {"ro": True}


def test_service_for_a_folder_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert cli.main(["install-service", "nas", str(missing), "--folder", "-"]) == 1
    assert f"no such folder: make it first (mkdir {missing})" in capsys.readouterr().err


def test_service_of_a_named_server_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "ftpfs" / "config.toml"
    file.parent.mkdir()
    file.write_text('[servers.nas]\nurl = "ftp://me@nas.local/"\n')
    assert cli.main(["install-service", "nas", str(tmp_path), "--folder", "-"]) == 0
    assert f"--config {file}" in capsys.readouterr().out


def test_service_of_a_server_named_by_the_user_behind_sudo_says_which_file_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".config" / "ftpfs" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[servers.nas]\nurl = "ftp://me@nas.local/"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null/nowhere")
    monkeypatch.setenv("SUDO_USER", "bob")

    class Bob:
        pw_dir = str(tmp_path)

    monkeypatch.setattr("pwd.getpwnam", lambda _name: Bob)
    assert cli.main(["install-service", "nas", str(tmp_path), "--folder", "-"]) == 2
    assert f"is named in the file of bob: add --config {file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "user", "password"),
    [
        (r"login DOMAIN\me password a\b", r"DOMAIN\me", r"a\b"),
        (r'login "DOMAIN\\me" password "a\"b"', r"DOMAIN\me", 'a"b'),
        (r"login me password \\x", "me", r"\\x"),
    ],
)
def test_backslash_in_netrc_is_a_letter(
    tmp_path: Path, line: str, user: str, password: str
) -> None:
    file = tmp_path / ".netrc"
    file.write_text(f"machine nas {line}\n")
    file.chmod(0o600)
    around = credentials.Surroundings({}, tmp_path, None, lambda _line: None)
    found = credentials.login("nas", user="", password=None, file=None, around=around)
    assert found == (user, Secret(password))


def test_ls_lh_shows_sizes_for_people(start_server: StartServer, run: Run) -> None:
    server = start_server("pyftpdlib")
    for name, size in (("a", 1023), ("b", 1025), ("c", 10 << 20), ("d", 10_200)):
        with (server.root / name).open("wb") as file:
            file.truncate(size)
    done = run("ls", "-lh", url(server), password=server.password)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["1023", "1.1K", "10M", "10K"]


# Copies.


def test_get_and_put_keep_times(start_server: StartServer, run: Run, tmp_path: Path) -> None:
    server = start_server("pyftpdlib")
    here = tmp_path / "file"
    here.write_bytes(b"content")
    os.utime(here, (1_600_000_000, 1_600_000_000))
    assert run("put", str(here), url(server), password=server.password).returncode == 0
    assert (server.root / "file").stat().st_mtime == 1_600_000_000
    there = url(server, path="/file")
    assert run("get", there, str(tmp_path / "back"), password=server.password).returncode == 0
    assert (tmp_path / "back").stat().st_mtime == 1_600_000_000
    assert (tmp_path / "back").read_bytes() == b"content"


@pytest.mark.parametrize("next_command", ["put", "ls", "mount"])
def test_temporary_file_of_a_killed_put_is_deleted_by_the_next_command_or_mount(
    start_server: StartServer, run: Run, tmp_path: Path, next_command: str
) -> None:
    server = start_server("pyftpdlib")
    (server.root / "folder").mkdir()
    os.chown(server.root / "folder", server.uid, server.gid)
    here = tmp_path / "file"
    with here.open("wb") as file:
        file.truncate(2 << 30)
    target = url(server, path="/folder/")
    environment = {
        **os.environ,
        "FTPFS_PASSWORD": server.password,
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "ftpfs", "put", str(here), target], env=environment
    ) as killed:
        until(lambda: list((server.root / "folder").iterdir()))
        killed.send_signal(signal.SIGKILL)
    assert [each.name[:7] for each in (server.root / "folder").iterdir()] == [".ftpfs-"]
    here.write_bytes(b"small")
    time.sleep(0.5)  # the server notices that nobody sends any more
    (tmp_path / "mnt").mkdir()
    words = {
        "put": [str(here), url(server, path="/other")],
        "ls": [url(server, path="")],
        "mount": [url(server, path="folder"), str(tmp_path / "mnt")],
    }
    done = run(next_command, *words[next_command], password=server.password)
    assert done.returncode == 0, done.stderr
    if next_command == "mount":
        assert run("umount", str(tmp_path / "mnt")).returncode == 0
    assert list((server.root / "folder").iterdir()) == []
    assert list((tmp_path / "state" / "ftpfs" / "puts").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_put_that_a_signal_ends_leaves_no_temporary_file(
    start_server: StartServer, tmp_path: Path, number: signal.Signals
) -> None:
    server = start_server("pyftpdlib")
    (server.root / "folder").mkdir()
    os.chown(server.root / "folder", server.uid, server.gid)
    here = tmp_path / "file"
    with here.open("wb") as file:
        file.truncate(4 << 30)
    more = {"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "ftpfs", "put", str(here), url(server, path="/folder/")]
    with subprocess.Popen(command, env={**os.environ, **more}) as ended:
        until(lambda: list((server.root / "folder").iterdir()))
        ended.send_signal(number)
    assert ended.returncode == 128 + number
    assert list((server.root / "folder").iterdir()) == []


def test_notes_of_uploads_that_go_on_are_left_alone(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = start_server("pyftpdlib")
    password = Secret(server.password)
    place = Server(server.host, server.port, user=server.user, password=password)
    with (
        contextlib.closing(Remote(place, Network())) as remote,
        leftovers.Note(remote, "00000001") as first,
        first.uploading("/a/file"),
    ):
        (note,) = (tmp_path / "ftpfs" / "puts").iterdir()
        assert note.read_text() == "+/a\n"
        assert list(leftovers.abandoned(remote.login)) == []


# The page.

# What a message of this kind says. Those that are answers, and not troubles, have none.
MESSAGES: dict[type[errors.FtpfsError], str] = {
    errors.UnknownHost: "is the name right?",
    errors.ConnectionRefused: "connection refused",
    errors.ConnectionLost: "the server hung up",
    errors.DataConnectionFailed: "no data connection to port",
    errors.DeadlineExceeded: "no answer after",
    errors.ServerBusy: "421",
    errors.ProtocolError: "not an FTP reply",
    errors.TooLong: "a listing of more than",
    errors.FileTooLarge: "bytes cannot be sent",
    errors.TlsError: "TLS failed",
    errors.Untrusted: "certificate not trusted",
    errors.LoginFailed: "is the password right?",
    errors.DataMismatch: "bytes arrived",
    errors.Changed: "it was changed on the server",
    errors.Unsettled: "changed within the last minute",
    errors.Conflict: "conflict copy",
    errors.Busy: "waits for a program on the server that has it open",
    errors.NotSentAgain: "not sent again, as the server may have taken it",
    errors.PermissionDenied: "server replied 550",
    errors.NotSupported: "the server has no command",
    errors.CrossesFolders: "renames in one folder only",
    errors.InvalidName: "cannot be sent over FTP",
    errors.Offline: "is not stored here",
    errors.NoSpace: "could not write the file",
    errors.OutOfDescriptors: "too many open files",
    errors.QuotaExceeded: "server replied 552",
    errors.Refused: "server replied",
}
ANSWERS = {
    *(errors.NotFound, errors.Exists, errors.NotADirectory, errors.IsADirectory, errors.NotEmpty),
    *(errors.LinkLoop, errors.NotPermitted, errors.ReadOnly, errors.NameTooLong, errors.BadHandle),
    errors.StaleName,
    # Told as their kind is, or never told to anybody.
    *(errors.NetworkError, errors.InvalidArgument, errors.Superseded),
    *(errors.Unavailable, errors.NotPrepared, errors.Retreat, errors.NoRoute),
    errors.NoGreeting,
}


def test_each_kind_of_error_has_its_words_on_the_page_and_in_the_program() -> None:
    kinds = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.FtpfsError)
    } - {errors.FtpfsError}
    assert kinds - ANSWERS == set(MESSAGES)
    page = TROUBLESHOOTING.read_text()
    package = Path(ftpfs.__file__).parent
    program = "".join(path.read_text() for path in package.rglob("*.py"))
    for words in MESSAGES.values():
        assert words in page, f"docs/troubleshooting.md has no row for: {words}"
        spoken = words in program or words.startswith(("server replied", "421"))
        assert spoken, f"nothing says: {words}"


# Errors whose messages come from the network, the server, or the local disk. And those that a
# program in a mount sees as EIO: only the log says what happened.
TOLD = {
    *("DeadlineExceeded", "ConnectionLost", "DataConnectionFailed", "ServerBusy", "ProtocolError"),
    *("TlsError", "Untrusted", "DataMismatch", "NoSpace", "TooLong", "NotSentAgain"),
    *(
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.FtpfsError)
        and kind.errno == errno.EIO
    ),
}
# These reach no person, or quote a message of their own kind.
INNER = (
    *("the mount is being closed", "a connection made ahead: ", "logging in at once: "),
    *("sending on a connection made ahead failed", "the server has closed it, and waits for"),
    "no recovery after a transfer left early: ",
    *("not JSON", "no JSON object", "a line of more than "),  # between daemon and command
    "not every command was answered",  # the doctor tells of it in its own words
    "a reply too many came with that to ",
    # An upload that another one takes the place of:
    *("...: its upload was cancelled", "...: written over while it was ", "...: is being written"),
    "...: its writer pauses",
    "nothing is stored",  # the caller asks the server
    *("cannot unmount ", "the demo ends here: ", "the demo's "),  # `ftpfs demo` says what to type
)


def messages(path: Path) -> Iterator[str]:
    """The texts of the errors of `TOLD` in a module, with "..." for what is put into them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        text = node.args[0]
        if node.func.attr not in TOLD:
            continue
        if isinstance(text, ast.Constant):
            yield str(text.value)
        elif isinstance(text, ast.JoinedStr):
            parts = [
                part.value if isinstance(part, ast.Constant) else "..." for part in text.values
            ]
            yield "".join(map(str, parts))


def test_each_message_about_the_network_or_a_disk_has_its_row() -> None:
    rows = [line.split("|")[1] for line in TROUBLESHOOTING.read_text().splitlines() if "|" in line]
    quoted = [words for row in rows for words in re.findall("`([^`]+)`", row)]
    pieces = {piece.strip() for words in quoted for piece in words.split("...")}
    known = [piece for piece in pieces if len(piece) > 7]
    package = Path(ftpfs.__file__).parent
    missing = [
        f"{path.name}: {message}"
        for path in sorted(package.rglob("*.py"))
        for message in messages(path)
        if len(re.sub(r"\W", "", message)) > 7  # else it is put together elsewhere
        and not message.startswith(INNER)
        and not any(piece in message for piece in known)
    ]
    assert missing == []


# What messages tell people to type or to look up.
HINTS = (
    "--tls-fingerprint",
    "ftpes:// asks for explicit TLS",
    "ftps:// asks for implicit TLS",
    "a path follows a slash",
    "no anonymous login there",
    "only anonymous logins there",
    "the server takes no more connections now",
    "cache_dir=FOLDER",
    "nothing moved on the data connection",
    "the listing comes too slowly",
    "a reply of more than",
    "make it first",
    "is named in the file of",
    "left out before",
    "this process ends without it",
    "waiting for the reply that ends",
    "the TLS handshake of a data connection: no answer",
    "the server sends data in clear",
    "the server made no data connection to us",
    "the data connection broke",
)


@pytest.mark.parametrize("words", HINTS)
def test_each_hint_has_its_row(words: str) -> None:
    assert words in TROUBLESHOOTING.read_text()
