"""Certificates of authorities and of nodes: what they say, and whether that may be believed.

A node's certificate (X.509 v3, P-256) names the node and what it may have in its subject alternative names
(`certificate_names`); it may sign and speak TLS, and certifies nobody. An authority's certificate is signed by itself, names
its network as `holloway://NETWORK`, and may have nodes below it only.

DER is hostile input: a certificate is read for what it says after the signature of a known authority has been found good.
Not responsible for making certificates (`issuing`), for the time and for revocation (`trust`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from holloway.protocols.certificate_names import HostAddress, authority_uri, read_names
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import PublicKey
from holloway.protocols.membership import Prefix

MAX_CERTIFICATE_BYTES = 8192
CLOCK_SKEW_S = 300
"""A certificate counts for so long before and after its time, because the clocks of nodes differ: what MIT krb5 allows, too."""

HOSTILE = (
    ValueError,  # bad DER, bad values in it
    TypeError,
    OverflowError,
    KeyError,  # a kind of text in a name that is none (cryptography 47)
    UnsupportedAlgorithm,  # an unknown kind of key or curve
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    Warning,  # deprecated encodings, when warnings are errors
)
"""What `cryptography` raises for a certificate, list or request of others, on parsing or on looking at it."""
_HANDLED = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


class CertificateProblem(Enum):
    """Why a certificate is not believed; the value is the name under which it is counted."""

    MALFORMED = "certificate_malformed"
    FOREIGN_AUTHORITY = "certificate_foreign_authority"
    WRONG_KEY = "certificate_wrong_key"
    WRONG_USE = "certificate_wrong_use"
    WRONG_NAMES = "certificate_wrong_names"
    WRONG_NETWORK = "certificate_wrong_network"
    NOT_YET_VALID = "certificate_not_yet_valid"
    EXPIRED = "certificate_expired"
    REVOKED = "certificate_revoked"
    REVOCATIONS_MISSING = "certificate_revocations_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityCertificate:
    """What the certificate of an authority says. Times are seconds since 1970."""

    network: str
    key: PublicKey
    subject: x509.Name
    not_before: int
    not_after: int
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """What the certificate of a node says. `authority`: the fingerprint of who signed it. Times are seconds since 1970."""

    network: str
    name: str
    key: PublicKey
    addresses: frozenset[HostAddress]
    prefixes: frozenset[Prefix]
    serial: int
    authority: bytes
    not_before: int
    not_after: int
    der: bytes = field(repr=False)


def time_problem(certificate: AuthorityCertificate | NodeCertificate, now: int) -> CertificateProblem | None:
    """Whether `now`, in seconds since 1970, is outside of a certificate's time by more than clocks differ."""
    if now < certificate.not_before - CLOCK_SKEW_S:
        return CertificateProblem.NOT_YET_VALID
    if now > certificate.not_after + CLOCK_SKEW_S:
        return CertificateProblem.EXPIRED
    return None


def read_authority(der: bytes, network: str) -> AuthorityCertificate | CertificateProblem:
    """The certificate of an authority of `network`. Takes any bytes. That it is signed by itself proves nothing: the caller
    must have it from somewhere that he believes, or know its fingerprint.
    """
    try:
        certificate = _load(der)
        key = PublicKey(certificate.public_key())
        if certificate.issuer != certificate.subject or not is_signed(certificate, key):
            return CertificateProblem.FOREIGN_AUTHORITY
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not _is_handled(certificate) or (constraints.ca, constraints.path_length) != (True, 0):
            return CertificateProblem.WRONG_USE
        if usage != AUTHORITY_USAGE:
            return CertificateProblem.WRONG_USE
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        if names != [x509.UniformResourceIdentifier(authority_uri(network))]:
            return CertificateProblem.WRONG_NETWORK
        return AuthorityCertificate(
            network=network,
            key=key,
            subject=certificate.subject,
            not_before=int(certificate.not_valid_before_utc.timestamp()),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
            der=der,
        )
    except HOSTILE:
        return CertificateProblem.MALFORMED


def network_of(der: bytes) -> str:
    """The network of whose authority this is the certificate, from our own files. Raises LocalError when it cannot be read."""
    try:
        names = _load(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        read = read_authority(der, name.removeprefix(authority_uri("")))
    except HOSTILE:
        read = CertificateProblem.MALFORMED
    if isinstance(read, CertificateProblem):
        raise LocalError("not the certificate of an authority", read.value)
    return read.network


def read_node(
    der: bytes, network: str, authorities: Iterable[AuthorityCertificate]
) -> NodeCertificate | CertificateProblem:
    """The certificate of a node of `network`, signed by one of `authorities`. Takes any bytes; knows no time."""
    try:
        certificate = _load(der)
        authority = next(
            (
                known
                for known in authorities
                if certificate.issuer == known.subject and is_signed(certificate, known.key)
            ),
            None,
        )
        if authority is None:
            return CertificateProblem.FOREIGN_AUTHORITY
        return _read_signed(certificate, network, authority.key.fingerprint, der)
    except HOSTILE:
        return CertificateProblem.MALFORMED


def kept_node(der: bytes, network: str, authority: bytes) -> NodeCertificate:
    """A certificate that was verified before, from our own files, with the fingerprint of who signed it.

    Raises LocalError when it cannot be read.
    """
    try:
        read = _read_signed(_load(der), network, authority, der)
    except HOSTILE:
        read = CertificateProblem.MALFORMED
    if isinstance(read, CertificateProblem):
        raise LocalError("a certificate that was kept cannot be used", read.value)
    return read


def is_signed(signed: x509.Certificate | x509.CertificateRevocationList, key: PublicKey) -> bool:
    """Whether the owner of `key` signed a certificate or a list: with ECDSA and SHA-256, or it does not count."""
    if signed.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        return False
    if isinstance(signed, x509.Certificate):
        return key.verify(signed.signature, signed.tbs_certificate_bytes)
    return key.verify(signed.signature, signed.tbs_certlist_bytes)


def to_pem(der: bytes) -> str:
    """A certificate of ours in PEM. Raises LocalError."""
    try:
        return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode("ascii")
    except HOSTILE:
        raise LocalError("not a certificate", "its DER cannot be read") from None


def from_pem(text: str) -> bytes:
    """The DER of the first certificate in a PEM text of our own. Raises LocalError."""
    try:
        certificate = x509.load_pem_x509_certificate(text.encode("ascii", "replace"))
    except HOSTILE:
        raise LocalError("not a certificate", "its PEM cannot be read", "use the file that was written") from None
    return certificate.public_bytes(serialization.Encoding.DER)


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )


AUTHORITY_USAGE = _usage(signs=False, certifies=True)
NODE_USAGE = _usage(signs=True, certifies=False)
NODE_PURPOSES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ValueError("too long")
    certificate = x509.load_der_x509_certificate(der)
    if certificate.serial_number <= 0:
        raise ValueError("no serial number (RFC 5280, section 4.1.2.2)")
    return certificate


def _is_handled(certificate: x509.Certificate) -> bool:
    """Whether there is no critical extension that we do not know (RFC 5280, section 4.2)."""
    return all(extension.oid in _HANDLED or not extension.critical for extension in certificate.extensions)


def _read_signed(
    certificate: x509.Certificate, network: str, authority: bytes, der: bytes
) -> NodeCertificate | CertificateProblem:
    try:
        key = PublicKey(certificate.public_key())
    except HOSTILE:
        return CertificateProblem.WRONG_KEY
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return CertificateProblem.WRONG_USE
    if constraints.ca or usage != NODE_USAGE or not _is_handled(certificate):
        return CertificateProblem.WRONG_USE
    if set(purposes) != set(NODE_PURPOSES):
        return CertificateProblem.WRONG_USE
    try:
        own_network, name, addresses, prefixes = read_names(
            extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except (ValueError, x509.ExtensionNotFound):
        return CertificateProblem.WRONG_NAMES
    if own_network != network:
        return CertificateProblem.WRONG_NETWORK
    return NodeCertificate(
        network=network,
        name=name,
        key=key,
        addresses=addresses,
        prefixes=prefixes,
        serial=certificate.serial_number,
        authority=authority,
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        der=der,
    )
