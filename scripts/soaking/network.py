"""The faults of the network."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from scripts.soaking.model import Counts
from tests.support.relay import Relay


class Chaos:
    """Makes faults of the network, in a thread of its own."""

    def __init__(self, relay: Relay, seed: str, counts: Counts, *, absences: bool) -> None:
        """`absences`: the server is away for seconds, again and again."""
        self.absences = absences
        self.last_absent = float("-inf")  # time.monotonic()
        self.relay = relay
        self.random = random.Random(seed)
        self.counts = counts
        self.lock = threading.RLock()
        self.calm = False  # guarded by lock

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self.random.uniform(0.02, 0.4)):
            with self.lock:
                if not self.calm:
                    self.random.choice(self.faults())()
                    self.counts.faults += 1

    def faults(self) -> list[Callable[[], object]]:
        dice, relay = self.random, self.relay
        after = dice.choice([0, dice.randrange(2000), dice.randrange(1_000_000)])
        skip = dice.randrange(10)
        absences = [self.leave] * 3 if self.absences else []
        return [
            *absences,
            lambda: relay.cut_control(skip=skip, when="before"),
            lambda: relay.cut_control(skip=skip, when="after"),
            lambda: relay.cut_control(skip=skip, when="final"),
            lambda: relay.cut_control("RNTO", when="final"),
            lambda: relay.cut_control("RNTO", when="before"),
            lambda: relay.cut_data("up", after=after, how="fin"),
            lambda: relay.cut_data("up", after=after, control=True),
            lambda: relay.cut_data("down", after=after),
            lambda: relay.drop_reply("STOR"),
            lambda: relay.cut_all(),
            lambda: self.flicker(),
            lambda: setattr(relay, "latency", dice.choice([0, 0, 0.002, 0.02])),
            lambda: relay.clear(),
            lambda: relay.clear(),
        ]

    def flicker(self) -> None:
        with self.away():
            time.sleep(self.random.uniform(0.05, 1))

    def leave(self) -> None:
        """The server goes: nothing listens at its address, and no session is left."""
        with self.lock:
            self.counts.absences += 1
            self.relay.vanish()
            time.sleep(self.random.uniform(0.5, 4))
            self.relay.come_back()
            self.last_absent = time.monotonic()

    def was_absent(self, seconds: float) -> bool:
        """Whether the server is away now, or was within that time."""
        if not self.absences:
            return False
        is_free = self.lock.acquire(blocking=False)
        if is_free:
            self.lock.release()
        return not is_free or time.monotonic() - self.last_absent < seconds

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Make the server unreachable."""
        with self.lock:
            # Not `vanish`, which releases the port: other programs on this machine could take it.
            self.relay.refuse_connections()
            self.relay.cut_all()
            time.sleep(0.05)  # for a connection that is just being accepted
            self.relay.cut_all()
            self.counts.faults += 1
            try:
                yield
            finally:
                self.relay.refuse_connections(None)

    @contextlib.contextmanager
    def no_faults(self) -> Iterator[None]:
        with self.lock:
            self.calm = True
            self.relay.clear()
            self.relay.reset()
        try:
            yield
        finally:
            with self.lock:
                self.calm = False
