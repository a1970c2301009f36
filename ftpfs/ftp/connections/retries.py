"""The retry policy: which failed work is done again, and how often.

Work is repeated if its connection broke, or if something was learned about the server that makes a
repetition useful (`errors.Retreat`). A timeout is not retried, because the caller has waited long
enough. Nothing else in ftp repeats work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ftpfs import errors

log = logging.getLogger(__name__)

L = TypeVar("L")
T = TypeVar("T")

# Attempts of work that may be repeated, including the first. A server's restart, or a NAT that
# forgot its connections, costs one. Three failures in a row are no coincidence.
ATTEMPTS = 3
# Attempts of a login. A hang-up during a login is treated like a session that is lost later on.
LOGIN_ATTEMPTS = 2
# Limit of retreats. Each of them gives up another command; there are fewer than this.
MOST_RETREATS = 20
# Pause before the third attempt, doubled for each later one.
PAUSE_SECONDS = 0.2


def repeat(
    take: Callable[[int], L],
    attempt: Callable[[L, int], T],
    *,
    broke: Callable[[], None],
    sleep: Callable[[float], None],
) -> T:
    """The result of `attempt(lease, number)`, repeated as often as the policy allows.

    `number` counts from 1. `take(number)` returns a lease for each attempt; its exceptions are
    final. `broke` is called if a control connection broke, because others may have broken, too.
    """
    number, retreats, begun = 1, 0, 0
    while True:
        begun += 1
        lease = take(begun)
        try:
            return attempt(lease, begun)
        except errors.Retreat as error:
            retreats += 1
            if retreats > MOST_RETREATS:
                raise
            log.info("trying again: %s", error)
        except (errors.ConnectionLost, errors.DataConnectionFailed) as error:
            if isinstance(error, errors.ConnectionLost):
                broke()
            if number == ATTEMPTS:
                raise
            log.info("attempt %d of %d failed, trying again: %s", number, ATTEMPTS, error)
            if number > 1:
                sleep(PAUSE_SECONDS * 2 ** (number - 2))
            number += 1


def log_in(connect: Callable[[], T]) -> T:
    """Connect; connect again if the server hangs up.

    If an attempt taught something about the server, counting begins anew.
    """
    lost = retreats = 0
    while True:
        try:
            return connect()
        except errors.Retreat as error:
            lost, retreats = 0, retreats + 1
            if retreats > MOST_RETREATS:
                raise
            log.info("connecting again: %s", error)
        except errors.ConnectionLost as error:
            lost += 1
            if lost == LOGIN_ATTEMPTS:
                raise
            log.info("connecting again: %s", error)
