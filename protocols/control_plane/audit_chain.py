"""The audit trail: JSON lines, each with a hash over itself and the hash of the line before.

    {"n":7,"at":1763811234.5,"previous":HEX,"event":…,"who":…,"what":…,"outcome":…,"job":…,"where":…,"hash":HEX}

`hash` is the SHA-256 of the bytes of the line from `{` to before `,"hash"`. So a line that is changed, left out, put in or moved
is noticed. Whoever can write the whole file can write another whole chain: that is noticed only by who has kept a hash of
before, elsewhere. Not responsible for files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from holloway.protocols.control_plane.effects import Audit
from holloway.protocols.hostile_json import MAX_INTEGER, compact, integer, read_object, text

MAX_WHAT_CHARS = 4096
MAX_LINE_BYTES = 256 * 1024
"""Every character of every field as an escape of twelve bytes, and the rest."""
NOTHING_BEFORE = "0" * 64
_MARK = b',"hash":"'
_TAIL = len(_MARK) + 64 + len(b'"}')


class Flaw(Enum):
    """What is wrong with a line of a trail."""

    NOT_A_LINE = "it is no line of an audit trail"
    CHANGED = "it was changed: its hash is that of another line"
    GAP = "lines before it are missing, or it was moved"
    FOREIGN = "the line before it is not the one that it followed"


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: its number and hash."""

    number: int = 0
    digest: str = NOTHING_BEFORE


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found. `line` counts the lines given, from 1; `flaw` is None when all is well. `head` is the last good one,
    `first` the number of the first line: above 1, older lines are kept elsewhere.
    """

    lines: int
    first: int
    head: Head
    line: int = 0
    flaw: Flaw | None = None


def next_line(head: Head, wall: float, entry: Audit) -> tuple[bytes, Head]:
    """The line for `entry` after `head`, with its newline, and the new head. Texts are cut to `MAX_WHAT_CHARS`, and say so."""
    fields = {
        "n": head.number + 1,
        "at": round(wall, 3),
        "previous": head.digest,
        "event": entry.event,
        "who": entry.who,
        "what": cut(entry.what),
        "outcome": cut(entry.outcome),
        "job": entry.job,
        "where": cut(entry.where),
    }
    body = compact(fields).encode("ascii")[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return body + _MARK + digest.encode() + b'"}\n', Head(head.number + 1, digest)


def cut(text: str) -> str:
    """The text, or its beginning, how long it was, and the SHA-256 of it all: what is asked for in so many words is known by that."""
    if len(text) <= MAX_WHAT_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    told = f"… ({len(text)} characters, SHA-256 {digest})"
    return text[: MAX_WHAT_CHARS - len(told)] + told


def head_of(line: bytes) -> Head | Flaw:
    """The head that a line leaves, so that a trail goes on where it was left. Takes any bytes."""
    read = _read(line)
    return read if isinstance(read, Flaw) else read[0]


def verify(lines: Iterable[bytes]) -> Verdict:
    """Whether the lines are a chain; takes any bytes, and looks no further than the first flaw."""
    head: Head | None = None
    first = count = 0
    for count, line in enumerate(lines, 1):
        read = _read(line)
        if isinstance(read, Flaw):
            return Verdict(count - 1, first, head or Head(), count, read)
        this, previous = read
        if head is None:
            first = this.number
            expected = NOTHING_BEFORE if first == 1 else previous
        else:
            expected = head.digest
            if this.number != head.number + 1:
                return Verdict(count - 1, first, head, count, Flaw.GAP)
        if previous != expected:
            return Verdict(count - 1, first, head or Head(), count, Flaw.FOREIGN)
        head = this
    return Verdict(count, first, head or Head())


def _read(line: bytes) -> tuple[Head, str] | Flaw:
    """The head that the line leaves, and the hash that it says was before it."""
    line = line.removesuffix(b"\n")
    body, mark, tail = line[:-_TAIL], line[-_TAIL : len(_MARK) - _TAIL], line[len(_MARK) - _TAIL :]
    if len(line) > MAX_LINE_BYTES or len(line) <= _TAIL or mark != _MARK or not tail.endswith(b'"}'):
        return Flaw.NOT_A_LINE
    try:
        fields = read_object((body + b"}").decode("ascii"), MAX_LINE_BYTES)
        number = integer(fields, "n", 1, MAX_INTEGER)
        previous = text(fields, "previous", 64)
        said = tail[:-2].decode("ascii")
    except ValueError:
        return Flaw.NOT_A_LINE
    digest = hashlib.sha256(body).hexdigest()
    return (Head(number, digest), previous) if said == digest else Flaw.CHANGED
