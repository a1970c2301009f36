"""The record of a relay: every command, control connection and data connection that passed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Direction = Literal["down", "up"]  # down: from the server to the client


@dataclass(frozen=True)
class Command:
    """One line that a client sent.

    `t` is time.monotonic() at its arrival. `heard` is how often its connection had sent the client
    something by then: commands that the client wrote in one go have the same value, even if the
    relay read one later.
    """

    conn: int
    verb: str
    arg: str  # UTF-8 with surrogateescape
    t: float
    heard: int


@dataclass
class Connection:
    """One control connection, numbered from 1. Times are time.monotonic()."""

    number: int
    opened: float
    closed: float | None = None
    logged_in: bool = False


@dataclass
class DataConnection:
    """One data connection that a client made, and the bytes that passed it."""

    conn: int
    opened: float
    down: int = 0
    up: int = 0
    closed: float | None = None


class Record:
    """`changed` guards it, and is notified when a thread that waits should check again."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self._commands: list[Command] = []
        self._connections: list[Connection] = []
        self._data: list[DataConnection] = []
        self._peak = 0
        self._numbers = 0

    @property
    def commands(self) -> list[Command]:
        with self.changed:
            return list(self._commands)

    @property
    def connections(self) -> list[Connection]:
        with self.changed:
            return list(self._connections)

    @property
    def data(self) -> list[DataConnection]:
        with self.changed:
            return list(self._data)

    @property
    def verbs(self) -> list[str]:
        return [command.verb for command in self.commands]

    @property
    def open_connections(self) -> int:
        with self.changed:
            return self._open_locked()

    @property
    def peak_connections(self) -> int:
        """The most control connections open at one time since the start or `reset()`."""
        with self.changed:
            return self._peak

    def count(self, *verbs: str) -> int:
        """How many commands with one of these verbs came, or how many in all."""
        return sum(not verbs or verb in verbs for verb in self.verbs)

    def data_bytes(self, direction: Direction) -> int:
        return sum(link.down if direction == "down" else link.up for link in self.data)

    def reset(self) -> None:
        """Forget the record; faults and open connections stay."""
        with self.changed:
            self._commands.clear()
            self._connections = [c for c in self._connections if c.closed is None]
            self._data = [d for d in self._data if d.closed is None]
            self._peak = self._open_locked()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Wait until `condition()`, checked again at every command and data connection."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self.changed:
                self.changed.wait(min(left, 0.05))
        return True

    # What the relay notes.

    def note_command_locked(self, command: Command) -> None:
        self._commands.append(command)
        self.changed.notify_all()

    def note_opened_locked(self) -> Connection:
        self._numbers += 1
        connection = Connection(self._numbers, time.monotonic())
        self._connections.append(connection)
        self._peak = max(self._peak, self._open_locked())
        self.changed.notify_all()
        return connection

    def note_data_locked(self, data: DataConnection) -> None:
        self._data.append(data)
        self.changed.notify_all()

    def note_closed_locked(self, connection: Connection | DataConnection) -> None:
        connection.closed = time.monotonic()
        self.changed.notify_all()

    def logged_in_locked(self) -> int:
        """How many open control connections are logged in."""
        return sum(each.logged_in for each in self._connections if each.closed is None)

    def _open_locked(self) -> int:
        return sum(each.closed is None for each in self._connections)
