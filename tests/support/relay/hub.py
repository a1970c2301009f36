"""What the connections of one relay share: its record, its faults, its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from tests.support.relay.faults import Faults
from tests.support.relay.record import Record
from tests.support.relay.sockets import How


class Wire(Protocol):
    """A control or data connection: both sides of it."""

    forgotten: bool  # nothing passes any more, and nothing is closed

    def cut(self, how: How) -> None: ...


class Hub(Record, Faults):
    """`changed` guards everything."""

    host = "127.0.0.1"

    def __init__(self, server_host: str, server_port: int, *, raw: bool = False) -> None:
        changed = threading.Condition()
        Record.__init__(self, changed)
        Faults.__init__(self, changed)
        self.server = (server_host, server_port)
        self.raw = raw
        self.port = 0
        self.controls: set[Wire] = set()
        self.links: set[Wire] = set()  # data connections
        self.threads: list[threading.Thread] = []

    def spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(
            target=target, args=args, name=f"relay-{self.port}-{target.__name__}", daemon=True
        )
        with self.changed:
            self.threads = [t for t in self.threads if t.is_alive()] + [thread]
            # Started under the lock, which costs nothing here: a thread that is not started is not
            # alive.
            thread.start()
