"""The replies of one session: their deadlines, and what a missing or surplus reply shows.

Owns reading replies one by one; the TYPE that ftpfs sends to see whether the server is still there;
and the report of all that to `manners`, which draws the conclusions. Does not own which commands
are sent: `conversation` and `questions` decide that.

**Quiet.** A NAT, a VPN or a machine that slept may have forgotten a quiet session. Therefore a TYPE
leaves ahead of the next command, which costs no round trip of its own. If no answer comes within a
short deadline, the session is over (ConnectionLost). The pool then drops the other idle sessions
too, and repeats on a new one what may be repeated.

**Silence.** A command that this server never answered gets a short deadline. After it, a TYPE shows
whether the server swallowed the command or the connection broke. The essay is in `manners`.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence

from ftpfs import errors
from ftpfs.ftp.connections.control import Control, Reply
from ftpfs.ftp.manners import PIPELINING, TRANSFERS, can_answer
from ftpfs.ftp.profile import Passive, Profile

log = logging.getLogger(__name__)

# After this much silence (s), or a sleep of this machine, the session must first answer within a
# short deadline (s, and round trips). Only then do commands get the full reply deadline.
QUIET_SECONDS = 1.0
WAKE_TIMEOUT, WAKE_ROUND_TRIPS = 3.0, 10
# Deadline (s, and round trips) for a command that this server never answered: servers answer an
# optional command in milliseconds, or never. After it, ftpfs checks whether the server is alive.
OPTIONAL_TIMEOUT, OPTIONAL_ROUND_TRIPS = 4.0, 20
# Wait (s) for a second reply: a server's Nagle holds it back until our delayed acknowledgement.
SECOND_REPLY_SECONDS = 0.25
# Deadline (s) for the rest of a line that the server began on an idle session, unasked.
STRAY_TIMEOUT = 1.0
# Maximum number of unasked-for replies without a pause, and of seconds in which they are read.
MAX_STRAYS, STRAYS_SECONDS = 500, 5.0
# The reply to each command of a session that is not logged in; also a refusal of one path, as some
# servers say it.
NOT_LOGGED_IN = 530
# Replies that mean: the data connection does not resume the TLS session. 522 (vsftpd), or "425
# Unable to build data connection: Operation not permitted" (proftpd, which says it for other faults
# too).
_REUSE_REFUSED = re.compile(r"522|425.*not permitted")


class Hearing:
    """Reads the replies on a control connection.

    Each method that reads or sends raises TimeoutError, EOFError and OSError as the connection
    does: call it inside `Conversation.talking`, which maps them and ends the session.

    - `asked`: verb of the command in flight, for error messages.
    - `text_mode`: whether the server sends files as text (TYPE A); None: unknown.
    - `resumed`: whether a data connection has resumed the control connection's TLS session.
    - `waking`: a TYPE went ahead of a command, and its reply is not read yet.
    - `doubts_login`: a 530 has come, and `check_login` has not looked what it means.
    """

    def __init__(self, control: Control, profile: Profile, reply_timeout: float) -> None:
        """`reply_timeout`: deadline (s) of a reply, unless a method says otherwise."""
        self.asked = "a command"
        self.text_mode: bool | None = None
        self.resumed = False
        self.waking = False
        self.doubts_login = False
        self._control = control
        self._profile = profile
        self._reply_timeout = reply_timeout
        self._slept = _time_asleep()  # seconds this machine had slept when the server last answered

    def reply(self, timeout: float | None = None) -> Reply:
        """The next reply, within `timeout` seconds.

        A 421 ends the session. So does "500 OOPS": the last words of a vsftpd session whose other
        half was killed. Read as "unknown command", it would reach a program as EOPNOTSUPP.
        """
        if self.waking:
            self.finish_waking()
        reply = self._control.reply(timeout or self._reply_timeout)
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)
        if reply.code == NOT_LOGGED_IN:
            self.doubts_login = True
        if reply.code == 500 and reply.text.startswith("OOPS:"):
            raise errors.ConnectionLost(f"the server gave up: {errors.printable(reply.text)}")
        if self.resumed and _REUSE_REFUSED.match(reply.lines[-1]):
            # With TLS 1.2 on Debian 13's servers, OpenSSL forgets a TLS session if one of its
            # connections ended without close_notify. No later data connection of this login can
            # resume it.
            raise errors.ConnectionLost(
                f"the server has forgotten the TLS session: {errors.printable(reply.text)}"
            )
        return reply

    def heed(
        self,
        kind: str,
        timeout: float | None = None,
        together: Sequence[str] = (),
        *,
        unsure: bool | None = None,
    ) -> Reply:
        """The reply to a command of this kind; report to `manners` what it shows.

        `together`: the kinds of all commands in flight, if there are several. `unsure`: whether the
        server may leave one of them unanswered, if the caller found that out before the first
        reply. Raises Retreat when the profile has changed so that a repetition is worthwhile.
        """
        manners = self._profile.wire.manners
        self.asked = kind
        full = timeout or self._reply_timeout
        if unsure is None:
            unsure = manners.is_unsure(together) if together else manners.may_be_unknown(kind)
        limit = full
        if unsure:
            limit = min(full, self.optional_timeout() * (2 if kind in TRANSFERS else 1))
        try:
            reply = self.reply(limit)
        except TimeoutError:
            if not unsure:
                raise
            if limit >= full:  # the caller's deadline is over
                self._blame(kind, together, TimeoutError(), surely=False)
                raise
            reply = self._after_silence(kind, full, together)
        except (EOFError, ConnectionError) as error:
            if unsure:
                self._blame(kind, together, error, surely=False)
            else:
                manners.saw_break()
            raise
        if not can_answer(kind, reply.code) and (learns := manners.lose_count()) is not None:
            if learns:
                self._plainer()
            raise errors.Retreat(f"{reply.code} is no answer to {kind}")
        if reply.code != NOT_LOGGED_IN:  # a session that is not logged in gets it for anything
            manners.saw_answer(kind)
        return reply

    def final_lines(self, most: int, timeout: float | None) -> list[str]:
        """The last lines of the replies that have arrived, at most `most` and at least one.

        If none has arrived, wait up to `timeout` seconds for one.
        """
        return self._control.final_lines(most, timeout or self._reply_timeout)

    def optional_timeout(self, times: int = 1) -> float:
        """Deadline (s) for a command that this server never answered, or `times` as long."""
        timeout = patience(self._profile, OPTIONAL_ROUND_TRIPS, OPTIONAL_TIMEOUT)
        return min(times * timeout, self._reply_timeout)

    def send_one_by_one(self) -> None:
        """From now on, send each command after the reply to the one before, in every session.

        Replies of the past may have belonged to other commands, so they prove nothing any more.
        """
        if self._profile.wire.pipelining:
            self._profile.wire.pipelining = False
            self._profile.wire.manners.forget_answers()
            log.warning(
                "this server confuses pipelined commands; sending them one by one from now on"
            )

    def listen_twice(self) -> None:
        """Discard what follows the last reply, if this server may reply twice."""
        manners = self._profile.wire.manners
        if not manners.wary or self.asked in manners.once:
            return
        if not self._control.comes_within(SECOND_REPLY_SECONDS):
            manners.once |= {self.asked}
        for _ in self._unasked():
            pass

    def expect_silence(self) -> None:
        """While no command is in flight: a reply that has come is one too many.

        The last reply may have belonged to an earlier command then. Raises Retreat, so that the
        work is done again on another session; if the server does this all the time, the reply is
        discarded. Raises ProtocolError if such replies do not end.
        """
        if not self._control.readable():
            return
        for number, stray in enumerate(self._unasked()):
            if not number:
                _note_stray(stray)
            if not self._profile.wire.manners.saw_stray():
                raise errors.Retreat(f"a reply too many came with that to {self.asked}")

    def expect_no_second(self) -> None:
        """`expect_silence`, for as long as a second reply may take."""
        self._control.comes_within(SECOND_REPLY_SECONDS)
        self.expect_silence()

    def hears_stray(self) -> bool:
        """Whether a reply that nobody asked for has arrived on the session. Reads it.

        Raises the error that a 421 means.
        """
        for stray in self._unasked():
            _note_stray(stray)
            return True
        return False

    def _unasked(self) -> Iterator[Reply]:
        """The replies that have arrived although no command is in flight.

        Raises the error that a 421 means, and ProtocolError if there are too many: a server that
        sends them without pause would keep this loop busy until the end of the session.
        """
        deadline = time.monotonic() + STRAYS_SECONDS
        count = 0
        while not self.waking and self._control.readable():
            left = deadline - time.monotonic()
            if count == MAX_STRAYS or left <= 0:
                raise errors.ProtocolError(
                    f"the server does not stop sending replies, unasked, after {self.asked}"
                )
            stray = self._control.reply(min(left, STRAY_TIMEOUT))
            count += 1
            if stray.code == 421:
                raise errors.from_reply(stray.code, stray.text)
            yield stray

    # The server that has forgotten the login.

    def check_login(self) -> None:
        """Find out what a 530 meant; nothing may be in flight.

        Raises ConnectionLost if the server has logged this session out, without closing it: then
        the TYPE in force is refused, too. Otherwise the refusal was about one command or path, and
        teaches nothing.
        """
        self.doubts_login = False
        if self.text_mode is None:
            return  # the login is under way
        self.listen_twice()
        self._send_type()
        reply = self.reply()
        self.doubts_login = False
        if reply.code == NOT_LOGGED_IN:
            raise logged_out(reply.text)

    # The server that may not be there.

    def is_quiet(self, used_at: float) -> bool:
        """Whether nothing was heard for a while, or this machine slept. `used_at`: as Session's."""
        slept = _time_asleep()
        if time.monotonic() - used_at <= QUIET_SECONDS and slept - self._slept <= QUIET_SECONDS:
            return False
        self._slept = slept
        return True

    def wake(self) -> None:
        """Send a TYPE ahead of the next command. Its reply is read before the command's own."""
        self._send_type()
        self.waking = True
        if not self._profile.wire.pipelining:
            self.finish_waking()

    def finish_waking(self) -> None:
        """Read the reply to the TYPE of `wake`, if it is not read yet."""
        if not self.waking:
            return
        self.waking = False
        timeout = patience(self._profile, WAKE_ROUND_TRIPS, WAKE_TIMEOUT)
        try:
            reply = self._control.reply(min(timeout, self._reply_timeout))
        except TimeoutError:
            raise errors.ConnectionLost(
                f"a session that was not used for a while is silent for {timeout:.0f} s: forgotten "
                "on the way, by a NAT, a VPN or a sleep"
            ) from None
        if reply.code == 421:
            raise errors.from_reply(reply.code, reply.text)
        if reply.code == NOT_LOGGED_IN and self.text_mode is False:
            raise logged_out(reply.text)  # it took this TYPE before

    def _send_type(self) -> None:
        """Send the TYPE that is in force: every server answers it, and it changes nothing."""
        self._control.send(b"TYPE A\r\n" if self.text_mode else b"TYPE I\r\n")

    # Commands that a server does not answer: see `manners`.

    def _after_silence(self, kind: str, full: float, together: Sequence[str]) -> Reply:
        """Check with a TYPE whether the server is alive; return the reply if it was only late.

        Raises ConnectionLost if the server says nothing more, so that the work is repeated.
        """
        manners = self._profile.wire.manners
        silence = TimeoutError(f"no answer to {kind}")
        if not TRANSFERS.isdisjoint(together or (kind,)):
            # While a transfer is about to begin, nothing may be sent.
            self._blame(kind, together, silence, surely=not together)
            if kind == "APPE" or not manners.may_be_unknown(kind):
                raise silence  # the transfer may have begun
            raise errors.ConnectionLost(f"no answer to {kind}")
        if manners.is_suspected(kind) and (manners.pipelines or not together):
            # The session before this one was mute after the same command. No need to ask again.
            self._blame(kind, together, silence, surely=False)
            raise errors.ConnectionLost(f"no answer to {kind}")
        try:
            self._send_type()
            reply = self.reply(self.optional_timeout())
            if together:
                self._blame(kind, together, silence, surely=True)
            if reply.code == 200:
                self._blame(kind, together, silence, surely=True)
            self.reply(full)
        except (TimeoutError, EOFError, ConnectionError) as error:
            self._blame(kind, together, error, surely=False)
            raise errors.ConnectionLost(f"no answer to {kind}") from error
        return reply

    def _blame(
        self, kind: str, together: Sequence[str], error: BaseException, *, surely: bool
    ) -> None:
        """Find the command that the server does not answer; raise Retreat if that is certain."""
        manners = self._profile.wire.manners
        this = manners.may_be_unknown(kind)
        silent = isinstance(error, TimeoutError)
        # If the server swallowed one of several commands, the last one seems unanswered. If it says
        # nothing more at all, it is the first one without an answer.
        mute = silent and not surely and TRANSFERS.isdisjoint(together)
        if together and not (this and manners.pipelines and (mute or not silent)):
            if this and silent and not surely:
                manners.suspect(kind)  # sent alone, it need not fail as often again
            if surely or manners.suspect(PIPELINING):
                self.send_one_by_one()
                raise errors.Retreat(f"no answer to {kind}, sent with others") from error
        elif this and (surely or manners.suspect(kind)):
            manners.avoid(kind)
            if kind == Passive.EPSV.value:
                self._profile.wire.passive = Passive.PASV
            raise errors.Retreat(f"no answer to {kind}") from error

    def _plainer(self) -> None:
        """Replies come twice or not at all: stop pipelining, then listen for second replies."""
        if self._profile.wire.pipelining:
            self.send_one_by_one()
        else:
            self._profile.wire.manners.wary = True


def _note_stray(stray: Reply) -> None:
    log.info("unasked-for reply: %s", errors.printable(stray.lines[-1][:200]))


def patience(profile: Profile, round_trips: int, least: float) -> float:
    """That many round trips in seconds, but at least `least` seconds."""
    known = profile.wire.round_trip < float("inf")
    return max(least, round_trips * profile.wire.round_trip) if known else least


def logged_out(text: str) -> errors.ConnectionLost:
    """The error for a session that the server has logged out; `text` of its reply."""
    reason = errors.printable(errors.shortened(text))
    return errors.ConnectionLost(f"the server has logged this session out: {reason}")


def _time_asleep() -> float:
    """Seconds for which this machine has been suspended since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
