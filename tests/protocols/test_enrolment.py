"""Enrolment through a store that somebody else owns: he reads everything, and gets nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, authority, entropy, identity, mutations, serial
from enrolment_world import KEY, Joiner, World, v4
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.authorities import make_bundle
from holloway.protocols.enrolment import (
    MAX_GRANT_BYTES,
    MAX_REQUEST_MESSAGE_BYTES,
    EnrolProblem,
    Grant,
    Refused,
    Request,
    grant_key,
    make_answer,
    make_request_message,
    open_request,
    request_key,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text, compact
from holloway.protocols.invitations import mac
from holloway.protocols.issuer import Decision
from holloway.protocols.issuing import AUTHORITY_LIFETIME_S, make_request
from holloway.protocols.joiner import Granted


@pytest.fixture
def world() -> World:
    return World()


def test_the_keys_of_the_registry(world: World) -> None:
    joiner = Joiner(world.invite(id=bytes(16)), identity("a"), name="a")
    assert joiner.request_key == request_key(NETWORK, bytes(16)) == b"/holloway/net/enrol/" + b"0" * 32
    assert joiner.grant_key == grant_key(NETWORK, bytes(16)) == b"/holloway/net/grants/" + b"0" * 32


def test_the_form_of_the_messages_is_what_other_versions_rely_on(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    request = json.loads(joiner.request())
    assert list(request) == ["v", "terms", "request", "mac"]
    assert json.loads(request["request"]).keys() == {"csr", "name", "addresses", "nonce"}
    answer = world.enrol(joiner).answer
    assert answer is not None
    grant = json.loads(answer)
    assert list(grant) == ["v", "grant", "mac"]
    assert list(json.loads(grant["grant"])) == ["request", "certificate", "authorities", "settings", "revoked"]


# An attacker who owns the store.


def test_a_request_of_somebody_who_was_not_invited_is_not_answered(world: World) -> None:
    forged = Joiner(world.invite(key=entropy("guess", 32), name="a"), identity("attacker"))
    assert world.enrol(forged) == Decision(None, EnrolProblem.NOT_AUTHENTIC)


def test_nothing_of_a_request_can_be_altered(world: World) -> None:
    invitation = world.invite()
    victim = Joiner(invitation, identity("victim"), name="victim")
    request = json.loads(victim.request())
    inner = json.loads(request["request"])
    thief = json.loads(Joiner(invitation, identity("thief"), name="victim").request())
    better = replace(invitation.terms, expires=NOW + 99 * DAY)
    for alteration in [
        {"request": compact(inner | {"csr": base64_text(make_request(identity("thief")))})},
        {"request": compact(inner | {"name": "gateway"})},
        {"request": compact(inner | {"addresses": ["10.99.0.1"]})},
        {"request": compact(inner) + " "},
        {"terms": better.text()},
        {"terms": replace(invitation.terms, prefixes=(ip_network("0.0.0.0/0"),)).text()},
        {"terms": invitation.terms.text() + " "},
        {"mac": world_mac(world)},
        {"mac": ""},
    ]:
        value = json.dumps(request | alteration).encode()
        assert world.enrol(victim, value=value) == Decision(None, EnrolProblem.NOT_AUTHENTIC)
    assert thief["mac"] != request["mac"]
    assert not world.ledger.holdings


def world_mac(world: World) -> str:
    """The mac of a request with another invitation."""
    made: str = json.loads(Joiner(world.invite(), identity("other"), name="other").request())["mac"]
    return made


def test_a_request_counts_under_its_own_id_and_in_its_own_network(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    found = world.issuer.enrol(bytes(16), joiner.request(), NOW, serial(0))
    assert found == Decision(None, EnrolProblem.WRONG_PLACE)
    elsewhere = Joiner(world.invite(name="a", network="other"), identity("a"))
    assert world.enrol(elsewhere) == Decision(None, EnrolProblem.WRONG_PLACE)


def test_a_grant_for_somebody_else_is_none(world: World) -> None:
    one, two = (Joiner(world.invite(name=name), identity(name)) for name in ("one", "two"))
    answers = [world.enrol(each).answer or b"" for each in (one, two)]
    assert one.read(answers[1], NOW) is EnrolProblem.NOT_AUTHENTIC
    assert two.read(answers[0], NOW) is EnrolProblem.NOT_AUTHENTIC
    assert isinstance(one.read(answers[0], NOW), Granted)


def test_a_refusal_of_an_earlier_wish_is_none_of_a_later_one(world: World) -> None:
    world.let_in("taken")
    invitation = world.invite()
    first = Joiner(invitation, identity("a"), name="taken")
    refusal = world.enrol(first).answer or b""
    second = Joiner(invitation, identity("a"), name="free")
    assert second.read(refusal, NOW) is EnrolProblem.OTHER_REQUEST
    assert first.read(refusal, NOW) == Refused(EnrolProblem.NAME_TAKEN)


def test_an_answer_to_an_earlier_attempt_is_none_to_this_one(world: World) -> None:
    invitation = world.invite(name="a")
    first, second = (Joiner(invitation, identity("a"), bytes([number] * 16)) for number in (1, 2))
    old = world.enrol(first).answer or b""
    world.let_in("b")
    world.issuer.revoke("b", NOW)
    world.issuer.revocation_list(NOW)
    assert second.read(old, NOW) is EnrolProblem.OTHER_REQUEST
    granted = world.join(second)
    assert isinstance(granted, Granted)
    assert granted.list_number == 1
    with pytest.raises(LocalError, match="16 are needed"):
        Joiner(invitation, identity("a"), bytes(15))


def test_a_request_is_no_grant(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    request = json.loads(joiner.request())
    value = compact({"v": 1, "grant": request["request"], "mac": request["mac"]}).encode()
    assert joiner.read(value, NOW) is EnrolProblem.NOT_AUTHENTIC


def grant_of(world: World, joiner: Joiner, **changes: Any) -> bytes:
    """A grant with a good mac, by somebody who has the invitation key but not the authority's own."""
    id_ = bytes.fromhex(joiner.request_key.rpartition(b"/")[2].decode())
    request = open_request(joiner.request(), NETWORK, id_, KEY)
    assert isinstance(request, Request)
    parameters: dict[str, Any] = {
        "certificate": b"x",
        "authorities": world.network.bundle.value,
        "settings": world.settings,
        "list_number": 0,
    }
    return make_answer(request, Grant(**parameters | changes))


def test_the_invitation_key_alone_deceives_nobody(world: World) -> None:
    joiner = Joiner(world.invite(name="a", addresses=v4("10.99.0.5")), identity("a"))
    theirs = Network(authority("attacker"))
    ours = world.network
    for changes, problem in [
        ({"authorities": theirs.bundle.value}, EnrolProblem.FOREIGN_AUTHORITY),
        ({"authorities": b""}, EnrolProblem.FOREIGN_AUTHORITY),
        ({"certificate": theirs.node("a", "10.99.0.5").certificate.der}, EnrolProblem.BAD_CERTIFICATE),
        ({"certificate": ours.node("a", "10.99.0.5", key=identity("b")).certificate.der}, EnrolProblem.BAD_CERTIFICATE),
        ({"certificate": ours.node("b", "10.99.0.5", key=identity("a")).certificate.der}, EnrolProblem.BAD_CERTIFICATE),
        ({"certificate": ours.node("a", "10.99.0.6").certificate.der}, EnrolProblem.BAD_CERTIFICATE),
        (
            {"certificate": ours.node("a", "10.99.0.5", lifetime_s=1, now=NOW - DAY).certificate.der},
            EnrolProblem.NOT_IN_TIME,
        ),
        ({"certificate": b""}, EnrolProblem.BAD_CERTIFICATE),
    ]:
        assert joiner.read(grant_of(world, joiner, **changes), NOW) is problem
    good = ours.node("a", "10.99.0.5").certificate
    found = joiner.read(grant_of(world, joiner, certificate=good.der), NOW)
    assert isinstance(found, Granted)


def test_a_machine_with_a_wrong_clock_is_told_so(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    answer = world.enrol(joiner).answer or b""
    assert joiner.read(answer, NOW - DAY) is EnrolProblem.NOT_IN_TIME
    assert joiner.read(answer, NOW + 2 * AUTHORITY_LIFETIME_S) is EnrolProblem.NOT_IN_TIME


def test_an_old_bundle_without_the_invited_authority_is_not_believed() -> None:
    old, new = authority("old"), authority("new")
    both = make_bundle(NETWORK, 2, [old.certificate, new.certificate], [old, new])
    world = World(new, bundle=both)
    joiner = Joiner(world.invite(name="a"), identity("a"))
    granted = world.join(joiner)
    assert isinstance(granted, Granted)
    stale = make_bundle(NETWORK, 1, [old.certificate], [old])
    value = grant_of(world, joiner, authorities=stale.value, certificate=granted.certificate.der)
    assert joiner.read(value, NOW) is EnrolProblem.FOREIGN_AUTHORITY


HOSTILE: list[tuple[bytes, EnrolProblem]] = [
    (b"", EnrolProblem.MALFORMED),
    (b"[]", EnrolProblem.MALFORMED),
    (b"[" * 9000, EnrolProblem.MALFORMED),
    (b"\xff", EnrolProblem.MALFORMED),
    (b'{"v":1}', EnrolProblem.MALFORMED),
    (b'{"v":2}', EnrolProblem.WRONG_VERSION),
    (b'{"v":"1"}', EnrolProblem.MALFORMED),
]


@pytest.mark.parametrize(("value", "problem"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_message_is_refused_for_its_reason(world: World, value: bytes, problem: EnrolProblem) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    assert joiner.read(value, NOW) is problem
    assert world.issuer.enrol(bytes(16), value, NOW, serial(0)) == Decision(None, problem)
    assert joiner.read(bytes(MAX_GRANT_BYTES + 1), NOW) is EnrolProblem.TOO_BIG
    too_big = world.issuer.enrol(bytes(16), bytes(MAX_REQUEST_MESSAGE_BYTES + 1), NOW, serial(0))
    assert too_big == Decision(None, EnrolProblem.TOO_BIG)


def test_a_grant_that_makes_no_sense_is_none_though_its_mac_is_good(world: World) -> None:
    invitation = world.invite(name="a")
    joiner = Joiner(invitation, identity("a"))
    request = open_request(joiner.request(), NETWORK, invitation.terms.id, KEY)
    assert isinstance(request, Request)
    refusal = json.loads(make_answer(request, Refused(EnrolProblem.USED)))["grant"]
    for body in ["", "[]", "{}", refusal.replace("enrolment_used", "no_such_reason"), refusal.replace("refused", "x")]:
        tag = base64_text(mac(invitation.secret, "grant", body))
        value = compact({"v": 1, "grant": body, "mac": tag}).encode()
        assert joiner.read(value, NOW) is EnrolProblem.MALFORMED


def test_an_answer_that_nobody_could_read_is_not_made(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    with pytest.raises(LocalError, match="nobody could read"):
        grant_of(world, joiner, settings=bytes(60_000))


@given(st.binary(max_size=200))
def test_any_bytes_are_no_message(value: bytes) -> None:
    world = World()
    assert isinstance(Joiner(world.invite(name="a"), identity("a")).read(value, NOW), EnrolProblem)
    assert world.issuer.enrol(bytes(16), value, NOW, serial(0)).answer is None


def test_damaged_messages_are_the_same_or_none(world: World) -> None:
    joiner = Joiner(world.invite(name="a"), identity("a"))
    answer = world.enrol(joiner).answer or b""
    granted = joiner.read(answer, NOW)
    for damaged in mutations(joiner.request(), 700):
        decision = world.enrol(joiner, value=damaged)
        assert decision.answer in (None, answer)
    for damaged in mutations(answer, 700):
        found = joiner.read(damaged, NOW)
        assert found == granted or isinstance(found, EnrolProblem)


def test_a_decision_shows_no_answer_and_a_request_no_secret(world: World) -> None:
    invitation = world.invite(name="a")
    joiner = Joiner(invitation, identity("a"))
    assert "grant" not in repr(world.enrol(joiner))
    request = open_request(joiner.request(), NETWORK, invitation.terms.id, KEY)
    assert "secret" not in repr(request)
    assert make_request_message(invitation.terms, "{}", bytes(32)) != joiner.request()
