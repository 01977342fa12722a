"""Texts that a node signs, with the certificate that says who the node is.

    {"v":2,"record":TEXT,"certificate":BASE64,"signature":BASE64}

The signature covers a label, the network and TEXT byte by byte, so nothing has to be written the same way twice. The label
says what the text is for: a record is of no use as anything else. The certificate is not covered, because it proves itself:
whoever puts another one there can only put another one of the same key.

Not responsible for what the text says, for its age, nor for what may be believed (`trust`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from holloway.protocols.certificates import MAX_CERTIFICATE_BYTES, CertificateProblem, NodeCertificate
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text, compact, octets, read_object, text
from holloway.protocols.identity import MAX_SIGNATURE_BYTES, Identity
from holloway.protocols.trust import Trust

ENVELOPE_VERSION = 2
UNSIGNED_VERSION = 1
MAX_TEXT_CHARS = 16 * 1024
MAX_ENVELOPE_BYTES = 48 * 1024
"""The text with every quotation mark escaped, the longest certificate in base64, and the rest."""


class EnvelopeProblem(Enum):
    """Why an envelope is not opened; the value is the name under which it is counted."""

    TOO_BIG = "envelope_too_big"
    NOT_JSON = "envelope_not_json"
    WRONG_VERSION = "envelope_wrong_version"
    UNSIGNED = "envelope_unsigned"
    BAD_FIELD = "envelope_bad_field"
    BAD_SIGNATURE = "envelope_bad_signature"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in an envelope: a text, and who signed it."""

    text: str
    signer: NodeCertificate


def seal_text(label: str, text: str, identity: Identity, certificate: NodeCertificate) -> bytes:
    """A text of the node to which `certificate` belongs, signed. Raises LocalError when others would not open it."""
    if identity.public != certificate.key:
        raise LocalError("nothing was signed", "the certificate is of another key", "use the node's own certificate")
    if len(text) > MAX_TEXT_CHARS:
        raise LocalError("nothing was signed", f"the text has {len(text)} characters of {MAX_TEXT_CHARS}")
    fields = {
        "v": ENVELOPE_VERSION,
        label: text,
        "certificate": base64_text(certificate.der),
        "signature": base64_text(identity.sign_text(label, certificate.network, text)),
    }
    return compact(fields).encode()


def open_text(label: str, value: bytes, trust: Trust, now: int) -> Opened | EnvelopeProblem | CertificateProblem:
    """The text under `label`, and who signed it. Takes any bytes; `now` in seconds since 1970."""
    if len(value) > MAX_ENVELOPE_BYTES:
        return EnvelopeProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_ENVELOPE_BYTES)
    except ValueError:
        return EnvelopeProblem.NOT_JSON
    version = fields.get("v")
    if type(version) is not int or version not in (UNSIGNED_VERSION, ENVELOPE_VERSION):
        return EnvelopeProblem.WRONG_VERSION
    if version == UNSIGNED_VERSION or not fields.get("certificate") or not fields.get("signature"):
        return EnvelopeProblem.UNSIGNED
    try:
        body = text(fields, label, MAX_TEXT_CHARS)
        certificate = octets(fields, "certificate", MAX_CERTIFICATE_BYTES)
        signature = octets(fields, "signature", MAX_SIGNATURE_BYTES)
    except ValueError:
        return EnvelopeProblem.BAD_FIELD
    signer = trust.check(certificate, now)
    if isinstance(signer, CertificateProblem):
        return signer
    if not signer.key.verify_text(signature, label, trust.network, body):
        return EnvelopeProblem.BAD_SIGNATURE
    return Opened(body, signer)
