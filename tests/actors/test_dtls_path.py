"""Nodes over DTLS on paths that do not bear everything: what is taken apart on the way, and what the host is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_world import DtlsWorld
from node_world import PORT, FragilePorts, crosses, name, outer, packet, peer
from scapy_oracle import IP, TCP, parsed
from trio.testing import MockClock

from holloway.actors.ports import DatagramPort
from holloway.protocols.addresses import Address
from holloway.protocols.dtls_wire import DTLS_MTU

ROOM = 1300


class NarrowPorts(FragilePorts):
    """Ports of a host from which the network loses datagrams of more than `ROOM` bytes, unless it may take them apart."""

    def open_datagrams(self, address: str | None, port: int, **options: Any) -> list[DatagramPort]:
        (opened,) = super().open_datagrams(address, port, **options)
        send = opened.send

        def narrow(datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
            passing = [each for each in datagrams if may_fragment or len(each) <= ROOM]
            send(passing, destination, may_fragment=may_fragment)

        opened.send = narrow  # type: ignore[method-assign]
        return [opened]


def firm(number: int, size: int) -> bytes:
    """A packet that nobody may take apart."""
    made = bytearray(packet(1, 2, number, size=size))
    made[6] = 0x40  # RFC 791, section 3.1: DF
    return bytes(made)


async def test_what_the_path_is_known_to_bear_is_not_taken_apart(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (_, _, left, right):
        await trio.sleep(1)
        left.socket.may_fragment.clear()
        assert await crosses(left, right, packet(1, 2, 1, size=DTLS_MTU))
        assert set(left.socket.may_fragment) == {False}
        # Of the way to elsewhere nothing is known at first.
        world.network.rebind((outer(2), PORT), ("203.0.113.9", 4000))
        assert await crosses(right, left, packet(2, 1, 2))
        left.socket.may_fragment.clear()
        assert await crosses(left, right, packet(1, 2, 3, size=DTLS_MTU))
        assert True in left.socket.may_fragment
        await trio.sleep(1)
        left.socket.may_fragment.clear()
        assert await crosses(left, right, packet(1, 2, 4, size=DTLS_MTU))
        assert set(left.socket.may_fragment) == {False}


async def test_a_peer_that_answers_no_probes_gets_what_may_be_taken_apart(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2)), left) as a,
        world.node(world.config(2, peer(1)), right) as b,
    ):
        running: Any = b.roster.running[name(1)]
        monkeypatch.setattr(running._records, "hear", lambda *_: None)
        with trio.fail_after(5):
            await a.connected(name(2))
        await trio.sleep(5)
        left.socket.may_fragment.clear()
        assert await crosses(left, right, packet(1, 2, 1, size=DTLS_MTU))
        assert True in left.socket.may_fragment


async def test_on_a_narrow_path_the_host_is_told_and_what_fits_is_not_taken_apart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = NarrowPorts(world.network, 1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2)), left) as a,
        world.node(world.config(2, peer(1)), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        await trio.sleep(5)
        assert await crosses(left, right, firm(1, DTLS_MTU))  # it is taken apart, and carried
        with trio.fail_after(1):
            (told,) = await left.tun.collect()
        assert (told[9], told[20], told[21]) == (1, 3, 4)  # RFC 792: fragmentation needed
        mtu = int.from_bytes(told[26:28], "big")
        assert ROOM - 70 < mtu < ROOM
        left.socket.may_fragment.clear()
        assert await crosses(left, right, firm(2, mtu))
        assert set(left.socket.may_fragment) == {False}
        # Connections that begin at the other end, which may send more, agree on what fits here.
        syn = IP(src="10.99.0.2", dst="10.99.0.1") / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1360)])
        right.tun.inject([bytes(syn)])
        with trio.fail_after(1):
            (found,) = await left.tun.collect()
        assert dict(parsed(found)[TCP].options)["MSS"] == mtu - 40
