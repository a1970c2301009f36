"""A counting, fault-injecting FTP relay: client <-> Relay <-> a real server, all on loopback.

Owns: the record of every command and data connection, and the faults that a test requests. It knows
just enough FTP: lines, replies of one or many lines, which reply belongs to which command (also
when commands are pipelined), and 227/229, which it rewrites so that data passes through it too.
Active mode (PORT, EPRT) passes through unchanged. From AUTH TLS on (or from the start with
`raw=True`, for implicit TLS) the control connection is bytes, and data bypasses the relay; only the
faults on the whole work then.

Threads: one accepts connections; per control connection one reads the client, one reads the server,
one writes to the client (so that a delay holds up nothing behind it); per data connection two. One
lock guards all state, `Relay._changed`; nothing blocks under it.

    with Relay(server.host, server.port) as relay:
        ... a client on relay.host, relay.port ...
        relay.refuse("MLSD", "502 no")
        relay.cut_data("down", after=1 << 20)
        assert relay.count("MLSD") == 1
"""

from tests.support.relay.faults import DataRule, Rule, When
from tests.support.relay.record import Command, Connection, DataConnection, Direction
from tests.support.relay.relay import Relay
from tests.support.relay.sockets import How

__all__ = [
    "Command",
    "Connection",
    "DataConnection",
    "DataRule",
    "Direction",
    "How",
    "Relay",
    "Rule",
    "When",
]
