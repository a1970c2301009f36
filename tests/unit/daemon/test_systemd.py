"""Units that systemd accepts, readiness it hears, helpers for mount(8)."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ftpfs import cli
from ftpfs.daemon import systemd
from ftpfs.daemon.systemd import Service
from ftpfs.errors import Exists, InvalidArgument

ODD = Service(
    source="ftp://bob@host/100% of 'it'$HOME;x",
    mountpoint='/mnt/a b/ü"$x\\y',
    options="list_ttl=5,ro",
    password_file=Path("/etc/ftpfs/100%.password"),
)
PLAIN = Service("nas", "/mnt/nas")


def verify(folder: Path, units: dict[str, str], *, user: bool = False) -> str:
    """The output of `systemd-analyze verify` for the units."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: scripts/test installs it"
    for name, text in units.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [program, "--user" if user else "--system", "verify", "--man=no"]
        + [str(folder / name) for name in units],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
    )
    # It looks at every unit of this machine that ours mention: only lines about ours count.
    lines = done.stderr.splitlines()
    return "\n".join(line for line in lines if any(name in line for name in units))


@pytest.mark.parametrize("service", [PLAIN, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_accepts_the_service_unit(tmp_path: Path, service: Service, user: bool) -> None:
    service = Service(**{**service.__dict__, "user": user})
    text = systemd.service_unit(service)
    assert verify(tmp_path, {service.name: text}, user=user) == ""
    broken = text.replace("Type=notify", "Type=nonsense").replace("KillMode", "KillModus")
    assert "nonsense" in verify(tmp_path, {service.name: broken}, user=user)


@pytest.mark.parametrize("service", [PLAIN, ODD], ids=["plain", "odd"])
def test_systemd_accepts_the_automount_units(tmp_path: Path, service: Service) -> None:
    units = systemd.automount_units(service)
    assert verify(tmp_path, units) == ""
    # systemd itself checks that a mount unit's name fits its Where=.
    renamed = {f"x{name}": text for name, text in units.items()}
    assert verify(tmp_path, renamed) != ""


@pytest.mark.parametrize(
    "path", ["/mnt/nas", "/", "/mnt//a/", "/.hidden/x.y", "/a-b/c_d", '/ü "$x\\y', "/a:b"]
)
def test_unit_names_are_escaped_as_systemd_does(path: str) -> None:
    done = subprocess.run(
        ["systemd-escape", "--path", path], capture_output=True, text=True, check=True
    )
    assert systemd.escaped(path) == done.stdout.rstrip("\n")


def test_line_break_is_refused_in_a_unit() -> None:
    with pytest.raises(InvalidArgument):
        systemd.service_unit(Service("nas\nExecStartPre=/bin/evil", "/mnt"))


@pytest.mark.parametrize("service", [Service("nas\\", "/mnt"), Service("nas", "/mnt\\")])
def test_backslash_at_the_end_of_a_line_is_refused_in_a_unit(service: Service) -> None:
    with pytest.raises(InvalidArgument):
        systemd.automount_units(service)
    with pytest.raises(InvalidArgument):
        systemd.service_unit(service)


def test_notify_sends_readiness_to_the_socket_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    systemd.notify("nobody listens any more: no error")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("nobody asked: no error")


def test_journal_lines_carry_their_priority() -> None:
    formatter = systemd.JournalFormatter("%(message)s")
    for level, expected in ((logging.ERROR, "<3>"), (logging.INFO, "<6>"), (logging.DEBUG, "<7>")):
        record = logging.LogRecord("x", level, "", 0, "one\ntwo", None, None)
        assert formatter.format(record) == f"{expected}one\n{expected}two"


def test_helpers_are_links_that_replace_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        links = systemd.install_helpers(tmp_path)
    assert [link.name for link in links] == ["mount.ftpfs", "mount.fuse.ftpfs"]
    done = subprocess.run([links[0]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SOURCE MOUNTPOINT" in done.stderr
    links[0].unlink()
    links[0].write_text("somebody else's")
    with pytest.raises(Exists, match=r"mount\.ftpfs"):
        systemd.install_helpers(tmp_path)
    assert links[0].read_text() == "somebody else's"


# The commands.


def test_install_service_writes_the_units_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    password = tmp_path / "pw"
    command = ["install-service", "bob@nas", "/mnt", "--folder", str(tmp_path)]
    assert cli.main([*command, "-o", "ro", "--password-file", str(password)]) == 0
    assert "enable --now 'ftpfs-mnt.service'" in capsys.readouterr().out
    text = (tmp_path / "ftpfs-mnt.service").read_text()
    assert f"LoadCredential=ftpfs-password:{password}\n" in text
    assert "-o grace=540,ro -- bob@nas /mnt\n" in text
    assert "TimeoutStopSec=600\n" in text
    assert cli.main([*command, "-o", "grace=1h"]) == 0
    text = (tmp_path / "ftpfs-mnt.service").read_text()
    assert "-o grace=1h -- bob@nas /mnt\n" in text
    assert "TimeoutStopSec=3660\n" in text
    assert cli.main([*command, "--automount"]) == 0
    assert "'mnt.automount'" in capsys.readouterr().out
    assert "Options=_netdev\n" in (tmp_path / "mnt.mount").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bob:hunter2@nas", "/mnt/nas"], "no place for a password"),
        (["nas", "/mnt/nas", "-o", "list_tll=3"], "did you mean"),
        (["nas", "/mnt/nas", "--user", "--automount"], "mount(8)"),
    ],
)
def test_install_service_refuses_wrong_arguments(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["install-service", *arguments, "--folder", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert "hunter2" not in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["nas"], ["nas", "/mnt", "-x"], ["a", "b", "c"]])
def test_mount_helper_exits_as_mount_expects_after_wrong_usage(arguments: list[str]) -> None:
    assert cli.mount_helper(arguments) == 1


def test_fake_mount_mounts_nothing() -> None:
    assert cli.mount_helper(["nas", "/nonexistent", "-f", "-o", "rw"]) == 0
