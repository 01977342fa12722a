"""Whatever strangers send to a node that speaks DTLS: it goes on, keeps its memory, and lets in those who are its peers."""

from __future__ import annotations

import random
import resource
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_world import DtlsWorld, SpoilingPorts, good, hellos
from node_world import (
    PORT,
    crosses,
    drops,
    eventually_crosses,
    name,
    outer,
    packet,
    peer,
    the_peer,
)
from trio.testing import MockClock

from holloway.actors import dtls_handshaker
from holloway.actors.dtls_channel import Ending, HandshakeRefused
from holloway.actors.dtls_context import dtls_context
from holloway.actors.dtls_socket import AssociationSocket
from holloway.protocols import dtls_link
from holloway.protocols.dtls_names import DtlsProblem
from holloway.protocols.dtls_wire import APPLICATION_DATA, OVERHEAD_BYTES, PREFIX_BYTES, association_of, prefixed
from holloway.simulations.network import Link


async def test_old_hellos_and_garbage_disturb_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        associations = a.status()["node"]["dtls"]["associations"]  # type: ignore[index]
        heard = hellos(world.wire)
        assert len(heard) >= 4
        rng = random.Random(1)
        before = len(world.wire)
        for _ in range(20):
            for source, target, data in heard:
                owner = (left if source[0] == outer(1) else right).socket
                owner.send([data], target)  # from where it came at first
                spoilt = bytearray(data)
                spoilt[rng.randrange(PREFIX_BYTES, len(data))] ^= 1 << rng.randrange(8)
                owner.send([bytes(spoilt), data[: rng.randrange(len(data))], rng.randbytes(60)], target)
                owner.send([prefixed(rng.getrandbits(64), rng.randbytes(rng.randrange(100)))], target)
        await trio.sleep(0.2)
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))
        assert a.status()["node"]["dtls"]["associations"] == associations  # type: ignore[index]
        assert drops(a)["dtls_hello_repeated"] >= 20
        # What is answered is answered with less.
        sent = sum(len(data) for *_, data in world.wire[before:])
        answered = sum(len(data) for _, source, _, data in world.wire[before:] if data[25:26] == b"\x03")
        assert answered < sent / 2


@pytest.mark.parametrize(("front", "is_all_claimed"), [(13, False), (13, True), (16721, True)])
async def test_a_forged_record_before_one_that_was_withheld_moves_nobody(
    front: int, is_all_claimed: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Both in one datagram: what the forged one claims, its sequence number and its length, counts for nothing.

    OpenSSL reads 16,720 bytes of a datagram, and takes the rest for another one.
    """
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        begin = len(world.wire)
        world.network.shape(outer(2), outer(1), Link(loss=1.0), both_ways=False)
        right.tun.inject([packet(2, 1, 1)])
        await trio.sleep(0.05)
        world.network.shape(outer(2), outer(1), Link(latency_s=0.01), both_ways=False)
        withheld = next(data for _, source, _, data in world.wire[begin:] if source == (outer(2), PORT))
        genuine = withheld[PREFIX_BYTES:]
        claimed = front - 13 + len(genuine) if is_all_claimed else 0
        header = b"\x17\xfe\xfd\0\1" + b"\xff" * 6 + claimed.to_bytes(2, "big")
        attacker = world.network.bind("203.0.113.66", 6666)
        attacker.send([withheld[:PREFIX_BYTES] + header + bytes(front - 13) + genuine], (outer(1), PORT))
        await trio.sleep(0.1)
        channel = a.roster.running[name(2)].channel  # type: ignore[attr-defined]
        assert channel.address == (outer(2), PORT)
        world.network.rebind((outer(2), PORT), ("203.0.113.9", 4000))
        assert await crosses(right, left, packet(2, 1, 2))
        assert channel.address == ("203.0.113.9", 4000)


class Gluing:
    """Somebody on the way who sends the last flight of a handshake on with the first packet behind it, and no other record until
    `is_open`."""

    def __init__(self) -> None:
        self.held = b""
        self.is_open = self.has_glued = False

    def __call__(self, datagram: bytes) -> bytes:
        nothing = b"\0"
        kind = datagram[PREFIX_BYTES]
        if self.is_open or kind not in (20, APPLICATION_DATA):
            return datagram
        if kind == 20:
            self.held = datagram
        elif len(datagram) == 100 + OVERHEAD_BYTES and not self.has_glued:
            self.has_glued = True
            return self.held + datagram[PREFIX_BYTES:]
        return nothing


async def test_a_record_glued_behind_a_handshake_lets_no_forged_one_move_anybody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world, gluing = DtlsWorld(tmp_path), Gluing()
    left, right = world.ports(1), SpoilingPorts(world.network, 2, gluing)
    async with (
        world.node(world.config(2, peer(1, endpoint=False)), right),
        world.node(world.config(1, peer(2)), left) as a,
    ):
        right.tun.inject([packet(2, 1, 1)])  # it waits for an association
        with trio.fail_after(2):
            await a.connected(name(2))
        channel = a.roster.running[name(2)].channel  # type: ignore[attr-defined]
        forged = b"\x17\xfe\xfd\0\1" + b"\xff" * 6 + (100).to_bytes(2, "big") + bytes(100)
        world.network.bind("203.0.113.66", 6666).send([prefixed(channel.number, forged)], (outer(1), PORT))
        with trio.fail_after(0.1):
            assert await left.tun.collect() == [packet(2, 1, 1)]
        assert channel.address == (outer(2), PORT)
        gluing.is_open = True
        assert await crosses(right, left, packet(2, 1, 2))


async def test_what_openssl_would_read_otherwise_than_we_do_is_not_shown_to_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        channel = a.roster.running[name(2)].channel  # type: ignore[attr-defined]
        header = b"\x17\xfe\xfd\0\1" + bytes(6)
        with monkeypatch.context() as patched:
            patched.setattr(channel, "_connection", None)
            for length, text in ((101, bytes(100)), (1 << 14, bytes(1 << 15))):
                assert channel.open(header + length.to_bytes(2, "big") + text, (outer(2), PORT)) == ()
        assert await crosses(right, left, packet(2, 1, 1))


class Brief:
    """An association that the peer ends in the same datagram that comes before our side is done."""

    number, is_ours, is_plain, speaker = 5, True, False, None
    address = (outer(2), PORT)
    early = ((b"", address),)

    def __init__(self) -> None:
        self.closed = trio.Event()

    def open(self, record: bytes, source: Any) -> Ending:
        return Ending.CLOSED_BY_PEER

    def close(self) -> list[bytes]:
        self.closed.set()
        return []


async def test_an_association_that_is_over_before_it_is_probed_ends_nothing_else(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        running: Any = a.roster.running[name(2)]
        running.accept(brief := Brief())
        assert brief.closed.is_set()
        assert not running.is_stopped
        assert await crosses(left, right, packet(1, 2, 1))


async def sixty_handshakes(world: DtlsWorld) -> list[float]:
    """Sixty dials at once over one pair of sockets, 20 of 100 datagrams lost; how long each took, attempts included."""
    took: list[float] = []
    problems: set[DtlsProblem] = set()
    async with world.dtls_pair() as (a, _, _, _):
        running: Any = a.roster.running[name(2)]
        world.network.shape(outer(1), outer(2), Link(latency_s=0.01, loss=0.2))

        async def dial() -> None:
            began = trio.current_time()
            while True:
                try:
                    channel = await running._handshaker.dial(running, (outer(2), PORT))
                except HandshakeRefused as refused:
                    problems.add(refused.problem)
                else:
                    took.append(trio.current_time() - began)
                    channel.close()
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(dial)
    assert problems <= {DtlsProblem.UNANSWERED}
    return took


async def test_sixty_handshakes_at_once_on_a_wire_that_loses_are_all_made(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtls_link, "MAX_ASSOCIATIONS", 100)  # they are all of one peer
    took = await sixty_handshakes(DtlsWorld(tmp_path))
    assert len(took) == 60
    assert max(took) <= 10.0


@pytest.mark.soak
async def test_sixty_handshakes_at_once_in_real_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL's own timers go by the real clock."""
    monkeypatch.setattr(dtls_link, "MAX_ASSOCIATIONS", 100)
    for _ in range(5):
        took = sorted(await sixty_handshakes(DtlsWorld(tmp_path)))
        print(f"median {took[30]:.2f} s, most {took[-1]:.2f} s")
        assert len(took) == 60
        assert took[-1] <= 10.0


@pytest.mark.soak
async def test_masses_of_garbage_and_forged_hellos_take_no_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        hello = hellos(world.wire)[0][2][PREFIX_BYTES:]
        world.network.taps.clear()
        world.wire.clear()
        rng = random.Random(1)
        strangers = [f"203.0.113.{number}" for number in range(1, 255)]
        floods = [world.network.bind(stranger, 4000) for stranger in strangers]
        for stranger in strangers:  # where nobody takes the answers
            world.network.shape(outer(1), stranger, Link(loss=1.0), both_ways=False)

        async def attack(count: int) -> None:
            for _ in range(count // 100):
                for _ in range(50):
                    forged, flood = bytearray(hello), rng.choice(floods)
                    forged[rng.randrange(25, len(forged))] ^= rng.randrange(256)
                    flood.send([prefixed(rng.getrandbits(64), bytes(forged))], (outer(1), PORT))
                    flood.send([prefixed(rng.getrandbits(64), rng.randbytes(100))], (outer(1), PORT))
                await trio.sleep(0.01)

        await attack(10_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await attack(50_000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{grown} KiB more after 50,000; dropped: {dict(drops(a))}")
        assert grown < 8 << 10
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))
        assert a.status()["node"]["dtls"]["associations"] == 2  # type: ignore[index]


async def test_hellos_that_come_in_masses_are_rate_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        hello = hellos(world.wire)[0][2][PREFIX_BYTES:]
        flood = world.network.bind("203.0.113.9", 4000)
        begin = len(world.wire)
        for number in range(3000):
            flood.send([prefixed(number, hello)], (outer(1), PORT))
        await trio.sleep(0.1)
        answers = [data for _, _, target, data in world.wire[begin:] if target == ("203.0.113.9", 4000)]
        assert len(answers) < 700
        assert drops(a)["dtls_rate_limited"] > 2000
        assert await crosses(left, right, packet(1, 2, 1))


async def test_handshakes_that_nobody_goes_on_with_keep_nobody_out(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtls_handshaker, "MAX_ANSWERED", 4)
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with world.node(world.config(1, peer(2, endpoint=False)), left) as a:
        idlers = trio.DTLSEndpoint(idle := IdleSocket(world, (outer(1), PORT)))  # type: ignore[arg-type]
        context = dtls_context(good(2).shown, lambda *_: True, lambda *_: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.read)
            for number in range(1, 20):
                channel = idlers.connect((number,), context)
                nursery.start_soon(channel.do_handshake)
            await trio.sleep(0.5)
            async with world.node(world.config(2, peer(1)), right) as b:
                with trio.fail_after(3):
                    await b.connected(name(1))
            nursery.cancel_scope.cancel()
        idlers.close()
        assert drops(a)["dtls_pushed_out"] == 19 + 1 - 4


class IdleSocket(AssociationSocket):
    """Begins handshakes, and goes no further than the second hello."""

    def __init__(self, world: DtlsWorld, target: Any) -> None:
        super().__init__(self._say)
        self._socket, self._target = world.network.bind("203.0.113.9", 4000), target

    def _say(self, datagram: bytes, place: Any) -> None:
        if datagram[13] == 1:
            self._socket.send([prefixed(place[-1], datagram)], self._target)

    async def read(self) -> None:
        while True:
            for arrival in await self._socket.receive():
                for datagram in arrival.datagrams():
                    self.offer(datagram[PREFIX_BYTES:], (association_of(datagram),))


@pytest.mark.parametrize("seed", range(3))
async def test_handshakes_that_are_spoilt_at_random_harm_nobody(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    rng = random.Random(seed)
    spoilt = 0

    def spoil(datagram: bytes) -> bytes:
        nonlocal spoilt
        if rng.random() > 0.5 or len(datagram) <= PREFIX_BYTES + 3 or trio.current_time() > 60:
            return datagram
        spoilt += 1
        changed = bytearray(datagram)
        match rng.randrange(3):
            case 0:
                for _ in range(rng.randrange(1, 4)):
                    changed[rng.randrange(PREFIX_BYTES, len(changed))] = rng.randrange(256)
            case 1:
                del changed[rng.randrange(PREFIX_BYTES, len(changed)) :]
            case _:
                at = rng.randrange(PREFIX_BYTES, len(changed))
                changed[at:at] = rng.randbytes(rng.randrange(1, 40))
        return bytes(changed)

    world = DtlsWorld(tmp_path)
    left, right = (SpoilingPorts(world.network, number, spoil) for number in (1, 2))
    async with (
        world.node(world.config(1, peer(2)), left) as a,
        world.node(world.config(2, peer(1)), right) as b,
    ):
        while trio.current_time() < 60:
            a.roster.running[name(2)].rekey()
            b.roster.running[name(1)].rekey()
            await trio.sleep(0.5)
        assert spoilt > 100
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=10)
        for node in (a, b):
            dataplane: Any = node.tree.ref("dataplane").get()
            assert not any(info.restarts for info in dataplane.children())


async def test_a_certificate_that_only_openssl_can_read_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    day = good(2).certificate.not_valid_before_utc.strftime("%y%m%d").encode()
    world = DtlsWorld(tmp_path)
    right = SpoilingPorts(
        world.network, 2, lambda datagram: datagram.replace(b"\x17\x0d" + day, b"\x17\x0d" + b"269999")
    )
    async with (
        world.node(world.config(1, peer(2, endpoint=False)), world.ports(1)) as a,
        world.node(world.config(2, peer(1)), right),
    ):
        await trio.sleep(3)
        assert drops(a)["dtls_certificate_rejected"] >= 1
        dataplane: Any = a.tree.ref("dataplane").get()
        assert not any(info.restarts for info in dataplane.children())


async def test_records_that_are_spoilt_or_made_up_end_no_association(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, b, left, right):
        await trio.sleep(1)
        rng = random.Random(1)
        begin = len(world.wire)
        for turn in range(50):
            right.tun.inject([packet(2, 1, turn, rng.randrange(40, 1400))])
        await trio.sleep(0.1)
        await left.tun.collect()
        records = [data for _, source, _, data in world.wire[begin:] if source[0] == outer(2)]
        forged = []
        for number in range(3000):
            data = bytearray(rng.choice(records))
            match rng.randrange(4):
                case 0:
                    data[rng.randrange(PREFIX_BYTES, len(data))] ^= 1 << rng.randrange(8)
                case 1:
                    del data[rng.randrange(PREFIX_BYTES + 13, len(data)) :]
                case 2:  # another record behind or before it, with a number that is far ahead
                    extra = b"\x17\xfe\xfd\0\x01" + bytes([rng.randrange(20, 24)]) * 6 + b"\0\x20" + rng.randbytes(32)
                    data = data[:PREFIX_BYTES] + extra + data[PREFIX_BYTES:] if number % 2 else data + extra
                case _:
                    head = bytes([rng.randrange(20, 25)]) + b"\xfe\xfd\0\x01" + rng.randbytes(6) + b"\0\x30"
                    data = data[:PREFIX_BYTES] + head + rng.randbytes(0x30)
            forged.append(bytes(data))
        thief = world.network.bind("203.0.113.9", 4000)
        thief.send(forged, (outer(1), PORT))
        await trio.sleep(0.1)
        assert the_peer(a, 2)["state"] == the_peer(b, 1)["state"] == "ok"
        assert the_peer(a, 2)["endpoint"] == f"{outer(2)}:{PORT}"
        assert a.status()["node"]["dtls"]["associations"] == 2  # type: ignore[index]
        assert await crosses(left, right, packet(1, 2, 1))
        # And the peer can still move: nothing that was made up counts as newer than what it says.
        world.network.rebind((outer(2), PORT), ("203.0.113.10", 4000))
        assert await crosses(right, left, packet(2, 1, 77))
        assert the_peer(a, 2)["endpoint"] == "203.0.113.10:4000"
