"""The recipes of docs/python.md run as they stand there, with a named server and ~/.netrc."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest

from tests.unit.api.conftest import Served

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


@pytest.fixture(scope="session")
def scheme() -> str:
    return "ftp"


@pytest.fixture(scope="session")
def server_kind() -> str:
    return "vsftpd"


def recipes(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(__file__, "member.py")
    return gzip.compress(packed.getvalue())


@pytest.fixture
def nas(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The server `nas` of the recipes, with the files that they use."""
    served.write("data/table.csv", b"name,value\none,1\ntwo,2\n")
    served.write("data/other.csv", b"name,value\n")
    served.write("data/large.bin", bytes(range(256)) * 4000)
    served.write("data/archive.tar.gz", archive())
    server = served.server
    (tmp_path / ".netrc").write_text(
        f"machine {server.host} login {server.user} password {server.password}\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    config = tmp_path / "config" / "ftpfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[servers.nas]\nurl = "ftp://{server.host}:{server.port}/{served.path}"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return served


def test_recipes_run_and_do_what_they_say(
    nas: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the page, as in a notebook."""
    found = recipes(PAGE.read_text())
    assert len(found) == 11
    cells: dict[str, object] = {}
    for recipe in found:
        exec(recipe, cells)
    assert (cells["names"], cells["rows"]) == (["name", "value"], 2)
    assert cells["total"] == sum(path.stat().st_size for path in (nas.disk / "data").iterdir())
    assert cells["sizes"] == {"/data/table.csv": 23, "/data/other.csv": 11}
    data = (nas.disk / "data" / "large.bin").read_bytes()
    assert (cells["head"], cells["tail"]) == (data[:1024], data[-1024:])
    assert cells["parts"] == [data[at : at + 100] for at in (0, 500_000, 900_000)]
    assert (tmp_path / "here" / "data" / "large.bin").read_bytes() == data
    assert (nas.disk / "copy" / "large.bin").read_bytes() == data
    assert (nas.disk / "results" / "log.txt").read_text() == "FIRST\nsecond\n"
    assert (nas.disk / "results" / "b.json").read_text() == "{}"
    assert cells["members"] == ["member.py"]
    assert cells["first"] == b"name,value\n"
    assert "5 of 5\n" in capsys.readouterr().out
