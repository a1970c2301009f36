"""Limits of the rate of a running mount: what `ftpfs set` changes, and `ftpfs status` shows.

Threading: the threads of the control socket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ftpfs import errors
from ftpfs.daemon.control_socket import Answer, Reply, Request
from ftpfs.errors import printable
from ftpfs.ftp.connections.rates import Rate, Rates
from ftpfs.model.status import LimitStatus
from ftpfs.settings.options import OPTIONS
from ftpfs.settings.timetable import Timetable

log = logging.getLogger(__name__)

# The options that a running mount can change.
CHANGEABLE = ("limit_down", "limit_up")


def changer(rates: Rates) -> Answer:
    """The answer to the question `set`: `values` has the new values by the names of options.

    All of them are checked before one is changed.
    """

    def change(request: Request) -> Iterator[Reply]:
        changes = _changes(rates, request.get("values"))
        for name, (rate, timetable) in changes.items():
            rate.set(timetable)
            log.info("%s is %s now", name, timetable)
        yield {"values": {name: str(value) for name, (_, value) in changes.items()}}

    return change


def _changes(rates: Rates, values: Any) -> dict[str, tuple[Rate, Timetable]]:
    if not isinstance(values, Mapping) or not values:
        raise errors.InvalidArgument("the question has no values in it")
    changes = {}
    for name, text in values.items():
        if name not in CHANGEABLE:
            known = "" if name in OPTIONS else "no option, and "
            raise errors.InvalidArgument(
                f"{printable(str(name)[:40])}: {known}not among those that a running mount can "
                f"change ({', '.join(CHANGEABLE)})"
            )
        timetable = cast("Timetable", OPTIONS[name].read(str(text)))
        changes[name] = (rates.down if name == "limit_down" else rates.up, timetable)
    return changes


def status_of(rates: Rates) -> LimitStatus | None:
    """The limits as they are now; None: there is none."""
    if not (rates.down.limited or rates.up.limited):
        return None
    (down, down_now), (up, up_now) = rates.down.now(), rates.up.now()
    return LimitStatus(str(down), str(up), down_now or None, up_now or None)
