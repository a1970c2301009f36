"""What tests of a server's lines share: moments, names, and how names are decoded."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import strategies as st

# Names that a line may hold, in bytes.
NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda raw: not set(raw) & set(b"/\0\r\n") and raw not in (b".", b"..")
)


def decode(raw: bytes) -> str:
    """A name as a session with UTF-8 reads it."""
    return raw.decode("utf-8", "surrogateescape")


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """That moment in UTC, in seconds since the epoch."""
    return int(datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp())
