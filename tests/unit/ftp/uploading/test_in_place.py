"""Folders that take no temporary names, or no renames: the file is written in place."""

from __future__ import annotations

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.uploading import (
    MEG,
    WHEN,
    Local,
    blob,
    conflicts,
    found,
    on_disk,
)


def test_file_is_accepted_when_it_is_written_in_place(relayed: Remote, relay: Relay) -> None:
    relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    content = Local(blob(3 * MEG))
    relayed.store("/file", content, base=None)
    assert content.taken.is_set()


@pytest.mark.parametrize("answer", ["250 Renamed.", "553 no renames", "502 what?"])
@pytest.mark.parametrize("replacing", [False, True])
def test_where_nothing_is_ever_renamed_the_file_is_written_in_place(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir, answer: str, replacing: bool
) -> None:
    base = None
    if replacing:
        remote_dir.write("file", bytes(500))
        base = found(relayed, "/file")
    relay.do_instead("RNTO", "RNTO /missing/x", answer)
    entry = relayed.store("/file", Local(blob(500)), base=base)
    assert on_disk(remote_dir.disk) == {"file": blob(500)}
    assert (entry.size, entry.mtime) == (500, WHEN)


def test_refusal_of_one_name_does_not_stop_renames_of_other_files(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """It is written in place, where the server takes that; others go on being replaced whole."""
    for number, refusal in enumerate(("550 no", "553 no", "501 not that", "504 not for that")):
        odd = f"/odd{number}"
        relay.do_instead(
            "RNTO", "RNTO /missing/x", refusal, where=lambda command: "/odd" in command.arg
        )
        relayed.store(odd, Local(b"odd"), base=None, check=False)
        assert (remote_dir.disk / odd[1:]).read_bytes() == b"odd"
        relay.reset()
        relayed.store("/other", Local(blob(500)), base=None, check=False)
        (stored,) = [command.arg for command in relay.commands if command.verb == "STOR"]
        assert stored.endswith(".tmp"), refusal
    assert relayed.profile.names.renames is None
    assert all(name.startswith(("odd", "other")) for name in on_disk(remote_dir.disk))


def test_temporary_name_refused_by_4xx_is_tried_again_for_the_next_file(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.refuse("STOR", "451 not now", times=1)
    relayed.store("/first", Local(b"first"), base=None)
    relay.reset()
    relayed.store("/second", Local(b"second"), base=None)
    (stored,) = [command.arg for command in relay.commands if command.verb == "STOR"]
    assert stored.endswith(".tmp")
    assert on_disk(remote_dir.disk) == {"first": b"first", "second": b"second"}


def test_drop_folder_keeps_one_temporary_file_at_most(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """Upload only: nothing can be seen, renamed or deleted there."""
    for verb in ("SIZE", "MDTM", "MLSD", "LIST", "MLST", "RNFR", "DELE", "MFMT"):
        relay.refuse(verb, "550 Permission denied.")
    for number in range(4):
        relayed.store(f"/scan{number}", Local(b"content"), base=None)
    left = on_disk(remote_dir.disk)
    assert {name: data for name, data in left.items() if name[0] != "."} == {
        f"scan{number}": b"content" for number in range(4)
    }
    assert len(left) == 5


def test_where_the_folder_takes_no_new_names_the_file_is_written_in_place(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"what was there")
    base = found(remote, "/file")
    remote_dir.disk.chmod(0o555)
    remote.store("/file", Local(b"mine"), base=base)
    with pytest.raises(errors.PermissionDenied):
        remote.store("/other", Local(b"mine"), base=None)
    remote_dir.disk.chmod(0o755)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_in_place_too_others_changes_are_not_overwritten(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.refuse("STOR", "553 no new names", where=lambda command: ".ftpfs-" in command.arg)
    for number in range(2):  # the second time it is known that there are no new names
        path = remote_dir.write("file", b"what was there")
        base = found(relayed, "/file")
        path.write_bytes(b"theirs")
        conflicts(relayed, remote_dir, base, b"theirs")
        relayed.store("/file", Local(b"mine"), base=found(relayed, "/file"))
        assert on_disk(remote_dir.disk) == {"file": b"mine"}, number


def test_upload_works_on_a_server_without_size_and_times(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    for verb in ("SIZE", "MDTM", "MLST", "MFMT", "MFF", "SITE"):
        relay.refuse(verb, "500 what?")
    relayed.store("/file", Local(blob(200_000), mode=0o600), base=None)
    base = Entry("file", Kind.FILE, size=200_000, mtime=WHEN, exact=True)
    relayed.store("/file", Local(b"mine"), base=base)
    assert on_disk(remote_dir.disk) == {"file": b"mine"}


def test_empty_file_leaves_no_temporary_file_where_renames_are_refused(
    relayed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    relay.do_instead("RNTO", "RNTO /missing/x", "553 no renames")
    relayed.store("/file", Local(b""), base=None)
    assert on_disk(remote_dir.disk) == {"file": b""}
