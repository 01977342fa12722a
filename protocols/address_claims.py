"""Address claims: what stands under `addresses/<ip>` in the registry, and says whose an overlay address is.

    {"v":2,"name":"node-a","key":FINGERPRINT,"free_from":null}

Version 1 under such a key is a whole node record (`membership`): the claim of a node whose addresses stand in its configuration.
Neither kind overwrites the other. `key` is the fingerprint of the holder's identity, `free_from` the time (unix seconds) from which another node may have an
address that its holder has given back: until then it rests, so that what is still on its way to the old holder does not
reach the new one. A claim is hostile input. Not responsible for choosing an address (`address_plan`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from holloway.protocols.errors import LocalError
from holloway.protocols.membership import NAME

CLAIM_VERSION = 2
MAX_CLAIM_BYTES = 1024
MAX_FREE_FROM = 2**53 - 1
"""The last integer that every reader of JSON keeps exactly (RFC 8259, section 6)."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
"""SHA-256, in hexadecimal."""


class ClaimProblem(Enum):
    """Why a claim is refused; the value is the name under which it is counted."""

    TOO_BIG = "claim_too_big"
    NOT_JSON = "claim_not_json"
    WRONG_VERSION = "claim_wrong_version"
    BAD_FIELD = "claim_bad_field"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose an address is. Raises `LocalError` for a name or a fingerprint that others would refuse.

    `key`: SHA-256 fingerprint of the identity, 64 hexadecimal digits; the machine is known by it, not by its name.
    `free_from`: None while the address is in use; once given back, when its rest is over, in unix seconds.
    """

    name: str
    key: str
    free_from: int | None = None

    def __post_init__(self) -> None:
        if not (NAME.match(self.name) and FINGERPRINT.match(self.key)):
            raise LocalError(
                f"node {self.name!r} cannot hold an address",
                "it has a name of up to 63 letters, digits, dots, dashes and underscores, and a key of 64 hex digits",
                "give the name and the fingerprint of its certificate",
            )
        if self.free_from is not None and not 0 <= self.free_from <= MAX_FREE_FROM:
            raise LocalError(f"free_from {self.free_from} is no time", "it is unix seconds", "give a later time")

    def is_free(self, wall_s: float) -> bool:
        """Whether another machine may have the address at the time `wall_s` (unix seconds)."""
        return self.free_from is not None and self.free_from <= wall_s


def fingerprint_of(public_key: bytes) -> str:
    """By what a node is known that has no certificate: the fingerprint of its session key (32 bytes)."""
    return hashlib.sha256(public_key).hexdigest()


def encode_claim(holder: Holder) -> bytes:
    """The claim as JSON; always the same bytes for the same holder."""
    fields = {"v": CLAIM_VERSION, "name": holder.name, "key": holder.key, "free_from": holder.free_from}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_claim(value: bytes) -> Holder | ClaimProblem:
    """The holder, or why the claim is refused. Takes any bytes."""
    if len(value) > MAX_CLAIM_BYTES:
        return ClaimProblem.TOO_BIG
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return ClaimProblem.NOT_JSON
    if not isinstance(fields, dict):
        return ClaimProblem.NOT_JSON
    version = fields.get("v")
    if type(version) is not int or version != CLAIM_VERSION:
        return ClaimProblem.WRONG_VERSION
    name, key, free_from = fields.get("name"), fields.get("key"), fields.get("free_from", "")
    if type(name) is not str or type(key) is not str or (free_from is not None and type(free_from) is not int):
        return ClaimProblem.BAD_FIELD
    try:
        return Holder(name, key, free_from)
    except LocalError:
        return ClaimProblem.BAD_FIELD


def freed_claim(holder: Holder, wall_s: float, rest_s: int) -> bytes:
    """What to put, without a lease or on one of `rest_s`, over the claim of a holder that gives its address back.

    `wall_s`: now, in unix seconds.
    """
    return encode_claim(Holder(holder.name, holder.key, int(wall_s) + rest_s))


def claim_suffix(address: IPv4Address) -> bytes:
    """What follows `addresses/` in the registry key of an address."""
    return str(address).encode()


def read_suffix(suffix: bytes) -> IPv4Address | None:
    """The address that a key is about, or None: only the usual spelling counts, since others would be other keys."""
    try:
        address = IPv4Address(suffix.decode("ascii"))
    except ValueError:
        return None
    return address if claim_suffix(address) == suffix else None
