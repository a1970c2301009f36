"""The faults of a relay: standing orders about commands and data, and faults on the whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from tests.support.relay.record import Command, Direction
from tests.support.relay.sockets import How

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing since Python 3.11

When = Literal["before", "after", "final"]


class Which(TypedDict, total=False):
    """Which of the commands with its verb a rule is about."""

    skip: int  # matching commands that pass first
    times: int | None  # how often the rule is followed; None: always
    where: Callable[[Command], bool] | None  # a further condition


@dataclass(eq=False)
class Rule:
    """A standing order about commands. `hits` counts how often it was followed."""

    verb: str | None  # None: any command
    action: Literal["refuse", "replace", "drop", "cut", "hold"]
    reply: str = ""
    instead: str = ""  # what the server receives
    when: When = "before"
    how: How = "rst"
    skip: int = 0
    times: int | None = None
    where: Callable[[Command], bool] | None = None
    hits: int = 0
    faults: Faults | None = None

    def remove(self) -> None:
        assert self.faults is not None
        self.faults.remove(self)

    def takes(self, command: Command) -> bool:
        """Whether the rule is followed for this command; a command that it skips counts."""
        if self.verb not in (None, command.verb):
            return False
        if self.where is not None and not self.where(command):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass(eq=False)
class DataRule:
    """A standing order about data connections."""

    direction: Direction
    after: int
    times: int | None
    action: Literal["cut", "stall"]
    how: How = "rst"
    control: bool = False
    verb: str | None = None  # only data of such a command
    hits: int = 0
    faults: Faults | None = None

    def remove(self) -> None:
        assert self.faults is not None
        self.faults.remove(self)


class Faults:
    """`changed` guards them, and is notified when a thread that waits should check again.

    Attributes:
        hold_replies: nothing of the server passes on control connections.
        released: how often `release` was called.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self.hold_replies = False
        self.released = 0
        self._rules: list[Rule] = []
        self._data_rules: list[DataRule] = []
        self._latency = 0.0
        self._data_rate: int | None = None
        self._limit: tuple[int, str, Literal["greeting", "login"]] | None = None
        self._refuse_connections: How | None = None

    # Commands. The first rule that matches counts.

    def refuse(self, verb: str, reply: str = "502 not here", **which: Unpack[Which]) -> Rule:
        """Answer `verb` with `reply`, in order; the server never receives the command."""
        return self._add(Rule(verb, "refuse", reply, **which))

    def replace_reply(self, verb: str, reply: str, **which: Unpack[Which]) -> Rule:
        """The server carries the command out; the client gets `reply` as the final reply."""
        return self._add(Rule(verb, "replace", reply, **which))

    def do_instead(self, verb: str, command: str, reply: str, **which: Unpack[Which]) -> Rule:
        """Send the server `command` in place of the client's `verb`; the client reads `reply`.

        Unlike `refuse`, this does not leave the server waiting for an RNTO.
        """
        return self._add(Rule(verb, "replace", reply, instead=command, **which))

    def drop_reply(self, verb: str, **which: Unpack[Which]) -> Rule:
        """The server carries the command out; its final reply (the 226 of a STOR) never arrives.

        Once, unless `times` says otherwise.
        """
        return self._add(Rule(verb, "drop", **_once(which)))

    def hold_reply(self, verb: str, **which: Unpack[Which]) -> Rule:
        """Like `drop_reply`, but this reply and all later ones arrive after `release()`."""
        return self._add(Rule(verb, "hold", **_once(which)))

    def cut_control(
        self,
        verb: str | None = None,
        *,
        when: When = "before",
        how: How = "rst",
        **which: Unpack[Which],
    ) -> Rule:
        """Cut the control connection, and its data connection with it, at a command (None: any).

        "before": the server never receives the command. "after": it does, and the connection is cut
        in place of its first reply. "final": in place of its final reply (after the 150 and all the
        data). Once, unless `times` says otherwise.
        """
        return self._add(Rule(verb, "cut", when=when, how=how, **_once(which)))

    def match_locked(self, command: Command) -> Rule | None:
        return next((rule for rule in self._rules if rule.takes(command)), None)

    # Data.

    def cut_data(
        self,
        direction: Direction,
        *,
        after: int,
        how: How = "rst",
        times: int | None = 1,
        control: bool = False,
        verb: str | None = None,
    ) -> DataRule:
        """Let `after` bytes pass, then cut the data connection on both sides.

        "fin" looks like a proper end of the data to both. `control` cuts the session as well. A
        connection that carries no more than `after` bytes is not touched, nor, with `verb`, one of
        another command.
        """
        return self._add_data(DataRule(direction, after, times, "cut", how, control, verb))

    def stall_data(self, direction: Direction, *, after: int, times: int | None = 1) -> DataRule:
        """Let `after` bytes pass, then nothing until `release()`; nothing is closed."""
        return self._add_data(DataRule(direction, after, times, "stall"))

    def next_data_rule(
        self, direction: Direction, verb: str, end: int, spent: set[DataRule]
    ) -> DataRule | None:
        """The first rule that applies to a command's data before byte `end`, and is not `spent`."""
        with self.changed:
            rules = [
                rule
                for rule in self._data_rules
                if rule.direction == direction
                and rule not in spent
                and (rule.times is None or rule.hits < rule.times)
                and rule.verb in (None, verb)
                and rule.after < end
            ]
            if not rules:
                return None
            rule = min(rules, key=lambda rule: rule.after)
            rule.hits += 1
            return rule

    # The whole.

    @property
    def latency(self) -> float:
        """Seconds by which every reply is delayed; pipelined replies overlap."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        with self.changed:
            self._latency = seconds

    @property
    def data_rate(self) -> int | None:
        """Bytes a second that each data connection may carry; None is no limit."""
        return self._data_rate

    @data_rate.setter
    def data_rate(self, rate: int | None) -> None:
        with self.changed:
            self._data_rate = rate

    def stall_replies(self, stalled: bool = True) -> None:
        """Hold back all that the server sends on control connections, including greetings."""
        with self.changed:
            self.hold_replies = stalled
            self.changed.notify_all()

    def release(self) -> None:
        """Release everything that is stalled or held back."""
        with self.changed:
            self.hold_replies = False
            self.released += 1
            self.changed.notify_all()

    def limit_connections(
        self,
        most: int | None,
        reply: str = "421 There are too many connections from your internet address.",
        at: Literal["greeting", "login"] = "greeting",
    ) -> None:
        """Refuse connections beyond `most`: by the greeting, or by the answer to PASS."""
        with self.changed:
            self._limit = None if most is None else (most, reply, at)

    def refuse_connections(self, how: How | None = "rst") -> None:
        """Close new connections as soon as they are made (None: accept them again)."""
        with self.changed:
            self._refuse_connections = how

    @property
    def refuses_connections(self) -> How | None:
        return self._refuse_connections

    def turn_away_locked(self, at: Literal["greeting", "login"], now: int) -> str | None:
        """The reply to a connection that is too much, with `now` others."""
        if self._limit is None:
            return None
        most, reply, where = self._limit
        return reply if where == at and now >= most else None

    def take_back(self) -> None:
        """Take back every fault; release what is held."""
        with self.changed:
            self._rules.clear()
            self._data_rules.clear()
            self._latency = 0.0
            self._data_rate = None
            self._limit = None
            self._refuse_connections = None
        self.release()

    def remove(self, rule: Rule | DataRule) -> None:
        with self.changed, contextlib.suppress(ValueError):
            if isinstance(rule, Rule):
                self._rules.remove(rule)
            else:
                self._data_rules.remove(rule)

    def _add(self, rule: Rule) -> Rule:
        rule.faults = self
        with self.changed:
            self._rules.append(rule)
        return rule

    def _add_data(self, rule: DataRule) -> DataRule:
        rule.faults = self
        with self.changed:
            self._data_rules.append(rule)
        return rule


def _once(which: Which) -> Which:
    return {"times": 1, **which}
