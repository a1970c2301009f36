"""A long link on one machine without netem in its kernel: a namespace behind a tun pair.

One tun device is on this side, one in a network namespace of its own. This module, as a process of
its own, carries each packet across and delays it by half the round-trip time. With a bandwidth, it
also paces packets through a queue that drops at its end. Packets carry the virtio header, so that
TCP passes on up to 64 KiB at once: Python then moves a Gbit/s and more, while TCP's segments keep
their size.

    with Wire(Link(rtt=20)) as wire:
        with wire.inside(): ...start a server, which will listen in the namespace...
        ...connect to wire.far...

Root only. The process ends, and removes the namespace, when its standard input closes: nothing is
left behind even if its parent was killed.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.parameters import Link

REPO = Path(__file__).resolve().parents[2]

# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_CLONE_NEWNET = 0x40000000  # linux/sched.h

_HEADER = 10  # bytes of struct virtio_net_hdr before each packet
_PACKET = _HEADER + 65535
_QUEUE = 4 << 20  # bytes in a paced direction: three times what 100 ms at 100 Mbit/s need
_BURST = 64  # packets taken from one side before the other side's turn


class Wire:
    """The link while it is up."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # The process id separates runs. 198.18.0.0/15 is reserved for measurements (RFC 2544).
        self.namespace = f"ftpfs-bench-{os.getpid()}"
        self.device = f"bench{os.getpid()}"
        net = f"198.18.{os.getpid() // 64 % 256}.{os.getpid() % 64 * 4}"
        stem, last = net.rsplit(".", 1)
        self.near, self.far = (f"{stem}.{int(last) + host}" for host in (1, 2))
        self._carrier: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Wire:
        arguments = [self.namespace, self.device, self.near, self.far]
        figures = [str(self._link.rtt), str(self._link.mbit)]
        self._carrier = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmark.link", *arguments, *figures],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the run, which still needs the link to unmount.
            start_new_session=True,
        )
        assert self._carrier.stdout
        if self._carrier.stdout.readline() != b"ready\n":
            self.__exit__()
            raise RuntimeError("the long link did not come up (it needs root and /dev/net/tun)")
        return self

    def __exit__(self, *_: object) -> None:
        if self._carrier is not None:
            self._carrier.communicate()  # closes its input
            self._carrier = None

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread, and what it starts, into the namespace for the `with` block."""
        with _in_namespace(self.namespace):
            yield


@contextlib.contextmanager
def _in_namespace(name: str) -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    away = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _setns(away)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)
        os.close(away)


def _setns(descriptor: int) -> None:
    # os.setns exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


# The process that carries the packets.


@dataclass
class Lane:
    """One direction: each packet waits `delay` seconds; `rate` bytes a second leave (0: at once).

    When the queue is full, further packets are dropped, as by a router.
    """

    source: int
    sink: int
    delay: float
    rate: float

    def __post_init__(self) -> None:
        self._waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        self._held = 0  # bytes waiting
        self._free = 0.0  # time when the last of them will have left the sender

    def take(self, now: float) -> None:
        """Read the packets that have arrived."""
        for _ in range(_BURST):
            try:
                packet = os.read(self.source, _PACKET)
            except BlockingIOError:
                return
            if self.rate and self._held + len(packet) > _QUEUE:
                continue
            start = max(self._free, now)
            self._free = start + (len(packet) / self.rate if self.rate else 0)
            self._waiting.append((self._free + self.delay, packet))
            self._held += len(packet)

    def give(self, now: float) -> float | None:
        """Send the packets that are due; return when the next one is, None if there is none."""
        while self._waiting and self._waiting[0][0] <= now:
            packet = self._waiting.popleft()[1]
            self._held -= len(packet)
            # A full device loses packets, as a network does.
            with contextlib.suppress(OSError):
                os.write(self.sink, packet)
        return self._waiting[0][0] if self._waiting else None


def _open_tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return descriptor


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _bring_up(device: str, address: str, namespace: tuple[str, ...] = ()) -> None:
    _ip(*namespace, "address", "add", f"{address}/30", "dev", device)
    # The device's own queue must not drop packets.
    _ip(*namespace, "link", "set", device, "up", "txqueuelen", "10000")


def _carry(lanes: list[Lane]) -> None:
    """Carry packets until standard input ends."""
    sources = [lane.source for lane in lanes]
    while True:
        dues = [lane.give(time.monotonic()) for lane in lanes]
        waits = [due - time.monotonic() for due in dues if due is not None]
        timeout = max(0.0, min(waits)) if waits else None
        ready, _, _ = select.select([0, *sources], [], [], timeout)
        if 0 in ready and not os.read(0, 1):
            return
        for lane in lanes:
            if lane.source in ready:
                lane.take(time.monotonic())


def main(namespace: str, device: str, near: str, far: str, rtt: str, mbit: str) -> None:
    _ip("netns", "add", namespace)
    try:
        here = _open_tun(device)
        with _in_namespace(namespace):
            there = _open_tun(device)
        _bring_up(device, near)
        _bring_up(device, far, ("-netns", namespace))
        _ip("-netns", namespace, "link", "set", "lo", "up")
        delay, rate = float(rtt) / 2000, float(mbit) * 1e6 / 8
        print("ready", flush=True)
        _carry([Lane(here, there, delay, rate), Lane(there, here, delay, rate)])
    finally:
        _ip("netns", "delete", namespace)


if __name__ == "__main__":
    main(*sys.argv[1:])
