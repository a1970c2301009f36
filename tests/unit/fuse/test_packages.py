"""Messages name the packages that this system has."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.fuse import binding, packages

SYSTEMS = {
    "Debian 12": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
    "Debian 13": 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n',
    "Debian testing": "ID=debian\nVERSION_CODENAME=forky\n",
    "Ubuntu 22.04": "ID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\nVERSION_CODENAME=jammy\n",
    "Ubuntu 24.04": "ID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n",
    "Ubuntu 25.10": "ID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=questing\n",
    "Mint 22": 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=wilma\n'
    "UBUNTU_CODENAME=noble\n",
    "LMDE 6": "ID=linuxmint\nID_LIKE=debian\nVERSION_CODENAME=faye\nDEBIAN_CODENAME=bookworm\n",
    "Fedora": 'ID=fedora\nVERSION_ID=42\nPLATFORM_ID="platform:f42"\n',
    "Rocky": 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "Arch": "NAME='Arch Linux'\nID=arch\n",
    "Manjaro": "ID=manjaro\nID_LIKE=arch\n",
    "Alpine": "ID=alpine\nVERSION_ID=3.22.0\n",
    "another": "ID=another\n# comment\n\nnonsense\n",
    "nothing": "",
}
GENERIC = "install libfuse {} and fusermount from this system's packages"


@pytest.mark.parametrize(
    ("system", "libfuse3", "libfuse2"),
    [
        ("Debian 12", "apt install fuse3 libfuse3-3", "apt install fuse3 libfuse2"),
        ("Debian 13", "apt install fuse3 libfuse3-4", "apt install fuse3 libfuse2t64"),
        ("Debian testing", "apt install fuse3 libfuse3-4", "apt install fuse3 libfuse2t64"),
        ("Ubuntu 22.04", "apt install fuse3 libfuse3-3", "apt install fuse3 libfuse2"),
        ("Ubuntu 24.04", "apt install fuse3 libfuse3-3", "apt install fuse3 libfuse2t64"),
        ("Ubuntu 25.10", "apt install fuse3 libfuse3-4", "apt install fuse3 libfuse2t64"),
        ("Mint 22", "apt install fuse3 libfuse3-3", "apt install fuse3 libfuse2t64"),
        ("LMDE 6", "apt install fuse3 libfuse3-3", "apt install fuse3 libfuse2"),
        ("Fedora", "dnf install fuse3 fuse3-libs", "dnf install fuse fuse-libs"),
        ("Rocky", "dnf install fuse3 fuse3-libs", "dnf install fuse fuse-libs"),
        ("Arch", "pacman -S fuse3", "pacman -S fuse2"),
        ("Manjaro", "pacman -S fuse3", "pacman -S fuse2"),
        ("Alpine", "apk add fuse3 fuse3-libs", "apk add fuse"),
        ("another", GENERIC.format(3), GENERIC.format(2)),
        ("nothing", GENERIC.format(3), GENERIC.format(2)),
    ],
)
def test_packages_are_named_as_the_system_names_them(
    system: str, libfuse3: str, libfuse2: str
) -> None:
    release = packages.read(SYSTEMS[system])
    assert packages.command(3, release) == libfuse3
    assert packages.command(2, release) == libfuse2


def test_first_file_that_exists_describes_this_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = tmp_path / "os-release"
    present.write_text(SYSTEMS["Arch"])
    monkeypatch.setattr(packages, "_FILES", (str(tmp_path / "missing"), str(present)))
    assert packages.here(2) == "pacman -S fuse2"
    monkeypatch.setattr(packages, "_FILES", (str(tmp_path / "missing"),))
    assert packages.here(2) == GENERIC.format(2)


# Which binding is taken.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`installed(names)`: a Debian 13 with these Python modules and libraries of FUSE only."""
    release = tmp_path / "os-release"
    release.write_text(SYSTEMS["Debian 13"])

    def only(names: str) -> None:
        def load(name: str, *_more: object) -> object:
            if name in names.split():
                return object()
            raise OSError(name)

        monkeypatch.setattr(packages, "_FILES", (str(release),))
        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: object() if name in names.split() else None
        )

    return only


@pytest.mark.parametrize(
    ("names", "module", "library"),
    [
        ("mfusepy fuse libfuse3.so.3 libfuse3.so.4 libfuse.so.2", "mfusepy", "libfuse3.so.4"),
        ("mfusepy fuse libfuse3.so.3 libfuse.so.2", "mfusepy", "libfuse3.so.3"),
        ("mfusepy libfuse3.so.4", "mfusepy", "libfuse3.so.4"),
        ("mfusepy fuse libfuse.so.2", "fusepy", "libfuse.so.2"),
        ("fuse libfuse3.so.4 libfuse.so.2", "fusepy", "libfuse.so.2"),
        ("fusepy libfuse.so.2", "fusepy", "libfuse.so.2"),  # as Debian packages it
    ],
)
def test_binding_that_works_is_taken(installed: Any, names: str, module: str, library: str) -> None:
    installed(names)
    assert binding.choose() == binding.Binding(module, library)


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        ("mfusepy fuse", "auto", "libfuse is missing (apt install fuse3 libfuse3-4)"),
        ("fuse", "auto", "libfuse is missing (apt install fuse3 libfuse2t64)"),
        ("mfusepy fuse libfuse3.so.4", "fusepy", "libfuse 2 is missing (apt install fuse3 libf"),
        ("mfusepy fuse libfuse.so.2", "mfusepy", "libfuse 3 is missing (apt install fuse3 libf"),
        ("fuse libfuse.so.2", "mfusepy", "the Python library mfusepy is missing (pip install mf"),
        ("libfuse.so.2", "auto", "the Python libraries fusepy and mfusepy are missing"),
    ],
)
def test_missing_part_is_named_with_its_package(
    installed: Any, names: str, wanted: str, message: str
) -> None:
    installed(names)
    with pytest.raises(errors.NotSupported) as refused:
        binding.choose(wanted)
    assert str(refused.value).startswith(message)
