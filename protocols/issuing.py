"""The authority of a network: its own certificate, certificates for nodes, and the requests they are made from.

What a certificate says is decided here and never by the request: of a request only the key is read, with the proof that its
sender owns it. Whatever is issued has been read back as others will read it, or it is not issued at all.

Not responsible for who may have which name and address (`issuer`), nor for the time and for randomness, which come in.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from holloway.protocols.certificate_names import HostAddress, authority_uri, node_uri
from holloway.protocols.certificates import (
    AUTHORITY_USAGE,
    CLOCK_SKEW_S,
    HOSTILE,
    NODE_PURPOSES,
    NODE_USAGE,
    AuthorityCertificate,
    CertificateProblem,
    NodeCertificate,
    read_authority,
    read_node,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import IS_DETERMINISTIC, Identity, PublicKey
from holloway.protocols.membership import NAME, Prefix

SERIAL_ENTROPY_BYTES = 16  # RFC 5280, section 4.1.2.2: at most 20 octets; CA/Browser Forum, 7.1: 64 random bits or more
AUTHORITY_LIFETIME_S = 3650 * 86_400
NODE_LIFETIME_S = 90 * 86_400
MAX_TIME = 250_000_000_000  # in the year 9892: X.509 has four digits for the year
MAX_REQUEST_BYTES = 1024
DETERMINISTIC = True if IS_DETERMINISTIC else None
"""What is signed by way of `cryptography.x509` gets equal bytes from equal parameters, where OpenSSL can do that."""


def serial_number(entropy: bytes) -> int:
    """A positive serial number of always the same length. Raises LocalError unless 16 random bytes come in."""
    if len(entropy) != SERIAL_ENTROPY_BYTES:
        raise LocalError("no serial number", f"{len(entropy)} random bytes came in, {SERIAL_ENTROPY_BYTES} are needed")
    return 1 << 8 * SERIAL_ENTROPY_BYTES | int.from_bytes(entropy, "big")


def moment(seconds: int) -> datetime:
    """Seconds since 1970 as X.509 writes them. Raises LocalError for a time that it cannot write."""
    if not 0 <= seconds <= MAX_TIME:
        raise LocalError("no certificate", f"{seconds} s since 1970 is no time that a certificate can have")
    return datetime.fromtimestamp(seconds, UTC)


class Authority:
    """An authority: its key pair and its certificate."""

    __slots__ = ("_certificate", "_identity")

    def __init__(self, identity: Identity, certificate: bytes, network: str) -> None:
        """Raises LocalError when `certificate` (DER) is not one of an authority of `network` with this key."""
        read = read_authority(certificate, network)
        if isinstance(read, CertificateProblem):
            raise LocalError(f"not the certificate of an authority of network {network}", read.value)
        if read.key != identity.public:
            raise LocalError("key and certificate of the authority do not fit", "the certificate is of another key")
        self._identity = identity
        self._certificate = read

    @classmethod
    def create(
        cls, network: str, identity: Identity, *, now: int, serial: bytes, lifetime_s: int = AUTHORITY_LIFETIME_S
    ) -> Authority:
        """An authority for `network`, with a certificate signed by itself. `serial`: 16 random bytes.

        Like what it will issue, it begins some minutes ago, for machines whose clock is late.
        """
        if not NAME.match(network):
            raise LocalError(f"the network name {network!r} cannot be used", "it is part of a certificate's name")
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(authority_uri(network))])
        # The key is in the name, so that two authorities of a network, one after the other, are told apart by everybody.
        subject = _subject(network, f"authority {identity.public.fingerprint.hex()[:16]}")
        builder = (
            _builder(subject, subject, identity.public, now, lifetime_s, serial)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(AUTHORITY_USAGE, critical=True)
            .add_extension(names, critical=False)
        )
        return cls(identity, _signed(builder, identity), network)

    @property
    def certificate(self) -> AuthorityCertificate:
        return self._certificate

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def network(self) -> str:
        return self._certificate.network

    def issue(
        self,
        key: PublicKey,
        name: str,
        addresses: Iterable[HostAddress],
        prefixes: Iterable[Prefix] = (),
        *,
        now: int,
        serial: bytes,
        lifetime_s: int = NODE_LIFETIME_S,
    ) -> NodeCertificate:
        """The certificate that the owner of `key` is node `name`, with these addresses and networks behind it.

        `serial`: 16 random bytes. It ends with the authority's own at the latest. Raises LocalError when others would not believe it.
        """
        if not NAME.match(name):
            raise LocalError(f"the node name {name!r} cannot be used", "it is part of a certificate's name")
        addresses, prefixes = tuple(addresses), tuple(prefixes)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node_uri(self.network, name))]
        names += [x509.IPAddress(address) for address in addresses]
        names += [x509.UniformResourceIdentifier(node_uri(self.network, name, prefix)) for prefix in prefixes]
        lifetime_s = min(lifetime_s, self._certificate.not_after - now)
        if lifetime_s <= 0:
            raise LocalError(
                "no certificate was issued",
                "the authority's own certificate has run out, or no time was asked for",
                "roll over to a new authority",
            )
        builder = (
            _builder(_subject(self.network, name), self._certificate.subject, key, now, lifetime_s, serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(NODE_USAGE, critical=True)
            .add_extension(NODE_PURPOSES, critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._identity.public.key), critical=False
            )
        )
        issued = read_node(_signed(builder, self._identity), self.network, [self._certificate])
        if isinstance(issued, CertificateProblem):
            raise LocalError(f"the certificate of node {name} would not be believed by the others", issued.value)
        if (issued.addresses, issued.prefixes) != (frozenset(addresses), frozenset(prefixes)):
            raise LocalError(f"the certificate of node {name} would not say what it should", "an address is lost")
        return issued


def make_request(identity: Identity) -> bytes:
    """A signing request in DER (PKCS #10): the key, the proof that it is ours, and nothing that could be believed."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(identity.private, hashes.SHA256(), ecdsa_deterministic=DETERMINISTIC)
    return request.public_bytes(serialization.Encoding.DER)


def read_request(der: bytes) -> PublicKey | None:
    """The key of a signing request whose sender owns it, or None. Takes any bytes."""
    if len(der) > MAX_REQUEST_BYTES:
        return None
    try:
        request = x509.load_der_x509_csr(der)
        key = PublicKey(request.public_key())
        is_ours = request.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
        return key if is_ours and key.verify(request.signature, request.tbs_certrequest_bytes) else None
    except HOSTILE:
        return None


def _subject(network: str, name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, network), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    now: int,
    lifetime_s: int,
    serial: bytes,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.key)
        .serial_number(serial_number(serial))
        .not_valid_before(moment(max(0, now - CLOCK_SKEW_S)))
        .not_valid_after(moment(now + lifetime_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.key), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, identity: Identity) -> bytes:
    certificate = builder.sign(identity.private, hashes.SHA256(), ecdsa_deterministic=DETERMINISTIC)
    return certificate.public_bytes(serialization.Encoding.DER)
