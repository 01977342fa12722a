"""Texts that an authority signs for the whole network: the bundle of authorities, and the settings of the network.

    {"v":1,"text":TEXT,"signatures":[{"authority":FINGERPRINT,"signature":BASE64}, ...]}

TEXT is a JSON object with a field `number`; of two texts of one kind the one with the greater number is the newer. So a store
that brings back an old one is seen through by everybody who has seen the newer. The signature covers the kind, the network
and TEXT, byte by byte. It may be signed by several authorities, so that everybody knows one of them while they change.

Not responsible for what the texts say, nor for remembering numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from holloway.protocols.certificates import AuthorityCertificate, time_problem
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import (
    MAX_INTEGER,
    base64_text,
    compact,
    hexadecimal,
    integer,
    listed,
    object_of,
    octets,
    read_object,
    text,
)
from holloway.protocols.identity import FINGERPRINT_BYTES, MAX_SIGNATURE_BYTES
from holloway.protocols.issuing import Authority

STATEMENT_VERSION = 1
MAX_STATEMENT_BYTES = 16 * 1024
MAX_TEXT_CHARS = 12 * 1024
MAX_SIGNATURES = 4
AUTHORITIES = "authorities"
SETTINGS = "settings"


class StatementProblem(Enum):
    """Why a signed text is not taken; the value is the name under which it is counted."""

    TOO_BIG = "statement_too_big"
    MALFORMED = "statement_malformed"
    WRONG_VERSION = "statement_wrong_version"
    FOREIGN_AUTHORITY = "statement_foreign_authority"
    BAD_SIGNATURE = "statement_bad_signature"
    NOT_IN_TIME = "statement_authority_not_in_time"
    STALE = "statement_stale"


@dataclass(frozen=True, slots=True)
class Statement:
    """A text that has been read, and the signatures under it, by the fingerprint of who is said to have signed."""

    number: int
    text: str
    signatures: Mapping[bytes, bytes]


def make_statement(kind: str, network: str, text: str, signers: Sequence[Authority]) -> bytes:
    """`text` signed by one or several authorities of the network. Raises LocalError when others would not read it."""
    signatures = [
        {
            "authority": signer.identity.public.fingerprint.hex(),
            "signature": base64_text(signer.identity.sign_text(kind, network, text)),
        }
        for signer in signers
    ]
    value = compact({"v": STATEMENT_VERSION, "text": text, "signatures": signatures}).encode()
    read = read_statement(value)
    if isinstance(read, StatementProblem):
        raise LocalError(f"the {kind} of network {network} would not be read by the others", read.value)
    return value


def read_statement(value: bytes) -> Statement | StatementProblem:
    """What stands in the store; nothing of it is believed yet. Takes any bytes."""
    if len(value) > MAX_STATEMENT_BYTES:
        return StatementProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_STATEMENT_BYTES)
        if integer(fields, "v", 0, MAX_INTEGER) != STATEMENT_VERSION:
            return StatementProblem.WRONG_VERSION
        signed = text(fields, "text", MAX_TEXT_CHARS)
        signatures = dict(listed(fields, "signatures", MAX_SIGNATURES, _signature))
        return Statement(integer(read_object(signed, MAX_TEXT_CHARS), "number", 1, MAX_INTEGER), signed, signatures)
    except ValueError:
        return StatementProblem.MALFORMED


def statement_problem(
    kind: str, network: str, statement: Statement, trusted: Iterable[AuthorityCertificate], now: int
) -> StatementProblem | None:
    """None when one of the `trusted` authorities, whose time it is, has signed the text; otherwise why not."""
    problem = StatementProblem.FOREIGN_AUTHORITY
    for authority in trusted:
        signature = statement.signatures.get(authority.key.fingerprint)
        if signature is None:
            continue
        if not authority.key.verify_text(signature, kind, network, statement.text):
            problem = StatementProblem.BAD_SIGNATURE
        elif time_problem(authority, now) is not None:
            problem = StatementProblem.NOT_IN_TIME
        else:
            return None
    return problem


def _signature(item: object) -> tuple[bytes, bytes]:
    fields = object_of(item)
    return hexadecimal(fields, "authority", FINGERPRINT_BYTES), octets(fields, "signature", MAX_SIGNATURE_BYTES)
