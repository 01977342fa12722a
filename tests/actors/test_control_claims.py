"""What daemons say and believe of brokers and agents: through signed records alone, and gone with who is revoked."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, EnrolledWorld, until
from node_world import World, name
from node_world import config as unsigned
from trio.testing import MockClock

from holloway.actors import Node
from holloway.actors.control_claims import AGENT_KEY
from holloway.actors.records import Told
from holloway.protocols.errors import HollowayError, LocalError
from holloway.protocols.membership import NodeRecord, encode_record, node_key
from holloway.protocols.z85 import encode_z85

KEYS = [encode_z85(bytes([number]) * 32) for number in range(10, 20)]
LOW_ORDER = encode_z85(bytes(32))


async def asked(node: Node, request: dict[str, object]) -> Any:
    async with aclosing(node._answers.serve(request)) as answers:
        return (await anext(answers))["result"]


@asynccontextmanager
async def following(node: Node, request: dict[str, object]) -> AsyncIterator[list[Any]]:
    """The events of an answer that does not end, as they come."""
    events: list[Any] = []
    answers: AsyncGenerator[Any, None] = node._answers.serve(request)

    async def read() -> None:
        async with aclosing(answers):
            while True:
                events.append((await anext(answers))["event"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await until(lambda: bool(events), within_s=1)
        yield events
        nursery.cancel_scope.cancel()


def place_on(node: Node, key: str = KEYS[0], **changes: Any) -> dict[str, object]:
    address = str(node.config.interface.addresses[0].ip)
    fields = {"address": address, "command_port": 23002, "file_port": 23003, "curve_key": key} | changes
    return {"op": "be-broker", "broker": fields}


def agents(node: Node) -> dict[str, str]:
    return dict(node.claims.view().agents)


@asynccontextmanager
async def pair(world: EnrolledWorld) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes; the first may have a broker."""
    for number in (1, 2):
        world.enrol(number)
    await world.put(world.authority.statements(NOW))
    await world.put(world.authority.change_settings(lambda old: replace(old, brokers=(name(1),))))
    async with world.node(1) as a, world.node(2) as b:
        with trio.fail_after(5):
            await a.roster.find(name(2))
            await b.roster.find(name(1))
        yield a, b


def played(folder: Path, play: Callable[[EnrolledWorld, Node, Node], Any]) -> None:
    async def main() -> None:
        world = EnrolledWorld(folder)
        async with pair(world) as (a, b):
            await play(world, a, b)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_key_that_is_enrolled_is_in_every_daemons_view_within_seconds_and_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with pair(world) as (a, b):
            assert await asked(b, {"op": "enrol", "curve_key": KEYS[1]}) == {"node": name(2), "curve_key": KEYS[1]}
            assert agents(b) == {name(2): KEYS[1]}
            await until(lambda: agents(a) == {name(2): KEYS[1]}, within_s=2)
            await asked(b, {"op": "enrol", "curve_key": KEYS[2]})  # another key takes the place of the first
            await until(lambda: agents(a) == {name(2): KEYS[2]}, within_s=3)
        async with world.node(1) as a, world.node(2):
            await trio.sleep(5)  # until what it knew before has been said anew
            assert agents(a) == {name(2): KEYS[2]}
        async with world.node(1) as a, world.node(2) as b:
            await asked(b, {"op": "enrol", "curve_key": None})
            await until(lambda: agents(a) == {}, within_s=5)
        assert not world.state(name(2)).has(AGENT_KEY)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_broker_is_announced_for_as_long_as_it_asks(tmp_path: Path) -> None:
    async def play(world: EnrolledWorld, a: Node, b: Node) -> None:
        async with following(b, {"op": "follow-brokers", "curve_key": KEYS[1]}) as seen:
            async with following(a, place_on(a)) as admitted:
                await until(lambda: len(seen) == 2, within_s=3)
                assert [each["named"] for each in seen] == [[name(1)]] * 2
                await until(lambda: admitted[-1]["agents"] == [[name(2), KEYS[1]]], within_s=3)
                assert admitted[-1]["obeyed"]
                assert [each["node"] for each in seen[-1]["brokers"]] == [name(1)]
                assert seen[-1]["brokers"][0]["address"] == str(a.config.interface.addresses[0].ip)
                assert (await asked(b, {"op": "address", "node": name(1)}))["broker"]["curve_key"] == KEYS[0]
                with pytest.raises(LocalError, match="already"):
                    await asked(a, place_on(a))
            await until(lambda: seen[-1]["brokers"] == [], within_s=3)
            assert len(seen) == 3

    played(tmp_path, play)


def test_a_node_that_the_settings_do_not_name_has_no_broker(tmp_path: Path) -> None:
    """Or any machine that is taken over would command all others."""

    async def play(world: EnrolledWorld, a: Node, b: Node) -> None:
        async with following(b, place_on(b)) as admitted:
            await until(lambda: a.claims.view().ignored == (name(2),), within_s=3)
            assert [each["obeyed"] for each in admitted] == [False]
            assert [each.claims.view().brokers for each in (a, b)] == [(), ()]
            assert a.claims.view().named == (name(1),)
            assert (await asked(a, {"op": "address", "node": name(2)}))["broker"] is None
            # It is for the authority to name another one, and then nobody has to be started anew.
            await world.put(world.authority.change_settings(lambda old: replace(old, brokers=(name(2),))))
            await until(lambda: [each for each, _ in a.claims.view().brokers] == [name(2)], within_s=3)
            await until(lambda: admitted[-1]["obeyed"], within_s=1)

    played(tmp_path, play)


def test_who_is_revoked_is_no_agent_any_more(tmp_path: Path) -> None:
    async def play(world: EnrolledWorld, a: Node, b: Node) -> None:
        await asked(b, {"op": "enrol", "curve_key": KEYS[1]})
        async with following(a, place_on(a)) as admitted:
            await until(lambda: admitted[-1]["agents"] == [[name(2), KEYS[1]]], within_s=3)
            await world.put(world.authority.revoke(name(2), NOW))
            await until(lambda: admitted[-1]["agents"] == [], within_s=2)
        assert agents(b) == {}

    played(tmp_path, play)


def test_a_record_that_somebody_else_wrote_enrols_nobody(tmp_path: Path) -> None:
    async def play(world: EnrolledWorld, a: Node, b: Node) -> None:
        await asked(b, {"op": "enrol", "curve_key": KEYS[1]})
        await until(lambda: agents(a) == {name(2): KEYS[1]}, within_s=3)
        key = node_key(NETWORK, name(2))
        said = json.loads(world.value(key))
        forged = [
            encode_record(NodeRecord(name=name(2), public_key=b.public_key, curve_key=KEYS[5])),
            json.dumps(said | {"record": said["record"].replace(KEYS[1], KEYS[5])}).encode(),
        ]
        for number, value in enumerate(forged):
            await world.put({key: value, node_key(NETWORK, f"node-{7 + number}"): value})
            await trio.sleep(0.2)
            assert KEYS[5] not in agents(a).values()
        assert a.drops()["record_unsigned"] >= 2
        assert a.drops()["record_bad_signature"] >= 2

    played(tmp_path, play)


def test_where_records_are_not_signed_nobody_is_enrolled_and_no_broker_found() -> None:
    async def main() -> None:
        world = World()
        async with world.node(unsigned(1, registry=True), world.ports(1)) as node:
            with pytest.raises(LocalError, match="no agent can be enrolled"):
                await asked(node, {"op": "enrol", "curve_key": KEYS[1]})
            node.claims.set_others((Told(name(2), KEYS[2], None),), is_ours_believed=True)
            assert (await asked(node, {"op": "agents"})) == {"signed": False, "obeyed": False, "agents": []}
            assert (await asked(node, {"op": "brokers"}))["signed"] is False
            assert (await asked(node, {"op": "address", "node": name(1)}))["addresses"] == ["10.99.0.1"]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_requests_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    async def play(world: EnrolledWorld, a: Node, b: Node) -> None:
        for key in (LOW_ORDER, "", "~" * 40, "\u00e9" * 40, KEYS[1] + "\n"):
            with pytest.raises(LocalError):
                await asked(b, {"op": "enrol", "curve_key": key})
        foreign: list[dict[str, Any]] = [
            {"address": "192.0.2.1"},
            {"address": str(a.config.interface.addresses[0].ip)},
            {"command_port": 0},
            {"file_port": True},
            {"curve_key": LOW_ORDER},
            {"address": None},
        ]
        for changes in foreign:
            with pytest.raises(HollowayError):
                await asked(b, place_on(b, **changes))
        for request in (
            {"op": "be-broker"},
            {"op": "enrol"},
            {"op": "address", "node": 1},
            {"op": "address", "node": "x"},
        ):
            with pytest.raises(HollowayError):
                await asked(b, request)
        assert (agents(b), b.claims.view().brokers, b.claims.view().ignored) == ({}, (), ())

    played(tmp_path, play)


def test_a_kept_key_that_is_spoilt_is_no_key(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        await world.put(world.authority.statements(NOW))
        world.state(name(1)).write(AGENT_KEY, LOW_ORDER)
        async with world.node(1) as a:
            assert agents(a) == {}
            await asked(a, {"op": "enrol", "curve_key": KEYS[1]})
            assert agents(a) == {name(1): KEYS[1]}

    trio.run(main, clock=MockClock(autojump_threshold=0))
