"""What stands in the registry about one floating address: the claim of its holder, and the challenge of another node.

    floating/<ip>    {"v":1,"name":"a","key":FINGERPRINT,"run":"00c0ffee00c0ffee","priority":10,"answer_ms":800}
    challenges/<ip>  {"v":1,"name":"b","key":FINGERPRINT,"run":"...","priority":20,"fence":4711,"preempts":true,"in_touch":false}

`run` is drawn anew by every process, so that nobody takes the claim of his earlier life for his own. `answer_ms` is the
holder's promise: a challenge that stands for so long without an answer finds an address that the holder has given up by
itself. `fence` is the revision of the claim that is challenged. Both are hostile input. Not responsible for what follows
from them (`floating`), nor for whether the node named may hold the address.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum

from holloway.protocols.errors import LocalError
from holloway.protocols.membership import NAME, network_prefix

FLOATING_VERSION = 1
MAX_FLOATING_BYTES = 1024
MAX_PRIORITY = 1000
MIN_ANSWER_MS, MAX_ANSWER_MS = 100, 60_000
MAX_FENCE = 2**63 - 1  # etcd's revisions
RUN = re.compile(r"[0-9a-f]{16}\Z")
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")


class FloatingProblem(Enum):
    """Why a claim or a challenge is refused; the value is the name under which it is counted."""

    TOO_BIG = "floating_too_big"
    NOT_JSON = "floating_not_json"
    WRONG_VERSION = "floating_wrong_version"
    BAD_FIELD = "floating_bad_field"


@dataclass(frozen=True, slots=True)
class FloatingClaim:
    """Whose a floating address is. Raises `LocalError` for what others would refuse.

    `key`: SHA-256 fingerprint of the holder's identity, hexadecimal. `run`: 16 hexadecimal digits of this process alone.
    `priority`: 0 to `MAX_PRIORITY`; more is better.
    """

    name: str
    key: str
    run: str
    priority: int
    answer_ms: int

    def __post_init__(self) -> None:
        _check(self.name, self.key, self.run, self.priority)
        if not MIN_ANSWER_MS <= self.answer_ms <= MAX_ANSWER_MS:
            raise _unusable(f"answers within {self.answer_ms} ms")


@dataclass(frozen=True, slots=True)
class FloatingChallenge:
    """Who doubts that the claim made at the revision `fence` still has a living holder, or wants to have its address.

    `preempts`: a holder of lower priority is to hand over; otherwise it is only to show that it lives. Raises `LocalError`
    for what others would refuse. `in_touch`: the challenger says that its own data path works: of the nodes that it asked
    besides the holder, at least half have answered.
    """

    name: str
    key: str
    run: str
    priority: int
    fence: int
    preempts: bool
    in_touch: bool = False

    def __post_init__(self) -> None:
        _check(self.name, self.key, self.run, self.priority)
        if not 0 < self.fence <= MAX_FENCE:
            raise _unusable(f"challenges revision {self.fence}")


def encode_floating(record: FloatingClaim | FloatingChallenge) -> bytes:
    """The record as JSON; always the same bytes for the same record."""
    fields: dict[str, object] = {"v": FLOATING_VERSION, "name": record.name, "key": record.key, "run": record.run}
    fields["priority"] = record.priority
    if isinstance(record, FloatingClaim):
        fields["answer_ms"] = record.answer_ms
    else:
        fields |= {"fence": record.fence, "preempts": record.preempts, "in_touch": record.in_touch}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_floating_claim(value: bytes) -> FloatingClaim | FloatingProblem:
    """The claim, or why it is refused. Takes any bytes."""
    fields = _read(value)
    if isinstance(fields, FloatingProblem):
        return fields
    try:
        return FloatingClaim(*_who(fields), _whole(fields, "answer_ms"))
    except (ValueError, LocalError):
        return FloatingProblem.BAD_FIELD


def decode_challenge(value: bytes) -> FloatingChallenge | FloatingProblem:
    """The challenge, or why it is refused. Takes any bytes."""
    fields = _read(value)
    if isinstance(fields, FloatingProblem):
        return fields
    preempts, in_touch = fields.get("preempts"), fields.get("in_touch", False)
    if type(preempts) is not bool or type(in_touch) is not bool:
        return FloatingProblem.BAD_FIELD
    try:
        return FloatingChallenge(*_who(fields), _whole(fields, "fence"), preempts, in_touch)
    except (ValueError, LocalError):
        return FloatingProblem.BAD_FIELD


def floating_prefix(network: str) -> bytes:
    """The registry prefix of the claims; what follows is the address. Raises `LocalError` for a bad network name."""
    return network_prefix(network) + b"floating/"


def challenges_prefix(network: str) -> bytes:
    """The registry prefix of the challenges; what follows is the address. Raises `LocalError` for a bad network name."""
    return network_prefix(network) + b"challenges/"


def _check(name: str, key: str, run: str, priority: int) -> None:
    if not (NAME.match(name) and FINGERPRINT.match(key) and RUN.match(run) and 0 <= priority <= MAX_PRIORITY):
        raise _unusable(f"has the key {key!r}, the run {run!r} and the priority {priority}", name)


def _unusable(what: str, name: str = "that") -> LocalError:
    return LocalError(
        f"a node {name!r} cannot hold a floating address",
        f"it {what}",
        f"a key has 64 hex digits, a run 16, a priority is 0 to {MAX_PRIORITY}, an answer takes {MIN_ANSWER_MS} to "
        f"{MAX_ANSWER_MS} ms",
    )


def _read(value: bytes) -> dict[str, object] | FloatingProblem:
    if len(value) > MAX_FLOATING_BYTES:
        return FloatingProblem.TOO_BIG
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return FloatingProblem.NOT_JSON
    if not isinstance(fields, dict):
        return FloatingProblem.NOT_JSON
    version = fields.get("v")
    if type(version) is not int or version != FLOATING_VERSION:
        return FloatingProblem.WRONG_VERSION
    return fields


def _who(fields: dict[str, object]) -> tuple[str, str, str, int]:
    return _text(fields, "name"), _text(fields, "key"), _text(fields, "run"), _whole(fields, "priority")


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if type(value) is not str:
        raise ValueError("not a text")
    return value


def _whole(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value
