"""Nodes of a network with an authority: whom they believe, and what whoever owns the store can do to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, EnrolledWorld
from node_world import name, validate
from trio.testing import MockClock

from holloway.actors import InterfaceConfig, Node, NodeConfig, open_node
from holloway.actors.config import ConfigProblems
from holloway.actors.enrolled import CERTIFICATE, IDENTITY_KEY, KNOWN, REVOKED, SEEN, SERIAL
from holloway.protocols.authorities import authorities_key
from holloway.protocols.errors import LocalError, RegistryError
from holloway.protocols.membership import NodeRecord, encode_record, node_key
from holloway.protocols.renewal import renewal_key
from holloway.protocols.trust import revoked_key
from holloway.simulations.ports import SimulatedPorts

DAY_NS = 86_400 * 10**9


def registry_of(node: Node) -> Any:
    answer: Any = node.status()
    return answer["node"]["registry"]


@asynccontextmanager
async def running(world: EnrolledWorld, *numbers: int) -> Any:
    """These hosts, enrolled and running, with what the authority says in the store."""
    for number in numbers:
        world.enrol(number)
    await world.put(world.authority.statements(NOW))
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(world.node(number)) for number in numbers]
        with trio.fail_after(5):
            for node in nodes:
                for number in numbers:
                    if node.config.node.name != name(number):
                        await node.roster.find(name(number))
        yield nodes


async def joined(left: Node, right: Node) -> None:
    async with aclosing(left.ping(right.config.node.name, count=1)) as answers:
        async for _ in answers:
            pass
    with trio.fail_after(5):
        await left.connected(right.config.node.name)
        await right.connected(left.config.node.name)


def problem_of(node: Node, of: int) -> str | None:
    refused: dict[str, str] = registry_of(node)["refused"]
    return refused.get(name(of))


def test_members_meet_with_the_addresses_of_their_certificates(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (a, b):
            await joined(a, b)
            status: Any = a.status()
            validate("status", status)
            assert status["node"]["addresses"][0] == "10.99.4.1/16"
            assert status["node"]["addresses"][1].endswith("::a63:401/64")
            assert [each["name"] for each in status["peers"]] == [name(2)]
            assert not [key for key in world.memory.snapshot(b"").entries if b"addresses/" in key]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_revoked_node_is_cut_off_at_once_and_no_old_list_brings_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2, 3) as (a, b, _c):
            await joined(a, b)
            old = world.value(revoked_key(NETWORK))
            await world.put(world.authority.revoke(name(2), NOW))
            await trio.sleep(5)
            assert name(2) not in a.roster.running
            assert problem_of(a, 2) == "record_revoked"
            assert name(3) in a.roster.running
            await world.put({revoked_key(NETWORK): old})
            await trio.sleep(30)
            assert name(2) not in a.roster.plan.peers
            assert a.drops()["revocations_stale"] == 1
            await world.delete(revoked_key(NETWORK))
            await trio.sleep(30)
            assert name(2) not in a.roster.plan.peers
            await world.put({revoked_key(NETWORK): old})
        # A restart does not bring it back either.
        async with world.node(1) as a, world.node(3):
            with trio.fail_after(5):
                await a.roster.find(name(3))
            await trio.sleep(30)
            assert name(2) not in a.roster.plan.peers

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_node_that_was_revoked_says_so_and_publishes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (_a, b):
            await world.put(world.authority.revoke(name(2), NOW))
            await trio.sleep(60)
            assert registry_of(b)["in_touch"] is False
            assert node_key(NETWORK, name(2)) not in world.memory.snapshot(b"").entries

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_how_new_a_record_is_lies_on_the_disk_before_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, kept = EnrolledWorld(tmp_path), []
    transact = world.memory.transact

    def watched(compares: Any, puts: Any, *rest: Any) -> Any:
        if node_key(NETWORK, name(1)) in puts:
            serial = json.loads(json.loads(puts[node_key(NETWORK, name(1))])["record"])["serial"]
            kept.append(int(world.state(name(1)).read(SERIAL) or b"0") == serial)
        return transact(compares, puts, *rest)

    async def main() -> None:
        monkeypatch.setattr(world.memory, "transact", watched)
        async with running(world, 1):
            await world.delete(node_key(NETWORK, name(1)))
            await trio.sleep(10)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert kept == [True, True]


def stripped(world: EnrolledWorld) -> bytes:
    """The record without its signature, as a network without an authority would have it."""
    return json.loads(world.value(node_key(NETWORK, name(2))))["record"].encode()


def own_making(world: EnrolledWorld) -> bytes:
    return encode_record(NodeRecord(name=name(2), public_key=bytes([9]) * 32, endpoints=(("192.0.2.66", 1099),)))


def other_authority(world: EnrolledWorld) -> bytes:
    elsewhere = EnrolledWorld(world.folder / "elsewhere", "another")
    elsewhere.enrol(2)
    return sealed_by(elsewhere)


def sealed_by(world: EnrolledWorld) -> bytes:
    from holloway.actors.belief import AuthorityBelief
    from holloway.actors.enrolled import Enrolled

    enrolled = Enrolled(world.state(name(2)), NETWORK, NOW)
    record = NodeRecord(name=name(2), public_key=bytes([9]) * 32, addresses=enrolled.addresses)
    return AuthorityBelief(enrolled, lambda: NOW * 10**9).seal(record)


def of_another_node(world: EnrolledWorld) -> bytes:
    return world.value(node_key(NETWORK, name(3)))


def bit_flipped(world: EnrolledWorld) -> bytes:
    fields = json.loads(world.value(node_key(NETWORK, name(2))))
    fields["record"] = fields["record"].replace("192.0.2.2", "192.0.2.9")
    return json.dumps(fields).encode()


ATTACKS: dict[str, tuple[Callable[[EnrolledWorld], bytes], str]] = {
    "garbage": (lambda _: b"\xff\x00garbage", "record_not_json"),
    "huge": (lambda _: b"{" + b" " * 60_000 + b"}", "record_too_big"),
    "of a later version": (lambda _: b'{"v":99}', "record_wrong_version"),
    "without its signature": (stripped, "record_unsigned"),
    "of the thief's own making": (own_making, "record_unsigned"),
    "by another authority": (other_authority, "record_foreign_authority"),
    "of another node": (of_another_node, "record_wrong_name"),
    "with another endpoint": (bit_flipped, "record_bad_signature"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whoever_owns_the_store_makes_nobody_believe_a_record(tmp_path: Path, attack: str) -> None:
    async def main() -> None:
        make, reason = ATTACKS[attack]
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2, 3) as (a, b, _c):
            await joined(a, b)
            before = a.roster.plan.peers[name(2)]
            seen: set[str | None] = set()
            value = make(world)
            for _ in range(3):
                await world.put({node_key(NETWORK, name(2)): value})
                for _ in range(20):
                    await trio.sleep(0.01)
                    seen.add(problem_of(a, 2))
            assert reason in seen
            assert a.drops()[reason] >= 1
            # The node puts its own record back, and nobody has lost anybody.
            await trio.sleep(60)
            assert problem_of(a, 2) is None
            assert a.roster.plan.peers[name(2)] == before
            assert name(3) in a.roster.running

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_an_older_record_of_the_same_node_is_not_believed_again(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        key = node_key(NETWORK, name(2))
        async with running(world, 1, 2) as (a, _b):
            old = world.value(key)
        await trio.sleep(1)
        async with world.node(1) as a, world.node(2):
            with trio.fail_after(5):
                await a.roster.find(name(2))
            await trio.sleep(15)
            assert world.value(key) != old
            await world.put({key: old})
            await trio.sleep(0.01)
            assert problem_of(a, 2) == "record_stale"

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_clock_that_was_set_back_over_a_restart_makes_nobody_unbelievable(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (_a, _b):
            pass
        ports = Later(world.wire, "192.0.2.2")
        ports.days = -250 / 86_400
        async with world.node(1) as a, world.node(2, ports=ports):
            await trio.sleep(200)
            assert problem_of(a, 2) is None
            assert name(2) in a.roster.running

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_the_authority_says_cannot_be_said_by_anybody_else(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        elsewhere = EnrolledWorld(tmp_path / "elsewhere", "another")
        async with running(world, 1, 2) as (a, b):
            await joined(a, b)
            await world.put(elsewhere.authority.statements(NOW))
            await trio.sleep(1)
            drops = a.drops()
            assert drops["statement_foreign_authority"] + drops["statement_stale"] == 2
            assert drops["revocations_foreign_authority"] == 1
            await world.put({authorities_key(NETWORK): b"garbage"})
            await trio.sleep(1)
            assert a.drops()["statement_malformed"] == 1
            assert name(2) in a.roster.running

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_store_that_lost_everything_is_told_again_what_the_authority_has_said(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (_a, _b):
            keys = [key for key in world.memory.snapshot(b"").entries if b"/nodes/" not in key]
            before = {key: world.value(key) for key in keys}
            assert len(before) == 3
            for key in world.memory.snapshot(b"").entries:
                await world.delete(key)
            await trio.sleep(10)
            assert {key: world.value(key) for key in keys} == before
            assert node_key(NETWORK, name(1)) in world.memory.snapshot(b"").entries

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_known_nodes_meet_again_while_the_registry_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (a, b):
            await joined(a, b)
        assert (tmp_path / name(1) / KNOWN).stat().st_mode & 0o077 == 0
        away = Away()
        async with world.node(1, memory=away) as a, world.node(2, memory=away) as b:
            await joined(a, b)
            assert registry_of(a)["in_touch"] is False
            away.is_away = False
            away.memory = world.memory
            await trio.sleep(30)
            assert registry_of(a)["in_touch"] is True
            assert name(2) in a.roster.running

    trio.run(main, clock=MockClock(autojump_threshold=0))


class Away:
    """A store that cannot be reached."""

    def __init__(self) -> None:
        self.is_away = True
        self.memory: Any = None

    def handle(self) -> Any:
        if self.is_away:
            raise RegistryError("the store is away")
        return self.memory.handle()


def test_kept_records_that_somebody_has_altered_are_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        async with running(world, 1, 2) as (_a, _b):
            pass
        kept = tmp_path / name(1) / KNOWN
        kept.write_text(kept.read_text().replace("192.0.2.2", "192.0.2.9"))
        with pytest.raises(BaseException, match="registry"):
            async with world.node(1, memory=Away()):
                pass
        kept.write_bytes(b"\xffgarbage")
        async with world.node(1) as a:
            assert registry_of(a)["in_touch"] is True

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("missing", [IDENTITY_KEY, CERTIFICATE, "network.json", "authorities.json"])
def test_a_file_that_is_missing_is_named_with_what_to_do(tmp_path: Path, missing: str) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        (tmp_path / name(1) / missing).unlink()
        with pytest.raises(LocalError, match=missing) as caught:
            async with world.node(1):
                pass
        assert "holloway join TOKEN" in caught.value.fix

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "damaged", [IDENTITY_KEY, CERTIFICATE, "network.json", "authorities.json", REVOKED, SEEN, "revoked.number"]
)
def test_a_damaged_file_is_told_and_nothing_starts(tmp_path: Path, damaged: str) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        path = tmp_path / name(1) / damaged
        path.touch(mode=0o600)
        path.write_bytes(b"\x00damaged")
        with pytest.raises(LocalError):
            async with world.node(1):
                pass

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_configuration_that_contradicts_the_certificate_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        from ipaddress import ip_interface

        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        config = world.config(1)
        ports = SimulatedPorts(world.wire, "192.0.2.1")
        with pytest.raises(ConfigProblems, match="node-1"):
            async with open_node(replace(config, node=NodeConfig(name="other", network=NETWORK)), ports=ports):
                pass
        foreign = InterfaceConfig(name="hw0", addresses=(ip_interface("10.99.4.7/16"),))
        with pytest.raises(ConfigProblems, match=r"10\.99\.4\.7"):
            async with open_node(replace(config, interface=foreign), ports=ports):
                pass

    trio.run(main, clock=MockClock(autojump_threshold=0))


class Later(SimulatedPorts):
    """A host whose clock shows another day."""

    days: float = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + int(self.days * DAY_NS)


@pytest.mark.parametrize(("days", "told"), [(40, False), (65, True), (85, True), (89, True)])
def test_a_certificate_that_is_not_renewed_is_warned_of_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, told: bool
) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        await world.put(world.authority.statements(NOW))
        ports = Later(world.wire, "192.0.2.1")
        ports.days = days
        async with world.node(1, ports=ports) as node:
            await trio.sleep(40)
            status: Any = node.status()
            validate("status", status)
            assert status["node"]["certificate"]["revocations"]["problem"] == "revocations_overdue"
            await world.put(
                {revoked_key(NETWORK): world.authority.statements(ports.wall_ns() // 10**9)[revoked_key(NETWORK)]}
            )
            await trio.sleep(1)
            status = node.status()
            assert status["node"]["certificate"]["revocations"]["problem"] is None

    trio.run(main, clock=MockClock(autojump_threshold=0))
    warnings = [each.message for each in caplog.records if "runs out in" in each.message]
    assert [f"runs out in {90 - days - 1} days" in each for each in warnings] == [True] * told
    assert sum("no new revocation list" in each.message for each in caplog.records) == 1


def test_a_certificate_is_renewed_after_half_of_its_time_and_goes_with_the_record(tmp_path: Path) -> None:
    async def main() -> None:
        world = EnrolledWorld(tmp_path)
        world.enrol(1)
        await world.put(world.authority.statements(NOW))
        ports = Later(world.wire, "192.0.2.1")
        ports.days = 46
        async with world.node(1, ports=ports) as node:
            await trio.sleep(15)
            key = renewal_key(NETWORK, name(1))
            settled = world.authority.renew(name(1), world.value(key), NOW + 46 * 86_400)
            before = (tmp_path / name(1) / CERTIFICATE).read_text()
            record = world.value(node_key(NETWORK, name(1)))
            await world.put(settled.publish)
            await trio.sleep(15)
            assert (tmp_path / name(1) / CERTIFICATE).read_text() != before
            certificate = json.loads(world.value(node_key(NETWORK, name(1))))["certificate"]
            assert certificate != json.loads(record)["certificate"]
            status: Any = node.status()
            assert status["node"]["certificate"]["expires_in_s"] > 89 * 86_400

    trio.run(main, clock=MockClock(autojump_threshold=0))
