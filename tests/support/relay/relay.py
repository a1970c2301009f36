"""The relay: listens, opens both sides of each connection, and cuts them all when told."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from tests.support.relay.control import Control
from tests.support.relay.hub import Hub, Wire
from tests.support.relay.sockets import How, bound, close, line, wake
from tests.support.stoppable import Stoppable


class Relay(Hub, Stoppable):
    """Listens on `host`:`port`; everything may be set and read at any time, from any thread."""

    def __init__(self, server_host: str, server_port: int, *, raw: bool = False) -> None:
        super().__init__(server_host, server_port, raw=raw)
        # Keeps the port, on which nothing listens while the server is gone: otherwise the kernel
        # might give it to another process.
        self._place = bound(self.host, 0)
        self.port = self._place.getsockname()[1]
        self._listener: socket.socket | None = None
        self._stopped = False

    # Faults on all connections.

    def cut_one(self, wires: Iterable[Wire], choose: Callable[[Sequence[Wire]], Wire]) -> None:
        """Reset one of the present `controls` or `links`, if there is one."""
        with self.changed:
            present = list(wires)
        if present:
            choose(present).cut("rst")

    def cut_all(self, how: How = "rst") -> None:
        """Cut all present control and data connections; new ones are accepted."""
        with self.changed:
            links: list[Wire] = [*self.links, *self.controls]
        for link in links:
            link.cut(how)

    def forget(self) -> None:
        """Stop all traffic on the present connections, in both directions, as if a NAT forgot them.

        New connections are accepted.
        """
        with self.changed:
            links: list[Wire] = [*self.links, *self.controls]
            for link in links:
                link.forgotten = True

    def vanish(self) -> None:
        """Vanish: cut everything and refuse connections. `come_back()` undoes it."""
        with self.changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            wake(listener)
        self.cut_all()
        # A connection may have been accepted while the listener closed.
        self.wait_for(self.is_quiet, 2)

    def come_back(self) -> None:
        """Listen again, on the same port."""
        if self._listener is None:
            self._listen()

    def clear(self) -> None:
        """Take back every fault; release what is held."""
        self.take_back()
        if not self._stopped:
            self.come_back()

    # Start and end.

    def start(self) -> Relay:
        self._listen()
        return self

    def stop(self) -> None:
        """Cut everything and wait for the threads. May be called twice."""
        with self.changed:
            self._stopped = True
        self.release()
        self.vanish()
        self._place.close()
        with self.changed:
            threads = list(self.threads)
        deadline = time.monotonic() + 5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            raise RuntimeError(f"relay threads did not end: {left}")

    def __enter__(self) -> Relay:
        return self.start()

    # Internal.

    def _listen(self) -> None:
        listener = bound(self.host, self.port)
        listener.listen(256)
        with self.changed:
            self._listener = listener
        self.spawn(self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with self.changed:
                    current = self._listener is listener
                    refusal = self.refuses_connections
                    full = self.turn_away_locked("greeting", len(self.controls))
                if not current or refusal:
                    close(client, refusal or "rst")
                elif full is not None:
                    with contextlib.suppress(OSError):
                        client.sendall(line(full))
                    close(client, "fin")
                else:
                    self._open(client)

    def _open(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.server, timeout=10)
        except OSError:
            close(client, "rst")
            return
        for sock in (client, server):
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # ftplib sends ABOR as urgent data; out of line its last byte would be lost.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        with self.changed:
            control = Control(self, client, server, self.note_opened_locked())
            self.controls.add(control)
            gone = self._listener is None
        self.spawn(control.read_server)
        self.spawn(control.write_client)
        self.spawn(control.read_client)
        if gone:
            control.cut("rst")

    def is_quiet(self) -> bool:
        """Whether no connection is left."""
        with self.changed:
            return not self.controls and not self.links
