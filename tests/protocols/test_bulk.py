"""The short way of a bulk flow does what the general way does: byte for byte, deadline for deadline."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import World, inner_packet
from super_packets import super_packet

from holloway.protocols.arrivals import Arrival, RunMemory, lone
from holloway.protocols.events import DropReason
from holloway.protocols.inspection import Inspector, LocalPrefixes
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_turns import OpeningTurn
from holloway.protocols.record_wire import HEADER, SPREAD_BITS, RecordKind
from holloway.protocols.routes import RouteTable
from holloway.protocols.runs import Run
from holloway.protocols.session import Session
from holloway.protocols.suites import SUITES
from holloway.protocols.virtio import offloaded
from holloway.simulations.deflate import Deflate

PAYLOADS = [300, 1300, 9_000, 30_000, 41 * 1300, 47 * 1300, 65_000]
Step = tuple[str, Any]


def send_bulk(session: Session, packet: SuperPacket, now: float) -> Run | None:
    """A turn of one packet."""
    turn = session.begin_sending(now)
    if turn is None:
        return None
    run = turn.seal(packet)
    assert session.end_sending(turn, now) >= has_outputs(session)
    return run


def has_outputs(session: Session) -> bool:
    return bool(session._tunnel.outbox or session._tunnel.inside.packets)


def receive_bulk(session: Session, arrival: Arrival, now: float) -> Packet | None:
    """A turn of one run."""
    turn = session.begin_receiving(now)
    if turn is None:
        return None
    packet = turn.open(arrival)
    assert session.end_receiving(turn, now) >= has_outputs(session)
    return packet


def copied(run: Run) -> Run:
    """A run in memory of its own: another is sealed before this one is sent."""
    return run._replace(parts=tuple(map(bytes, run.parts)))


@contextmanager
def lanes(*, are_open: bool, taken: list[str]) -> Iterator[None]:
    """Sessions do by themselves what their actors do: try the short way first, for each packet and each run."""
    general_send, general_receive = Session.send, Session.receive

    def send(self: Session, packets: Sequence[Packet], now: float) -> None:
        for packet in packets if any(isinstance(each, SuperPacket) for each in packets) else ():
            run = send_bulk(self, packet, now) if are_open and isinstance(packet, SuperPacket) else None
            if run is None:
                general_send(self, [packet], now)
            else:
                taken.append("send")
                self._tunnel.outbox.insert(0, copied(run))  # a probe goes after it
        if not any(isinstance(each, SuperPacket) for each in packets):
            general_send(self, packets, now)

    def receive(self: Session, arrivals: Sequence[Arrival], now: float) -> None:
        for arrival in arrivals:
            is_run = arrival.stride < len(arrival.data)
            packet = receive_bulk(self, arrival, now) if are_open and is_run else None
            if packet is None:
                general_receive(self, [arrival], now)
                continue
            taken.append("receive")
            if packet:
                assert isinstance(packet, SuperPacket)
                self._tunnel.inside.packets.append(replace(packet, data=bytes(packet.data)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "send", send)
        patch.setattr(Session, "receive", receive)
        yield


def steps_of(dice: random.Random, count: int = 40) -> list[Step]:
    """Mostly super-packets, and now and then everything that makes them take the other way."""
    return [
        dice.choice(
            [
                *[("super", (dice.choice("ab"), dice.choice(PAYLOADS), dice.choice([4, 4, 4, 6]), True))] * 8,
                ("super", (dice.choice("ab"), dice.choice(PAYLOADS[:3]), 4, False)),
                *[("run", dice.choice([0.001, 0.02, 0.1]))] * 5,
                ("widen", dice.choice([1, 2, 8, 64, 64, 64])),
                ("limit", dice.choice([1300, 65_507, 65_507])),
                ("small", dice.choice("ab")),
                ("run", dice.choice([0.3, 12.0, 130.0])),
                ("loss", dice.choice([0.0, 0.0, 0.01])),
                ("duplicate", dice.choice([0.0, 0.0, 0.3])),
                ("roam", dice.choice("ab")),
                ("restart", dice.choice("ab")),
            ]
        )
        for _ in range(count)
    ]


def widen(world: World, size: int) -> None:
    for node in world.nodes.values():
        keys = node.session._ring.current
        if isinstance(keys, RecordKeys):
            keys._size._size, keys._size._heard_at = size, world.now


def seen(world: World, steps: list[Step]) -> list[Any]:
    """Everything that can be told from outside after each step."""
    told: list[Any] = []
    world.establish()
    world.network.runs = True
    world.run(1.0)
    for serial, (what, how) in enumerate(steps):
        if what == "super":
            name, payload, version, tcp = how
            packet = super_packet(payload, 1300, serial=serial, version=version, tcp=tcp)
            world.send_segments(world.nodes[name], [packet])
        elif what == "run":
            world.run(how)
        elif what == "widen":
            widen(world, how)
        elif what == "small":
            world.send(world.nodes[how], 2)
        elif what in ("loss", "duplicate", "limit"):
            setattr(world.network, what, how)
        elif what == "roam":
            world.roam(world.nodes[how])
        else:
            world.restart(world.nodes[how])
        for node in world.nodes.values():
            session = node.session
            told.append(
                (
                    {deadline.name: at for deadline, at in session._timers._times.items()},
                    session.last_received_at,
                    repr(session),
                    (session.received.packets, session.received.bytes),
                    (session.transmitted.packets, session.transmitted.bytes),
                    dict(session.drops),
                    session.staged,
                )
            )
    world.run(5.0)
    return [*told, world.captured, world.segments_delivered, world.delivered]


@pytest.mark.parametrize("terms", [SEALED, Terms.CLEAR], ids=["sealed", "clear"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_nobody_can_tell_which_way_a_super_packet_took(terms: Terms, seed: int) -> None:
    steps, both = steps_of(random.Random(seed)), []
    for are_open in (True, False):
        with lanes(are_open=are_open, taken=[]):
            both.append(seen(World(seed=seed, terms=(terms, terms)), steps))
    assert both[0] == both[1]


def wide_world(**options: Any) -> World:
    world = World(**options)
    world.establish()
    world.network.runs = True
    world.run(1.0)
    widen(world, 64)
    return world


@pytest.mark.parametrize("version", [4, 6])
def test_a_bulk_flow_takes_the_short_way_at_both_ends(version: int) -> None:
    world, taken = wide_world(), list[str]()
    with lanes(are_open=True, taken=taken):
        for serial in range(5):
            widen(world, 64)
            world.send_segments(world.a, [super_packet(44 * 1300, 1300, serial=serial, version=version)])
            world.run(0.2)
    assert taken == ["send", "receive"] * 5
    assert sum(world.segments_sent.values()) == len(world.segments_delivered["b"]) == 5 * 44


@pytest.mark.parametrize(
    "packet",
    [
        super_packet(9_000, 1300),  # shares its record
        super_packet(64_000, 1300, options=40),  # longer than the record may be
        super_packet(1_300, 1300),  # one segment
        replace(super_packet(44 * 1300, 1300), segment_size=0),
        replace(super_packet(44 * 1300, 1300), segment_size=5),  # too many segments
        SuperPacket(b"\x45" + bytes(50_000), 1300),
        SuperPacket(b"", 1300),
    ],
    ids=["short", "long", "lone", "size 0", "size 5", "malformed", "empty"],
)
def test_any_other_is_left_alone(packet: SuperPacket) -> None:
    world = wide_world()
    widen(world, 44 if len(packet.data) > 60_000 else 64)
    session = world.a.session
    before = repr(session._ring.current), repr(session._timers), session.transmitted.bytes
    assert send_bulk(session, packet, world.now) is None
    assert (repr(session._ring.current), repr(session._timers), session.transmitted.bytes) == before


def held_run(world: World, serial: int = 0, *, is_finished: bool = False) -> Arrival:
    """What a sends in one run; nobody has it yet. `is_finished`: as a device makes it, so that one is like the other."""
    world.a.session.runs_to_send()  # probes
    packet = super_packet(44 * 1300, 1300, serial=serial)
    if is_finished:
        ready = offloaded(packet)
        assert ready is not None
        packet = SuperPacket(bytes(ready.data), 1300)
    run = send_bulk(world.a.session, packet, world.now)
    assert run is not None
    return Arrival(world.a.address, memoryview(bytearray(b"".join(run.parts))), run.stride)


def taken_in(world: World, arrival: Arrival) -> SuperPacket:
    """The super-packet that b finds in a run, which takes the short way; now and then a report is due with it."""
    session = world.b.session
    packet = receive_bulk(session, arrival, world.now)
    session.runs_to_send()
    assert isinstance(packet, SuperPacket)
    return packet


def test_it_opens_from_the_memory_of_a_port_as_well() -> None:
    world = wide_world()
    for serial in range(3):
        arrival = held_run(world, serial)
        memory = RunMemory(1 << 17)
        memory.view[: len(arrival.data)] = arrival.data
        packet = taken_in(world, arrival._replace(data=memory.view[: len(arrival.data)], memory=memory))
        assert packet.segments() == super_packet(44 * 1300, 1300, serial=serial).segments()


def test_a_run_is_opened_once_and_never_when_anything_of_it_was_changed() -> None:
    world = wide_world()
    session = world.b.session
    arrival = held_run(world)
    whole = bytes(arrival.data)
    dice = random.Random(1)
    places = [*range(16), *range(arrival.stride + 16), len(whole) - 1, *(dice.randrange(len(whole)) for _ in range(50))]
    headers = {n * arrival.stride + at for n in range(1, 44) for at in range(16)}
    for place in places:
        if place in headers:  # what stands in later headers is not read when the run is whole
            continue
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << dice.randrange(8)
        before = repr(session._ring.current), session.received.bytes
        assert receive_bulk(session, arrival._replace(data=memoryview(spoilt)), world.now) is None, place
        assert (repr(session._ring.current), session.received.bytes) == before
    for data in (whole[: arrival.stride], whole[:-1], whole + whole[: arrival.stride], whole[arrival.stride :], b""):
        assert receive_bulk(session, arrival._replace(data=memoryview(bytearray(data))), world.now) is None
    assert receive_bulk(session, arrival._replace(source=("192.0.2.9", 9)), world.now) is None
    assert taken_in(world, arrival).segments() == super_packet(44 * 1300, 1300).segments()
    assert receive_bulk(session, arrival, world.now) is None
    session.receive([arrival], world.now)
    assert session.drops[DropReason.REPLAYED] == arrival.datagram_count, "the general way says why"


def test_a_super_packet_of_somebody_else_is_not_delivered() -> None:
    world = wide_world()
    table: RouteTable[str] = RouteTable()
    world.b.session._tunnel.inside.inspect = Inspector(table, "a", LocalPrefixes([]))
    assert receive_bulk(world.b.session, held_run(world), world.now) == b""
    assert world.b.session.drops == {DropReason.SOURCE_NOT_ALLOWED: 44}
    assert not world.b.session.packets_to_deliver()


def test_a_report_goes_with_what_arrived() -> None:
    world = wide_world()
    session = world.b.session
    taken_in(world, held_run(world, 0))
    assert receive_bulk(session, held_run(world, 1), world.now)
    assert not has_outputs(session)
    world.now += 0.03
    assert receive_bulk(session, held_run(world, 2), world.now)
    assert has_outputs(session)
    assert len(session.runs_to_send()) == 1
    assert not session.packets_to_deliver()


def test_nothing_takes_it_under_the_other_suite_nor_when_packets_are_compressed() -> None:
    for world in (wide_world(suite=SUITES["wireguard"]), wide_world(terms=(Terms.LZ4, Terms.LZ4), codec=Deflate())):
        assert send_bulk(world.a.session, super_packet(44 * 1300, 1300), world.now) is None
        assert not has_outputs(world.a.session)


def test_on_a_narrow_path_what_begins_a_connection_is_left_to_who_lowers_its_mss() -> None:
    world = World()
    world.network.limit = 1300
    world.establish()
    world.network.runs = True
    world.run(20.0)
    assert all(node.session._tunnel.path.size < node.session._tunnel.widest for node in world.nodes.values())
    widen(world, 64)
    whole = super_packet(44 * 1300, 1300)
    begins = replace(whole, data=bytes(whole.data[:33]) + b"\x02" + bytes(whole.data[34:]))
    assert send_bulk(world.a.session, begins, world.now) is None
    run = send_bulk(world.a.session, whole, world.now)
    assert run is not None
    assert run.stride <= 1300
    assert taken_in(world, Arrival(world.a.address, b"".join(run.parts), run.stride)).segments() == whole.segments()
    world.a.session.send([begins], world.now)
    (run,) = (each for each in world.a.session.runs_to_send() if each.datagram_count > 1)
    assert receive_bulk(world.b.session, Arrival(world.a.address, b"".join(run.parts), run.stride), world.now) == b""
    assert len(world.b.session.packets_to_deliver()) == 1


def test_a_run_with_a_piece_of_the_next_record_is_not_opened_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    world = wide_world()
    first, second = held_run(world, 0), held_run(world, 1)
    stride = first.stride
    mixed = memoryview(bytearray(bytes(first.data[:-stride]) + bytes(second.data[:stride])))
    memory = RunMemory(1 << 17)
    memory.view[: len(mixed)] = mixed
    keys = world.b.session._ring.current
    assert isinstance(keys, RecordKeys)
    opened: list[bytes] = []
    real = keys._receive

    class Counting:
        def decrypt_into(self, nonce: bytes, data: bytes, associated_data: None, buf: memoryview) -> int:
            opened.append(nonce)
            return real.decrypt_into(nonce, data, associated_data, buf)

    keys._receive = Counting()  # type: ignore[assignment]
    for arrival in (
        Arrival(world.a.address, mixed, stride),
        Arrival(world.a.address, memory.view[: len(mixed)], stride, memory),
    ):
        assert receive_bulk(world.b.session, arrival, world.now) is None
    assert not opened
    assert taken_in(world, first)
    assert len(opened) == 1


def test_a_malformed_record_is_counted_once_and_an_empty_one_not_at_all() -> None:
    world = wide_world()
    sender = world.a.session._ring.current
    assert isinstance(sender, RecordKeys)
    for plaintext, drops in ((b"", {}), (b"\x01" * 50, {DropReason.MALFORMED: 1})):
        run = sender.seal_record(RecordKind.SUPER_PACKETS, plaintext)
        arrival = Arrival(world.a.address, b"".join(run.parts), run.stride)
        assert receive_bulk(world.b.session, arrival, world.now) == b""
        assert world.b.session.drops == drops


def runs_in_one_turn(session: Session, arrivals: Sequence[Arrival], now: float) -> list[Packet | None]:
    turn = session.begin_receiving(now)
    assert turn is not None
    found: list[Packet | None] = []
    for arrival in arrivals:
        packet = turn.open(arrival)
        found.append(replace(packet, data=bytes(packet.data)) if isinstance(packet, SuperPacket) else packet)
    session.end_receiving(turn, now)
    return found


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=14),
    st.sets(st.integers(0, 7), max_size=3),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_in_one_turn_each_record_is_new_once_in_whatever_order_they_come(
    order: list[int], forged: set[int], has_memory: bool, is_finished: bool
) -> None:
    world = wide_world()
    runs = [held_run(world, serial, is_finished=is_finished) for serial in range(8)]
    given_runs: list[Arrival] = []
    for serial in order:
        data = bytearray(runs[serial].data)
        if serial in forged:
            data[40] ^= 1
        memory = RunMemory(1 << 17) if has_memory else None
        if memory is not None:
            memory.view[: len(data)] = data
        given_runs.append(
            Arrival(
                world.a.address, memory.view[: len(data)] if memory else memoryview(data), runs[serial].stride, memory
            )
        )
    session = world.b.session
    top = session._ring.current.top if session._ring.current else 0
    found = runs_in_one_turn(session, given_runs, world.now)
    seen: set[int] = set()
    for serial, packet in zip(order, found, strict=True):
        if serial in seen or serial in forged:
            assert packet is None
        else:
            assert isinstance(packet, SuperPacket)
            assert packet.segments() == super_packet(44 * 1300, 1300, serial=serial).segments()
            seen.add(serial)
    keys = session._ring.current
    assert isinstance(keys, RecordKeys)
    assert session.received.packets == 44 * len(seen)
    first = [HEADER.unpack_from(runs[serial].data)[3] >> SPREAD_BITS for serial in range(8)]
    assert [keys._window.is_new(counter) for counter in first] == [serial not in seen for serial in range(8)]
    report = keys._meter.report(world.now + 1.0)
    assert report.lost == (first[max(seen)] - top - len(seen) if seen else 0)


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_record_behind_one_that_was_late_is_not_taken_twice(*, is_finished: bool) -> None:
    world = wide_world()
    runs = [held_run(world, serial, is_finished=is_finished) for serial in range(6)]
    order = (4, 1, 2, 0, 1, 1, 3, 4, 5, 5, 0)
    found = runs_in_one_turn(world.b.session, [runs[n] for n in order], world.now)
    assert [n for n, packet in zip(order, found, strict=True) if packet] == [4, 1, 2, 0, 3, 5]


def test_what_was_overtaken_takes_the_short_way() -> None:
    world = wide_world()
    session = world.b.session
    runs = [held_run(world, serial) for serial in range(3)]
    datagram = world.a.session.send_lone(inner_packet(1), world.now)
    assert datagram is not None
    session.receive([lone(datagram, world.a.address)], world.now)
    assert session.packets_to_deliver() == [inner_packet(1)]
    assert all(runs_in_one_turn(session, runs, world.now))
    assert runs_in_one_turn(session, runs, world.now) == [None] * 3


def test_what_a_stranger_sends_in_between_costs_no_look_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = wide_world()
    session = world.b.session
    runs = [held_run(world, serial) for serial in range(3)]
    fitted: list[Arrival] = []
    real = OpeningTurn._fit
    monkeypatch.setattr(OpeningTurn, "_fit", lambda turn, arrival: (fitted.append(arrival), real(turn, arrival))[1])
    turn = session.begin_receiving(world.now)
    assert turn is not None
    stranger = Arrival(("192.0.2.9", 9), memoryview(bytearray(4200)), 1400)
    for run in runs:
        assert turn.open(stranger) is None
        assert turn.open(stranger._replace(data=b"", stride=0)) is None
        assert isinstance(turn.open(run), SuperPacket)
    session.end_receiving(turn, world.now)
    assert len(fitted) == 1
