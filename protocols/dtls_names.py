"""Who a certificate of a given authority speaks for, and why a handshake over DTLS is refused.

Certificates of a network's own authority are read and judged in `certificates` and `trust`. Others, from any authority whose file
the node was given, say who they are by their subject alternative names: `holloway://NETWORK/NODE`, or the overlay addresses of the
node, or both, and then both must fit. The common name says nothing.

DER is hostile input, though an authority that is believed signed it. Not responsible for the chain of signatures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509

from holloway.protocols.certificate_names import HostAddress, node_uri
from holloway.protocols.certificates import HOSTILE, MAX_CERTIFICATE_BYTES, CertificateProblem

MAX_URIS = 16
_SCHEME = "holloway://"


class DtlsProblem(Enum):
    """Why there is no association; the value is the name under which it is counted and told."""

    NO_CERTIFICATE = "dtls_no_certificate"
    MALFORMED = "dtls_certificate_malformed"
    FOREIGN_AUTHORITY = "dtls_certificate_foreign_authority"
    EXPIRED = "dtls_certificate_expired"
    NOT_YET_VALID = "dtls_certificate_not_yet_valid"
    REVOKED = "dtls_certificate_revoked"
    REVOCATIONS_MISSING = "dtls_certificate_revocations_missing"
    WRONG_USE = "dtls_certificate_wrong_use"
    WRONG_KEY = "dtls_certificate_wrong_key"
    WRONG_NETWORK = "dtls_certificate_wrong_network"
    NO_NAMES = "dtls_certificate_no_names"
    WRONG_NAME = "dtls_certificate_wrong_name"
    """It speaks for another node than the one that was called."""
    WRONG_ADDRESS = "dtls_certificate_wrong_address"
    """It does not speak for an overlay address that the node has."""
    UNKNOWN_NODE = "dtls_unknown_node"
    REJECTED = "dtls_certificate_rejected"
    NOTHING_IN_COMMON = "dtls_nothing_in_common"
    """No cipher or version that both sides speak; or it was no handshake at all."""
    NOT_AUTHENTIC = "dtls_not_authentic"
    UNANSWERED = "dtls_unanswered"
    REFUSED_BY_PEER = "dtls_refused_by_peer"
    NOT_COMPLETED = "dtls_not_completed"
    """Somebody began a handshake with us and did not go on."""
    ADDRESS_IN_USE = "dtls_address_in_use"
    """There is an association with a foreign program at that address already, and one is all that there can be."""
    PUSHED_OUT = "dtls_pushed_out"
    """Too many began handshakes with us at once."""


OF_CERTIFICATES = {
    CertificateProblem.MALFORMED: DtlsProblem.MALFORMED,
    CertificateProblem.FOREIGN_AUTHORITY: DtlsProblem.FOREIGN_AUTHORITY,
    CertificateProblem.WRONG_KEY: DtlsProblem.WRONG_KEY,
    CertificateProblem.WRONG_USE: DtlsProblem.WRONG_USE,
    CertificateProblem.WRONG_NAMES: DtlsProblem.NO_NAMES,
    CertificateProblem.WRONG_NETWORK: DtlsProblem.WRONG_NETWORK,
    CertificateProblem.NOT_YET_VALID: DtlsProblem.NOT_YET_VALID,
    CertificateProblem.EXPIRED: DtlsProblem.EXPIRED,
    CertificateProblem.REVOKED: DtlsProblem.REVOKED,
    CertificateProblem.REVOCATIONS_MISSING: DtlsProblem.REVOCATIONS_MISSING,
}
"""The same in the words of DTLS."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whom a certificate speaks for: a node of our network by its `name`, or whoever has one of the `addresses`; with both,
    only a node that both fit. None: it says nothing of the kind."""

    name: str | None
    addresses: frozenset[HostAddress] | None

    def fits(self, name: str, addresses: Iterable[HostAddress]) -> DtlsProblem | None:
        """Why it does not speak for the node of that name with those overlay addresses, or None."""
        if self.name is not None and self.name != name:
            return DtlsProblem.WRONG_NAME
        if self.addresses is not None:
            wanted = set(addresses)
            if not self.addresses.issuperset(wanted) or not (wanted or self.name):
                return DtlsProblem.WRONG_ADDRESS
        return None


def speaker_of(der: bytes, network: str) -> Speaker | DtlsProblem:
    """Whom a certificate speaks for in `network`. Takes any bytes."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        return DtlsProblem.MALFORMED
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(_SCHEME)]
        addresses = frozenset(
            address
            for address in names.get_values_for_type(x509.IPAddress)
            if isinstance(address, IPv4Address | IPv6Address)
        )
    except x509.ExtensionNotFound:
        return DtlsProblem.NO_NAMES
    except HOSTILE:
        return DtlsProblem.MALFORMED
    plain = {uri for uri in uris[:MAX_URIS] if "?" not in uri}
    if not plain:
        return Speaker(None, addresses) if addresses else DtlsProblem.NO_NAMES
    if len(plain) > 1:
        return DtlsProblem.MALFORMED
    (uri,) = plain
    name = uri.removeprefix(node_uri(network, ""))
    if name == uri or not name or "/" in name:
        return DtlsProblem.WRONG_NETWORK
    return Speaker(name, addresses or None)
