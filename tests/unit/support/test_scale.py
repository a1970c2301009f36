"""Large directories: time linear, and few bytes an entry."""

from __future__ import annotations

import pytest

from scripts.scale import Figure, measure
from tests.support import generated_server

MOST_BYTES = 400


@pytest.fixture(scope="module")
def figures() -> tuple[Figure, Figure]:
    with generated_server.running() as port:
        return measure(port, 2_000, 1), measure(port, 40_000, 1)


def test_entry_of_a_large_directory_takes_no_longer_than_of_a_small_one(
    figures: tuple[Figure, Figure],
) -> None:
    small, large = figures
    # Quadratic work would make it twenty times as long. (The server's CPU is in it, too.)
    assert large.cpu < 4 * small.cpu


def test_entry_takes_less_than_400_bytes(figures: tuple[Figure, Figure]) -> None:
    assert 100 < figures[1].memory < MOST_BYTES
