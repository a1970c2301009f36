"""Good conversations in which replies are lost, doubled, torn, late or wrong.

`scripts/fuzz conversations` does the same for hours. Here: each reply of a day doubled, some days
at random, and what was found.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.support import scripted_server as scripted
from tests.support import spoiled
from tests.support.scripted_server import TWICE, Manners
from tests.support.spoiled import FAULTS, FEATURES, Day, Spoiling
from tests.unit.ftp.test_manners import connected

REPLIES = 105  # of a day with FEATURES[0]
PARTS = 5


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled.hurry(monkeypatch.setattr)


@pytest.mark.parametrize("part", range(PARTS))
def test_doubled_reply_is_no_answer_to_the_next_command(part: int, tmp_path: Path) -> None:
    for number in range(part, REPLIES, PARTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        spoiled.spend_a_day(folder, Day(FEATURES[0], [Spoiling(number, "double")]))


@pytest.mark.parametrize("features", range(len(FEATURES)), ids=["modern", "old", "plain"])
@pytest.mark.parametrize("how", [*FAULTS, *spoiled.LIES])
def test_spoiled_replies_mislead_nobody(how: str, features: int, tmp_path: Path) -> None:
    random = Random(f"{how} {features}")
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        spoilings = [
            Spoiling(random.randrange(170), how, random.randrange(256), random.randrange(256))
            for _ in range(2)
        ]
        spoiled.spend_a_day(folder, Day(FEATURES[features], spoilings))


def test_entry_that_mlst_tells_twice_is_not_taken_for_that_of_the_next_name(
    tmp_path: Path,
) -> None:
    """The second reply came right behind the next command."""
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(name.encode())
    late = Manners(answers={"MLST": TWICE}, pieces=lambda reply: (b"", b"", reply))
    with scripted.start(tmp_path, late) as server, connected(server) as remote:
        for name in ("one", "two", "three", "two"):
            entry = remote.stat(f"/{name}")
            assert (entry.name, entry.size) == (name, len(name))


@pytest.mark.parametrize("shown", ["/ONE", "one ", "else"])
def test_server_that_shows_another_name_in_mlst_is_believed(shown: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")

    def named(reply: bytes) -> tuple[bytes]:
        return (reply.replace(b"; one\r\n", f"; {shown}\r\n".encode()),)

    with scripted.start(tmp_path, Manners(pieces=named)) as server, connected(server) as remote:
        for _ in range(3):
            entry = remote.stat("/one")
            assert (entry.name, entry.size) == ("one", 3)
        assert server.verbs().count("USER") == 1
        assert server.verbs().count("MLST") == 3
