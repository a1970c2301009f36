"""Pure: what counts as a long link, defined once for reading, writing, names and connections.

On a long link, a round trip costs more than the CPU time that saves it, so looking ahead pays. On a
short link it does not: over loopback, `cp -r` read 950 files a second without prefetching small
files, and 700 with it, because the helping threads were in the way.
"""

from __future__ import annotations

# A link is long if its round trip (seconds) is more than this.
LONG_SECONDS = 0.002

# From this round trip (seconds) on, ftpfs keeps twice as many spare sessions ready.
FAR_SECONDS = 0.05

# The round trip before the first measurement.
UNKNOWN = float("inf")


def is_long(round_trip: float) -> bool:
    """Whether looking ahead pays. An unknown link counts as long."""
    return round_trip > LONG_SECONDS


def is_known_long(round_trip: float) -> bool:
    return LONG_SECONDS < round_trip < UNKNOWN


def is_far(round_trip: float) -> bool:
    """Whether a login is so slow that more spare sessions than usual are kept ready."""
    return FAR_SECONDS <= round_trip < UNKNOWN
