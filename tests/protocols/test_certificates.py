"""Certificates of nodes and authorities: what is issued is believed, what is hostile is refused for a reason."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from authority_world import DAY, NETWORK, NOW, Network, authority, identity, mutations, serial
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from namespaces import needs_program

from holloway.protocols.certificate_names import MAX_NAMES, authority_uri, node_uri
from holloway.protocols.certificates import (
    AUTHORITY_USAGE,
    CLOCK_SKEW_S,
    HOSTILE,
    MAX_CERTIFICATE_BYTES,
    NODE_PURPOSES,
    NODE_USAGE,
    AuthorityCertificate,
    CertificateProblem,
    NodeCertificate,
    from_pem,
    kept_node,
    read_authority,
    read_node,
    to_pem,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import IS_DETERMINISTIC, Identity
from holloway.protocols.invitations import MAX_TERMS_ADDRESSES, MAX_TERMS_PREFIXES
from holloway.protocols.issuing import (
    AUTHORITY_LIFETIME_S,
    MAX_REQUEST_BYTES,
    MAX_TIME,
    NODE_LIFETIME_S,
    Authority,
    make_request,
    read_request,
)

WORLD = Network()
AUTHORITY = WORLD.authority
NODE = WORLD.node("node-a", "10.99.0.1", "fd99::1", prefixes=["10.1.0.0/16", "fd00:1::/48", "0.0.0.0/0"])
OTHER_CURVE = ec.derive_private_key(7, ec.SECP384R1())


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def forged(
    *,
    signer: Identity = AUTHORITY.identity,
    key: Any = None,
    issuer: x509.Name | None = None,
    names: list[x509.GeneralName] | None = None,
    uris: list[str] | None = None,
    constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=False, path_length=None),  # noqa: B008
    usage: x509.KeyUsage | None = NODE_USAGE,
    purposes: x509.ExtendedKeyUsage | None = NODE_PURPOSES,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    algorithm: Any = None,
) -> bytes:
    """A certificate that an authority would not make, with a signature that is good, if the signer is."""
    if names is None:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris or [node_uri(NETWORK, "node-a")]]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(AUTHORITY.certificate.subject if issuer is None else issuer)
        .public_key(key or identity("node-a").public.key)
        .serial_number(7)
        .not_valid_before(at(NOW))
        .not_valid_after(at(NOW + DAY))
    )
    for extension, critical in ((constraints, True), (usage, True), (purposes, False)):
        if extension is not None:
            builder = builder.add_extension(extension, critical=critical)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    made = builder.sign(signer.private, algorithm or hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


def read(der: bytes) -> NodeCertificate | CertificateProblem:
    return read_node(der, NETWORK, [AUTHORITY.certificate])


# What is issued.


def test_a_node_is_certified_with_its_name_its_addresses_and_its_prefixes() -> None:
    found = read(NODE.certificate.der)
    assert found == NODE.certificate
    assert isinstance(found, NodeCertificate)
    assert (found.network, found.name, found.key) == (NETWORK, "node-a", identity("node-a").public)
    assert found.addresses == {ip_address("10.99.0.1"), ip_address("fd99::1")}
    assert found.prefixes == {ip_network("10.1.0.0/16"), ip_network("fd00:1::/48"), ip_network("0.0.0.0/0")}
    assert found.authority == AUTHORITY.identity.public.fingerprint
    assert (found.not_before, found.not_after) == (NOW - CLOCK_SKEW_S, NOW + NODE_LIFETIME_S)
    assert found.serial >> 128 == 1


def test_a_network_can_have_an_authority() -> None:
    made = AUTHORITY.certificate
    assert read_authority(made.der, NETWORK) == made
    assert (made.network, made.key, made.not_before) == (NETWORK, AUTHORITY.identity.public, NOW - CLOCK_SKEW_S)
    assert made.not_after == NOW + AUTHORITY_LIFETIME_S
    assert read_authority(made.der, "other") is CertificateProblem.WRONG_NETWORK


@pytest.mark.skipif(not IS_DETERMINISTIC, reason="OpenSSL before 3.2 draws a number for each signature")
def test_equal_parameters_make_equal_certificates() -> None:
    assert authority().certificate.der == AUTHORITY.certificate.der
    assert make_request(identity("a")) == make_request(identity("a"))


def test_a_certificate_ends_with_its_authority_at_the_latest() -> None:
    late = NOW + AUTHORITY_LIFETIME_S - DAY
    assert WORLD.node("late", now=late).certificate.not_after == NOW + AUTHORITY_LIFETIME_S
    with pytest.raises(LocalError, match="run out"):
        WORLD.node("late", now=late + DAY)


@pytest.mark.parametrize("name", ["", "a/b", "a?prefix=10.1.0.0/16", "a b", "\u00e9", "x" * 64, "-a", "a\n"])
def test_a_name_that_could_be_taken_for_another_is_not_certified(name: str) -> None:
    with pytest.raises(LocalError, match="cannot be used"):
        WORLD.node(name)
    with pytest.raises(LocalError, match="cannot be used"):
        authority(network=name)


def test_what_the_others_would_not_believe_is_not_issued() -> None:
    with pytest.raises(LocalError, match="certificate_wrong_names"):
        WORLD.node("a", prefixes=["128.0.0.0/1"])
    with pytest.raises(LocalError, match="certificate_malformed"):
        WORLD.node("x" * 63, prefixes=[f"fd00:{number:x}::/48" for number in range(100)])
    with pytest.raises(LocalError, match="16 are needed"):
        WORLD.node("a", serial=bytes(15))
    with pytest.raises(LocalError, match="no time that a certificate can have"):
        authority(now=MAX_TIME)
    with pytest.raises(LocalError, match="no time that a certificate can have"):
        authority(now=-DAY, lifetime_s=1)


def test_the_largest_terms_of_an_invitation_fit_in_a_certificate() -> None:
    network = "n" * 63
    owner = authority(network=network)
    made = owner.issue(
        identity("a").public,
        "a" * 63,
        [ip_address(each + number) for number in range(MAX_TERMS_ADDRESSES) for each in (0x7EFFFF00, 0xFD << 120)],
        [ip_network((0xFD << 120 | number << 16, 120)) for number in range(MAX_TERMS_PREFIXES)],
        now=NOW,
        serial=serial(0),
    )
    assert isinstance(read_node(made.der, network, [owner.certificate]), NodeCertificate)
    assert len(made.prefixes) == MAX_TERMS_PREFIXES


def test_an_address_with_a_zone_would_be_lost_and_is_not_issued() -> None:
    with pytest.raises(LocalError, match="an address is lost"):
        WORLD.node("a", "fe80::1%eth0")


def test_an_authority_is_a_key_and_its_own_certificate() -> None:
    again = Authority(AUTHORITY.identity, AUTHORITY.certificate.der, NETWORK)
    assert (again.network, again.certificate) == (NETWORK, AUTHORITY.certificate)
    with pytest.raises(LocalError, match="another key"):
        Authority(identity("other"), AUTHORITY.certificate.der, NETWORK)
    with pytest.raises(LocalError, match="certificate_wrong_network"):
        Authority(AUTHORITY.identity, AUTHORITY.certificate.der, "other")


def test_pem_and_der_are_the_same_certificate() -> None:
    assert from_pem(to_pem(NODE.certificate.der)) == NODE.certificate.der
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00e9"]:
        with pytest.raises(LocalError, match="PEM"):
            from_pem(text)
    with pytest.raises(LocalError, match="DER"):
        to_pem(b"x")


def test_a_certificate_from_our_own_files_needs_no_authority() -> None:
    assert kept_node(NODE.certificate.der, NETWORK, NODE.certificate.authority) == NODE.certificate
    with pytest.raises(LocalError, match="certificate_wrong_network"):
        kept_node(NODE.certificate.der, "other", NODE.certificate.authority)
    with pytest.raises(LocalError, match="certificate_malformed"):
        kept_node(b"x", NETWORK, NODE.certificate.authority)


# Signing requests.


def test_of_a_request_nothing_counts_but_the_key() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-b")])
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(node_uri(NETWORK, "node-b"))])
    greedy = builder.add_extension(names, critical=True).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    der = greedy.sign(identity("a").private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    assert read_request(der) == identity("a").public
    assert read_request(make_request(identity("a"))) == identity("a").public


def test_a_request_without_proof_of_the_key_is_none() -> None:
    der = make_request(identity("a"))
    ours, theirs = (
        each.public.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for each in (identity("a"), identity("b"))
    )
    assert ours in der
    assert read_request(der.replace(ours, theirs)) is None
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for key, algorithm in [(OTHER_CURVE, hashes.SHA256()), (identity("a").private, hashes.SHA384())]:
        assert read_request(empty.sign(key, algorithm).public_bytes(serialization.Encoding.DER)) is None
    other = empty.sign(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), None)
    assert read_request(other.public_bytes(serialization.Encoding.DER)) is None
    assert read_request(der + bytes(MAX_REQUEST_BYTES)) is None


def test_a_damaged_request_is_none_or_of_the_same_key() -> None:
    for damaged in mutations(make_request(identity("a")), 1000):
        assert read_request(damaged) in (None, identity("a").public)


# What is refused.

WRONG_USE = {
    "may certify": {"constraints": x509.BasicConstraints(ca=True, path_length=None)},
    "does not say whether it may certify": {"constraints": None},
    "does not say its use": {"usage": None},
    "is an authority's": {"usage": AUTHORITY_USAGE},
    "has no purpose": {"purposes": None},
    "is for clients only": {"purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])},
    "is for mail": {
        "purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION])
    },
    "is for anything": {
        "purposes": x509.ExtendedKeyUsage([*NODE_PURPOSES, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    },
    "has a rule that nobody knows": {
        "more": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),)
    },
    "has a rule that we do not follow": {
        "more": ((x509.NameConstraints([x509.DNSName("a.example")], None), True),),
    },
}


@pytest.mark.parametrize("changes", WRONG_USE.values(), ids=WRONG_USE)
def test_a_certificate_for_another_use_is_refused(changes: dict[str, Any]) -> None:
    assert read(forged(**changes)) is CertificateProblem.WRONG_USE


WRONG_NAMES: dict[str, dict[str, Any]] = {
    "none": {"names": []},
    "a prefix only": {"uris": ["holloway://net/node-a?prefix=10.1.0.0/16"]},
    "two nodes": {"uris": ["holloway://net/node-a", "holloway://net/node-b"]},
    "twice the same": {"uris": ["holloway://net/node-a", "holloway://net/node-a"]},
    "the prefix of another": {"uris": ["holloway://net/node-a", "holloway://net/node-b?prefix=10.1.0.0/16"]},
    "the prefix of another network": {"uris": ["holloway://net/node-a", "holloway://x/node-a?prefix=10.1.0.0/16"]},
    "two networks": {"uris": ["holloway://net/node-a", "holloway://other/node-a"]},
    "a path": {"uris": ["holloway://net/node-a/b"]},
    "a slash": {"uris": ["holloway://net/node-a/"]},
    "a fragment": {"uris": ["holloway://net/node-a#b"]},
    "another query": {"uris": ["holloway://net/node-a", "holloway://net/node-a?role=admin"]},
    "an escape": {"uris": ["holloway://net/node%2da"]},
    "a user": {"uris": ["holloway://x@net/node-a"]},
    "another scheme": {"uris": ["https://net/node-a"]},
    "capital scheme": {"uris": ["HOLLOWAY://net/node-a"]},
    "a line end": {"uris": ["holloway://net/node-a\n"]},
    "a zero byte": {"uris": ["holloway://net/node-a\0"]},
    "too long": {"uris": ["holloway://net/" + "x" * 64]},
    "no network": {"uris": ["holloway:///node-a"]},
    "bad prefix": {"uris": ["holloway://net/node-a", "holloway://net/node-a?prefix=10.1.0.1/16"]},
    "wide prefix": {"uris": ["holloway://net/node-a", "holloway://net/node-a?prefix=128.0.0.0/1"]},
    "odd prefix": {"uris": ["holloway://net/node-a", "holloway://net/node-a?prefix=fd00:0::/48"]},
    "a host name": {"names": [x509.UniformResourceIdentifier("holloway://net/node-a"), x509.DNSName("a.example")]},
    "a network address": {
        "names": [x509.UniformResourceIdentifier("holloway://net/node-a"), x509.IPAddress(IPv4Network("10.0.0.0/8"))]
    },
    "too many": {
        "names": [
            x509.UniformResourceIdentifier("holloway://net/node-a"),
            *(x509.IPAddress(ip_address(number + (1 << 24))) for number in range(MAX_NAMES)),
        ]
    },
}


@pytest.mark.parametrize("changes", WRONG_NAMES.values(), ids=WRONG_NAMES)
def test_a_certificate_that_does_not_name_one_node_is_refused(changes: dict[str, Any]) -> None:
    assert read(forged(**changes)) is CertificateProblem.WRONG_NAMES


def test_a_certificate_of_another_network_is_refused_though_the_authority_is_ours() -> None:
    assert read(forged(uris=["holloway://other/node-a"])) is CertificateProblem.WRONG_NETWORK
    assert read_node(NODE.certificate.der, "other", [AUTHORITY.certificate]) is CertificateProblem.WRONG_NETWORK


def test_a_key_of_another_kind_is_refused() -> None:
    for key in (OTHER_CURVE.public_key(), ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()):
        assert read(forged(key=key)) is CertificateProblem.WRONG_KEY


def test_a_signature_of_somebody_else_is_refused() -> None:
    assert read(forged(signer=identity("attacker"))) is CertificateProblem.FOREIGN_AUTHORITY
    assert read(forged(issuer=x509.Name([]))) is CertificateProblem.FOREIGN_AUTHORITY
    assert read(forged(algorithm=hashes.SHA384())) is CertificateProblem.FOREIGN_AUTHORITY
    assert read(NODE.certificate.der.replace(b"node-a", b"node-b")) is CertificateProblem.FOREIGN_AUTHORITY
    assert read_node(NODE.certificate.der, NETWORK, []) is CertificateProblem.FOREIGN_AUTHORITY
    foreign = Network(authority("another")).node("node-a")
    assert read(foreign.certificate.der) is CertificateProblem.FOREIGN_AUTHORITY


def test_a_node_certifies_nobody() -> None:
    by_a_node = forged(signer=NODE.identity, issuer=x509.load_der_x509_certificate(NODE.certificate.der).subject)
    assert read(by_a_node) is CertificateProblem.FOREIGN_AUTHORITY


def test_a_node_s_certificate_is_no_authority_s_and_the_other_way_round() -> None:
    assert read(AUTHORITY.certificate.der) is CertificateProblem.WRONG_USE
    assert read_authority(NODE.certificate.der, NETWORK) is CertificateProblem.FOREIGN_AUTHORITY


def self_signed(**changes: Any) -> bytes:
    """What claims to be the certificate of an authority, signed by its own key."""
    parameters: dict[str, Any] = {
        "issuer": x509.Name([]),
        "key": AUTHORITY.identity.public.key,
        "uris": [authority_uri(NETWORK)],
        "constraints": x509.BasicConstraints(ca=True, path_length=0),
        "usage": AUTHORITY_USAGE,
        "purposes": None,
    }
    return forged(**parameters | changes)


AUTHORITY_PROBLEMS: dict[str, tuple[dict[str, Any], CertificateProblem]] = {
    "not by itself": ({"key": identity("x").public.key}, CertificateProblem.FOREIGN_AUTHORITY),
    "in another name": ({"issuer": AUTHORITY.certificate.subject}, CertificateProblem.FOREIGN_AUTHORITY),
    "certifies nobody": ({"constraints": x509.BasicConstraints(False, None)}, CertificateProblem.WRONG_USE),
    "certifies authorities": ({"constraints": x509.BasicConstraints(True, 1)}, CertificateProblem.WRONG_USE),
    "certifies anybody": ({"constraints": x509.BasicConstraints(True, None)}, CertificateProblem.WRONG_USE),
    "does not say": ({"constraints": None}, CertificateProblem.MALFORMED),
    "signs texts": ({"usage": NODE_USAGE}, CertificateProblem.WRONG_USE),
    "critical and unknown": (
        {"more": ((x509.NameConstraints([x509.DNSName("a.example")], None), True),)},
        CertificateProblem.WRONG_USE,
    ),
    "another network": ({"uris": [authority_uri("other")]}, CertificateProblem.WRONG_NETWORK),
    "two networks": ({"uris": [authority_uri(NETWORK), authority_uri("b")]}, CertificateProblem.WRONG_NETWORK),
    "a node": ({"uris": [node_uri(NETWORK, "a")]}, CertificateProblem.WRONG_NETWORK),
    "another curve": ({"key": OTHER_CURVE.public_key()}, CertificateProblem.MALFORMED),
    "SHA-384": ({"algorithm": hashes.SHA384()}, CertificateProblem.FOREIGN_AUTHORITY),
}


@pytest.mark.parametrize(("changes", "problem"), AUTHORITY_PROBLEMS.values(), ids=AUTHORITY_PROBLEMS)
def test_the_certificate_of_an_authority_is_just_that(changes: dict[str, Any], problem: CertificateProblem) -> None:
    assert isinstance(read_authority(self_signed(), NETWORK), AuthorityCertificate)
    assert read_authority(self_signed(**changes), NETWORK) is problem


# Hostile bytes.


def test_too_many_bytes_are_not_even_parsed() -> None:
    padded = NODE.certificate.der + bytes(MAX_CERTIFICATE_BYTES)
    assert read(padded) is CertificateProblem.MALFORMED
    assert read_authority(padded, NETWORK) is CertificateProblem.MALFORMED


@given(st.binary(max_size=300))
def test_any_bytes_are_no_certificate(der: bytes) -> None:
    assert read(der) is CertificateProblem.MALFORMED
    assert read_authority(der, NETWORK) is CertificateProblem.MALFORMED


def test_a_damaged_certificate_says_what_the_whole_one_says_or_nothing() -> None:
    for damaged in mutations(NODE.certificate.der, 3000):
        found = read(damaged)
        if isinstance(found, NodeCertificate):  # the signature can be written in another way; what is signed cannot
            assert (found.name, found.key, found.serial) == ("node-a", NODE.identity.public, NODE.certificate.serial)


def test_a_damaged_certificate_of_an_authority_is_one_or_a_reason() -> None:
    for damaged in mutations(AUTHORITY.certificate.der, 1500):
        assert isinstance(read_authority(damaged, NETWORK), AuthorityCertificate | CertificateProblem)


def signed_again(der: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """A certificate whose content was damaged before the authority signed it: only a broken authority makes one."""
    whole = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    tbs = damage(whole)
    signature = AUTHORITY.identity.sign(tbs)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    body = tbs + algorithm + b"\3" + bytes([len(signature) + 1]) + b"\0" + signature
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def test_a_certificate_that_was_damaged_before_it_was_signed_raises_nothing_either() -> None:
    tbs = x509.load_der_x509_certificate(NODE.certificate.der).tbs_certificate_bytes
    reasons = set()
    for damaged in mutations(tbs, 3000):
        der = signed_again(NODE.certificate.der, lambda whole, damaged=damaged: damaged)  # type: ignore[misc]
        found = read(der)
        reasons.add(type(found) if isinstance(found, NodeCertificate) else found)
    assert {NodeCertificate, CertificateProblem.MALFORMED, CertificateProblem.WRONG_NAMES} <= reasons


@pytest.mark.parametrize("number", [0, 0xFB])
def test_a_serial_number_that_is_none_is_refused(number: int) -> None:
    long = bytes([2, 17]) + NODE.certificate.serial.to_bytes(17, "big")

    def damage(tbs: bytes) -> bytes:
        shorter = tbs[4:].replace(long, bytes([2, 1, number]))
        return b"\x30\x82" + len(shorter).to_bytes(2, "big") + shorter

    der = signed_again(NODE.certificate.der, damage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a running node
        assert read(der) is CertificateProblem.MALFORMED
    assert read(der) is CertificateProblem.MALFORMED


def test_an_algorithm_that_was_exchanged_outside_of_what_is_signed_is_refused() -> None:
    ours, other = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303")
    head, _, tail = NODE.certificate.der.rpartition(ours)
    assert read(head + other + tail) is CertificateProblem.FOREIGN_AUTHORITY


def test_the_exceptions_of_the_library_are_known() -> None:
    raised = {each for each in vars(x509).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert raised - set(HOSTILE) == {x509.AttributeNotFound}  # of signing requests, whose attributes are not read


# Another implementation.


@needs_program("openssl", package="openssl")
def test_openssl_agrees(tmp_path: Path) -> None:
    ca, node, crl = tmp_path / "ca.pem", tmp_path / "node.pem", tmp_path / "crl.der"
    ca.write_text(to_pem(AUTHORITY.certificate.der))
    node.write_text(to_pem(NODE.certificate.der))
    crl.write_bytes(WORLD.revoke(42, NODE).der)

    def openssl(*arguments: object) -> str:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout + done.stderr

    verify = ["verify", "-x509_strict", "-attime", NOW, "-CAfile", ca]
    assert openssl(*verify, "-purpose", "sslserver", node).strip() == f"{node}: OK"
    assert openssl(*verify, "-purpose", "sslclient", node).strip() == f"{node}: OK"
    shown = openssl("x509", "-in", node, "-noout", "-text")
    for name in ["URI:holloway://net/node-a,", "IP Address:10.99.0.1", "URI:holloway://net/node-a?prefix=10.1.0.0/16"]:
        assert name in shown
    assert "ASN1 OID: prime256v1" in shown
    listed = openssl("crl", "-inform", "DER", "-in", crl, "-noout", "-text", "-CAfile", ca)
    assert "verify OK" in listed
    assert f"Serial Number: {NODE.certificate.serial:034X}" in listed
    assert "X509v3 CRL Number: \n                42" in listed
    pem = tmp_path / "crl.pem"
    openssl("crl", "-inform", "DER", "-in", crl, "-out", pem)
    assert "certificate revoked" in openssl(*verify, "-crl_check", "-CRLfile", pem, node)
