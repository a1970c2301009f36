"""Private files have their mode before their content."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from tests.conftest import RemoteDir
from tests.support.relay import Command, Relay
from tests.support.uploading import (
    Local,
    blob,
    mode_of,
    on_disk,
)
from tests.support.watching import Watcher


def write_once(relay: Relay, place: RemoteDir) -> None:
    """From now on the server refuses to write over existing files."""

    def is_there(command: Command) -> bool:
        return (place.disk / Path(command.arg).name).exists()

    relay.refuse("STOR", "550 File exists.", where=is_there)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o000])
@pytest.mark.parametrize("size", [20, 300_000])
def test_private_file_has_its_mode_before_its_content(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, mode: int, size: int
) -> None:
    relay.hold_reply("STOR", skip=1)
    content = Local(blob(size), mode=mode)
    storing = threading.Thread(target=lambda: relayed.store("/file", content, base=None))
    storing.start()
    assert relay.wait_for(lambda: relay.count("STOR") == 2)
    (name,) = on_disk(remote_dir.disk)
    assert name.startswith(".ftpfs-")
    assert mode_of(remote_dir, name) == mode | 0o600
    relay.release()
    storing.join()
    assert on_disk(remote_dir.disk) == {"file": blob(size)}
    assert mode_of(remote_dir, "file") == mode


@pytest.mark.parametrize("mode", [None, 0o644, 0o444, 0o755])
def test_file_that_all_may_read_is_sent_at_once(
    relayed: Remote, relay: Relay, mode: int | None
) -> None:
    relayed.store("/file", Local(blob(20), mode=mode), base=None)
    relayed.store("/empty", Local(b"", mode=0o600), base=None)  # there is nothing to be read
    assert relay.count("STOR") == 2


@pytest.mark.parametrize("reply", ["550 not here", "502 what?"])
def test_where_modes_are_refused_private_files_are_sent_as_others_are(
    relayed: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    reply: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relay.refuse("SITE", reply)
    relay.refuse("MFF", reply)
    for name in ("one", "two", "three"):
        relayed.store(f"/{name}", Local(blob(300_000), mode=0o600), base=None)
    assert relay.count("STOR") == 4
    assert set(on_disk(remote_dir.disk)) == {"one", "two", "three"}
    assert caplog.text.count("private files are readable by others") == 1


def test_where_no_name_is_stored_twice_private_files_are_sent_as_others_are(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    write_once(relay, remote_dir)
    for name in ("one", "two"):
        relayed.store(f"/{name}", Local(blob(300_000), mode=0o600), base=None)
        assert mode_of(remote_dir, name) == 0o600
    assert on_disk(remote_dir.disk) == dict.fromkeys(("one", "two"), blob(300_000))
    assert relay.count("STOR") == 4


@pytest.mark.parametrize("first", [0o600, None])
def test_private_files_arrive_in_a_drop_folder_where_no_name_is_stored_twice(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, first: int | None
) -> None:
    for verb in ("SIZE", "MDTM", "MLSD", "LIST", "MLST", "RNFR", "DELE", "MFMT"):
        relay.refuse(verb, "550 Permission denied.")
    write_once(relay, remote_dir)
    for number in range(3):
        mode = 0o600 if number else first
        relayed.store(f"/scan{number}", Local(b"content", mode=mode), base=None)
    left = on_disk(remote_dir.disk)
    assert {name: data for name, data in left.items() if name[0] != "."} == {
        f"scan{number}": b"content" for number in range(3)
    }


@pytest.mark.parametrize("fault", ["no names", "no renames", "no names, and none twice"])
def test_private_file_written_in_place_has_its_mode_before_its_content(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, fault: str
) -> None:
    if fault == "no renames":
        relay.do_instead("RNTO", "RNTO /missing/x", "550 no")
    else:
        relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    if "twice" in fault:
        write_once(relay, remote_dir)
    remote_dir.write("known", b"")
    relayed.chmod("/known", 0o600)
    (remote_dir.disk / "known").unlink()
    with Watcher(remote_dir.disk) as watcher:
        for number in range(2):
            relayed.store(f"/file{number}", Local(blob(500_000), mode=0o600), base=None)
    assert on_disk(remote_dir.disk) == {f"file{number}": blob(500_000) for number in range(2)}
    assert mode_of(remote_dir, "file0") == mode_of(remote_dir, "file1") == 0o600
    if "twice" not in fault:
        assert watcher.readable() == {}


def test_where_no_mode_was_ever_set_no_empty_file_is_put_in_place(
    relayed: Remote, relay: Relay
) -> None:
    relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    relayed.store("/job", Local(b"content", mode=0o600), base=None)
    assert [c.arg[-4:] for c in relay.commands if c.verb == "STOR"] == [".tmp", "/job"]
