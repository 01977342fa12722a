"""A relay of UDP datagrams that loses, doubles, spoils and reorders, between two nodes that take it for each other.

    with bad_wire(hub, left=left.ipv4, right=right.ipv4, port=1099, seed=7) as wire:      # left's peer is at hub:LEFT_PORT
        ...
    assert wire.lost > 100

Each datagram is judged alone, even one of a train that the kernel would have carried whole. A datagram that is held back is
overtaken by the `BEHIND` that follow it in its direction, or by none when the wire falls silent. What happens to a datagram
depends on the seed and on how many came before it, nothing else.

As a program it is the relay: `SEED LOST LEFT_HOST RIGHT_HOST PORT`, which prints what it did once a line comes on stdin.
Standard library alone, so that it starts at once. Not responsible for what is in a datagram.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from namespaces import Namespace

LEFT_PORT, RIGHT_PORT = 2001, 2002  # where the left node and the right node send to
DOUBLED, SPOILT, HELD = 0.002, 0.001, 0.01  # shares of the datagrams of each direction
BEHIND = (1, 3, 20, 80)  # how many overtake one that is held back: the last is more than any record has datagrams
SILENCE_S = 0.002  # after so long without a datagram those that are held back go on
BURST = 64  # datagrams of one direction before it is the other's turn
BUFFER_BYTES = 16 << 20
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
PLANNED = 1 << 16


@dataclass
class Relayed:
    """What became of the datagrams of both directions, known when the relay has ended."""

    passed: int = 0
    lost: int = 0
    doubled: int = 0
    spoilt: int = 0
    overtaken: int = 0
    refused: int = 0


@contextmanager
def bad_wire(hub: Namespace, *, left: str, right: str, port: int, seed: int, lost: float = 0.01) -> Iterator[Relayed]:
    """Relay while the context lasts between `left` and `right`, which both have `port`: addresses of one family.

    `lost`: the share of the datagrams of each direction that goes no further.
    """
    from namespaces import start_in  # here, because the relay has no packages to import it with

    argv = [sys.executable, "-S", __file__, str(seed), str(lost), left, right, str(port)]
    relay = start_in(hub, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert relay.stdout is not None
    assert relay.stdout.readline() == "ready\n"
    relayed = Relayed()
    yield relayed
    said, _ = relay.communicate("stop\n", timeout=20)
    vars(relayed).update(json.loads(said))


class _Direction:
    """One way: what arrives at `source` leaves by `sink` to `target`."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, target: tuple[str, int], seed: int, lost: float
    ) -> None:
        self._source, self._sink, self._target, self._lost = source, sink, target, lost
        rng = random.Random(seed)
        self._plan = [rng.random() for _ in range(PLANNED)]
        self._behind = [rng.choice(BEHIND) for _ in range(PLANNED)]
        self._count = 0
        self._held: list[tuple[int, int, bytes]] = []  # a heap: when to go on, as a count, and which came first
        self._latest = 0.0
        self.did = Relayed()

    def carry(self) -> None:
        self._latest = time.monotonic()
        did, plan, behind, held, lost = self.did, self._plan, self._behind, self._held, self._lost
        for _ in range(BURST):
            try:
                data = self._source.recv(65_536)
            except BlockingIOError:
                return
            self._count = count = self._count + 1
            # The plan begins again and again, each time elsewhere.
            fate = plan[(count + count // PLANNED * 7) % PLANNED]
            if fate < lost:
                did.lost += 1
            elif fate < lost + HELD:
                did.overtaken += 1
                heapq.heappush(held, (count + behind[count % PLANNED], count, data))
            elif fate < lost + HELD + SPOILT:
                did.spoilt += 1
                self._send(with_one_bit_wrong(data, count))
            else:
                self._send(data)
                if fate > 1 - DOUBLED:
                    did.doubled += 1
                    self._send(data)
            while held and held[0][0] <= count:
                self._send(heapq.heappop(held)[2])

    def release_when_silent(self) -> None:
        if self._held and time.monotonic() - self._latest >= SILENCE_S:
            for _, _, data in sorted(self._held):
                self._send(data)
            self._held.clear()

    def _send(self, data: bytes) -> None:
        try:
            self._sink.sendto(data, self._target)
            self.did.passed += 1
        except OSError:
            self.did.refused += 1


def with_one_bit_wrong(data: bytes, count: int) -> bytes:
    """Which one follows from `count`: as often in the first 16 bytes, where headers are, as anywhere behind them."""
    at = count % min(len(data), 16 if count & 32 else len(data))
    return data[:at] + bytes([data[at] ^ 1 << count % 8]) + data[at + 1 :]


def relay(seed: int, lost: float, left: str, right: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in left else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as at_left, socket.socket(family, socket.SOCK_DGRAM) as at_right:
        for end, own in ((at_left, LEFT_PORT), (at_right, RIGHT_PORT)):
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
            end.bind(("", own))
            end.setblocking(False)
        print("ready", flush=True)
        ways = {at_left: _Direction(at_left, at_right, (right, port), seed, lost)}
        ways[at_right] = _Direction(at_right, at_left, (left, port), seed + 1, lost)
        while True:
            readable = select.select([*ways, sys.stdin], [], [], SILENCE_S)[0]
            if sys.stdin in readable:
                break
            for end, way in ways.items():
                way.carry() if end in readable else way.release_when_silent()
    both = [vars(way.did) for way in ways.values()]
    print(json.dumps({key: sum(each[key] for each in both) for key in both[0]}))


if __name__ == "__main__":
    relay(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
