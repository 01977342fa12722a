"""How a node gets its next certificate before the one it has runs out.

    renew/<name>      {"v":1,"renewal":TEXT,"signature":BASE64}         by the node; TEXT: {"name":...,"serial":...}
    renewed/<name>    {"v":1,"certificate":BASE64} or {"v":1,"refused":REASON}

The request is signed with the key of the certificate and names it by its serial number; the key stays the same, so a renewal that
is written again, by whomever, yields nothing but the certificate that its owner has or wants. The answer needs no signature
of its own: a certificate proves itself. A refusal proves nothing, and is for the log.

Not responsible for who may renew (`issuer`), nor for the store.
"""

from __future__ import annotations

from holloway.protocols.certificates import MAX_CERTIFICATE_BYTES, CertificateProblem, NodeCertificate
from holloway.protocols.enrolment import EnrolProblem, Refused
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import MAX_INTEGER, base64_text, compact, integer, octets, read_object, text
from holloway.protocols.identity import MAX_SIGNATURE_BYTES, Identity, PublicKey
from holloway.protocols.membership import network_prefix
from holloway.protocols.trust import Trust

RENEWAL_VERSION = 1
MAX_RENEWAL_BYTES = 16 * 1024
LABEL = "renewal"
_MAX_TEXT_CHARS = 256


def renewal_key(network: str, name: str) -> bytes:
    """The registry key of a node's request for another certificate."""
    return network_prefix(network) + b"renew/" + name.encode()


def renewed_key(network: str, name: str) -> bytes:
    """The registry key of the answer."""
    return network_prefix(network) + b"renewed/" + name.encode()


def is_due(certificate: NodeCertificate, authority: bytes, now: int) -> bool:
    """Whether it is time for another certificate: half of the time is over, or another authority issues by now.

    `authority`: the fingerprint of the one that issues, the last of the bundle. `now`: seconds since 1970.
    """
    return certificate.authority != authority or 2 * now >= certificate.not_before + certificate.not_after


def make_renewal(identity: Identity, certificate: NodeCertificate) -> bytes:
    """What a node writes under `renew/<name>`. Raises LocalError when the certificate is of another key."""
    if identity.public != certificate.key:
        raise LocalError("no renewal was asked for", "the certificate is of another key")
    body = compact({"name": certificate.name, "serial": f"{certificate.serial:x}"})
    signature = base64_text(identity.sign_text(LABEL, certificate.network, body))
    return compact({"v": RENEWAL_VERSION, "renewal": body, "signature": signature}).encode()


def open_renewal(value: bytes, network: str, name: str, key: PublicKey) -> int | EnrolProblem:
    """The serial number of the certificate that the owner of `key`, node `name`, wants renewed. Takes any bytes."""
    if len(value) > MAX_RENEWAL_BYTES:
        return EnrolProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_RENEWAL_BYTES)
        if integer(fields, "v", 0, MAX_INTEGER) != RENEWAL_VERSION:
            return EnrolProblem.WRONG_VERSION
        body = text(fields, "renewal", _MAX_TEXT_CHARS)
        if not key.verify_text(octets(fields, "signature", MAX_SIGNATURE_BYTES), LABEL, network, body):
            return EnrolProblem.NOT_AUTHENTIC
        asked = read_object(body, _MAX_TEXT_CHARS)
        if text(asked, "name", 63) != name:
            return EnrolProblem.WRONG_PLACE
        return int(text(asked, "serial", 40), 16)
    except ValueError:
        return EnrolProblem.MALFORMED


def make_renewed(answer: NodeCertificate | EnrolProblem) -> bytes:
    """What the authority writes under `renewed/<name>`."""
    if isinstance(answer, EnrolProblem):
        return compact({"v": RENEWAL_VERSION, "refused": answer.value}).encode()
    return compact({"v": RENEWAL_VERSION, "certificate": base64_text(answer.der)}).encode()


def open_renewed(value: bytes, trust: Trust, now: int) -> NodeCertificate | Refused | EnrolProblem:
    """What the authority answered to somebody, as far as it is believed. Takes any bytes."""
    if len(value) > MAX_RENEWAL_BYTES:
        return EnrolProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_RENEWAL_BYTES)
        if integer(fields, "v", 0, MAX_INTEGER) != RENEWAL_VERSION:
            return EnrolProblem.WRONG_VERSION
        if "refused" in fields:
            return Refused(EnrolProblem(text(fields, "refused", 64)))
        found = trust.check(octets(fields, "certificate", MAX_CERTIFICATE_BYTES), now)
    except ValueError:
        return EnrolProblem.MALFORMED
    return EnrolProblem.BAD_CERTIFICATE if isinstance(found, CertificateProblem) else found


def read_renewed(
    value: bytes, current: NodeCertificate, trust: Trust, now: int
) -> NodeCertificate | Refused | EnrolProblem:
    """The certificate to use instead of `current`, or why there is none. Takes any bytes.

    It is another one of the same node and key, it is believed now, and it lasts as long at least: an old answer is none.
    """
    found = open_renewed(value, trust, now)
    if not isinstance(found, NodeCertificate):
        return found
    if (found.key, found.name) != (current.key, current.name):
        return EnrolProblem.WRONG_PLACE
    if found.serial == current.serial or found.not_after < current.not_after:
        return EnrolProblem.OTHER_REQUEST
    return found
