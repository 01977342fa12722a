"""What a node says about a floating address in a network with an authority: sealed, and believed of certified nodes alone.

    envelope "floating": {"at":"floating/10.99.2.1","lease":"1f","serial":1700000000000000,"claim":TEXT}

TEXT is the claim or the challenge (`floating_claims`). It counts when the certificate of its signer has the node's name and
key, and has the address as a prefix of its own. Signed with it are the place, so that it is of no use under another address;
the lease under which it lies, so that it cannot be kept alive without one; and a serial number, the signer's time in
microseconds. A text that was seen when its key came into being at another revision is a replay, and so is one older than
the newest of its signer by more than clocks differ. What is refused is no claim of anybody: it can be in the way, and no more.

What remains for whoever owns the store: to delete, to withhold, and to bring back an old claim before those who did not see
it. Then packets for the address go to a node that is certified for it and does not have it, which drops them.

Not responsible for what follows from a claim (`floating`), nor for reading the store.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, ip_network

from holloway.protocols.certificates import CLOCK_SKEW_S, CertificateProblem, NodeCertificate
from holloway.protocols.envelopes import EnvelopeProblem, open_text, seal_text
from holloway.protocols.floating_claims import (
    MAX_FLOATING_BYTES,
    FloatingChallenge,
    FloatingClaim,
    FloatingProblem,
    decode_challenge,
    decode_floating_claim,
)
from holloway.protocols.hostile_json import MAX_INTEGER, compact, integer, read_object, text
from holloway.protocols.identity import Identity
from holloway.protocols.trust import Trust

LABEL = "floating"
MAX_SEALED_CHARS = 4 * MAX_FLOATING_BYTES
MAX_SIGNERS = 1024
"""Of one address; beyond that the ones that were silent for longest are forgotten."""
MAX_SERIALS = 16
"""Of one signer, whose places are remembered."""
MICROSECOND = 10**6


class SealProblem(Enum):
    """Why a claim or a challenge is not believed; the value is the name under which it is counted."""

    UNSIGNED = "floating_unsigned"
    UNREADABLE = "floating_unreadable"
    BAD_SIGNATURE = "floating_bad_signature"
    BAD_CERTIFICATE = "floating_bad_certificate"
    FOREIGN_AUTHORITY = "floating_foreign_authority"
    NOT_IN_TIME = "floating_certificate_not_in_time"
    REVOKED = "floating_revoked"
    REVOCATIONS_MISSING = "floating_revocations_missing"
    WRONG_PLACE = "floating_wrong_place"
    WRONG_LEASE = "floating_wrong_lease"
    WRONG_NODE = "floating_wrong_node"
    NOT_CERTIFIED = "floating_not_certified"
    FROM_THE_FUTURE = "floating_from_the_future"
    REPLAYED = "floating_replayed"


@dataclass(frozen=True, slots=True)
class Sealed:
    """What stands under a key. `revision`: at which the key came into being; `lease`: the one it hangs on, if any."""

    value: bytes = field(repr=False)
    revision: int
    lease: int | None


def seal_floating(
    claim: bytes, place: str, lease: int, serial: int, identity: Identity, certificate: NodeCertificate
) -> bytes:
    """A claim or a challenge as it goes under `place`, such as `floating/10.99.2.1`. Raises LocalError as `seal_text`.

    `serial`: the time in microseconds since 1970, and more than that of anything this node sealed before.
    """
    fields = {"at": place, "lease": f"{lease:x}", "serial": serial, "claim": claim.decode("ascii")}
    return seal_text(LABEL, compact(fields), identity, certificate)


class FloatingSeals:
    """Opens what stands about one floating address, and remembers what was seen, against replays."""

    def __init__(self, address: IPv4Address, trust: Trust) -> None:
        self._prefix = ip_network(address)
        self._trust = trust
        self._signers: OrderedDict[bytes, _Serials] = OrderedDict()
        self._last: dict[str, tuple[Sealed, bytes, NodeCertificate]] = {}

    def open(self, place: str, sealed: Sealed, now: int) -> bytes | SealProblem:
        """The claim or challenge under `place`, or why it is not believed. Takes any bytes; `now` in seconds since 1970."""
        if place in self._last:
            known, claim, certificate = self._last[place]
            if known == sealed and (problem := self._trust.problem(certificate, now)) is None:
                return claim
            if known == sealed and problem is not None:
                return _REASONS[problem]
        opened = open_text(LABEL, sealed.value, self._trust, now)
        if isinstance(opened, EnvelopeProblem | CertificateProblem):
            return _REASONS[opened]
        try:
            fields = read_object(opened.text, MAX_SEALED_CHARS)
            at, lease = text(fields, "at", MAX_FLOATING_BYTES), text(fields, "lease", 16)
            serial = integer(fields, "serial", 1, MAX_INTEGER)
            claim = text(fields, "claim", MAX_FLOATING_BYTES).encode("ascii")
        except ValueError:
            return SealProblem.UNREADABLE
        if at != place:
            return SealProblem.WRONG_PLACE
        if sealed.lease is None or lease != f"{sealed.lease:x}":
            return SealProblem.WRONG_LEASE
        signer = opened.signer
        said = _decoded(claim)
        if isinstance(said, FloatingProblem):
            return SealProblem.UNREADABLE
        if said.name != signer.name or said.key != signer.key.fingerprint.hex():
            return SealProblem.WRONG_NODE
        if self._prefix not in signer.prefixes:
            return SealProblem.NOT_CERTIFIED
        if serial > (now + CLOCK_SKEW_S) * MICROSECOND:
            return SealProblem.FROM_THE_FUTURE
        if not self._notice(signer.key.fingerprint, serial, (place, sealed.revision)):
            return SealProblem.REPLAYED
        self._last[place] = sealed, claim, signer
        return claim

    def _notice(self, signer: bytes, serial: int, where: tuple[str, int]) -> bool:
        """Whether this serial number belongs where it is."""
        serials = self._signers.setdefault(signer, _Serials())
        self._signers.move_to_end(signer)
        if len(self._signers) > MAX_SIGNERS:
            self._signers.popitem(last=False)
        return serials.notice(serial, where)


class _Serials:
    """The newest serial numbers of one signer, and where each was seen."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[str, int]] = {}

    def notice(self, serial: int, where: tuple[str, int]) -> bool:
        places = self._places
        if serial in places:
            return places[serial] == where
        newest = max(places, default=0)
        is_forgotten = len(places) >= MAX_SERIALS and serial < min(places)
        if serial < newest - CLOCK_SKEW_S * MICROSECOND or is_forgotten:
            return False
        places[serial] = where
        if len(places) > MAX_SERIALS:
            del places[min(places)]
        return True


def _decoded(claim: bytes) -> FloatingClaim | FloatingChallenge | FloatingProblem:
    said = decode_floating_claim(claim)
    return decode_challenge(claim) if isinstance(said, FloatingProblem) else said


_REASONS: dict[EnvelopeProblem | CertificateProblem, SealProblem] = {
    EnvelopeProblem.TOO_BIG: SealProblem.UNREADABLE,
    EnvelopeProblem.NOT_JSON: SealProblem.UNREADABLE,
    EnvelopeProblem.WRONG_VERSION: SealProblem.UNREADABLE,
    EnvelopeProblem.UNSIGNED: SealProblem.UNSIGNED,
    EnvelopeProblem.BAD_FIELD: SealProblem.UNREADABLE,
    EnvelopeProblem.BAD_SIGNATURE: SealProblem.BAD_SIGNATURE,
    CertificateProblem.MALFORMED: SealProblem.BAD_CERTIFICATE,
    CertificateProblem.FOREIGN_AUTHORITY: SealProblem.FOREIGN_AUTHORITY,
    CertificateProblem.WRONG_KEY: SealProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_USE: SealProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_NAMES: SealProblem.BAD_CERTIFICATE,
    CertificateProblem.WRONG_NETWORK: SealProblem.BAD_CERTIFICATE,
    CertificateProblem.NOT_YET_VALID: SealProblem.NOT_IN_TIME,
    CertificateProblem.EXPIRED: SealProblem.NOT_IN_TIME,
    CertificateProblem.REVOKED: SealProblem.REVOKED,
    CertificateProblem.REVOCATIONS_MISSING: SealProblem.REVOCATIONS_MISSING,
}
