"""Node records that prove who wrote them, for networks with an authority.

An envelope (`envelopes`) with the label `record` holds the JSON of a record (`membership`), signed with the node's key. A record
is believed when its certificate is, when it says of the node nothing that the certificate does not allow, and when no newer
one was seen. So whoever owns the store can withhold records, and no more: he cannot make one, alter one, give one to another
name or network, take the signature off, or bring an old one back.

Serial numbers are remembered for each name and key, for as long as a certificate of them can still be believed. Keep
`memory()` with the other state of the node: without it, a restarted node takes an older record once more, if the store shows
it. A serial number that is used for two different records is a mistake of their writer; the first one seen counts.

Not responsible for reading the store, nor for two nodes that both may have what they claim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem, NodeCertificate
from holloway.protocols.envelopes import EnvelopeProblem, open_text, seal_text
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import compact, hexadecimal, integer, listed, object_of, read_object, text
from holloway.protocols.identity import FINGERPRINT_BYTES, Identity
from holloway.protocols.issuing import MAX_TIME
from holloway.protocols.membership import (
    MAX_SERIAL,
    NAME,
    NodeRecord,
    RecordProblem,
    decode_record,
    encode_record,
)
from holloway.protocols.trust import Trust

LABEL = "record"
MAX_WRITERS = 8192
"""Names with their keys whose newest record is remembered: twice as many as a node has peers."""
MAX_MEMORY_BYTES = 4 * 1024 * 1024
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """A record, and the certificate of who signed it."""

    record: NodeRecord
    certificate: NodeCertificate


@dataclass(frozen=True, slots=True)
class _Seen:
    """The newest record of a writer: its serial number, SHA-256 of its text, and when its certificate runs out."""

    serial: int
    text: bytes
    expires: int


def seal_record(record: NodeRecord, identity: Identity, certificate: NodeCertificate) -> bytes:
    """The record as it goes into the store. Raises LocalError when the others would refuse it."""
    problem = _not_certified(record, certificate)
    if record.serial < 1 or problem is not None:
        raise LocalError(
            f"the record of node {record.name} would not be believed by the others",
            problem.value if problem is not None else "it has no serial number",
            "use the name, addresses and prefixes of the node's certificate; to give it a prefix more, where the authority's key is: "
            f"holloway certify {record.name} --prefix PREFIX",
        )
    return seal_text(LABEL, encode_record(record).decode("ascii"), identity, certificate)


class SignedRecords:
    """Verifies the records of one network, and remembers the newest of each node."""

    def __init__(self, trust: Trust, memory: str | None = None) -> None:
        """`memory`: what `memory()` gave in an earlier life. Raises LocalError when it is not that."""
        self._trust = trust
        self._seen: dict[tuple[str, bytes], _Seen] = {} if memory is None else _recall(memory)
        self._last: dict[str, tuple[bytes, VerifiedRecord]] = {}  # by name: SHA-256 of what was verified last

    def verify(self, name: str | None, value: bytes, now: int) -> VerifiedRecord | RecordProblem:
        """The record found under the node name `name` (None: under a key that names no node), or why it is refused.

        Takes any bytes; `now` in seconds since 1970.
        """
        digest = hashlib.sha256(value).digest()
        if name in self._last:
            known, again = self._last[name]
            if known == digest and self._trust.problem(again.certificate, now) is None:
                return again  # byte for byte the newest one that was verified: it costs no signature
        opened = open_text(LABEL, value, self._trust, now)
        if isinstance(opened, EnvelopeProblem | CertificateProblem):
            return _REASONS[opened]
        certificate = opened.signer
        record = decode_record(name, opened.text.encode("ascii"))
        if isinstance(record, RecordProblem):
            return record
        problem = _not_certified(record, certificate)
        if problem is not None:
            return problem
        if record.serial < 1:
            return RecordProblem.BAD_FIELD
        verified = VerifiedRecord(record, certificate)
        problem = self._notice(verified, hashlib.sha256(opened.text.encode("ascii")).digest(), now)
        if problem is not None:
            return problem
        self._last[record.name] = digest, verified
        return verified

    def memory(self) -> str:
        """The serial numbers seen, as JSON text, for `SignedRecords` of a later life. Another thread may ask."""
        rows = [
            {
                "name": name,
                "key": key.hex(),
                "serial": seen.serial,
                "text": seen.text.hex(),
                "expires": seen.expires,
            }
            for (name, key), seen in sorted(dict(self._seen).items())
        ]
        return compact({"v": 1, "seen": rows})

    def _notice(self, verified: VerifiedRecord, digest: bytes, now: int) -> RecordProblem | None:
        """Remember the record as the newest of its writer, unless it is not. `digest`: of its text."""
        record, certificate = verified.record, verified.certificate
        writer = record.name, certificate.key.fingerprint
        seen = self._seen.get(writer)
        if seen is not None:
            if record.serial < seen.serial or (record.serial == seen.serial and digest != seen.text):
                return RecordProblem.STALE
        elif len(self._seen) >= MAX_WRITERS:
            self._forget_expired(now)
            if len(self._seen) >= MAX_WRITERS:
                return RecordProblem.TOO_MANY
        expires = max(certificate.not_after, seen.expires if seen is not None else 0)
        self._seen[writer] = _Seen(record.serial, digest, expires)
        return None

    def _forget_expired(self, now: int) -> None:
        self._seen = {writer: seen for writer, seen in self._seen.items() if now <= seen.expires + CLOCK_SKEW_S}
        names = {name for name, _ in self._seen}
        self._last = {name: last for name, last in self._last.items() if name in names}


def _not_certified(record: NodeRecord, certificate: NodeCertificate) -> RecordProblem | None:
    """What the record says of its node that the certificate does not."""
    if record.name != certificate.name:
        return RecordProblem.WRONG_NAME
    if not certificate.addresses.issuperset(address.ip for address in record.addresses):
        return RecordProblem.ADDRESS_NOT_CERTIFIED
    if not certificate.prefixes.issuperset(record.prefixes):
        return RecordProblem.PREFIX_NOT_CERTIFIED
    return None


_REASONS: dict[EnvelopeProblem | CertificateProblem, RecordProblem] = {
    EnvelopeProblem.TOO_BIG: RecordProblem.TOO_BIG,
    EnvelopeProblem.NOT_JSON: RecordProblem.NOT_JSON,
    EnvelopeProblem.WRONG_VERSION: RecordProblem.WRONG_VERSION,
    EnvelopeProblem.UNSIGNED: RecordProblem.UNSIGNED,
    EnvelopeProblem.BAD_FIELD: RecordProblem.BAD_FIELD,
    EnvelopeProblem.BAD_SIGNATURE: RecordProblem.BAD_SIGNATURE,
    CertificateProblem.MALFORMED: RecordProblem.BAD_CERTIFICATE,
    CertificateProblem.FOREIGN_AUTHORITY: RecordProblem.FOREIGN_AUTHORITY,
    CertificateProblem.WRONG_KEY: RecordProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_USE: RecordProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_NAMES: RecordProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_NETWORK: RecordProblem.WRONG_NETWORK,
    CertificateProblem.NOT_YET_VALID: RecordProblem.NOT_YET_VALID,
    CertificateProblem.EXPIRED: RecordProblem.EXPIRED,
    CertificateProblem.REVOKED: RecordProblem.REVOKED,
    CertificateProblem.REVOCATIONS_MISSING: RecordProblem.REVOCATIONS_MISSING,
}


def _recall(memory: str) -> dict[tuple[str, bytes], _Seen]:
    try:
        fields = read_object(memory, MAX_MEMORY_BYTES)
        integer(fields, "v", 1, 1)
        return dict(listed(fields, "seen", MAX_WRITERS, _row))
    except ValueError as why:
        raise LocalError(
            "the serial numbers of records that were seen are lost",
            f"the file that keeps them cannot be used: {why}",
            "remove it: records older than those seen before will be believed once more",
        ) from None


def _row(item: object) -> tuple[tuple[str, bytes], _Seen]:
    fields = object_of(item)
    name = text(fields, "name", 63)
    if not NAME.match(name):
        raise ValueError("name: not the name of a node")
    seen = _Seen(
        integer(fields, "serial", 1, MAX_SERIAL),
        hexadecimal(fields, "text", _DIGEST_BYTES),
        integer(fields, "expires", 0, MAX_TIME),
    )
    return (name, hexadecimal(fields, "key", FINGERPRINT_BYTES)), seen
