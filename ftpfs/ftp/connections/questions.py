"""Pipelined questions: any number of commands in flight, with guards between them.

Owns how many questions are in flight, the NOOPs between them, and what follows from an answer that
cannot belong to its question. `lister` and others decide what to ask.

**Guards.** No server answers a question with 200, but NOOP brings 200. So a NOOP behind every
hundred questions reveals a missing or surplus reply. The whole batch is then discarded, the session
is over (ConnectionLost), and the next session sends the questions one by one.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NoReturn

from ftpfs import errors
from ftpfs.ftp.connections.conversation import Conversation
from ftpfs.ftp.connections.hearing import NOT_LOGGED_IN, logged_out
from ftpfs.ftp.manners import kind_of

# Maximum bytes of commands in flight. 10,000 MDTMs to vsftpd at 20 ms took 1.75 s with 128 commands
# in flight, 0.84 s with 16 KiB of them, 0.45 s with 32 KiB and with more.
IN_FLIGHT_BYTES = 32 << 10
# Number of questions between two NOOPs.
GUARD_DISTANCE = 100
_GUARD = b"NOOP\r\n"
# Minimum number of answers that shows how long a server takes for each.
PACED_ANSWERS = 50


class Questions:
    """Which questions were sent, and which of those were answered. No I/O."""

    def __init__(self, wire: Sequence[bytes], window: int) -> None:
        """`wire`: the questions as they are sent. `window`: limit of unanswered bytes."""
        self._wire = wire
        self._window = window
        self._sent = self._got = 0
        self._in_flight = 0  # bytes

    @property
    def count(self) -> int:
        return len(self._wire)

    @property
    def done(self) -> bool:
        return self._got == len(self._wire)

    @property
    def open(self) -> int:
        """How many questions were sent and not answered yet."""
        return self._sent - self._got

    def next_batch(self) -> bytes:
        """The questions to send now. None while more than half of the window is in flight."""
        start = self._sent
        if self._in_flight <= self._window // 2:
            while self._sent < len(self._wire) and self._in_flight < self._window:
                self._in_flight += len(self._wire[self._sent])
                self._sent += 1
        return b"".join(self._wire[start : self._sent])

    @property
    def next_kind(self) -> str:
        """The kind of the question that the next answer belongs to."""
        return kind_of(self._wire[self._got].decode("latin-1").rstrip())

    def answered(self) -> bytes:
        """The question that the next answer belongs to."""
        question = self._wire[self._got]
        self._in_flight -= len(question)
        self._got += 1
        return question


class Asking:
    """Sends questions on a conversation, and reads the answers."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._hearing = conversation.hearing
        self._control = conversation.control
        self._profile = conversation.profile

    def prepare(self, lines: Sequence[str]) -> Questions:
        """The questions with guards between them. Sends nothing. Raises as `encode` does."""
        # A batch that fits into our own send buffer never blocks while the server waits for us to
        # read its replies.
        window = min(IN_FLIGHT_BYTES, self._control.send_buffer() // 2)
        return Questions(self._encode_guarded(lines), window)

    def send_first(self, asked: Questions) -> None:
        """Send the first questions, whose answers `answers` reads later."""
        with self._conversation.talking():
            self._send_more(asked)

    def answers(self, asked: Questions) -> list[str]:
        """The last line of each answer; also sends the questions that are still to be sent.

        Raises ConnectionLost if an answer is missing or surplus.
        """
        with self._conversation.talking():
            return self._answers(asked)

    def _send_more(self, asked: Questions) -> None:
        if batch := asked.next_batch():  # one segment carries many commands
            self._control.send(batch)

    def _answers(self, asked: Questions) -> list[str]:
        answers: list[str] = []
        began, at_once = 0.0, 0  # when the first answers came, and how many
        while not asked.done:
            if not asked.open:
                self._hearing.expect_silence()
            self._send_more(asked)
            self._hearing.finish_waking()
            there = self._answers_there(asked)
            if not began:
                began, at_once = time.monotonic(), len(there)
            for line in there:
                question = asked.answered()
                if (question is _GUARD) is not line.startswith("200"):
                    self._mismatch(line)
                if question is not _GUARD:
                    answers.append(line)
        if answers and answers[-1].startswith(str(NOT_LOGGED_IN)):
            self._hearing.check_login()
        if (paced := asked.count - at_once) >= PACED_ANSWERS or asked.count > PACED_ANSWERS:
            self._profile.times.saw_pace(time.monotonic() - began, max(paced, PACED_ANSWERS))
        return answers

    def _answers_there(self, asked: Questions) -> list[str]:
        """The answers that have arrived; waits for at least one."""
        manners = self._profile.wire.manners
        kind = self._hearing.asked = asked.next_kind
        unsure = manners.may_be_unknown(kind)
        timeout = None
        if unsure:
            # A command and the TYPE behind it have as long. The second time is as for `Hearing`.
            twice = kind != "NOOP" and not manners.is_suspected(kind)
            timeout = self._hearing.optional_timeout(2 if twice else 1)
        try:
            lines = self._hearing.final_lines(asked.open, timeout)
        except (TimeoutError, EOFError, ConnectionError) as error:
            if unsure:
                self._blame(kind, error)
            raise
        if unsure and not lines[0].startswith(str(NOT_LOGGED_IN)):
            manners.saw_answer(kind)
        return lines

    def _blame(self, kind: str, error: BaseException) -> None:
        """A question, or a guard, of this kind was never answered: raise Retreat if it is at fault.

        If the server leaves a single question unanswered, the reply to the NOOP behind it shows
        that (`_mismatch`). So a server that says nothing at all was made mute by the question, or
        by so many of them, or is gone: raises ConnectionLost, so that the work is repeated.
        """
        manners = self._profile.wire.manners
        silent = isinstance(error, TimeoutError)
        if (silent and kind == "NOOP") or manners.suspect(kind):
            if kind == "NOOP":
                manners.avoid(kind)
            else:
                self._hearing.send_one_by_one()
            raise errors.Retreat(f"no answer to {kind}") from error
        if silent:
            raise errors.ConnectionLost(f"no answer to {kind}") from error

    def _encode_guarded(self, lines: Sequence[str]) -> list[bytes]:
        wire = []
        for number, line in enumerate(lines, 1):
            wire.append(self._conversation.encode(line))
            if not number % GUARD_DISTANCE:
                wire.append(_GUARD)
        if wire and wire[-1] is not _GUARD:
            wire.append(_GUARD)
        return wire

    def _mismatch(self, line: str) -> NoReturn:
        """Handle a reply that cannot be the answer to the pipelined command in its place."""
        if line.startswith("421"):
            raise errors.from_reply(421, line[4:])
        if line.startswith(str(NOT_LOGGED_IN)):
            raise logged_out(line[4:])
        self._hearing.send_one_by_one()
        raise errors.ConnectionLost("replies to pipelined commands do not match; starting over")
