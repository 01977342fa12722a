"""What follows in a bulk flow is the same whether it is asked for one by one or streamed, whatever it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from namespaces import in_namespace
from super_packets import super_packet
from tun_hosts import device
from udp_pairs import numbered, pair, take

from holloway.actors import tun
from holloway.actors.ports import stream
from holloway.actors.tun import KernelTun
from holloway.protocols.arrivals import Arrival
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.virtio import PLAIN, offload_header, offloaded


def read_of(packet: SuperPacket) -> bytes:
    """As a device gives it."""
    ready = offloaded(packet)
    assert ready is not None
    return ready.virtio + bytes(ready.data)


LONG = super_packet(40_000, 1300)
KINDS: dict[str, bytes] = {
    "long": read_of(LONG),
    "another": read_of(super_packet(40_000, 1300, serial=3)),
    "longer": read_of(super_packet(60_000, 1300)),
    "other options": read_of(super_packet(40_000, 1300, options=0)),
    "other segments": read_of(super_packet(40_000, 900)),
    "to somebody else": read_of(LONG)[:26] + b"\x0a\x00\x00\x09" + read_of(LONG)[30:],
    "from somebody else": read_of(LONG)[:22] + b"\x0a\x00\x00\x09" + read_of(LONG)[26:],
    "fragment": read_of(LONG)[:16] + b"\x20\x05" + read_of(LONG)[18:],
    "shorter than it says": read_of(LONG)[:-1],
    "longer than it says": read_of(LONG) + b"x",
    "header only": read_of(LONG)[:50],
    "cut": read_of(LONG)[:30],
    "six": read_of(super_packet(40_000, 1300, version=6)),
    "udp": read_of(super_packet(40_000, 1300, tcp=False)),
    "short": read_of(super_packet(3_000, 1300)),
    "plain": PLAIN + bytes(super_packet(600, 1300).data),
    "other place of the checksum": offload_header(17, True, 20, 52, 1300) + read_of(LONG)[10:],
    "no options, but that long": read_of(LONG)[:42] + b"\xf0" + read_of(LONG)[43:],
    "nothing": b"",
}


def outcome(follow: Callable[[KernelTun], Packet | None], tun0: KernelTun, reads: list[bytes], refuse: int) -> Any:
    """What is taken, what is left, and what is counted. The packet number `refuse` is not taken."""
    given: list[tuple[bytes, int, object]] = []

    def read(descriptor: int, space: int) -> bytes:
        if not reads:
            raise BlockingIOError(11, "again")
        return reads.pop(0)

    def take_in(packet: SuperPacket) -> bool:
        given.append((bytes(packet.data), packet.segment_size, packet.layout))
        return len(given) != refuse + 1

    tun0._left, tun0._more = tun.RECEIVE_BUDGET_BYTES, False
    tun0.drops.clear()
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tun.os, "read", read)
        while reads:
            before = len(reads)
            left = follow(tun0, take_in)  # type: ignore[call-arg]
            told.append(left and (bytes(left.data), left.segment_size) if isinstance(left, SuperPacket) else left)
            if before == len(reads):
                break
    return given, told, dict(tun0.drops), max(0, tun0._left) if reads else 0, len(reads)


@in_namespace
async def test_a_device_streams_what_it_would_give_one_by_one() -> None:
    tun0 = device(0)

    @given(
        st.lists(st.sampled_from([*["long"] * 6, *["another"] * 3, "longer", *KINDS]), max_size=16),
        st.integers(0, 9),
    )
    @settings(max_examples=300, deadline=None)
    def check(names: list[str], refuse: int) -> None:
        one_by_one: Any = lambda port, take_in: stream(port.more, LONG, take_in)
        streamed: Any = lambda port, take_in: port.stream(LONG, take_in)
        reads = [KINDS[name] for name in names]
        assert outcome(streamed, tun0, list(reads), refuse) == outcome(one_by_one, tun0, list(reads), refuse)

    check()
    tun0.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_socket_streams_what_it_would_give_one_by_one(seed: int) -> None:
    dice = random.Random(seed)
    told = []
    shapes = [[1400] * 40, [1400] * 40, [1400] * 40, [900] * 50, [1400] * 39 + [30], [1400] * 10, [70], [60_000]]
    sent = [numbered(*dice.choice(shapes)) for _ in range(20)]
    for is_streamed in (True, False):
        with pair("127.0.0.1") as (left, right):
            left.send(numbered(*[1400] * 40), right.local)
            await take(right, 40)  # from now on it is bulk
            got: list[bytes] = []
            others = dice.sample(range(20), 5)

            def take_in(arrival: Arrival, got: list[bytes] = got, others: list[int] = others) -> bool:
                if len(got) % 20 in others:
                    return False
                got.extend(arrival.datagrams())
                return True

            for batch in sent:
                left.send(batch, right.local)
            while len(got) < sum(map(len, sent)):
                for arrival in await right.receive():
                    got += arrival.datagrams()
                while (following := right.stream(take_in) if is_streamed else right.more()) is not None:
                    got += following.datagrams()
            told.append(got)
            assert not right.drops
    assert told[0] == told[1] == [datagram for batch in sent for datagram in batch]
