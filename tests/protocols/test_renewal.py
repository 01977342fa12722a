"""Renewal: a node gets its next certificate by its key alone, and nobody gains by asking in its place."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv6Network, ip_address
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, Node, authority, identity, mutations, serial
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.authorities import make_bundle
from holloway.protocols.certificates import CLOCK_SKEW_S, NodeCertificate
from holloway.protocols.enrolment import EnrolProblem, Refused
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text
from holloway.protocols.issuer import Decision, Issuer
from holloway.protocols.issuing import NODE_LIFETIME_S, Authority
from holloway.protocols.ledger import MAX_EARLIER, Ledger
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.renewal import (
    MAX_RENEWAL_BYTES,
    is_due,
    make_renewal,
    make_renewed,
    open_renewal,
    read_renewed,
    renewal_key,
    renewed_key,
)
from holloway.protocols.trust import Trust

HALF = NOW + NODE_LIFETIME_S // 2
SETTINGS = NetworkSettings()


class World:
    """An authority at work, with one node in its ledger."""

    def __init__(self) -> None:
        self.network = Network()
        self.ledger = Ledger(NETWORK)
        self.node = self.network.node("node-a", "10.99.4.1")
        self.ledger.hold(self.node.certificate, bytes(16), NOW)
        self.issuer = self.issue_by(self.network.authority)
        self._asked = 0

    def issue_by(self, owner: Authority, settings: NetworkSettings = SETTINGS) -> Issuer:
        bundle = make_bundle(NETWORK, 1, [owner.certificate], [owner])
        return Issuer(owner, bytes(32), self.ledger, bundle, settings, b"{}")

    def renew(self, value: bytes, now: int, name: str = "node-a") -> Decision:
        self._asked += 1
        return self.issuer.renew(name, value, now, serial(("renewal", self._asked)))

    def read(self, decision: Decision, current: NodeCertificate, now: int) -> Any:
        assert decision.answer is not None, decision.reason
        return read_renewed(decision.answer, current, self.network.trust, now)


@pytest.fixture
def world() -> World:
    return World()


def asked(node: Node) -> bytes:
    return make_renewal(node.identity, node.certificate)


def test_the_keys_of_the_registry() -> None:
    assert renewal_key("net", "node-a") == b"/holloway/net/renew/node-a"
    assert renewed_key("net", "node-a") == b"/holloway/net/renewed/node-a"


def test_the_form_of_the_messages_is_what_other_versions_rely_on(world: World) -> None:
    request = json.loads(asked(world.node))
    assert list(request) == ["v", "renewal", "signature"]
    assert json.loads(request["renewal"]) == {"name": "node-a", "serial": f"{world.node.certificate.serial:x}"}
    assert list(json.loads(make_renewed(world.node.certificate))) == ["v", "certificate"]
    assert json.loads(make_renewed(EnrolProblem.EXPIRED)) == {"v": 1, "refused": "enrolment_expired"}


def test_after_half_of_its_time_a_node_gets_another_certificate(world: World) -> None:
    decision = world.renew(asked(world.node), HALF)
    assert decision.has_changed
    found = world.read(decision, world.node.certificate, HALF)
    assert isinstance(found, NodeCertificate)
    assert found.serial != world.node.certificate.serial
    assert found.not_after == HALF + NODE_LIFETIME_S
    assert (found.name, found.key) == ("node-a", world.node.identity.public)
    assert found.addresses == world.node.certificate.addresses
    assert not world.ledger.is_list_due, "the one before goes on counting"


def test_asking_early_or_again_yields_the_certificate_that_is_there(world: World) -> None:
    early = world.renew(asked(world.node), HALF - CLOCK_SKEW_S)
    assert early == Decision(make_renewed(world.node.certificate))
    assert world.read(early, world.node.certificate, NOW) is EnrolProblem.OTHER_REQUEST
    first = world.renew(asked(world.node), HALF)
    again = world.renew(asked(world.node), HALF)
    assert (again.answer, again.has_changed) == (first.answer, False)


def test_when_it_is_due() -> None:
    node = Network().node()
    ours = node.certificate.authority
    middle = (node.certificate.not_before + node.certificate.not_after) // 2
    assert not is_due(node.certificate, ours, middle - 1)
    assert is_due(node.certificate, ours, middle)
    assert is_due(node.certificate, identity("new").public.fingerprint, NOW), "another authority issues by now"


def test_a_new_authority_renews_what_the_old_one_issued(world: World) -> None:
    new = authority("new")
    world.issuer = world.issue_by(new)
    decision = world.renew(asked(world.node), NOW)
    assert decision.has_changed
    trust = Trust(make_bundle(NETWORK, 9, [new.certificate], [new]))
    assert decision.answer is not None
    found = read_renewed(decision.answer, world.node.certificate, trust, NOW)
    assert isinstance(found, NodeCertificate)
    assert found.authority == new.identity.public.fingerprint


def test_a_network_that_gets_ipv6_gives_everybody_an_address_at_the_next_renewal(world: World) -> None:
    world.issuer = world.issue_by(world.network.authority, replace(SETTINGS, network6=IPv6Network("fd99:0:0:1::/64")))
    found = world.read(world.renew(asked(world.node), NOW), world.node.certificate, NOW)
    assert found.addresses == {ip_address("10.99.4.1"), ip_address("fd99:0:0:1::a63:401")}


def test_a_certificate_that_has_run_out_is_not_renewed(world: World) -> None:
    late = NOW + NODE_LIFETIME_S + CLOCK_SKEW_S
    assert world.renew(asked(world.node), late).has_changed
    world = World()
    decision = world.renew(asked(world.node), late + 1)
    assert decision.reason is EnrolProblem.EXPIRED
    assert world.read(decision, world.node.certificate, late) == Refused(EnrolProblem.EXPIRED)


def test_who_was_revoked_or_released_does_not_renew(world: World) -> None:
    world.issuer.revoke("node-a", NOW)
    assert world.renew(asked(world.node), HALF) == Decision(None, EnrolProblem.UNKNOWN)
    again = world.network.node("node-a", "10.99.4.1", key=identity("made anew"))
    world.ledger.hold(again.certificate, bytes(16), NOW)
    assert world.renew(asked(world.node), HALF) == Decision(None, EnrolProblem.NOT_AUTHENTIC)


def test_a_certificate_that_the_ledger_does_not_know_is_not_renewed(world: World) -> None:
    unknown = world.network.node("node-a", "10.99.4.1")
    decision = world.renew(asked(unknown), HALF)
    assert decision == Decision(make_renewed(EnrolProblem.UNKNOWN), EnrolProblem.UNKNOWN)


def test_a_renewal_of_another_node_network_or_purpose_is_none(world: World) -> None:
    other = world.network.node("node-b", "10.99.4.2")
    world.ledger.hold(other.certificate, bytes(16), NOW)
    assert world.renew(asked(other), HALF).reason is EnrolProblem.NOT_AUTHENTIC
    key = world.node.identity
    assert open_renewal(asked(world.node), "other", "node-a", key.public) is EnrolProblem.NOT_AUTHENTIC
    assert open_renewal(asked(world.node), NETWORK, "node-b", key.public) is EnrolProblem.WRONG_PLACE
    fields = json.loads(asked(world.node))
    fields["signature"] = base64_text(key.sign_text("record", NETWORK, fields["renewal"]))
    assert world.renew(json.dumps(fields).encode(), HALF).reason is EnrolProblem.NOT_AUTHENTIC
    with pytest.raises(LocalError, match="another key"):
        make_renewal(identity("b"), world.node.certificate)


def test_an_answer_has_to_be_a_newer_certificate_of_ours(world: World) -> None:
    current, trust = world.node.certificate, world.network.trust
    for made, problem in [
        (world.network.node("node-b", key=world.node.identity, now=HALF), EnrolProblem.WRONG_PLACE),
        (world.network.node("node-a", key=identity("b"), now=HALF), EnrolProblem.WRONG_PLACE),
        (world.network.node("node-a", now=NOW - DAY), EnrolProblem.OTHER_REQUEST),
        (Network(authority("attacker")).node("node-a", now=HALF), EnrolProblem.BAD_CERTIFICATE),
        (world.node, EnrolProblem.OTHER_REQUEST),
    ]:
        assert read_renewed(make_renewed(made.certificate), current, trust, HALF) is problem


def test_many_certificates_of_one_node_are_bounded_and_the_oldest_are_taken_back(world: World) -> None:
    for number in range(MAX_EARLIER + 2):
        issued = world.network.node("node-a", "10.99.4.1", now=NOW + number)
        world.ledger.hold(issued.certificate, bytes(16), NOW)
    holding = world.ledger.holding("node-a")
    assert holding is not None
    assert len(holding.earlier) == MAX_EARLIER
    assert len(world.ledger.ended) == 2
    assert world.ledger.is_list_due
    assert world.node.certificate.serial in {each.revoked.serial for each in world.ledger.ended}


HOSTILE: list[tuple[bytes, EnrolProblem]] = [
    (b"", EnrolProblem.MALFORMED),
    (b"[]", EnrolProblem.MALFORMED),
    (b"[" * 9000, EnrolProblem.MALFORMED),
    (b'{"v":1}', EnrolProblem.MALFORMED),
    (b'{"v":2}', EnrolProblem.WRONG_VERSION),
    (b'{"v":1,"renewal":"","signature":"","certificate":"?"}', EnrolProblem.MALFORMED),
    (b'{"v":1,"refused":"no_such_reason"}', EnrolProblem.MALFORMED),
    (bytes(MAX_RENEWAL_BYTES + 1), EnrolProblem.TOO_BIG),
]


@pytest.mark.parametrize(("value", "problem"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_message_is_refused_for_its_reason(world: World, value: bytes, problem: EnrolProblem) -> None:
    asked_for = {EnrolProblem.MALFORMED, EnrolProblem.NOT_AUTHENTIC} if problem is EnrolProblem.MALFORMED else {problem}
    assert world.renew(value, HALF).reason in asked_for
    assert read_renewed(value, world.node.certificate, world.network.trust, HALF) is problem


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name":"node-a"}', '{"name":"node-a","serial":"x"}'])
def test_a_node_that_signs_nonsense_is_not_answered(world: World, text: str) -> None:
    signature = base64_text(world.node.identity.sign_text("renewal", NETWORK, text))
    value = json.dumps({"v": 1, "renewal": text, "signature": signature}).encode()
    assert world.renew(value, HALF) == Decision(None, EnrolProblem.MALFORMED)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_message(value: bytes) -> None:
    world = World()
    assert world.renew(value, HALF).answer is None
    assert isinstance(read_renewed(value, world.node.certificate, world.network.trust, HALF), EnrolProblem)


def test_damaged_messages_are_the_same_or_none(world: World) -> None:
    request = asked(world.node)
    for damaged in mutations(request, 500):
        assert world.renew(damaged, NOW).answer in (None, make_renewed(world.node.certificate))
    answer = world.renew(request, HALF).answer
    assert answer is not None
    found = read_renewed(answer, world.node.certificate, world.network.trust, HALF)
    assert isinstance(found, NodeCertificate)
    for damaged in mutations(answer, 500):
        read = read_renewed(damaged, world.node.certificate, world.network.trust, HALF)
        assert isinstance(read, EnrolProblem | Refused) or read.serial == found.serial
