"""Everything that may be written under every kind of key, by whoever can write to a real etcd: refused by name, counted, and
of no consequence for anybody else.

A network of four nodes: a has the authority's key, a and b talk all the time, c looks on, and e was one of them once. What
somebody makes of it who wants to be believed is in `test_store_attacks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from etcd_network import FOUNDER, NETWORK, PREFIX, EtcdNetwork, Talk, now, signed, until
from etcd_servers import needs_etcd

from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.enrolled import Enrolled, keep_granted
from holloway.actors.founding import found_network
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.enrolment import EnrolProblem
from holloway.protocols.joiner import Joiner
from holloway.protocols.membership import NodeRecord, encode_record
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.trust import revoked_key

pytestmark = needs_etcd

HUGE = b'{"v":2,"record":"' + b" " * 1_400_000 + b'"}'
LATER = b'{"v":99}'
GARBAGE = b"\xff\x00garbage"
UNPROVEN = json.dumps({"v": 1, "grant": "{}", "mac": "A" * 43 + "="}).encode()
FLOATING = "floating/10.99.2.1"
REVOKED = revoked_key(NETWORK)
MAX_STATUS_BYTES = 32 * 1024
MAX_LINE = 1000


@dataclass
class Scene:
    """What the rubbish is made of."""

    net: EtcdNetwork
    elsewhere: AuthorityFiles
    held: dict[bytes, bytes]
    """What stood in the store before somebody began to write rubbish."""
    revoked: bytes
    """The revocation list before the newest."""


Make = Callable[[Scene], bytes]


def always(value: bytes) -> Make:
    return lambda _: value


def held(key: str) -> Make:
    return lambda scene: scene.held[PREFIX + key.encode()]


def elsewhere(key: str) -> Make:
    """What another authority says of a network of the same name."""
    return lambda scene: scene.elsewhere.statements(now())[PREFIX + key.encode()]


def unsigned(scene: Scene) -> bytes:
    return encode_record(NodeRecord(name="ghost", public_key=os.urandom(32), endpoints=(("192.0.2.66", 1099),)))


def foreign(scene: Scene) -> bytes:
    """Of a node of the other network, which has the same name."""
    return signed(Enrolled(scene.elsewhere.state, NETWORK, now()), scene.net.said_by("c"), name="ghost")


def thieving(scene: Scene) -> bytes:
    """c says that b's address is its own, and signs it."""
    return scene.net.signed_by("c", addresses=scene.net.nodes["b"].config.interface.addresses)


def elsewhere_asked(scene: Scene) -> bytes:
    """The request of somebody who was invited, but not there."""
    return scene.net.joiner("f").request()


def sealed_floating(scene: Scene) -> bytes:
    """A record in place of a claim: signed by a node, for something else."""
    return scene.held[PREFIX + b"nodes/c"]


GHOST, ID = "nodes/ghost", "0123456789abcdef" * 2

# key, what, its bytes, who counts it, as what
RUBBISH: list[tuple[str, str, Make, str, str]] = [
    (GHOST, "garbage", always(GARBAGE), "c", "record_not_json"),
    (GHOST, "huge", always(HUGE), "c", "record_too_big"),
    (GHOST, "of a later version", always(LATER), "c", "record_wrong_version"),
    (GHOST, "unsigned", unsigned, "c", "record_unsigned"),
    (GHOST, "with a foreign key", foreign, "c", "record_foreign_authority"),
    (GHOST, "somebody else's", held("nodes/b"), "c", "record_wrong_name"),
    ("nodes/e", "replayed, of who was revoked", held("nodes/e"), "c", "record_revoked"),
    ("nodes/c", "replayed, of its owner", held("nodes/c"), "b", "record_stale"),
    ("nodes/c", "with an address of b", thieving, "b", "record_address_not_certified"),
    ("nodes/b", "huge, in its owner's place", always(HUGE), "c", "record_too_big"),
    ("config", "garbage", always(GARBAGE), "c", "statement_malformed"),
    ("config", "huge", always(HUGE), "c", "statement_too_big"),
    ("config", "of a later version", always(b'{"v":99,"text":"{}","signatures":[]}'), "c", "statement_wrong_version"),
    ("config", "unsigned", always(b'{"number":9,"backend":"plain"}'), "c", "statement_malformed"),
    ("config", "of another authority", elsewhere("config"), "c", "statement_stale"),
    ("authorities", "garbage", always(GARBAGE), "c", "statement_malformed"),
    ("authorities", "huge", always(HUGE), "c", "statement_too_big"),
    ("authorities", "of another authority", elsewhere("authorities"), "c", "statement_stale"),
    ("authorities", "the settings instead", held("config"), "c", "statement_malformed"),
    ("revoked", "garbage", always(GARBAGE), "c", "revocations_malformed"),
    ("revoked", "huge", always(HUGE), "c", "revocations_too_big"),
    ("revoked", "of another authority", elsewhere("revoked"), "c", "revocations_foreign_authority"),
    ("revoked", "replayed", lambda scene: scene.revoked, "c", "revocations_stale"),
    (FLOATING, "garbage", always(GARBAGE), "c", "floating_unreadable"),
    (FLOATING, "huge", always(HUGE), "c", "floating_unreadable"),
    (FLOATING, "of a later version", always(LATER), "c", "floating_unreadable"),
    (FLOATING, "unsigned", always(b'{"v":1,"name":"c","key":"00","run":"00"}'), "c", "floating_unsigned"),
    (FLOATING, "signed for something else", sealed_floating, "c", "floating_unreadable"),
    ("floating/10.99.4.2", "somebody's address", sealed_floating, "c", "floating_not_in_range"),
    ("floating/" + "9" * 9_000, "a key without end", always(GARBAGE), "c", "floating_not_in_range"),
    ("nodes/" + "x" * 9_000, "a key without end", always(GARBAGE), "c", "record_not_json"),
    ("addresses/10.99.4.2", "garbage", always(GARBAGE), "c", "address_claim_ignored"),
    ("addresses/10.99.4.2", "huge", always(HUGE), "c", "address_claim_ignored"),
    ("addresses/10.99.4.2", "of c, whose it is not", held("nodes/c"), "c", "address_claim_ignored"),
    (f"enrol/{ID}", "garbage", always(GARBAGE), "a", "enrolment_malformed"),
    (f"enrol/{ID}", "huge", always(HUGE), "a", "enrolment_too_big"),
    (f"enrol/{ID}", "of a later version", always(LATER), "a", "enrolment_wrong_version"),
    (f"enrol/{ID}", "replayed elsewhere", elsewhere_asked, "a", "enrolment_wrong_place"),
    ("renew/b", "garbage", always(GARBAGE), "a", "enrolment_malformed"),
    ("renew/b", "huge", always(HUGE), "a", "enrolment_too_big"),
    ("renew/ghost", "for nobody", always(GARBAGE), "a", "enrolment_unknown"),
    ("renewed/c", "garbage", always(GARBAGE), "c", "enrolment_malformed"),
    ("renewed/c", "huge", always(HUGE), "c", "enrolment_too_big"),
]


async def prepared(net: EtcdNetwork, folder: Path) -> Scene:
    """The network, and what somebody has remembered of it."""
    await net.joined("b", "c", "e")
    held = net.held()
    net.put(net.authority.revoke("e", now()))
    await net.stop("e")
    # c has another record by now.
    await net.stop("c")
    await net.start("c")
    await net.all_meet()
    state = StateDirectory(folder / "elsewhere")
    state.create()
    granted = found_network(
        state, NETWORK, NetworkSettings(), name="ghost", address=None, registry="memory:", entropy=os.urandom, now=now()
    )
    keep_granted(state, granted)
    return Scene(net, AuthorityFiles(state, NETWORK, os.urandom), held, held[PREFIX + b"revoked"])


async def test_rubbish_under_every_kind_of_key_is_refused_by_name_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("holloway.actors.membership.RETRY_S", 0.1)
    async with EtcdNetwork(tmp_path) as net, trio.open_nursery() as nursery:
        scene = await prepared(net, tmp_path)
        talk = Talk(net, "a", "b")
        nursery.start_soon(talk.go_on)
        for key, what, make, who, reason in RUBBISH:
            before = net.nodes[who].drops()[reason]
            net.put({PREFIX + key.encode(): make(scene)})
            try:
                await until(lambda: net.nodes[who].drops()[reason] > before)  # noqa: B023
            except trio.TooSlowError:
                pytest.fail(f"{what} under {key[:40]} was not counted by {who} as {reason}")
        # It still stands there, and another node joins; what stands where its grant will be is told and passed over.
        told: list[str] = []
        joiner = net.joiner("d")
        for value in (GARBAGE, HUGE, LATER, UNPROVEN):
            net.put({joiner.grant_key: value})
            await anticipated(net, joiner, told)
        await net.enrol("d", told.append, joiner)
        await net.start("d")
        await net.all_meet()
        told = [each.rpartition("enrolment_")[2] for each in told]
        assert told == ["malformed", "too_big", "wrong_version", "not_authentic", "not_authentic"]
        assert await talk.lost() == 0
        await until(lambda: len(net.record("b")) < len(HUGE) / 100)
        assert all(len(json.dumps(node.status())) < MAX_STATUS_BYTES for node in net.nodes.values())
        assert all(len(line.getMessage()) < MAX_LINE for line in caplog.records)
        nursery.cancel_scope.cancel()


async def anticipated(net: EtcdNetwork, joiner: Joiner, told: list[str]) -> None:
    """The machine sees an answer before the authority has seen its request."""
    answer = joiner.read(net.held(joiner.grant_key)[joiner.grant_key], now())
    assert isinstance(answer, EnrolProblem)
    told.append(answer.value)


async def test_who_starts_before_an_old_revocation_list_is_put_back_is_believed_and_believes_nobody_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holloway.actors.membership.RETRY_S", 0.1)
    async with EtcdNetwork(tmp_path) as net:
        await net.joined("b", "e")
        old = net.held(REVOKED)
        net.put(net.authority.revoke("e", now()))
        await net.stop("e")
        await net.enrol("d")
        await net.stop(FOUNDER)  # with the authority's key
        net.put(old)
        d = await net.start("d")
        await until(lambda: net.knows("b", "d"))
        certificate: Any = d.status()["node"]["certificate"]
        assert certificate["problem"] is None
        assert certificate["revocations"]["problem"] == "revocations_missing"
        assert d.drops()["revocations_stale"] > 0
        assert not d.roster.plan.peers
        await net.start(FOUNDER)
        await net.all_meet()
        assert d.status()["node"]["certificate"]["revocations"]["problem"] is None
