"""Which packages of this system bring libfuse and fusermount: a line to type, for messages.

Owns the names of the packages, by distribution and release. It installs nothing.

Threading: pure functions, except `here`, which reads a small file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

# Debian renamed the packages of both libraries in 2024 and 2025. These releases have the old names;
# releases that are not listed are newer.
_LIBFUSE2_WITHOUT_T64 = {"buster", "bullseye", "bookworm", "bionic", "focal", "jammy"}
_LIBFUSE3_OF_SONAME_3 = _LIBFUSE2_WITHOUT_T64 | {"noble", "oracular", "plucky"}

# By the family of a distribution (ID or ID_LIKE of os-release(5)), and the version of libfuse.
_COMMANDS = {
    "fedora": {3: "dnf install fuse3 fuse3-libs", 2: "dnf install fuse fuse-libs"},
    "arch": {3: "pacman -S fuse3", 2: "pacman -S fuse2"},
    "alpine": {3: "apk add fuse3 fuse3-libs", 2: "apk add fuse"},
}
_ALIASES = {"debian": "debian", "ubuntu": "debian", "raspbian": "debian", "rhel": "fedora"}
_FILES = ("/etc/os-release", "/usr/lib/os-release")


def here(libfuse: int) -> str:
    """What to type on this system for mounts with libfuse 2 or 3."""
    for path in _FILES:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            return command(libfuse, read(file.read()))
    return command(libfuse, {})


def read(text: str) -> dict[str, str]:
    """The assignments of an os-release file. A line that is none is left out."""
    pairs = (line.strip().partition("=") for line in text.splitlines())
    return {name: value.strip("\"'") for name, equals, value in pairs if equals}


def command(libfuse: int, release: Mapping[str, str]) -> str:
    """What to type for mounts with libfuse 2 or 3 on the system that `release` describes.

    `release`: the variables of os-release(5). Without them, or for an unknown distribution, the
    line names the libraries instead of packages.
    """
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        family = _ALIASES.get(name, name)
        if family == "debian":
            return f"apt install fuse3 {_debian(libfuse, release)}"
        if family in _COMMANDS:
            return _COMMANDS[family][libfuse]
    return f"install libfuse {libfuse} and fusermount from this system's packages"


def _debian(libfuse: int, release: Mapping[str, str]) -> str:
    """The package of the library. Derivatives name the release that they are made from."""
    own = release.get("VERSION_CODENAME", "")
    codename = release.get("UBUNTU_CODENAME") or release.get("DEBIAN_CODENAME") or own
    if libfuse == 2:
        return "libfuse2" if codename in _LIBFUSE2_WITHOUT_T64 else "libfuse2t64"
    return "libfuse3-3" if codename in _LIBFUSE3_OF_SONAME_3 else "libfuse3-4"
