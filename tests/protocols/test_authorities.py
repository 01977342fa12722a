"""Authorities follow one another, signed texts do not go back, and a store owner can only withhold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, authority, mutations
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols import trust as trust_module
from holloway.protocols.authorities import (
    MAX_AUTHORITIES,
    Bundle,
    authorities_key,
    first_bundle,
    kept_bundle,
    make_bundle,
    next_bundle,
)
from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import MAX_INTEGER, base64_text, compact
from holloway.protocols.issuing import AUTHORITY_LIFETIME_S, Authority
from holloway.protocols.statements import (
    AUTHORITIES,
    MAX_SIGNATURES,
    MAX_STATEMENT_BYTES,
    SETTINGS,
    StatementProblem,
    make_statement,
    read_statement,
)
from holloway.protocols.trust import Trust

OLD, NEW, STRANGER = authority("old"), authority("new"), authority("stranger")
STAGES = [
    make_bundle(NETWORK, 1, [OLD.certificate], [OLD]),
    make_bundle(NETWORK, 2, [OLD.certificate, NEW.certificate], [OLD, NEW]),
    make_bundle(NETWORK, 3, [NEW.certificate], [OLD, NEW]),
]


def bundle(number: int, authorities: list[Authority], signers: list[Authority]) -> bytes:
    """A bundle in the store, as an authority or an attacker could make it."""
    fields = {"number": number, "certificates": [base64_text(each.certificate.der) for each in authorities]}
    return make_statement(AUTHORITIES, NETWORK, compact(fields), signers)


def changed(value: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(value) | changes).encode()


def test_the_registry_has_one_bundle() -> None:
    assert authorities_key("net") == b"/holloway/net/authorities"


def test_the_form_of_a_bundle_is_what_other_versions_rely_on() -> None:
    fields = json.loads(STAGES[1].value)
    assert fields.keys() == {"v", "text", "signatures"}
    assert fields["v"] == 1
    assert [each["authority"] for each in fields["signatures"]] == [
        each.identity.public.fingerprint.hex() for each in (OLD, NEW)
    ]
    assert json.loads(fields["text"]) == {
        "number": 2,
        "certificates": [base64_text(each.certificate.der) for each in (OLD, NEW)],
    }


def test_a_node_follows_from_one_authority_to_the_next() -> None:
    world = Network(OLD)
    before = world.node("node-a", now=NOW)
    trust = Trust(STAGES[0])
    after = Network(OLD, NEW).node("node-b")
    assert trust.check(after.certificate.der, NOW) is CertificateProblem.FOREIGN_AUTHORITY
    assert trust.take_bundle(STAGES[1].value, NOW) is None
    assert trust.check(before.certificate.der, NOW) == before.certificate
    assert trust.check(after.certificate.der, NOW) == after.certificate
    assert trust.take_bundle(STAGES[2].value, NOW) is None
    assert trust.check(before.certificate.der, NOW) is CertificateProblem.FOREIGN_AUTHORITY, "also if it is remembered"
    assert trust.problem(before.certificate, NOW) is CertificateProblem.FOREIGN_AUTHORITY
    assert trust.check(after.certificate.der, NOW) == after.certificate
    assert trust.bundle.has(NEW.identity.public.fingerprint)
    assert not trust.bundle.has(OLD.identity.public.fingerprint)
    assert trust.network == NETWORK


def test_a_node_that_was_away_during_all_of_it_still_follows() -> None:
    assert next_bundle(STAGES[0], STAGES[2].value, NOW) == STAGES[2]


def test_no_bundle_comes_back() -> None:
    trust = Trust(STAGES[2])
    for old in STAGES[:2]:
        assert trust.take_bundle(old.value, NOW) is StatementProblem.STALE
    assert trust.take_bundle(bundle(3, [OLD, NEW], [OLD, NEW]), NOW) is StatementProblem.STALE
    assert trust.take_bundle(STAGES[2].value, NOW) is None, "the same one again is no news"
    assert trust.bundle == STAGES[2]


def test_who_has_left_signs_nothing_any_more() -> None:
    assert next_bundle(STAGES[2], bundle(4, [OLD], [OLD]), NOW) is StatementProblem.FOREIGN_AUTHORITY


def test_nobody_lets_himself_in() -> None:
    assert next_bundle(STAGES[0], bundle(2, [STRANGER], [STRANGER]), NOW) is StatementProblem.FOREIGN_AUTHORITY
    assert next_bundle(STAGES[0], bundle(2, [OLD, STRANGER], [STRANGER]), NOW) is StatementProblem.FOREIGN_AUTHORITY
    theirs = json.loads(bundle(2, [OLD, STRANGER], [STRANGER]))
    theirs["signatures"][0]["authority"] = OLD.identity.public.fingerprint.hex()
    assert next_bundle(STAGES[0], json.dumps(theirs).encode(), NOW) is StatementProblem.BAD_SIGNATURE


def test_a_signature_for_another_purpose_or_network_is_none() -> None:
    text = json.loads(bundle(2, [OLD, STRANGER], [OLD]))["text"]
    for kind, network in [(SETTINGS, NETWORK), (AUTHORITIES, "other")]:
        value = make_statement(kind, network, text, [OLD])
        assert next_bundle(STAGES[0], value, NOW) is StatementProblem.BAD_SIGNATURE


def test_an_authority_signs_while_it_is_valid() -> None:
    end = NOW + AUTHORITY_LIFETIME_S + CLOCK_SKEW_S
    assert next_bundle(STAGES[0], STAGES[1].value, end) == STAGES[1]
    assert next_bundle(STAGES[0], STAGES[1].value, end + 1) is StatementProblem.NOT_IN_TIME
    assert next_bundle(STAGES[0], STAGES[1].value, NOW - 2 * CLOCK_SKEW_S - 1) is StatementProblem.NOT_IN_TIME


def test_who_trusts_a_fingerprint_takes_a_bundle_that_this_authority_is_in_and_has_signed() -> None:
    for stage, signer in [(0, OLD), (1, OLD), (1, NEW), (2, NEW)]:
        found = first_bundle(STAGES[stage].value, NETWORK, signer.identity.public.fingerprint, NOW)
        assert found == STAGES[stage]
    for value, signer in [
        (STAGES[2].value, OLD),
        (STAGES[1].value, STRANGER),
        (bundle(1, [OLD, STRANGER], [OLD]), STRANGER),
        (bundle(1, [OLD], [OLD, STRANGER]), STRANGER),
    ]:
        found = first_bundle(value, NETWORK, signer.identity.public.fingerprint, NOW)
        assert found is StatementProblem.FOREIGN_AUTHORITY
    late = NOW + AUTHORITY_LIFETIME_S + DAY
    fingerprint = OLD.identity.public.fingerprint
    assert first_bundle(STAGES[0].value, NETWORK, fingerprint, late) is StatementProblem.NOT_IN_TIME
    assert first_bundle(b"{}", NETWORK, fingerprint, NOW) is StatementProblem.MALFORMED
    assert first_bundle(STAGES[0].value, "other", fingerprint, NOW) is StatementProblem.MALFORMED


def test_a_bundle_from_our_own_files_is_believed() -> None:
    assert kept_bundle(STAGES[1].value, NETWORK) == STAGES[1]
    with pytest.raises(LocalError, match="statement_malformed"):
        kept_bundle(b"", NETWORK)


def test_a_bundle_that_others_would_not_take_is_not_made() -> None:
    for number, members, signers, why in [
        (0, [OLD], [OLD], "statement_malformed"),
        (MAX_INTEGER + 1, [OLD], [OLD], "statement_malformed"),
        (1, [], [OLD], "statement_malformed"),
        (1, [OLD, OLD], [OLD], "statement_malformed"),
        (1, [authority(each) for each in range(MAX_AUTHORITIES + 1)], [authority(0)], "statement_malformed"),
        (1, [authority(network="other")], [OLD], "statement_malformed"),
        (1, [OLD], [NEW], "none of them has signed"),
        (1, [OLD], [], "none of them has signed"),
        (1, [OLD], [authority(each) for each in range(MAX_SIGNATURES + 1)], "statement_malformed"),
    ]:
        with pytest.raises(LocalError, match=why):
            make_bundle(NETWORK, number, [each.certificate for each in members], signers)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", StatementProblem.MALFORMED),
        (b"[" * 5000, StatementProblem.MALFORMED),
        (b"[]", StatementProblem.MALFORMED),
        (b" " * (MAX_STATEMENT_BYTES + 1), StatementProblem.TOO_BIG),
        (changed(STAGES[0].value, v=2), StatementProblem.WRONG_VERSION),
        (changed(STAGES[0].value, v=True), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text=1), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1,"x":"\u00e9"}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1,"x":"\ud800"}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text="[" * 9000), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":0}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1.0}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1,"certificates":["AAAA"]}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, text='{"number":1,"certificates":[1]}'), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures={}), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures=[1]), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures=[{"authority": "AA" * 32, "signature": ""}]), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures=[{"authority": "zz" * 32, "signature": ""}]), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures=[{"authority": "aa" * 32, "signature": "?"}]), StatementProblem.MALFORMED),
        (changed(STAGES[0].value, signatures=[{"authority": "aa", "signature": "AA=="}]), StatementProblem.MALFORMED),
        (
            changed(STAGES[0].value, signatures=[{"authority": "aa" * 32, "signature": "AB=="}]),
            StatementProblem.MALFORMED,
        ),
    ],
    ids=range(22),
)
def test_a_hostile_bundle_is_refused_for_its_reason(value: bytes, problem: StatementProblem) -> None:
    other = make_bundle(NETWORK, 1, [OLD.certificate, NEW.certificate], [OLD])
    assert next_bundle(other, value, NOW) is problem


@given(st.binary(max_size=200))
def test_any_bytes_are_no_bundle(value: bytes) -> None:
    assert next_bundle(STAGES[0], value, NOW) is StatementProblem.MALFORMED


def test_a_damaged_bundle_changes_nothing_that_was_signed() -> None:
    seen = set()
    for damaged in mutations(STAGES[1].value, 1500):
        found = next_bundle(STAGES[0], damaged, NOW)
        seen.add(type(found))
        if isinstance(found, Bundle):  # one of the two signatures was hit, or a space came in
            assert (found.number, found.authorities) == (STAGES[1].number, STAGES[1].authorities)
    assert seen == {Bundle, StatementProblem}


# The settings of the network.


def settings(number: int, word: str = "x", signers: tuple[Authority, ...] = (OLD,)) -> bytes:
    return make_statement(SETTINGS, NETWORK, compact({"number": number, "word": word}), signers)


def test_settings_are_taken_from_an_authority_and_never_go_back() -> None:
    trust = Trust(STAGES[0])
    assert trust.take_settings(settings(2), NOW) == '{"number":2,"word":"x"}'
    assert trust.take_settings(settings(2), NOW) == '{"number":2,"word":"x"}'
    assert trust.take_settings(settings(1), NOW) is StatementProblem.STALE
    assert trust.take_settings(settings(2, "y"), NOW) is StatementProblem.STALE
    assert trust.take_settings(settings(3, signers=(STRANGER,)), NOW) is StatementProblem.FOREIGN_AUTHORITY
    assert trust.take_settings(STAGES[1].value, NOW) is StatementProblem.STALE
    assert trust.take_settings(bundle(9, [OLD], [OLD]), NOW) is StatementProblem.BAD_SIGNATURE
    assert trust.take_settings(b"", NOW) is StatementProblem.MALFORMED
    assert trust.take_settings(settings(3, "y"), NOW) == '{"number":3,"word":"y"}'


def test_a_statement_that_others_would_not_read_is_not_made() -> None:
    with pytest.raises(LocalError, match="statement_malformed"):
        make_statement(SETTINGS, NETWORK, "[]", [OLD])
    with pytest.raises(LocalError, match="statement_too_big"):
        make_statement(SETTINGS, NETWORK, compact({"number": 1, "x": "y" * MAX_STATEMENT_BYTES}), [OLD])
    assert not isinstance(read_statement(settings(1, signers=())), StatementProblem)


# Remembering certificates.


def test_a_certificate_is_verified_once_and_its_time_is_looked_at_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trust = Trust(Network(OLD).bundle)
    node = Network(OLD).node("node-a", lifetime_s=DAY)
    assert trust.check(node.certificate.der, NOW) == node.certificate
    monkeypatch.setattr(trust_module, "read_node", None)
    assert trust.check(node.certificate.der, NOW) == node.certificate
    assert trust.check(node.certificate.der, NOW + DAY + CLOCK_SKEW_S) == node.certificate
    assert trust.check(node.certificate.der, NOW + DAY + CLOCK_SKEW_S + 1) is CertificateProblem.EXPIRED
    assert trust.check(node.certificate.der, NOW - 2 * CLOCK_SKEW_S) == node.certificate
    assert trust.check(node.certificate.der, NOW - 2 * CLOCK_SKEW_S - 1) is CertificateProblem.NOT_YET_VALID
    assert trust.check(bytes(10_000), NOW) is CertificateProblem.MALFORMED


def test_a_certificate_ends_when_its_authority_does() -> None:
    short, long = (authority("same key", lifetime_s=each) for each in (DAY, 99 * DAY))
    world, node = Network(short), Network(long).node("node-a")
    assert world.trust.check(node.certificate.der, NOW + DAY + CLOCK_SKEW_S) == node.certificate
    assert world.trust.check(node.certificate.der, NOW + DAY + CLOCK_SKEW_S + 1) is CertificateProblem.EXPIRED


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "MAX_REMEMBERED", 2)
    world = Network(OLD)
    nodes = [world.node(f"node-{number}") for number in range(3)]
    read: list[bytes] = []

    def counted(der: bytes, *arguments: Any) -> Any:
        read.append(der)
        return read_node(der, *arguments)

    read_node = trust_module.read_node
    monkeypatch.setattr(trust_module, "read_node", counted)
    for number in (0, 1, 0, 2, 0, 1):
        assert world.trust.check(nodes[number].certificate.der, NOW) == nodes[number].certificate
    assert read == [nodes[number].certificate.der for number in (0, 1, 2, 1)]
