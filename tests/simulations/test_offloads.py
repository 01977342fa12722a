"""Hosts that cut and join packets: super-packets in, runs of datagrams, and what comes out judged segment by segment."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from click.testing import CliRunner

from holloway.cli.simulate import command
from holloway.protocols.arrivals import lone
from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.packets import SuperPacket, internet_checksum, whole_packets
from holloway.simulations.batch import run_seeds
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import PropertyViolated, ScenarioError
from holloway.simulations.identities import identity
from holloway.simulations.inner_packets import MAX_SEGMENTS, MIN_SEGMENT_BYTES
from holloway.simulations.ledger import Ledger, Purpose
from holloway.simulations.plan import from_json, to_json
from holloway.simulations.run import run_plan
from holloway.simulations.runs import Heard, joined
from holloway.simulations.scenario import load_scenario, read_scenario, shipped

LEFT, RIGHT = identity(0, 0, "left"), identity(0, 1, "right")
INSIDE = {each.name: tuple(each.inside.values()) for each in (LEFT, RIGHT)}
LONG = ("thousand-nodes",)
LONG_ACTORS = (
    "dtls-both-dial",
    "dtls-lossy-handshakes",
    "dtls-certificates",
    "path-mtu",
)
HEAD = 'version = 1\nname = "x"\npurpose = "x"\nduration = "4s"\ncalm = "2s"\n[topology]\nnodes = ["a", "b"]\n'
BULK = '[[workload]]\nkind = "bulk"\nevery = "50ms"\nburst = 32\nsize = "1200"\n'


def batch(ledger: Ledger, sizes: list[int]) -> list[bytes | SuperPacket]:
    return ledger.make_batch(Purpose.ONE_WAY, sizes, LEFT.inside, RIGHT.inside, maker="left", addressee="right")


def deliver(ledger: Ledger, packets: list[bytes]) -> list[int]:
    return [ledger.deliver(packet, receiver="right", addresses=INSIDE, session="left").serial for packet in packets]


# Packets.


def test_super_packets_are_of_every_form_and_every_segment_counts() -> None:
    ledger = Ledger()
    packets = [packet for _ in range(4) for packet in batch(ledger, [1000] * 40 + [200])]
    forms = [
        (data[0] >> 4, data[9] if data[0] >> 4 == 4 else data[6])
        for data in (bytes(each.data) for each in packets if isinstance(each, SuperPacket))
    ]
    assert sorted(forms) == [(4, 6), (4, 17), (6, 6), (6, 17)]
    segments = whole_packets(packets)
    assert ledger.count == len(segments) == 164
    assert {len(segment) for segment in segments} == {1000, 200}
    assert ledger.missing(range(164)) == list(range(164))
    assert deliver(ledger, segments) == list(range(164))
    assert ledger.missing(range(164)) == []


def test_a_long_burst_is_cut_where_a_super_packet_ends_and_a_lone_segment_is_a_packet() -> None:
    packets = batch(Ledger(), [10] * (MAX_SEGMENTS + 1))
    assert [isinstance(packet, SuperPacket) for packet in packets] == [True, False]
    assert {len(packet) for packet in whole_packets(packets)} == {MIN_SEGMENT_BYTES}


def test_segments_that_were_joined_otherwise_are_the_same_segments() -> None:
    ledger = Ledger()
    segments = whole_packets([packet for _ in range(8) for packet in batch(ledger, [600] * 12)])
    again = coalesce(segments, Checksums.GOOD)
    assert len(again) < 8 + 1
    assert sorted(deliver(ledger, whole_packets(again))) == list(range(96))


def renumbered(packet: bytes) -> bytes:
    header = bytearray(packet[:20])
    header[4:6], header[10:12] = b"\xbe\xef", bytes(2)
    header[10:12] = internet_checksum(header).to_bytes(2, "big")
    return bytes(header) + packet[20:]


def test_the_identification_of_a_packet_that_must_not_be_fragmented_means_nothing() -> None:
    ledger = Ledger()
    first, *_ = whole_packets(batch(ledger, [600, 600]))
    assert first[0] >> 4 == 4
    assert renumbered(first) != first
    assert deliver(ledger, [renumbered(first)]) == [0]


@pytest.mark.parametrize("place", [1, 8, 11, 13, 33, 37, 200])
def test_any_other_byte_that_was_changed_is_noticed(place: int) -> None:
    ledger = Ledger()
    first, *_ = whole_packets(batch(ledger, [600, 600]))
    changed = first[:place] + bytes((first[place] ^ 1,)) + first[place + 1 :]
    with pytest.raises(PropertyViolated, match="nobody sent"):
        deliver(ledger, [changed])


def test_a_segment_that_comes_twice_is_noticed() -> None:
    ledger = Ledger()
    first, *_ = whole_packets(batch(ledger, [600, 600]))
    with pytest.raises(PropertyViolated, match="packet 0 was delivered twice"):
        deliver(ledger, [first, first])


# Runs.


def heard(*lengths: int, port: int = 1, at_ns: int = 0, word: int = 1 << 20, is_forged: bool = False) -> list[Heard]:
    dice = random.Random(len(lengths))
    return [
        Heard(word.to_bytes(4, "little") + dice.randbytes(length - 4), ("192.0.2.1", port), is_forged, 7, at_ns)
        for length in lengths
    ]


def shapes(found: list[Heard]) -> list[tuple[int, int]]:
    return [(arrival.datagram_count, arrival.stride) for arrival, _ in joined(found)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (heard(100, 100, 100), [(3, 100)]),
        (heard(100, 100, 60, 60), [(3, 100), (1, 60)]),
        (heard(60, 100), [(1, 60), (1, 100)]),
        (heard(100, 100, port=1) + heard(100, port=2), [(2, 100), (1, 100)]),
        (heard(100) + heard(100, at_ns=1), [(1, 100), (1, 100)]),
        (heard(148, 148, word=0x21), [(1, 148), (1, 148)]),
        (heard(*[100] * 70), [(64, 100), (6, 100)]),
        (heard(*[1400] * 50), [(46, 1400), (4, 1400)]),
        ([], []),
    ],
)
def test_runs_are_those_of_the_kernel(found: list[Heard], expected: list[tuple[int, int]]) -> None:
    assert shapes(found) == expected
    again = [datagram for arrival, _ in joined(found) for datagram in arrival.datagrams()]
    assert again == [each.data for each in found]


def test_a_forged_datagram_in_a_run_is_not_held_against_the_others() -> None:
    [(run, first)] = joined(heard(100, is_forged=True) + heard(100))
    assert run.datagram_count == 2
    assert not first.is_forged
    [(alone, first)] = joined(heard(100, is_forged=True))
    assert alone == lone(alone.data, ("192.0.2.1", 1))  # type: ignore[arg-type]
    assert first.is_forged


# Scenarios.


@pytest.mark.parametrize("depth", Depth)
@pytest.mark.parametrize("name", [name for name in shipped() if name not in LONG])
def test_a_shipped_scenario_holds_with_the_other_kind_of_hosts(name: str, depth: Depth) -> None:
    scenario = load_scenario(name)
    if depth not in scenario.depths or (name in LONG_ACTORS and depth is Depth.ACTORS):
        return
    plan = draw_plan(scenario, 1, depth, offloads=not scenario.offloads)
    assert plan.offloads is not scenario.offloads
    outcome = run_plan(plan)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize("depth", Depth)
def test_with_offloads_records_come_as_runs_and_without_in_pieces(depth: Depth) -> None:
    scenario = read_scenario(HEAD + BULK, "x")
    places = {
        offloads: run_plan(draw_plan(scenario, 0, depth, offloads=offloads)).reached.places
        for offloads in (True, False)
    }
    assert places[True]["record_came_as_run"] > 20
    assert places[False]["record_came_as_run"] == 0 < places[False]["record_came_in_pieces"]


@pytest.mark.parametrize("text", ["", "[network]\n", "[network]\noffloads = false\n"])
def test_hosts_are_plain_unless_the_scenario_says_otherwise(text: str) -> None:
    assert not read_scenario(HEAD + text, "x").offloads
    assert read_scenario(HEAD + "[network]\noffloads = true\n", "x").offloads


@pytest.mark.parametrize("text", ["[network]\noffload = true\n", '[network]\noffloads = "yes"\n', "[netwrk]\n"])
def test_a_wrong_network_table_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"unknown key|true or false"):
        read_scenario(HEAD + text, "x")


def test_a_plan_keeps_whether_hosts_have_offloads_and_an_older_one_has_none() -> None:
    plan = replace(draw_plan(read_scenario(HEAD, "x"), 0), offloads=True)
    assert from_json(to_json(plan), "x") == plan
    document = json.loads(to_json(plan))
    del document["offloads"]
    assert from_json(json.dumps(document), "x") == replace(plan, offloads=False)


def test_a_run_with_offloads_goes_the_same_way_every_time() -> None:
    summary = run_seeds(read_scenario(HEAD + BULK, "x"), 0, 0, offloads=True, check_determinism=True)
    assert summary.not_deterministic == ()


def test_the_command_that_shows_a_failure_again_has_the_switch(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holloway.simulations.machine import Machine

    def fall(*_: object, **__: object) -> None:
        raise RuntimeError("fell over")

    monkeypatch.setattr(Machine, "_take", fall)
    said = {
        words: CliRunner().invoke(command, [name, *words, "--seed", "0"]).output
        for name, words in (
            ("rekey-under-loss", ("--offloads",)),
            ("rekey-under-loss", ()),
            ("records-under-loss", ("--no-offloads",)),
        )
    }
    assert "holloway simulate rekey-under-loss --offloads --seed 0" in said["--offloads",]
    assert "holloway simulate rekey-under-loss --seed 0" in said[()]
    assert "holloway simulate records-under-loss --no-offloads --seed 0" in said["--no-offloads",]
