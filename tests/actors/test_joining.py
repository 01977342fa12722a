"""Machines that join through the registry, and the node that lets them in: from a token to a certificate."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, PREFIX, EnrolledWorld, Entropy, until
from trio.testing import MockClock

from holloway.actors.authority_files import LEDGER, Asked, AuthorityFiles
from holloway.actors.enrolled import identity_in, keep_granted
from holloway.actors.founding import found_network
from holloway.actors.issuer import issuer
from holloway.actors.joining import REQUEST_S, join
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.authorities import authorities_key
from holloway.protocols.enrolment import EnrolProblem
from holloway.protocols.errors import HollowayError, LocalError, PortError
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.invitations import Invitation
from holloway.protocols.joiner import Granted, Joiner
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.renewal import make_renewal, renewal_key, renewed_key
from holloway.protocols.trust import revoked_key

PATIENCE_S = 20.0


def wall_ns() -> int:
    return NOW * 10**9


@asynccontextmanager
async def handle(world: EnrolledWorld) -> AsyncIterator[Any]:
    opened = world.memory.handle()
    yield opened
    await opened.close()


@asynccontextmanager
async def open_desk(world: EnrolledWorld, problems: Counter[str] | None = None) -> AsyncIterator[None]:
    """The authority at work."""
    context: Any = SimpleNamespace(log=logging.getLogger("test"))
    async with trio.open_nursery() as nursery:
        work = partial(
            issuer,
            context,
            world.authority,
            partial(handle, world),
            wall_ns,
            Counter() if problems is None else problems,
        )
        await nursery.start(work)
        yield
        nursery.cancel_scope.cancel()


async def let_in(world: EnrolledWorld, invitation: Invitation, machine: str, **wishes: Any) -> Granted:
    identity = identity_in(world.state(machine), world.entropy(ENTROPY_BYTES))
    joiner = Joiner(invitation, identity, world.entropy(16), **({"name": machine} | wishes))
    with trio.fail_after(PATIENCE_S):
        async with handle(world) as registry:
            return await join(registry, joiner, wall_ns, lambda _: None)


async def test_machines_that_join_at_once_get_addresses_of_their_own(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    addresses: list[str] = []

    async def one(number: int) -> None:
        granted = await let_in(world, world.invite(), f"machine-{number}")
        addresses.append(next(str(each) for each in granted.certificate.addresses if each.version == 4))

    async with open_desk(world), trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(one, number)
    assert sorted(addresses, key=lambda each: int(each.rsplit(".")[-1])) == [f"10.99.4.{n}" for n in range(1, 13)]


async def test_who_joins_waits_until_the_authority_is_there(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_in, world, world.invite(name="early"), "early")
        await trio.sleep(0.1)
        async with open_desk(world):
            await until(lambda: not nursery.child_tasks)


async def test_a_request_stands_there_for_as_long_as_somebody_waits(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = EnrolledWorld(tmp_path)
    joiner = Joiner(
        world.invite(name="patient"), identity_in(world.state("patient"), world.entropy(ENTROPY_BYTES)), bytes(16)
    )
    async with handle(world) as registry, trio.open_nursery() as nursery:
        nursery.start_soon(join, registry, joiner, wall_ns, print)
        for _ in range(3):
            await trio.sleep(2 * REQUEST_S)
            assert world.value(joiner.request_key) == joiner.request()
            await world.delete(joiner.request_key)
        nursery.cancel_scope.cancel()
    assert joiner.request_key not in world.memory.snapshot(b"").entries


async def test_an_interrupted_join_is_repeated_and_a_used_invitation_is_no_good_to_others(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    invitation = world.invite()
    async with open_desk(world):
        first = await let_in(world, invitation, "first")
        again = await let_in(world, invitation, "first")
        assert again.certificate == first.certificate
        with pytest.raises(HollowayError, match="used by another machine") as caught:
            await let_in(world, invitation, "thief")
        assert "holloway invite" in caught.value.fix


@pytest.mark.parametrize(
    ("terms", "wishes", "why"),
    [
        ({"expires": NOW - 1000}, {}, "expired"),
        ({}, {"name": "taken"}, "another machine has the name"),
        ({"name": "machine"}, {"name": "another"}, "another name"),
    ],
)
async def test_who_is_refused_is_told_why(
    tmp_path: Path, terms: dict[str, Any], wishes: dict[str, Any], why: str
) -> None:
    world = EnrolledWorld(tmp_path)
    async with open_desk(world):
        await let_in(world, world.invite(name="taken"), "taken")
        with pytest.raises(HollowayError, match=why):
            await let_in(world, world.invite(**terms), "machine", **wishes)


async def test_what_proves_nothing_is_counted_and_never_answered(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    stranger = EnrolledWorld(tmp_path / "elsewhere", "another")
    problems: Counter[str] = Counter()
    invitation = stranger.invite()
    joiner = Joiner(invitation, identity_in(world.state("x"), world.entropy(ENTROPY_BYTES)), bytes(16), name="x")
    await world.put(
        {
            PREFIX + b"enrol/" + b"0" * 32: b"garbage",
            PREFIX + b"enrol/not-an-id": b"garbage",
            PREFIX + b"renew/nobody": b"garbage",
            PREFIX + b"renew/\xff": b"garbage",
            joiner.request_key: joiner.request(),
        }
    )
    async with open_desk(world, problems):
        await let_in(world, world.invite(), "machine")
        await until(lambda: len(problems) == 3)
    assert problems == {"enrolment_malformed": 1, "enrolment_not_authentic": 1, "enrolment_unknown": 1}
    entries = world.memory.snapshot(PREFIX).entries
    assert not [key for key in entries if key.startswith(PREFIX + b"grants/" + invitation.terms.id.hex().encode())]


async def test_an_answer_that_somebody_has_put_there_is_passed_over(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    invitation = world.invite()
    told: list[str] = []
    joiner = Joiner(invitation, identity_in(world.state("m"), world.entropy(ENTROPY_BYTES)), bytes(16), name="m")
    await world.put({joiner.grant_key: b'{"v":1,"grant":"{}","mac":"AAAA"}'})
    async with handle(world) as registry, trio.open_nursery() as nursery:
        nursery.start_soon(join, registry, joiner, wall_ns, told.append)
        await trio.sleep(0.05)
        async with open_desk(world):
            await until(lambda: not nursery.child_tasks)
    assert told == ["an answer is not believed: enrolment_not_authentic"]


async def test_what_the_authority_says_is_put_back(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    keys = [authorities_key(NETWORK), revoked_key(NETWORK), PREFIX + b"config"]
    async with open_desk(world):
        await let_in(world, world.invite(), "machine")
        before = [world.value(key) for key in keys]
        await world.put(dict.fromkeys(keys[:2], b"mine"))
        await world.delete(keys[2])
        await until(
            lambda: [entry.value for key in keys if (entry := world.memory.snapshot(key).entries.get(key))] == before
        )


async def test_a_certificate_is_renewed_for_its_owner(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    async with open_desk(world):
        granted = await let_in(world, world.invite(), "machine")
        identity = identity_in(world.state("machine"))
        key = renewed_key(NETWORK, "machine")
        await world.put({renewal_key(NETWORK, "machine"): make_renewal(identity, granted.certificate)})
        await until(lambda: key in world.memory.snapshot(key).entries)
    assert b"certificate" in world.value(key)


def test_what_was_decided_is_written_down_and_a_lost_ledger_stops_the_authority(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    world.enrol(1)
    again = AuthorityFiles(StateDirectory(tmp_path / "office"), NETWORK, Entropy("again"))
    with pytest.raises(LocalError, match="no node node-2"):
        again.revoke("node-2", NOW)
    again.revoke("node-1", NOW)
    for contents in (b"damaged", None):
        ledger = tmp_path / "office" / LEDGER
        if contents is None:
            ledger.unlink()
        else:
            ledger.write_bytes(contents)
        with pytest.raises((LocalError, PortError)):
            again.statements(NOW)


def asked(world: EnrolledWorld, invitation: Invitation, machine: str) -> Asked:
    identity = identity_in(world.state(machine), world.entropy(ENTROPY_BYTES))
    return Asked(Joiner(invitation, identity, world.entropy(16), name=machine).request(), invitation.terms.id)


def names_in(folder: Path) -> list[str]:
    """Who is in the ledger, as another process reads it."""
    return sorted(AuthorityFiles(StateDirectory(folder / "office"), NETWORK, Entropy("reader")).standing().nodes)


def test_requests_that_wait_together_are_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = EnrolledWorld(tmp_path)
    requests = [asked(world, world.invite(), machine) for machine in ("x", "y", "z")]
    requests.insert(1, Asked(b"garbage", bytes(16)))
    written: list[str] = []
    write = StateDirectory.write

    def counted(self: StateDirectory, called: str, contents: bytes | str) -> None:
        written.append(called)
        write(self, called, contents)

    monkeypatch.setattr(StateDirectory, "write", counted)
    settled = world.authority.settle(requests, NOW)
    assert written == [LEDGER]
    assert [each.decision.answer is None for each in settled] == [False, True, False, False]
    addresses = {each for one in settled if one.admitted is not None for each in one.admitted.addresses}
    assert len(addresses) == 6
    assert names_in(tmp_path) == ["x", "y", "z"]


def test_the_ledger_is_read_again_when_somebody_else_has_written_it_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = EnrolledWorld(tmp_path)
    world.enrol(1)
    other = AuthorityFiles(StateDirectory(tmp_path / "office"), NETWORK, Entropy("other"))
    other.revoke("node-1", NOW)
    (settled,) = world.authority.settle([asked(world, world.invite(), "node-1")], NOW)
    assert settled.decision.reason is EnrolProblem.KEY_REVOKED
    monkeypatch.setattr("holloway.actors.authority_files.read_ledger", lambda _: pytest.fail("it was read again"))
    for number in range(2, 5):
        world.enrol(number)


def test_what_could_not_be_written_down_was_not_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = EnrolledWorld(tmp_path)
    invitation = world.invite()
    first, second = asked(world, invitation, "x"), asked(world, invitation, "y")

    def full(self: StateDirectory, called: str, contents: bytes | str) -> None:
        raise PortError(f"cannot write {called}", "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "write", full)
        with pytest.raises(PortError):
            world.authority.settle([first], NOW)
    (settled,) = world.authority.settle([second], NOW)
    assert settled.admitted is not None
    assert names_in(tmp_path) == ["y"]


def test_a_list_is_made_anew_before_it_is_old_and_not_before(tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    first = world.authority.statements(NOW)[revoked_key(NETWORK)]
    assert world.authority.statements(NOW + 86_400)[revoked_key(NETWORK)] == first
    assert world.authority.statements(NOW + 4 * 86_400)[revoked_key(NETWORK)] != first


def found(state: StateDirectory, **changes: Any) -> Granted:
    options: dict[str, Any] = {
        "name": "a",
        "address": None,
        "registry": "memory:",
        "entropy": Entropy(str(state.path)),
        "now": NOW,
    }
    granted = found_network(state, NETWORK, NetworkSettings(), **(options | changes))
    keep_granted(state, granted)
    return granted


def test_a_network_whose_founding_was_interrupted_is_founded_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    writes = 0
    allowed = 0
    write = StateDirectory.write

    def interrupted(self: StateDirectory, called: str, contents: bytes | str) -> None:
        nonlocal writes
        writes += 1
        if writes > allowed:
            raise KeyboardInterrupt
        write(self, called, contents)

    monkeypatch.setattr(StateDirectory, "write", interrupted)
    for allowed in range(30):  # noqa: B007 - read by `interrupted`
        writes = 0
        try:
            granted = found(state)
        except KeyboardInterrupt:
            continue
        break
    assert granted.certificate.name == "a"
    assert allowed > 5
    with pytest.raises(LocalError, match="holds a node already"):
        found(state)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.create()
    found(state)
    assert state.path.stat().st_mode & 0o777 == 0o700
    for path in state.path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
