"""What the simulator does to records, and the promises about them: forged pieces, lies, narrow paths."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from holloway.protocols.record_size import LossMeter, Report
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.faults import Fault
from holloway.simulations.forgers import Foretold, Forger
from holloway.simulations.inner_packets import plain
from holloway.simulations.liars import Liar, Lie, reform
from holloway.simulations.links import Overheard
from holloway.simulations.oracles import (
    Calm,
    bystanders_lose_nothing,
    forgers_cost_what_they_foretold,
    paths_are_wide,
    records_grow,
)
from holloway.simulations.plan import Plan
from holloway.simulations.quantities import Value
from holloway.simulations.record_oracles import (
    Path,
    idle_sessions_fall_silent,
    loss_shortens_records,
    meters_of,
    record_size_is_within_bounds,
    records_are_cut_evenly,
    records_begin_at_their_first_counter,
)
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.streams import stream

SECOND = 10**9
TEXT = """
version = 1
name = "x"
purpose = "x"
duration = "8s"
calm = "4s"
[topology]
nodes = ["a", "b", "c"]
[network]
offloads = true
[[workload]]
kind = "bulk"
every = "40ms"
burst = 24
size = "1400"
[expect]
eventually = { NAME = "3s" }
"""


def plan(name: str, *faults: Fault, depth: Depth = Depth.HEAP) -> Plan:
    return replace(draw_plan(read_scenario(TEXT.replace("NAME", name), "x"), 0, depth), faults=faults)


def fault(kind: str, *nodes: str, between: tuple[str, ...] = (), **values: Value) -> Fault:
    return Fault(
        name=f"{kind}-1", kind=kind, at_ns=SECOND, until_ns=4 * SECOND, nodes=nodes, between=between, values=values
    )


def piece(number: int = 0, count: int = 3, *, size: int = 100, counter: int = 7, kind: int = 1) -> bytes:
    return struct.pack("<IHHQ", 1 << 20, number, kind, counter << 12 | count - 1) + bytes(size)


# Promises.


@pytest.mark.parametrize(
    ("datagrams", "broken"),
    [
        ([piece(0), piece(1), piece(2)], None),
        ([piece(0, 1), bytes((1, 0, 0, 0)) + bytes(144), piece(0, 1, size=16, counter=8)], None),
        ([piece(0), piece(1)], "before all of it"),
        ([piece(0), piece(2), piece(1)], "before all of it"),
        ([piece(1), piece(2)], "begins with its datagram 1"),
        ([piece(0), piece(1, size=99), piece(2)], "of 116 and 115 bytes"),
        ([piece(0, 1, size=1000)], "leaves for a path that bears 500"),
        ([piece(0, 1, size=1000, kind=5)], None),
        ([piece(0), bytes((1, 0, 0, 0)) + bytes(144)], "before all of it"),
    ],
)
def test_records_must_be_cut_evenly(datagrams: list[bytes], broken: str | None) -> None:
    found = records_are_cut_evenly(datagrams, 500, 2000)
    assert found is None if broken is None else broken in str(found)


def test_a_loss_leaves_no_longer_records_than_it_may() -> None:
    assert loss_shortens_records(399, 1, 8, 1) is None
    assert loss_shortens_records(399, 1, 8, 2) is not None
    assert loss_shortens_records(2000, 1, 64, 10) is None
    assert loss_shortens_records(2000, 2, 64, 10) is not None
    assert loss_shortens_records(10**6, 1, 2, 4) is not None


def test_a_record_has_1_to_64_datagrams() -> None:
    assert [size for size in (-1, 0, 1, 64, 65) if record_size_is_within_bounds(size) is None] == [1, 64]


def test_a_session_may_report_until_a_while_after_all_else() -> None:
    assert idle_sessions_fall_silent(1.0, 5.9) is None
    assert idle_sessions_fall_silent(1.0, 6.1) is not None


def test_counters_begin_where_the_key_says() -> None:
    key = bytes(range(32))
    broken = [records_begin_at_their_first_counter(key, counter) for counter in (0, 1, 1 << 47)]
    assert None not in broken


def test_what_is_expected_of_the_calm_is_broken_by_what_the_calm_shows() -> None:
    calm = Calm(
        (),
        {},
        {},
        lost_by_bystanders=(3, 4),
        lost_unforetold=(5,),
        record_sizes={("a", "b"): 1},
        paths={("a", "b"): Path(1300, 1232, 1452)},
    )
    assert "packet 3" in str(bystanders_lose_nothing(calm))
    assert "packet 5" in str(forgers_cost_what_they_foretold(calm))
    assert "of a for b" in str(records_grow(calm))
    assert "1300 bytes at most, 1452 would pass" in str(paths_are_wide(calm))


# Forgers.


def test_a_forger_foretells_what_he_sends_in_the_name_of_a_peer_and_nothing_else() -> None:
    foretold: list[int] = []
    forger = Forger(fault("forge_pieces", every=SECOND, elsewhere=0.5), 1, foretold.append)
    assert forger.choose() is None
    forger.hear("a", "b", Overheard(bytes((1, 0, 0, 0)) + bytes(144), ("192.0.2.1", 1), ("192.0.2.2", 1)))
    assert forger.choose() is None
    for number in range(3):
        forger.hear("a", "b", Overheard(piece(number, counter=1000), ("192.0.2.1", 1), ("192.0.2.2", 1)))
    sent = [forged for _ in range(400) if (forged := forger.choose()) is not None]
    named = [forged for forged in sent if not forged.is_elsewhere]
    assert 150 < len(named) == len(foretold) < 250
    counters = [int.from_bytes(forged.data[8:16], "little") >> 12 for forged in named]
    assert counters == foretold
    assert 0.3 < counters.count(1000) / len(counters) < 0.7
    assert all(1000 <= counter <= 1001 + (1 << 17) for counter in counters)
    assert all(
        int.from_bytes(each.data[4:6], "little") <= int.from_bytes(each.data[8:10], "little") & 0xFFF < 64
        for each in sent
    )


def test_packets_are_looked_for_in_the_records_that_were_foretold() -> None:
    foretold = Foretold()
    packets = [plain(0, serial, 100, bytes(4), bytes(4)) for serial in range(4)]
    foretold.note_sealed(1000, packets[0] + packets[1])
    foretold.note_sealed(1001, packets[2])
    foretold.foretell(1000)
    assert foretold.unforetold([0, 1, 2, 3]) == (2, 3)


@pytest.mark.parametrize("depth", Depth)
def test_forged_pieces_cost_records_and_only_those_that_were_foretold(
    depth: Depth, monkeypatch: pytest.MonkeyPatch
) -> None:
    forging = fault("forge_pieces", every=5 * 10**6, elsewhere=0.2)
    # A record that comes as one run is not harmed at all, so here none does.
    pieced = replace(plan("forgers_cost_what_they_foretold", forging, depth=depth), offloads=False)
    outcome = run_plan(pieced)
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["forged_piece_refused"] > 10
    assert outcome.reached.places["record_lost"] > 0
    monkeypatch.setattr(Foretold, "foretell", lambda *_: None)
    failure = run_plan(pieced).failure
    assert failure is not None
    assert failure.property == "forgers_cost_what_they_foretold"


# Liars.


def reports(lie: Lie) -> list[Report]:
    """What a session reports while it lies so, of a peer that seals 40 records and loses the last but one of each four."""
    from holloway.simulations.breadth import HeapWorld
    from holloway.simulations.machine import Machine

    world = HeapWorld(plan("nothing_waits"))
    world._time.run(SECOND, 10**7)
    machine = world.hosts["a"]
    assert isinstance(machine, Machine)
    session = machine.seats["b"].session
    liar = Liar(stream(1, "lie"))
    liar.lie = lie
    liar.corrupt(session)
    liar.corrupt(session)
    false = next(iter(meters_of(session).values()))
    told = [false.report(1.0 + number / 50) for number in range(4)]
    reform(session)
    assert all(type(meter) is LossMeter for meter in meters_of(session).values())
    return told


def test_each_lie_is_told_as_it_should() -> None:
    absurd, stale, clean, lossy = (reports(lie) for lie in (Lie.ABSURD, Lie.STALE, Lie.CLEAN, Lie.LOSSY))
    assert len(set(absurd)) == 4
    assert absurd[1].datagrams > 1 << 31
    assert len(set(stale)) == 1
    assert {report.losses for report in clean} == {clean[0].losses}
    assert [report.losses - lossy[0].losses for report in lossy] == [0, 1, 2, 3]
    assert all(report.losses <= report.lost for report in lossy)


@pytest.mark.parametrize("depth", Depth)
def test_whoever_lies_harms_no_bystander(depth: Depth) -> None:
    lying, losing = fault("false_reports", "c"), fault("loss", "c", probability=0.05)
    outcome = run_plan(plan("bystanders_lose_nothing", lying, replace(losing, name="loss-2"), depth=depth))
    assert outcome.failure is None, outcome.failure


def test_bystanders_are_those_whom_no_fault_befalls() -> None:
    outcome = run_plan(plan("bystanders_lose_nothing", fault("loss", between=("a", "b"), probability=0.05)))
    assert outcome.failure is None, outcome.failure
    text = TEXT.replace("NAME", "bystanders_lose_nothing")
    from holloway.simulations.breadth import HeapWorld

    world = HeapWorld(draw_plan(read_scenario(text, "x"), 0))
    world.ledger.make(0, 100, (bytes(4), bytes(4)), maker="a", addressee="b")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="packet 0"):
        world.run()


# Paths.


def test_a_narrow_path_is_noticed_and_its_size_is_known() -> None:
    narrow = plan("narrow_paths_are_noticed", replace(fault("mtu_drop", limit=1300), until_ns=4 * SECOND))
    outcome = run_plan(
        replace(
            narrow,
            duration_ns=10 * SECOND,
            calm_ns=5 * SECOND,
            faults=(replace(narrow.faults[0], until_ns=5 * SECOND),),
        )
    )
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["path_shrank"] > 0
