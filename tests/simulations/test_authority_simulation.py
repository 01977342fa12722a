"""Networks with an authority in the simulator: what nodes keep, who attacks them, and the promises that are held against it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
import trio

from holloway.actors.enrolled import REVOKED, Enrolled
from holloway.actors.wanted import Peer
from holloway.protocols import identity as signing
from holloway.protocols import issuing, revocation
from holloway.protocols.errors import PortError
from holloway.protocols.membership import RecordProblem, nodes_prefix
from holloway.protocols.trust import revoked_key
from holloway.simulations.actor_host import NETWORK
from holloway.simulations.actor_world import ActorWorld
from holloway.simulations.clocks import WALL_START_NS
from holloway.simulations.depth import Depth
from holloway.simulations.disk import Desk, Disk
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import Fault
from holloway.simulations.identities import identity
from holloway.simulations.office import INSIDER, Elsewhere, Genuine, Office
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.quantities import Value
from holloway.simulations.run import Outcome, run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.store_attacker import Attack, StoreAttacker
from holloway.simulations.trace import Trace
from holloway.simulations.trust_oracles import (
    OBEYED_WITHIN_NS,
    addresses_are_certified,
    no_older_record_is_believed,
    nobody_is_impersonated,
    revoked_stay_out,
)

SECOND = 10**9
NOW = WALL_START_NS // SECOND
NAMES = ("office", "a", "b")
TEXT = """version = 1
name = "certified"
purpose = "x"
duration = "27s"
calm = "9s"
[topology]
nodes = ["office", "a", "b", "gone"]
[registry]
trust = "authority"
lease = "3s"
[[workload]]
kind = "ping"
every = "3s"
[expect]
eventually = { membership_is_equal = "8s", all_pairs_reachable = "8s" }
"""


def fault(kind: str, at_s: float, until_s: float | None = None, *nodes: str, **values: Value) -> Fault:
    at_ns = round(at_s * SECOND)
    until_ns = at_ns if until_s is None else round(until_s * SECOND)
    return Fault(name=f"{kind}-1.{at_ns}", kind=kind, at_ns=at_ns, until_ns=until_ns, nodes=nodes, values=values)


def plan(*faults: Fault, seed: int = 0) -> Plan:
    return replace(draw_plan(read_scenario(TEXT, "x"), seed, Depth.ACTORS), faults=faults)


ATTACK = fault("store_attacker", 2, 14, every=SECOND // 3)
REVOKE = fault("revoke", 4, None, "gone")


def traced(plan: Plan) -> tuple[Outcome, list[Any]]:
    file = io.StringIO()
    outcome = run_plan(plan, trace=Trace(file))
    return outcome, [json.loads(line) for line in file.getvalue().splitlines()]


# What nodes keep.


class Process:
    is_over = False


def test_what_a_process_wrote_is_there_for_the_next_and_a_killed_one_writes_no_more() -> None:
    disk, process = Disk("a"), Process()
    desk = Desk(disk, process)
    desk.write("file", "kept")
    assert (disk.has("file"), Desk(disk, Process()).read("file"), desk.read("other")) == (True, b"kept", None)
    process.is_over = True
    desk.write("file", "from the grave")
    desk.remove("file")
    assert disk.read("file") == b"kept"


def test_a_full_disk_refuses_to_write_and_keeps_what_it_has() -> None:
    disk = Disk("a")
    desk = Desk(disk, Process())
    desk.write("file", "kept")
    disk.fill("one")
    disk.fill("two")
    with pytest.raises(PortError, match="No space left"):
        desk.write("file", "more")
    disk.clear("one")
    assert desk.is_full
    disk.clear("two")
    assert desk.read("file") == b"kept"
    desk.write("file", "more")
    assert disk.read("file") == b"more"


async def test_work_on_a_simulated_disk_takes_no_thread() -> None:
    threads: list[object] = []

    async def run_sync(*arguments: object) -> None:
        threads.append(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        assert await Disk("a").apart(lambda: 5) == 5
    assert threads == []


# Runs.


def test_what_the_authority_says_is_put_back_after_every_attack() -> None:
    world = ActorWorld(plan(ATTACK))
    store = world.store
    assert store is not None
    assert world.office is not None
    held: dict[bytes, bytes] = {}
    world.timeline.at(26 * SECOND, lambda: held.update(store.held(NETWORK)))
    world.run()
    assert {key: held[key] for key in world.office.published} == world.office.published
    assert world.reached.places["record_refused"] > 0


def test_a_run_has_one_trace_whatever_the_signatures_are(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = plan(ATTACK, REVOKE, fault("crash", 6, 10, "a"), fault("store_down", 14, 17, silent=0.5))
    one, lines = traced(attacked)
    # As OpenSSL before 3.2 signs: each time otherwise, and now and then shorter.
    monkeypatch.setattr(signing, "_SIGNING", signing._VERIFYING)
    monkeypatch.setattr(issuing, "DETERMINISTIC", None)
    monkeypatch.setattr(revocation, "DETERMINISTIC", None)
    two, _ = traced(attacked)
    assert one.failure is None
    assert one.trace_sha256 == two.trace_sha256
    assert any(line["what"].startswith("attacker: ") for line in lines)
    issuers = [line["node"] for line in lines if line["kind"] == "actor" and line["peer"] == "node.registry.issuer"]
    assert set(issuers) == {"office"}  # the first node


def test_a_revocation_that_came_while_the_disk_was_full_outlives_the_process() -> None:
    # A list that could not be written was never written again: a restart later, an old list brought the node back.
    outcome = run_plan(
        plan(
            fault("disk_full", 3, 5, "b"),
            REVOKE,
            fault("crash", 9, 18, "office"),
            fault("store_attacker", 9.5, 18, "gone", every=SECOND // 2),
            fault("restart", 12, None, "b"),
        )
    )
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["stale_list_refused"] > 0


def test_known_nodes_lose_nothing_without_the_registry_and_a_node_that_forgot_them_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = fault("store_down", 4, 20, silent=0.0), fault("restart", 5, None, "a", "b")
    outages = replace(plan(*away), duration_ns=23 * SECOND, calm_ns=3 * SECOND)
    outages = replace(outages, eventually={"outages_cost_nothing": 2 * SECOND})
    outcome = run_plan(outages)
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["restarted_without_store"] == 2
    monkeypatch.setattr("holloway.actors.known_nodes._known", lambda _: {})
    failure = run_plan(outages).failure
    assert failure is not None
    assert failure.property == "outages_cost_nothing"


# Attacks.


def office() -> Office:
    return Office(0, NETWORK, {name: identity(0, number, name) for number, name in enumerate(NAMES)}, NOW)


def attacked(kind: str) -> tuple[Office, dict[bytes, bytes], Attack]:
    """What stands in the store, and what is done to it."""
    place = office()
    attacker = StoreAttacker(ATTACK, 0, place, Elsewhere(0, NETWORK, NOW), NAMES)
    held = dict(place.published)
    for name in NAMES:
        held[nodes_prefix(NETWORK) + name.encode()] = sealed(place, name)
    attacker.remember(held)
    return place, held, getattr(attacker, f"_{kind}")("a", held)


def sealed(place: Office, name: str) -> bytes:
    from holloway.actors.belief import AuthorityBelief
    from holloway.protocols.membership import NodeRecord

    enrolled = Enrolled(place.disks[name], NETWORK, NOW)
    record = NodeRecord(name=name, public_key=identity(0, NAMES.index(name), name).static.public)
    return AuthorityBelief(enrolled, lambda: NOW * SECOND).seal(replace(record, addresses=enrolled.addresses))


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("garbage", RecordProblem.NOT_JSON),
        ("huge", RecordProblem.TOO_BIG),
        ("strip", RecordProblem.UNSIGNED),
        ("downgrade", RecordProblem.UNSIGNED),
        ("later", RecordProblem.WRONG_VERSION),
        ("alter", RecordProblem.BAD_SIGNATURE),
        ("foreign", RecordProblem.FOREIGN_AUTHORITY),
        ("insider_as", RecordProblem.WRONG_NAME),
        ("insider_under", RecordProblem.WRONG_NAME),
        ("insider_with", RecordProblem.ADDRESS_NOT_CERTIFIED),
    ],
)
def test_an_attack_is_what_it_says(kind: str, problem: RecordProblem) -> None:
    place, _, attack = attacked(kind)
    [(key, value)] = attack.puts.items()
    name = INSIDER if kind == "insider_with" else "a"
    assert key == nodes_prefix(NETWORK) + name.encode()
    assert Enrolled(place.disks["b"], NETWORK, NOW).records.verify(name, value, NOW) is problem


def test_an_attacker_swaps_deletes_and_replays_what_he_remembers() -> None:
    prefix = nodes_prefix(NETWORK)
    assert attacked("delete")[-1].deletes == (prefix + b"a",)
    _, held, attack = attacked("replay")
    assert attack.puts == {prefix + b"a": held[prefix + b"a"]}
    _, held, attack = attacked("swap")
    assert attack.puts
    assert set(attack.puts.values()) <= set(held.values())


def test_whoever_was_revoked_is_brought_back_with_the_oldest_list() -> None:
    place = office()
    attacker = StoreAttacker(ATTACK, 0, place, Elsewhere(0, NETWORK, NOW), ("a",))
    key, old = nodes_prefix(NETWORK) + b"a", place.published[revoked_key(NETWORK)]
    record = sealed(place, "a")
    attacker.remember(place.published | {key: record})
    new = place.revoke("a", NOW)
    attacks = [attacker.act(place.published | new, ("a",), 0) for _ in range(40)]
    back = [attack for attack in attacks if attack.then]
    assert back
    assert back[0].puts == {revoked_key(NETWORK): old} != new
    assert back[0].then == {key: record}
    assert place.disks["b"].read(REVOKED) == old


# Promises.

KEY, OTHER = bytes([1]) * 32, bytes([2]) * 32
PREFIX = ip_network("10.77.0.1/32")
GENUINE = {"a": Genuine(KEY, frozenset({PREFIX}), 7)}


def peer(key: bytes = KEY, prefix: str = "10.77.0.1/32", name: str = "a") -> dict[str, Peer]:
    return {name: Peer(name=name, public_key=key, allowed=(ip_network(prefix),))}


def test_somebody_with_another_key_or_an_unknown_name_is_an_impostor() -> None:
    assert nobody_is_impersonated(peer(), GENUINE, "b") is None
    assert "another key" in (nobody_is_impersonated(peer(OTHER), GENUINE, "b") or "")
    assert "does not know" in (nobody_is_impersonated(peer(name="c"), GENUINE, "b") or "")


def test_addresses_that_are_not_certified_are_noticed() -> None:
    assert addresses_are_certified(peer(), GENUINE, "b") is None
    assert "10.77.0.2" in (addresses_are_certified(peer(prefix="10.77.0.2/32"), GENUINE, "b") or "")


def test_a_revoked_peer_is_noticed_5_s_after_its_revocation_was_seen() -> None:
    seen = {"a": SECOND}
    assert revoked_stay_out(["a"], seen, SECOND + OBEYED_WITHIN_NS, "b") is None
    assert "takes a for a peer" in (revoked_stay_out(["a"], seen, SECOND + OBEYED_WITHIN_NS + 1, "b") or "")
    assert revoked_stay_out(["c"], seen, 100 * SECOND, "b") is None


def test_an_older_record_is_noticed() -> None:
    assert no_older_record_is_believed({"a": 5, "c": 1}, {"a": 5}, "b") is None
    assert "record 4 of a" in (no_older_record_is_believed({"a": 4}, {"a": 5}, "b") or "")


# Scenarios.


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT.replace('"authority"', '"athority"'), "did you mean 'authority'"),
        (TEXT.replace('"authority"', '"store"') + '[[fault]]\nkind = "revoke"\n', "revoke: only in a network with an"),
        (TEXT + '[[fault]]\nkind = "store_attacker"\n', "every is missing"),
        (
            TEXT.replace('[registry]\ntrust = "authority"\nlease = "3s"\n', "").split("[expect]", maxsplit=1)[0]
            + '[expect]\nsometimes = ["record_refused"]\n',
            "only with a registry",
        ),
    ],
)
def test_a_scenario_that_needs_an_authority_says_so(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        read_scenario(text, "x")


def test_a_plan_keeps_its_trust_and_an_older_one_trusts_the_store() -> None:
    found = plan(ATTACK, REVOKE)
    assert from_json(to_json(found), "x") == found
    document = json.loads(to_json(replace(found, faults=())))
    del document["registry"]["trust"]
    older = from_json(json.dumps(document), "x")
    assert older.registry is not None
    assert not older.registry.has_authority
    document["registry"]["trust"] = "nobody"
    with pytest.raises(ScenarioError, match="unknown trust"):
        from_json(json.dumps(document), "x")
    assert found.registry is not None
    with pytest.raises(ScenarioError, match="store_attacker, revoke without an authority"):
        from_json(to_json(replace(found, registry=replace(found.registry, trust="store"))), "x")
