"""Health: whether the server accepts logins, judged by the last ones.

After a failed login no thread tries again for a moment. So forty blocked `stat` calls of a file
manager fail together, with the same error, instead of one after another. After a successful login,
several at a time are safe. If a server refuses a login though this process has no session left, it
may still count one that has just ended.

Threading: none of its own; the pool's lock guards it. Times are those of the pool's clock (s).
"""

from __future__ import annotations

from ftpfs import errors

# Pause after a failed login, doubled up to the maximum.
DOWN_SECONDS, MAX_DOWN_SECONDS = 0.5, 4.0
# How long after a successful login the next one is expected to succeed.
PROVEN_SECONDS = 60.0
# How long a server may count a session that has ended.
GHOST_SECONDS = 5.0
# A login that fails so did not reach the server. One that hangs up later, or refuses, is there.
AWAY = (
    errors.UnknownHost,
    errors.ConnectionRefused,
    errors.DeadlineExceeded,
    errors.NoRoute,
    errors.NoGreeting,
)


class ServerHealth:
    """What the last logins, and the end of the last session, tell about the server."""

    def __init__(self) -> None:
        self._down_until = 0.0
        self._pause = DOWN_SECONDS
        self._error: errors.FtpfsError | None = None
        self._let_in_at = float("-inf")
        self._closed_at = float("-inf")

    @property
    def was_let_in(self) -> bool:
        """Whether a login has ever succeeded."""
        return self._let_in_at > float("-inf")

    def is_let_in(self, now: float) -> bool:
        """Whether a login has succeeded lately."""
        return now - self._let_in_at < PROVEN_SECONDS

    def is_down(self, now: float) -> bool:
        return self._error is not None and now < self._down_until

    @property
    def is_away(self) -> bool:
        """Whether the last login did not reach the server at all."""
        return isinstance(self._error, AWAY)

    def check_down(self, now: float) -> None:
        """Raises the error of the last login during the pause after it."""
        if self._error and self.is_down(now):
            raise errors.again(self._error)

    def may_count_a_ghost(self, now: float) -> bool:
        """Whether the server may still count sessions of this process that have ended."""
        return now - self._closed_at < GHOST_SECONDS

    def note_let_in(self, now: float) -> None:
        self._let_in_at = now

    def note_up(self) -> None:
        """A caller's own login succeeded: the server is not down."""
        self._error, self._pause = None, DOWN_SECONDS

    def note_down(self, error: errors.FtpfsError, now: float) -> None:
        if self.is_down(now):
            return  # another of several simultaneous logins has noted it
        self._error = errors.again(error)  # without the frames of its traceback
        self._down_until = now + self._pause
        self._pause = min(MAX_DOWN_SECONDS, self._pause * 2)

    def note_closed(self, now: float) -> None:
        """A session has ended."""
        self._closed_at = now
