"""Datagrams that nobody should send: made from what was recorded of a live pair, and sent as fast as the victim reads.

    with watching(left, "eth0") as seen: ...          # what passes a device, by a program in the namespace
    attack = Attack(seen.datagrams(), victim=..., impostor=..., public_key=..., seed=1)
    sent = flood(third, attack.datagrams(100_000), folder, pid=..., target=..., impostor=...)

Responsible for hostile bytes and for counting what the kernel does with them; not for sending (`wire`), nor for judging
what a node makes of them.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import wire
from namespaces import Namespace, start_in
from wire import PACKET_OUTGOING, PORT, RAW_MAX_BYTES, RECORD, Sender

from holloway.protocols.cookies import COOKIE_REPLY_BYTES, MacWriter
from holloway.protocols.keys import StaticKey, decode_key
from holloway.protocols.noise import Initiator, initiation_bytes, response_bytes
from holloway.protocols.suites import AES_GCM, TOKEN_BYTES, WIREGUARD, MessageType, Suite

WIRE = (sys.executable, "-S", wire.__file__)  # it needs no packages, and starts at once without them
UDP_MAX_BYTES = 65_507
LARGE_SHARE = 70  # one in so many is longer than an Ethernet frame and comes in fragments
STRANGERS = 40  # true initiations from keys that the victim does not know; each costs us three Diffie-Hellmans
TYPES = tuple(MessageType)
LENGTHS = (
    initiation_bytes(AES_GCM),
    response_bytes(AES_GCM),
    initiation_bytes(WIREGUARD),
    response_bytes(WIREGUARD),
    COOKIE_REPLY_BYTES,
    4 + TOKEN_BYTES,
    0,  # any other
)
Item = TypeVar("Item")


@dataclass
class Seen:
    """What passed a device: whole IP packets, those that the host sent and those that it received."""

    outgoing: list[bytes] = field(default_factory=list)
    incoming: list[bytes] = field(default_factory=list)

    def datagrams(self, port: int = PORT) -> list[tuple[str, bytes]]:
        """Source address and payload of every UDP datagram over IPv4 from or to `port`."""
        found = []
        for packet in self.outgoing + self.incoming:
            if len(packet) < 28 or packet[0] != 0x45 or packet[9] != socket.IPPROTO_UDP:
                continue
            sender, receiver, length = struct.unpack_from(">HHH", packet, 20)
            if port in (sender, receiver):
                found.append((socket.inet_ntoa(packet[12:16]), packet[28 : 20 + length]))
        return found


@contextmanager
def watching(namespace: Namespace, device: str) -> Iterator[Seen]:
    """Watch a device while the context lasts; what was seen is there at its end."""
    watcher = start_in(namespace, [*WIRE, "watch", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "ready\n"
    seen = Seen()
    yield seen
    out, _ = watcher.communicate("stop\n", timeout=20)
    for line in out.splitlines():
        kind, packet = line.split(" ")
        (seen.outgoing if int(kind) == PACKET_OUTGOING else seen.incoming).append(bytes.fromhex(packet))


@dataclass(frozen=True)
class Attack:
    """Hostile datagrams for `victim`, whose `public_key` everybody knows, from one seed."""

    recorded: Sequence[tuple[str, bytes]]
    victim: str
    public_key: bytes
    seed: int

    @cached_property
    def to_victim(self) -> list[bytes]:
        return [data for source, data in self.recorded if source != self.victim]

    @cached_property
    def from_victim(self) -> list[bytes]:
        return [data for source, data in self.recorded if source == self.victim]

    @cached_property
    def indices(self) -> list[bytes]:
        """Receiver indices of the victim, as they stood on the wire."""
        found = {data[:4] for data in self.to_victim if data[:4] > b"" and data[1:4] != bytes(3)}
        found |= {data[4:8] for data in self.to_victim if data[:4] == struct.pack("<I", WIREGUARD.transport or 0)}
        return sorted(found)

    @cached_property
    def handshakes(self) -> list[bytes]:
        """The recorded ones among those to the victim that are no transport datagrams."""
        return [data for data in self.to_victim if data[1:4] == bytes(3) and data[0] != WIREGUARD.transport]

    def datagrams(self, count: int) -> Iterator[tuple[Sender, bytes]]:
        """`count` of them in random order, and among them one of every length up to an Ethernet frame."""
        rng = random.Random(self.seed)
        pool = rng.randbytes(2 * UDP_MAX_BYTES)
        makers = (
            [self._noise] * 6
            + [self._typed] * 5
            + [self._truncated] * 4
            + [self._lengthened] * 1
            + [self._flipped] * 8
            + [self._replayed] * 4
            + [self._reflected] * 3
            + [self._forged_handshake] * 3
            + [self._forged_answer] * 2
            + [self._forged_transport] * 4
        )
        large = [rng.randint(RAW_MAX_BYTES, UDP_MAX_BYTES) for _ in range(count // LARGE_SHARE)]
        lengths = [*range(RAW_MAX_BYTES + 1), *range(UDP_MAX_BYTES - 2, UDP_MAX_BYTES + 1), *large]
        planned = [pool[at : at + length] for length in lengths for at in (int(rng.random() * UDP_MAX_BYTES),)]
        planned += [self._stranger(rng, suite) for suite in (AES_GCM, WIREGUARD) for _ in range(STRANGERS // 2)]
        planned = planned[:count]
        planned += [make(rng) for make in rng.choices(makers, k=count - len(planned))]
        rng.shuffle(planned)
        senders = rng.choices([Sender.PEER] * 4 + [Sender.THIRD_HOST] * 3 + list(Sender), k=count)
        for sender, data in zip(senders, planned, strict=True):
            yield (Sender.THIRD_HOST if len(data) > RAW_MAX_BYTES else sender), data

    def _noise(self, rng: random.Random) -> bytes:
        return rng.randbytes(int(2 ** (rng.random() * 10.5)) - 1)

    def _typed(self, rng: random.Random) -> bytes:
        """A message type, mostly a real one, and noise of mostly the right length."""
        kind = pick(rng, TYPES) if rng.random() < 0.9 else int(rng.random() * 256)
        return struct.pack("<I", kind) + rng.randbytes((pick(rng, LENGTHS) or int(4 + rng.random() * 200)) - 4)

    def _truncated(self, rng: random.Random) -> bytes:
        data = pick(rng, self.to_victim)
        return data[: int(rng.random() * len(data))]

    def _lengthened(self, rng: random.Random) -> bytes:
        return pick(rng, self.to_victim) + rng.randbytes(1 + int(rng.random() * 40))

    def _flipped(self, rng: random.Random) -> bytes:
        data = bytearray(pick(rng, self.to_victim))
        for _ in range(1 + int(rng.random() * 3)):
            data[int(rng.random() * len(data))] ^= 1 << int(rng.random() * 8)
        return bytes(data)

    def _replayed(self, rng: random.Random) -> bytes:
        return pick(rng, self.handshakes if rng.random() < 0.2 else self.to_victim)

    def _reflected(self, rng: random.Random) -> bytes:
        return pick(rng, self.from_victim)

    def _forged_handshake(self, rng: random.Random) -> bytes:
        """Noise with the mac that proves knowledge of the victim's public key."""
        suite = AES_GCM if rng.random() < 0.5 else WIREGUARD
        is_initiation = rng.random() < 0.8
        size = initiation_bytes(suite) if is_initiation else response_bytes(suite)
        kind = suite.initiation if is_initiation else suite.response
        message = struct.pack("<I", kind) + rng.randbytes(4) + pick(rng, self.indices) + rng.randbytes(size - 12 - 32)
        message = MacWriter(self.public_key).append(message, 0.0)
        return message if rng.random() < 0.5 else message[:-16] + rng.randbytes(16)

    def _forged_answer(self, rng: random.Random) -> bytes:
        """Cookie replies to indices in use, and resets with tokens that nobody gave out."""
        kind = pick(rng, (AES_GCM.cookie_reply, WIREGUARD.cookie_reply, MessageType.RESET))
        if kind is MessageType.RESET:
            return struct.pack("<I", kind) + rng.randbytes(TOKEN_BYTES)
        return struct.pack("<I", kind) + pick(rng, self.indices) + rng.randbytes(COOKIE_REPLY_BYTES - 8)

    def _forged_transport(self, rng: random.Random) -> bytes:
        """An index in use, a header of either suite, and a counter from anywhere."""
        counter = pick(rng, (rng.getrandbits(64), rng.getrandbits(24), (1 << 64) - 1, 1 << 63))
        index, tail = pick(rng, self.indices), rng.randbytes(16 + int(rng.random() * 300))
        if rng.random() < 0.3:
            return struct.pack("<I4sQ", WIREGUARD.transport, index, counter) + tail
        number, kind, spread = pick(rng, ((0, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 0), (0, 0, 0), (0, 2, 0xFFF)))
        return struct.pack("<4sHHQ", index, number, kind, ((counter << 12) | spread) & ((1 << 64) - 1)) + tail

    def _stranger(self, rng: random.Random, suite: Suite) -> bytes:
        """A true handshake from a key that the victim does not know."""
        static = StaticKey(rng.randbytes(32))
        initiator = Initiator(
            suite,
            static,
            self.public_key,
            bytes(32),
            shared=static.exchange(self.public_key),
            ephemeral=StaticKey(rng.randbytes(32)),
            local_index=rng.getrandbits(32),
            timestamp=struct.pack(">QI", (1 << 62) + rng.getrandbits(31), 0),
            token=rng.randbytes(suite.token_bytes),
        )
        return MacWriter(self.public_key).append(initiator.message, 0.0)


def pick(rng: random.Random, among: Sequence[Item]) -> Item:
    """`rng.choice` at a third of its price."""
    return among[int(rng.random() * len(among))]


def public_key_of(text: str) -> bytes:
    """The 32 bytes of a key in WireGuard's form."""
    return decode_key(text)


def kernel_counters(pid: int) -> Counter[str]:
    """What the kernel counts in the network namespace of a process: `UdpInDatagrams`, `Udp6InDatagrams` and so on."""
    found: Counter[str] = Counter()
    lines = [line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        found.update(
            {names[0].rstrip(":") + name: int(value) for name, value in zip(names[1:], values[1:], strict=True)}
        )
    for name, value in (line.split() for line in Path(f"/proc/{pid}/net/snmp6").read_text().splitlines()):
        found[name] = int(value)
    return found


def backlog_drops() -> int:
    """Packets that this machine's processors dropped before any protocol saw them, in every namespace together."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def flood(
    namespace: Namespace,
    datagrams: Iterable[tuple[Sender, bytes]],
    folder: Path,
    *,
    pid: int,
    target: Namespace,
    impostor: str,
) -> subprocess.Popen[str]:
    """Begin to send from `namespace` to `PORT` of `target`, where process `pid` reads; `impostor` is the peer's address.

    It sends as fast as the victim reads and ends when the victim has read everything: see `sent`.
    """
    path = folder / f"flood-{time.monotonic_ns()}"
    with path.open("wb") as file:
        for sender, data in datagrams:
            file.write(RECORD.pack(sender, len(data)) + data)
    argv = ["flood", str(path), str(pid), str(PORT), target.ipv4, target.ipv6, impostor]
    return start_in(namespace, [*WIRE, *argv], stdout=subprocess.PIPE)


def sent(flooding: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a flood's end: `sent` and `refused` datagrams, and the seconds it took."""
    out, _ = flooding.communicate(timeout=60)
    assert flooding.returncode == 0
    found: dict[str, float] = json.loads(out)
    return found
