"""Sealed claims to a floating address: who is believed, and what a replay is."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from authority_world import NETWORK, NOW, Network, Node, authority, mutations

from holloway.protocols import floating_seals as module
from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem
from holloway.protocols.envelopes import EnvelopeProblem, seal_text
from holloway.protocols.errors import LocalError
from holloway.protocols.floating_claims import FloatingChallenge, FloatingClaim, encode_floating
from holloway.protocols.floating_seals import (
    MAX_SERIALS,
    MICROSECOND,
    FloatingSeals,
    Sealed,
    SealProblem,
    seal_floating,
)
from holloway.protocols.hostile_json import compact
from holloway.protocols.trust import Trust

ADDRESS = IPv4Address("10.99.2.1")
PLACE = f"floating/{ADDRESS}"
LEASE = 0x1F00
SERIAL = NOW * MICROSECOND


@pytest.fixture
def world() -> Network:
    return Network()


@pytest.fixture
def node(world: Network) -> Node:
    return world.node("node-a", "10.99.0.1", prefixes=[f"{ADDRESS}/32"])


@pytest.fixture
def seals(world: Network) -> FloatingSeals:
    return FloatingSeals(ADDRESS, world.trust)


def claim(node: Node, **changes: Any) -> bytes:
    made = FloatingClaim("node-a", node.identity.public.fingerprint.hex(), "00" * 8, 3, 800)
    return encode_floating(replace(made, **changes))


def sealed(node: Node, said: bytes | None = None, *, serial: int = SERIAL, revision: int = 7, **changes: Any) -> Sealed:
    fields = {"place": PLACE, "lease": LEASE} | changes
    value = seal_floating(
        said or claim(node), fields["place"], fields["lease"], serial, node.identity, node.certificate
    )
    return Sealed(value, revision, LEASE)


def test_a_claim_of_a_certified_node_is_believed_and_so_is_its_challenge(seals: FloatingSeals, node: Node) -> None:
    assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    key = node.identity.public.fingerprint.hex()
    challenge = encode_floating(FloatingChallenge("node-a", key, "00" * 8, 3, 7, preempts=True))
    there = sealed(node, challenge, serial=SERIAL + 1, place=f"challenges/{ADDRESS}")
    assert seals.open(f"challenges/{ADDRESS}", there, NOW) == challenge


def test_nobody_else_is_believed(seals: FloatingSeals, world: Network, node: Node) -> None:
    def refused(found: Sealed, now: int = NOW) -> SealProblem:
        answer = seals.open(PLACE, found, now)
        assert isinstance(answer, SealProblem), answer
        return answer

    other = world.node("node-b", "10.99.0.2", prefixes=["10.1.0.0/16", "0.0.0.0/0"])
    theirs = claim(other, name="node-b")
    assert refused(sealed(other, theirs)) is SealProblem.NOT_CERTIFIED
    assert refused(sealed(other)) is SealProblem.WRONG_NODE
    assert refused(sealed(node, theirs)) is SealProblem.WRONG_NODE
    assert refused(sealed(node, place="floating/10.99.2.2")) is SealProblem.WRONG_PLACE
    assert refused(sealed(node, place=f"challenges/{ADDRESS}")) is SealProblem.WRONG_PLACE
    assert refused(sealed(node, lease=LEASE + 1)) is SealProblem.WRONG_LEASE
    assert refused(replace(sealed(node), lease=None)) is SealProblem.WRONG_LEASE
    assert refused(Sealed(claim(node), 7, LEASE)) is SealProblem.UNSIGNED
    assert refused(Sealed(b"junk", 7, LEASE)) is SealProblem.UNREADABLE
    assert refused(sealed(node, b"{}")) is SealProblem.UNREADABLE
    ahead = (NOW + CLOCK_SKEW_S + 1) * MICROSECOND
    assert refused(sealed(node, serial=ahead)) is SealProblem.FROM_THE_FUTURE
    text = compact({"at": PLACE})
    assert refused(Sealed(seal_text("floating", text, node.identity, node.certificate), 7, LEASE)) is (
        SealProblem.UNREADABLE
    )
    record = seal_text("record", text, node.identity, node.certificate)
    assert refused(Sealed(record.replace(b'"record"', b'"floating"'), 7, LEASE)) is SealProblem.BAD_SIGNATURE
    stranger = Network(authority("elsewhere")).node("node-a", prefixes=[f"{ADDRESS}/32"])
    assert refused(sealed(stranger)) is SealProblem.FOREIGN_AUTHORITY
    assert refused(sealed(node), node.certificate.not_after + CLOCK_SKEW_S + 1) is SealProblem.NOT_IN_TIME


def test_a_claim_is_not_believed_any_more_once_its_node_is_revoked(
    seals: FloatingSeals, world: Network, node: Node
) -> None:
    assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    assert world.trust.take_revocations(world.revoke(1, node).der) is None
    assert seals.open(PLACE, sealed(node), NOW) is SealProblem.REVOKED
    assert FloatingSeals(ADDRESS, world.trust).open(PLACE, sealed(node), NOW) is SealProblem.REVOKED
    unaware = Trust(world.bundle, list_number=1)
    assert FloatingSeals(ADDRESS, unaware).open(PLACE, sealed(node), NOW) is SealProblem.REVOCATIONS_MISSING


def test_every_problem_of_a_certificate_has_a_name_here() -> None:
    assert set(module._REASONS) == {*EnvelopeProblem, *CertificateProblem}


def test_what_was_seen_at_another_revision_is_a_replay(seals: FloatingSeals, node: Node) -> None:
    assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    assert seals.open(PLACE, sealed(node, revision=8), NOW) is SealProblem.REPLAYED
    assert seals.open(PLACE, sealed(node, serial=SERIAL + 1, revision=8), NOW) == claim(node)
    assert seals.open(PLACE, sealed(node, revision=7), NOW) == claim(node)  # two keys are read one after the other


def test_a_clock_may_go_back_a_little_and_not_more(seals: FloatingSeals, node: Node) -> None:
    assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    skew = CLOCK_SKEW_S * MICROSECOND
    assert seals.open(PLACE, sealed(node, serial=SERIAL - skew, revision=8), NOW) == claim(node)
    assert seals.open(PLACE, sealed(node, serial=SERIAL - skew - 1, revision=9), NOW) is SealProblem.REPLAYED


def test_a_serial_number_that_was_forgotten_is_a_replay(seals: FloatingSeals, node: Node) -> None:
    for count in range(MAX_SERIALS + 1):
        assert seals.open(PLACE, sealed(node, serial=SERIAL + count, revision=7 + count), NOW) == claim(node)
    assert seals.open(PLACE, sealed(node, revision=99), NOW) is SealProblem.REPLAYED


def test_mutations_are_refused(seals: FloatingSeals, node: Node) -> None:
    good = sealed(node)
    for value in mutations(good.value, 150):
        answer = seals.open(PLACE, replace(good, value=value), NOW)
        assert isinstance(answer, SealProblem) or answer == claim(node)


def test_nothing_is_sealed_with_the_certificate_of_another_key(world: Network, node: Node) -> None:
    other = world.node("node-b")
    with pytest.raises(LocalError):
        seal_floating(claim(node), PLACE, LEASE, SERIAL, other.identity, node.certificate)


def test_the_form_that_is_signed(node: Node) -> None:
    text = json.loads(json.loads(sealed(node).value)["floating"])
    assert text == {"at": PLACE, "lease": "1f00", "serial": SERIAL, "claim": claim(node).decode()}
    assert node.certificate.network == NETWORK


def test_a_trust_is_needed_only_once(world: Network, node: Node) -> None:
    """What was verified is remembered byte for byte, and judged again by the certificate alone."""
    counted = []

    class Counting(Trust):
        def check(self, der: bytes, now: int) -> Any:
            counted.append(der)
            return super().check(der, now)

    trust = Counting(world.bundle)
    seals = FloatingSeals(ADDRESS, trust)
    for _ in range(3):
        assert seals.open(PLACE, sealed(node), NOW) == claim(node)
    assert len(counted) == 1
