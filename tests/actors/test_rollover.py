"""One authority follows another while nodes run, and lets go of nodes: nobody loses a packet, and nobody comes back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, EnrolledWorld
from node_world import name, outer, packet
from trio.testing import MockClock

from holloway.actors import Node
from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.authority_keys import AUTHORITY_KEY, NEXT_KEY
from holloway.actors.enrolled import CERTIFICATE, IDENTITY_KEY, Enrolled
from holloway.protocols.authorities import authorities_key
from holloway.protocols.certificates import CertificateProblem
from holloway.protocols.errors import LocalError
from holloway.protocols.network_settings import NetworkSettings, settings_key
from holloway.protocols.trust import revoked_key
from holloway.simulations.ports import SimulatedPorts
from holloway.supervisor import ChildStartError


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """As in `enrolled_world`, for what takes seconds."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.5)


class Office(EnrolledWorld):
    """The authority lives with node 1, which works for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        settings = NetworkSettings(rest_s=600)
        self.authority = AuthorityFiles.create(self.state(name(1)), NETWORK, settings, self.entropy, NOW)

    @property
    def now(self) -> int:
        return NOW + int(trio.current_time())

    def authority_of(self, node: Node) -> bytes:
        assert node.enrolled is not None
        return node.enrolled.certificate.authority

    def issuer(self) -> bytes:
        return self.authority.standing().bundle.authorities[-1].key.fingerprint

    @asynccontextmanager
    async def three(self) -> AsyncIterator[tuple[list[Node], list[SimulatedPorts]]]:
        for number in (1, 2, 3):
            self.enrol(number)
        ports = [SimulatedPorts(self.wire, outer(number)) for number in (1, 2, 3)]
        async with (
            self.node(1, ports=ports[0]) as a,
            self.node(2, ports=ports[1]) as b,
            self.node(3, ports=ports[2]) as c,
        ):
            nodes = [a, b, c]
            with trio.fail_after(10):
                for node in nodes:
                    for other in nodes:
                        if other is not node:
                            await node.connected(other.config.node.name)
            yield nodes, ports


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def between(source: Node, target: Node, serial: int) -> bytes:
    """A packet from one node's address to another's."""
    made = bytearray(packet(1, 2, serial))
    made[12:16] = source.config.interface.addresses[0].ip.packed
    made[16:20] = target.config.interface.addresses[0].ip.packed
    return bytes(made)


class Traffic:
    """A packet each way between two nodes every 100 ms, and what became of it."""

    def __init__(self, nodes: list[Node], ports: list[Any]) -> None:
        self._nodes, self._ports = nodes, ports
        self.sent = self.arrived = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for port in self._ports:
                nursery.start_soon(self._count, port)
            while True:
                for source, target in ((0, 1), (1, 0)):
                    self.sent += 1
                    self._ports[source].tun.inject([between(self._nodes[source], self._nodes[target], self.sent)])
                await trio.sleep(0.1)

    async def _count(self, port: Any) -> None:
        while True:
            found = await port.tun.collect()
            self.arrived += len(found)


def waiting_records(office: Office, now: int) -> list[str]:
    """What the verb waits for."""
    entries = office.memory.snapshot(office.nodes).entries
    values = {key.removeprefix(office.nodes).decode(): entry.value for key, entry in entries.items()}
    return office.authority.standing().still_old(values, now)


async def test_running_nodes_follow_to_another_authority_and_lose_no_packet(
    office: Office, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holloway")
    async with office.three() as (nodes, ports), trio.open_nursery() as nursery:
        old = office.issuer()
        dropped = [node.drops() for node in nodes]
        traffic = Traffic(nodes[1:], ports[1:])
        nursery.start_soon(traffic.run)
        await office.put(office.authority.begin_rollover(office.now))
        new = office.issuer()
        assert new != old
        assert [each.key.fingerprint for each in office.authority.standing().bundle.authorities] == [old, new]
        await until(lambda: all(office.authority_of(node) == new for node in nodes), within_s=30)
        assert office.authority.standing().waiting == []
        await until(lambda: not waiting_records(office, NOW), within_s=15)
        await office.put(office.authority.finish_rollover(office.now))
        await trio.sleep(15)
        assert [node.drops() for node in nodes] == dropped
        for node in nodes:
            assert node.enrolled is not None
            assert [each.key.fingerprint for each in node.enrolled.trust.bundle.authorities] == [new]
            assert len(node.roster.plan.peers) == 2
        nursery.cancel_scope.cancel()
    for said in (f"{old.hex()[:16]}, {new.hex()[:16]}", new.hex()[:16]):
        assert caplog.text.count(f"the network has other authorities: {said}\n") == 3
    assert traffic.sent > 300
    assert traffic.sent - traffic.arrived <= 4, "but for those under way when it ended"
    assert not office.state(name(1)).has(NEXT_KEY)
    async with office.node(2) as b, office.node(3) as c:
        with trio.fail_after(10):
            await b.connected(name(3))
            await c.connected(name(2))


async def test_a_node_that_was_away_during_all_of_it_follows_but_is_not_believed_with_its_old_certificate(
    office: Office, autojump_clock: MockClock
) -> None:
    office.enrol(1)
    office.enrol(2)
    async with office.node(1) as a:
        await office.put(office.authority.begin_rollover(office.now))
        await until(lambda: office.authority_of(a) == office.issuer(), within_s=30)
        assert office.authority.standing().waiting == [name(2)]
        await office.put(office.authority.finish_rollover(office.now))
        with pytest.raises(ChildStartError) as refused:
            async with office.node(2):
                pass
        cause: BaseException | None = refused.value
        while isinstance(cause, ChildStartError):
            cause = cause.__cause__
        assert "certificate_foreign_authority" in str(cause)
        assert not a.roster.plan.peers


async def test_who_was_away_before_the_end_gets_another_certificate_when_it_is_back(
    office: Office, autojump_clock: MockClock
) -> None:
    office.enrol(1)
    office.enrol(2)
    async with office.node(1) as a:
        await office.put(office.authority.begin_rollover(office.now))
        await until(lambda: office.authority_of(a) == office.issuer(), within_s=30)
        granted = office.enrol(3)
        assert granted.certificate.authority == office.issuer(), "whoever joins meanwhile has one of the new authority"
        async with office.node(2) as b, office.node(3) as c:
            await until(lambda: office.authority_of(b) == office.issuer(), within_s=30)
            await office.put(office.authority.finish_rollover(office.now))
            await trio.sleep(10)
            assert len(b.roster.plan.peers) == len(c.roster.plan.peers) == 2


async def test_who_was_revoked_before_stays_so_also_when_the_end_is_kept_from_somebody(
    office: Office, autojump_clock: MockClock
) -> None:
    for number in (1, 2, 3):
        office.enrol(number)
    async with office.node(1) as a:
        await office.put(office.authority.begin_rollover(office.now))
        await until(lambda: office.authority_of(a) == office.issuer(), within_s=30)
        overlap = office.value(authorities_key(NETWORK))
        await office.put(office.authority.revoke(name(3), office.now))
        await office.put(office.authority.finish_rollover(office.now))
    late = Enrolled(office.state(name(2)), NETWORK, NOW)
    assert late.take_bundle(overlap, office.now) is None
    assert late.take_revocations(office.value(revoked_key(NETWORK))) is None
    gone = Enrolled(office.state(name(3)), NETWORK, NOW).certificate
    assert late.trust.problem(gone, office.now) is CertificateProblem.REVOKED


async def test_a_rollover_that_stops_at_any_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        pass

    for ends_after in range(12):
        office = Office(tmp_path / str(ends_after))
        office.enrol(1)
        state, left = office.authority.state, ends_after
        write = state.write

        def stopping(name: str, contents: Any) -> None:
            nonlocal left
            if left == 0:
                raise StoppedError
            left -= 1
            write(name, contents)  # noqa: B023

        monkeypatch.setattr(state, "write", stopping)
        try:
            office.authority.begin_rollover(NOW)
            office.authority.finish_rollover(NOW)
        except StoppedError:
            pass
        monkeypatch.setattr(state, "write", write)
        bundle = office.authority.standing().bundle
        if len(bundle.authorities) == 2:
            office.authority.finish_rollover(NOW)
        office.authority.begin_rollover(NOW)
        office.authority.finish_rollover(NOW)
        assert len(office.authority.standing().bundle.authorities) == 1
        assert not state.has(NEXT_KEY)
        assert office.enrol(2).certificate.authority == office.issuer()


def test_a_rollover_that_stops_in_the_middle_of_the_next_one_keeps_a_key_that_issues(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stopped(*_: Any) -> None:
        raise StoppedError

    office.enrol(1)
    office.authority.begin_rollover(NOW)
    with monkeypatch.context() as patch:
        patch.setattr("holloway.actors.authority_files.drop_former", stopped)
        with pytest.raises(StoppedError):
            office.authority.finish_rollover(NOW)
    with monkeypatch.context() as patch:
        patch.setattr(office.authority, "_sign_anew", stopped)
        with pytest.raises(StoppedError):
            office.authority.begin_rollover(NOW)  # the key of another one lies there, and no bundle names it
    assert office.enrol(2).certificate.authority == office.issuer()


async def test_with_a_list_of_an_authority_that_is_gone_nobody_is_believed_before_there_is_a_newer_one(
    office: Office,
) -> None:
    office.enrol(1)
    office.enrol(2)
    office.authority.begin_rollover(NOW)
    office.authority.finish_rollover(NOW)
    said = office.authority.statements(NOW)
    theirs = office.enrol(3).certificate
    late = Enrolled(office.state(name(2)), NETWORK, NOW)
    assert late.take_bundle(said[authorities_key(NETWORK)], NOW) is None
    await late.keep_owed()
    renewed = office.enrol(4)
    office.state(name(2)).write(CERTIFICATE, office.state(name(4)).read(CERTIFICATE) or b"")
    office.state(name(2)).write(IDENTITY_KEY, office.state(name(4)).read(IDENTITY_KEY) or b"")
    again = Enrolled(office.state(name(2)), NETWORK, NOW)  # it stopped before it had the list
    assert again.certificate == renewed.certificate
    assert again.trust.problem(theirs, NOW) is CertificateProblem.REVOCATIONS_MISSING
    assert again.take_revocations(said[revoked_key(NETWORK)]) is None
    assert again.trust.problem(theirs, NOW) is None


async def test_what_a_node_hears_late_does_not_undo_what_its_authority_has_said_since(office: Office) -> None:
    office.enrol(1)
    node = Enrolled(office.state(name(1)), NETWORK, NOW)
    first = office.authority.change_settings(lambda old: replace(old, rest_s=1))[settings_key(NETWORK)]
    office.authority.change_settings(lambda old: replace(old, rest_s=2))
    assert node.take_settings(first, NOW) is None
    assert node.newest.rest_s == 1
    await node.keep_owed()
    assert Enrolled(office.state(name(1)), NETWORK, NOW).newest.rest_s == 2


def test_changes_of_authority_come_one_after_the_other_and_where_the_key_is(office: Office) -> None:
    with pytest.raises(LocalError, match="no authority follows"):
        office.authority.finish_rollover(NOW)
    old_key = office.state(name(1)).read(AUTHORITY_KEY)
    assert old_key is not None
    office.authority.begin_rollover(NOW)
    with pytest.raises(LocalError, match="follows this one already"):
        office.authority.begin_rollover(NOW)
    office.authority.finish_rollover(NOW)
    office.state(name(1)).write(AUTHORITY_KEY, old_key)
    with pytest.raises(LocalError):
        office.authority.standing()


# Letting go, and settings.


async def test_a_node_that_is_let_go_is_cut_off_and_its_name_is_free_while_its_address_rests(
    office: Office, autojump_clock: MockClock
) -> None:
    async with office.three() as (nodes, _):
        address = nodes[2].config.interface.addresses[0].ip
        assert isinstance(address, IPv4Address)
        assert office.authority.holder_of(address) == name(3)
        await office.put(office.authority.release(name(3), office.now))
        await until(lambda: name(3) not in nodes[0].roster.plan.peers, within_s=5)
        assert office.authority.holder_of(address) is None
    assert address not in office.enrol(4).certificate.addresses
    with pytest.raises(LocalError):
        office.authority.release(name(3), NOW)


async def test_settings_that_the_authority_changes_are_heard_and_wait_where_they_must(
    office: Office, autojump_clock: MockClock
) -> None:
    office.enrol(1)
    async with office.node(1) as a:
        await trio.sleep(1)
        await office.put(office.authority.change_settings(lambda old: replace(old, rest_s=7, floating_range=None)))
        assert a.enrolled is not None
        await until(lambda: a.enrolled is not None and a.enrolled.newest.rest_s == 7, within_s=5)
        status: Any = a.status()
        assert status["node"]["settings"]["waiting"] == ["floating_range"]
        assert status["node"]["settings"]["number"] == 2
