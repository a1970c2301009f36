"""What reached the server, of any kind: commands and connections, seen on the wire.

A packet socket with a filter in the kernel takes the segments to the control port that open a
connection or carry data; they are read on request. Nothing stands between client and server, and
the server needs no log, which would slow it down. (Only vsftpd and proftpd have a usable one.)
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import socket
import struct
from dataclasses import dataclass, field

# linux/if_ether.h, linux/if_packet.h, asm/socket.h
_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_PACKET_OUTGOING = 4  # on loopback each packet shows twice: once leaving, once arriving
_SKF_PKTTYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE, linux/filter.h
_SYN = 0x02

_BUFFER = 64 << 20  # bytes; the kernel counts about 1 KiB per packet, whatever its size
_DATA_VERBS = ("PASV", "EPSV", "PORT", "EPRT")


@dataclass(frozen=True)
class Seen:
    """What the server has received so far."""

    verbs: collections.Counter[str] = field(default_factory=collections.Counter)
    controls: int = 0  # control connections opened

    @property
    def commands(self) -> int:
        return sum(self.verbs.values())

    @property
    def data(self) -> int:
        """Data connections requested."""
        return sum(self.verbs[verb] for verb in _DATA_VERBS)

    def __sub__(self, other: Seen) -> Seen:
        return Seen(self.verbs - other.verbs, self.controls - other.controls)


class Tap:
    """Listens to packets to `port` on the interface `device`. For one thread. Root only."""

    def __init__(self, device: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._attach(_filter(port))
        self._socket.bind((device, _ETH_P_ALL))
        self._flows: dict[bytes, _Flow] = {}
        self._seen = Seen()
        self._lost = False

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def seen(self) -> Seen | None:
        """The count so far; None after packets were missed, because it would be wrong."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._socket.recv(1 << 16, socket.MSG_DONTWAIT))
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._lost = self._lost or bool(struct.unpack("II", statistics)[1])
        return None if self._lost else Seen(self._seen.verbs.copy(), self._seen.controls)

    def _attach(self, program: bytes) -> None:
        code = ctypes.create_string_buffer(program)
        pointer = struct.pack("HL", len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)

    def _take(self, packet: bytes) -> None:
        tcp = packet[(packet[0] & 0x0F) * 4 : int.from_bytes(packet[2:4], "big")]
        sequence = int.from_bytes(tcp[4:8], "big")
        key = packet[12:16] + tcp[:2]  # the sender
        if tcp[13] & _SYN:
            # A repeated SYN belongs to the same connection.
            flow = self._flows.get(key)
            if flow is None or flow.first != sequence:
                self._flows[key] = _Flow(sequence)
                self._seen = Seen(self._seen.verbs, self._seen.controls + 1)
        elif key in self._flows:
            self._seen.verbs.update(self._flows[key].verbs(sequence, tcp[(tcp[12] >> 4) * 4 :]))


class _Flow:
    """One control connection's bytes to the server, reassembled."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._next = first + 1
        self._rest = b""

    def verbs(self, sequence: int, data: bytes) -> list[str]:
        """The verbs of the commands that end with these bytes; earlier bytes are skipped."""
        again = (self._next - sequence) % (1 << 32)
        if again < 1 << 31:
            data, sequence = data[again:], self._next  # these bytes were sent twice
        if not data:
            return []
        self._next = (sequence + len(data)) % (1 << 32)
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        return [line.split(b" ", 1)[0].decode("ascii", "replace").upper() for line in lines]


# Classic BPF, linux/bpf_common.h: instruction codes.
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28
_LOAD_BYTE_X, _LOAD_HALF_X = 0x50, 0x48  # at this distance behind x
_X_HEADER, _X_A = 0xB1, 0x07  # x = length of the IP header; x = a
_AND, _SHIFT_RIGHT, _ADD_X = 0x54, 0x74, 0x0C
_IF_EQUAL, _IF_BITS, _IF_ABOVE_X = 0x15, 0x45, 0x2D
_RETURN = 0x06


def _filter(port: int) -> bytes:
    """A filter for outgoing IPv4 packets that open a connection to `port` or carry data to it."""
    last = 19
    steps: list[tuple[int, int]] = [
        (_LOAD_BYTE, _SKF_PKTTYPE),
        (_IF_EQUAL, _PACKET_OUTGOING),
        (_LOAD_BYTE, 0),
        (_AND, 0xF0),
        (_IF_EQUAL, 0x40),
        (_LOAD_BYTE, 9),
        (_IF_EQUAL, socket.IPPROTO_TCP),
        (_X_HEADER, 0),
        (_LOAD_HALF_X, 2),
        (_IF_EQUAL, port),
        (_LOAD_BYTE_X, 13),
        (_IF_BITS, _SYN),
        # Bytes behind both headers: a pure acknowledgement has none.
        (_LOAD_BYTE_X, 12),
        (_AND, 0xF0),
        (_SHIFT_RIGHT, 2),
        (_ADD_X, 0),
        (_X_A, 0),
        (_LOAD_HALF, 2),
        (_IF_ABOVE_X, 0),
        (_RETURN, 0),
        (_RETURN, 0xFFFF),
    ]
    program = b""
    for index, (code, value) in enumerate(steps):
        yes = no = 0
        if code in (_IF_BITS, _IF_ABOVE_X):
            yes = last - index  # to the end, which accepts
        if code in (_IF_EQUAL, _IF_ABOVE_X):
            no = last - index - 1
        program += struct.pack("HBBI", code, yes, no, value)
    return program
