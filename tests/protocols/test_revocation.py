"""Revocation lists: what is taken back stays so, whatever somebody does to the store."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from authority_world import DAY, NOW, Network, authority, identity, mutations
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.certificates import CertificateProblem
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import MAX_INTEGER
from holloway.protocols.identity import IS_DETERMINISTIC, Identity
from holloway.protocols.revocation import (
    KEPT_AFTER_EXPIRY_S,
    LIST_LIFETIME_S,
    MAX_LIST_BYTES,
    MAX_REVOKED,
    RevocationList,
    RevocationProblem,
    Revoked,
    make_list,
    read_list,
    still_listed,
)
from holloway.protocols.trust import Trust, revoked_key

WORLD = Network()
AUTHORITY = WORLD.authority
NODE, OTHER = WORLD.node("node-a"), WORLD.node("node-b")
ONE = Revoked(5, NOW, NOW + DAY)


def forged(
    *extensions: tuple[x509.ExtensionType, bool],
    signer: Identity = AUTHORITY.identity,
    issuer: x509.Name = AUTHORITY.certificate.subject,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    has_number: bool = True,
) -> bytes:
    """A list that no authority of ours would make."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(datetime.fromtimestamp(NOW, UTC))
        .next_update(datetime.fromtimestamp(NOW + DAY, UTC))
    )
    if has_number:
        builder = builder.add_extension(x509.CRLNumber(9), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signed = builder.sign(signer.private, algorithm or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def read(der: bytes) -> RevocationList | RevocationProblem:
    return read_list(der, [AUTHORITY.certificate])


def test_a_list_names_what_is_taken_back() -> None:
    made = WORLD.revoke(3, NODE, OTHER)
    assert read(made.der) == made
    assert (made.number, made.serials) == (3, {NODE.certificate.serial, OTHER.certificate.serial})
    assert made.next_update == NOW + LIST_LIFETIME_S
    assert (
        read(make_list(AUTHORITY, 1, [], now=NOW).der) == make_list(AUTHORITY, 1, [], now=NOW) or not IS_DETERMINISTIC
    )


def test_what_has_run_out_long_ago_is_not_listed_any_more() -> None:
    over = [Revoked(each, NOW, NOW + each) for each in (10, 0, 20)]
    assert [each.serial for each in still_listed(over, NOW + KEPT_AFTER_EXPIRY_S)] == [0, 10, 20]
    assert [each.serial for each in still_listed(over, NOW + KEPT_AFTER_EXPIRY_S + 11)] == [20]
    assert make_list(AUTHORITY, 1, [ONE], now=ONE.expires + KEPT_AFTER_EXPIRY_S + 1).serials == frozenset()


def test_the_longest_list_fits_into_a_store_and_a_longer_one_is_not_made() -> None:
    since = 3_000_000_000  # from 2050 on dates are longer (RFC 5280, section 5.1.2.6)
    full = [Revoked((1 << 158) + each, since, since + DAY) for each in range(MAX_REVOKED)]
    made = make_list(AUTHORITY, MAX_INTEGER, full, now=NOW)
    assert len(made.serials) == MAX_REVOKED
    assert len(made.der) <= MAX_LIST_BYTES
    with pytest.raises(LocalError, match="1537 certificates"):
        make_list(AUTHORITY, 1, [*full, ONE], now=NOW)


@pytest.mark.parametrize("number", [0, -1, MAX_INTEGER + 1])
def test_a_list_without_a_number_is_not_made(number: int) -> None:
    with pytest.raises(LocalError, match="number"):
        make_list(AUTHORITY, number, [], now=NOW)


def test_a_list_that_is_not_of_everything_or_has_no_number_is_refused() -> None:
    assert isinstance(read(forged()), RevocationList)
    partial = x509.IssuingDistributionPoint(
        full_name=None,
        relative_name=None,
        only_contains_user_certs=True,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    assert read(forged((partial, True))) is RevocationProblem.MALFORMED
    assert read(forged((x509.DeltaCRLIndicator(8), True))) is RevocationProblem.MALFORMED
    assert read(forged(has_number=False)) is RevocationProblem.MALFORMED


def test_a_list_of_somebody_else_is_refused() -> None:
    assert read(forged(signer=identity("attacker"))) is RevocationProblem.FOREIGN_AUTHORITY
    assert read(forged(issuer=x509.Name([]))) is RevocationProblem.FOREIGN_AUTHORITY
    assert read(forged(algorithm=hashes.SHA384())) is RevocationProblem.FOREIGN_AUTHORITY
    assert read(WORLD.revoke(1, NODE, by=authority("another")).der) is RevocationProblem.FOREIGN_AUTHORITY
    node = x509.load_der_x509_certificate(NODE.certificate.der)
    assert read(forged(signer=NODE.identity, issuer=node.subject)) is RevocationProblem.FOREIGN_AUTHORITY
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    builder = x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.certificate.subject)
    builder = builder.last_update(datetime.fromtimestamp(NOW, UTC)).next_update(datetime.fromtimestamp(NOW + 1, UTC))
    assert read(builder.sign(key, None).public_bytes(serialization.Encoding.DER)) is RevocationProblem.FOREIGN_AUTHORITY


@given(st.binary(max_size=200))
def test_any_bytes_are_no_list(der: bytes) -> None:
    assert read(der) is RevocationProblem.MALFORMED


def test_a_damaged_list_says_the_same_or_nothing() -> None:
    made = WORLD.revoke(3, NODE, OTHER)
    for damaged in mutations(made.der, 2000):
        found = read(damaged)
        if isinstance(found, RevocationList):
            assert (found.number, found.serials) == (made.number, made.serials)
    assert read(made.der + bytes(MAX_LIST_BYTES)) is RevocationProblem.TOO_BIG


def test_a_list_that_was_damaged_before_it_was_signed_raises_nothing_either() -> None:
    tbs = x509.load_der_x509_crl(WORLD.revoke(3, NODE).der).tbs_certlist_bytes
    kinds = set()
    for damaged in mutations(tbs, 2000):
        signature = AUTHORITY.identity.sign(damaged)
        body = damaged + bytes.fromhex("300a06082a8648ce3d040302") + b"\3" + bytes([len(signature) + 1, 0]) + signature
        kinds.add(type(read(b"\x30\x82" + len(body).to_bytes(2, "big") + body)))
    assert kinds == {RevocationList, RevocationProblem}


# What a node has seen.


def test_the_registry_has_one_list() -> None:
    assert revoked_key("net") == b"/holloway/net/revoked"


def test_who_is_taken_back_is_not_believed_any_more_and_the_others_are() -> None:
    trust = Trust(WORLD.bundle)
    assert trust.check(NODE.certificate.der, NOW) == NODE.certificate
    assert trust.take_revocations(WORLD.revoke(1, NODE).der) is None
    assert trust.check(NODE.certificate.der, NOW) is CertificateProblem.REVOKED
    assert trust.problem(NODE.certificate, NOW) is CertificateProblem.REVOKED
    assert trust.check(OTHER.certificate.der, NOW) == OTHER.certificate


def test_neither_an_old_list_nor_another_one_with_the_same_number_brings_anybody_back() -> None:
    trust = Trust(WORLD.bundle)
    first, second = WORLD.revoke(1), WORLD.revoke(2, NODE)
    assert trust.take_revocations(first.der) is None
    assert trust.take_revocations(second.der) is None
    assert trust.take_revocations(first.der) is RevocationProblem.STALE
    assert trust.take_revocations(WORLD.revoke(2, OTHER).der) is RevocationProblem.STALE
    assert trust.take_revocations(WORLD.revoke(9, by=authority("x")).der) is RevocationProblem.FOREIGN_AUTHORITY
    assert trust.take_revocations(second.der) is None, "the same list again is no news"
    assert trust.check(NODE.certificate.der, NOW) is CertificateProblem.REVOKED
    assert trust.revocations == second
    assert trust.list_number == 2


def test_who_has_just_joined_believes_nobody_before_he_has_seen_the_list() -> None:
    trust = Trust(WORLD.bundle, list_number=2)
    assert trust.check(OTHER.certificate.der, NOW) is CertificateProblem.REVOCATIONS_MISSING
    assert trust.take_revocations(WORLD.revoke(1).der) is RevocationProblem.STALE
    assert trust.check(NODE.certificate.der, NOW) is CertificateProblem.REVOCATIONS_MISSING
    assert trust.take_revocations(WORLD.revoke(2, NODE).der) is None
    assert trust.check(OTHER.certificate.der, NOW) == OTHER.certificate
    assert trust.check(NODE.certificate.der, NOW) is CertificateProblem.REVOKED


def test_a_list_counts_however_old_it_is() -> None:
    trust = Trust(WORLD.bundle)
    assert trust.take_revocations(WORLD.revoke(1, NODE).der) is None
    assert trust.check(NODE.certificate.der, NOW + LIST_LIFETIME_S + DAY) is CertificateProblem.REVOKED
