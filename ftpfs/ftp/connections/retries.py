"""The retry policy: which failed work is done again, and how often.

Work is repeated if its connection broke, or if something was learned about the server that makes a
repetition useful (`errors.Retreat`). After that, attempts are counted anew: a server that hangs up
on many commands is learned one by one. A timeout is not retried, because the caller has waited long
enough. Nothing else in ftp repeats work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ftpfs import errors

log = logging.getLogger(__name__)

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


class Retries:
    """What the failures of one piece of work lead to."""

    def __init__(self) -> None:
        self._failures = 0
        self._retreats = 0

    def pause_after(self, error: BaseException) -> float | None:
        """How long (s) to wait before the next attempt after this error; None: it is final."""
        if isinstance(error, errors.Retreat):
            self._retreats += 1
            if self._retreats > MOST_RETREATS:
                return None
            self._failures = 0  # they were the way to what was learned
            log.info("trying again: %s", error)
            return 0.0
        if not isinstance(error, (errors.ConnectionLost, errors.DataConnectionFailed)):
            return None
        self._failures += 1
        if self._failures == ATTEMPTS:
            return None
        log.info("attempt %d of %d failed, trying again: %s", self._failures, ATTEMPTS, error)
        return PAUSE_SECONDS * 2 ** (self._failures - 2) if self._failures > 1 else 0.0


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
