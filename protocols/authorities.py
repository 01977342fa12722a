"""The bundle of a network's authorities: who may certify nodes, and how one authority follows another.

A bundle is a signed text (`statements`) that lists certificates. A node that trusts the authorities of one bundle takes
another when one of them signed it and its number is greater. An authority is followed by another in three bundles with an
overlap: {old}, {old, new}, {new}. Old and new sign the last two both: so a node that was away during all of it finds the
signature it knows, and a machine that was invited by either finds its own.

Whoever owns the store can withhold a bundle, not make one, and not bring an old one back.
Not responsible for what is trusted besides authorities (`trust`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from holloway.protocols.certificates import (
    MAX_CERTIFICATE_BYTES,
    AuthorityCertificate,
    CertificateProblem,
    read_authority,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text, compact, listed, octets, read_object
from holloway.protocols.issuing import Authority
from holloway.protocols.membership import network_prefix
from holloway.protocols.statements import (
    AUTHORITIES,
    MAX_TEXT_CHARS,
    Statement,
    StatementProblem,
    make_statement,
    read_statement,
    statement_problem,
)

MAX_AUTHORITIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Authorities that are trusted together. `value`: as it stands in the store."""

    network: str
    number: int
    authorities: tuple[AuthorityCertificate, ...]
    value: bytes = field(repr=False)

    def has(self, fingerprint: bytes) -> bool:
        """Whether an authority with this key is among them."""
        return any(authority.key.fingerprint == fingerprint for authority in self.authorities)


def authorities_key(network: str) -> bytes:
    """The registry key of the bundle."""
    return network_prefix(network) + b"authorities"


def make_bundle(
    network: str, number: int, authorities: Sequence[AuthorityCertificate], signers: Sequence[Authority]
) -> Bundle:
    """A bundle, signed by `signers`: by every authority whose key is at hand, those that go as well as those that come.

    Raises LocalError when others would not take it, or nobody signs who is in it: machines that join would not believe it.
    """
    fields = {
        "number": number,
        "certificates": [base64_text(authority.der) for authority in authorities],
    }
    value = make_statement(AUTHORITIES, network, compact(fields), signers)
    bundle = _read(value, network)
    if isinstance(bundle, StatementProblem):
        raise LocalError(f"the authorities of network {network} would not be read by the others", bundle.value)
    if not any(bundle.has(signer.identity.public.fingerprint) for signer in signers):
        raise LocalError(f"the authorities of network {network} would not be believed", "none of them has signed")
    return bundle


def first_bundle(value: bytes, network: str, fingerprint: bytes, now: int) -> Bundle | StatementProblem:
    """The bundle of somebody who trusts nothing yet but the key of one authority, by its fingerprint (32 bytes).

    That authority must be in the bundle and have signed it. Takes any bytes as `value`; `now` in seconds since 1970.
    """
    bundle = _read(value, network)
    if isinstance(bundle, StatementProblem):
        return bundle
    anchors = [authority for authority in bundle.authorities if authority.key.fingerprint == fingerprint]
    return _problem(bundle, anchors, now) or bundle


def kept_bundle(value: bytes, network: str) -> Bundle:
    """The bundle that this node has taken before, from its own files. Raises LocalError when it cannot be read."""
    bundle = _read(value, network)
    if isinstance(bundle, StatementProblem):
        raise LocalError(
            f"the authorities of network {network} are lost",
            f"the file that keeps them cannot be used: {bundle.value}",
            "join the network again",
        )
    return bundle


def next_bundle(known: Bundle, value: bytes, now: int) -> Bundle | StatementProblem:
    """What to trust after `value` has come: the new bundle, `known` itself when it is the same, or why it is not taken."""
    if value == known.value:
        return known
    bundle = _read(value, known.network)
    if isinstance(bundle, StatementProblem):
        return bundle
    if bundle.number <= known.number:
        return StatementProblem.STALE
    return _problem(bundle, known.authorities, now) or bundle


def _problem(bundle: Bundle, trusted: Sequence[AuthorityCertificate], now: int) -> StatementProblem | None:
    statement = read_statement(bundle.value)
    assert isinstance(statement, Statement)  # it was read before
    return statement_problem(AUTHORITIES, bundle.network, statement, trusted, now)


def _read(value: bytes, network: str) -> Bundle | StatementProblem:
    statement = read_statement(value)
    if isinstance(statement, StatementProblem):
        return statement
    try:
        certificates = listed(read_object(statement.text, MAX_TEXT_CHARS), "certificates", MAX_AUTHORITIES, _der)
    except ValueError:
        return StatementProblem.MALFORMED
    authorities = [read_authority(der, network) for der in certificates]
    known = tuple(each for each in authorities if not isinstance(each, CertificateProblem))
    if not known or len(known) < len(authorities) or len({each.key for each in known}) < len(known):
        return StatementProblem.MALFORMED
    return Bundle(network=network, number=statement.number, authorities=known, value=value)


def _der(item: object) -> bytes:
    return octets({"certificate": item}, "certificate", MAX_CERTIFICATE_BYTES)
