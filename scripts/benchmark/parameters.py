"""The parameters of one run: everything that has to be the same to repeat it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any


class BadParameter(ValueError):
    """A parameter does not exist; one line for the user."""


@dataclass(frozen=True)
class Link:
    """The way to the server: a round trip of `rtt` milliseconds, at `mbit` Mbit/s (0: no limit)."""

    rtt: float = 0.0
    mbit: float = 0.0

    @property
    def loopback(self) -> bool:
        return not self.rtt

    @property
    def text(self) -> str:
        """The link as the user wrote it; `parse_link` reads it."""
        if self.loopback:
            return "loopback"
        return f"{self.rtt:g},{self.mbit:g}" if self.mbit else f"{self.rtt:g}"

    @property
    def title(self) -> str:
        if self.loopback:
            return "loopback"
        return f"{self.rtt:g} ms" + (f", {self.mbit:g} Mbit/s" if self.mbit else "")


def parse_link(text: str) -> Link:
    """`loopback`, or `RTT` or `RTT,MBIT` in milliseconds and Mbit/s."""
    if text == "loopback":
        return Link()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?", text)
    if not match or not float(match[1]) or (match[2] and not float(match[2])):
        raise BadParameter(f"no such link: {text!r} (loopback, RTT, or RTT,MBIT; both above 0)")
    return Link(float(match[1]), float(match[2] or 0))


@dataclass(frozen=True)
class Sizes:
    """Amounts of everything. Bytes are in MiB, all others are counts."""

    big: int  # MiB of the file that is read and written
    patched: int  # MiB of the file that is patched
    small: int  # files of 4 KiB
    tree: int  # files in the tree that is walked and synchronised, twenty per folder
    wide: int  # entries of the one wide folder
    random: int  # reads of 4 KiB
    probes: int  # files of which one byte is read
    source: int  # files in the source tree of tar and git
    names: int = 100  # folders made, two levels each; also the maximum of small files moved


# A peer that pays several round trips per entry determines the sizes of the long link: at 20 ms,
# rclone over vsftpd lists 46 entries and writes 4 files a second. Within a run, all peers do the
# same work.
_QUICK_NEAR = Sizes(
    big=64, patched=16, small=100, tree=200, wide=2000, random=50, probes=5, source=60, names=20
)
_QUICK_FAR = Sizes(
    big=16, patched=8, small=8, tree=40, wide=60, random=6, probes=2, source=6, names=4
)
_FULL_NEAR = Sizes(
    big=512, patched=64, small=1000, tree=2000, wide=10_000, random=500, probes=20, source=500
)
_FULL_FAR = Sizes(
    big=128,
    patched=32,
    small=100,
    tree=400,
    wide=10_000,
    random=100,
    probes=10,
    source=100,
    names=50,
)
# Beyond this, rclone takes a quarter of an hour for 10,000 entries.
_VERY_FAR = 50.0  # ms
_FULL_VERY_FAR = Sizes(
    big=64, patched=16, small=50, tree=200, wide=1000, random=50, probes=5, source=40, names=20
)


def choose_sizes(link: Link, quick: bool) -> Sizes:
    if quick:
        return _QUICK_NEAR if link.loopback else _QUICK_FAR
    if link.loopback:
        return _FULL_NEAR
    return _FULL_FAR if link.rtt < _VERY_FAR else _FULL_VERY_FAR


def choose_for_commands(link: Link, quick: bool, big: int | None) -> Sizes:
    """Amounts for tools without a mount. `big`: MiB of the one big file."""
    sizes = choose_sizes(link, quick)
    files = 100 if quick else (600 if link.rtt < _VERY_FAR else 200)
    return dataclasses.replace(sizes, big=big or (32 if quick else 1024), small=files, tree=files)


QUICK_BUDGET = 165.0  # seconds; the rest of three minutes is for making and removing the data


@dataclass(frozen=True)
class Parameters:
    """One run. `peers` and `only` are names; `timeout` of a case and `budget` of all in seconds."""

    link: Link
    server: str
    peers: tuple[str, ...]
    only: tuple[str, ...]
    rounds: int
    timeout: float
    budget: float | None
    sizes: Sizes
    quick: bool = False
    commands: bool = False  # tools without a mount, and their cases
    seed: int = field(default=20)  # of the data and of the random offsets

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "link": self.link.text}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Parameters:
        """The inverse of `to_json`. Raises BadParameter for anything else."""
        try:
            return Parameters(
                **{
                    **values,
                    "link": parse_link(values["link"]),
                    "peers": tuple(values["peers"]),
                    "only": tuple(values["only"]),
                    "sizes": Sizes(**values["sizes"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise BadParameter(f"not the parameters of a run: {error}") from error
