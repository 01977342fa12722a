"""How DTLS travels between nodes: what stands in front of a datagram, and what a record holds beside packets.

    bytes 0-3    0xD7 0 0 0       MessageType.DTLS
    bytes 4-11   association      64 random bits that whoever dialled has drawn, the same in both directions
    bytes 12-    DTLS             one datagram of RFC 6347

The number says which association a datagram belongs to, whatever address it comes from: so a peer may move, two nodes may
dial each other at once, and a new association needs nothing torn down first. It proves nothing; DTLS does.

A record holds one inner packet, whose first byte is 0x4_ or 0x6_, or a message of the link, whose first byte is less than 0x10.

Responsible for these bytes, and for what can be seen of a DTLS record from outside. Not responsible for the records themselves,
which are OpenSSL's, nor for when messages are sent (`dtls_link`). Takes any bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

from holloway.protocols.suites import MessageType

PREFIX = Struct("<IQ")
PREFIX_BYTES = PREFIX.size
ASSOCIATION_BYTES = 8
RECORD_OVERHEAD_BYTES = 37
"""Header, explicit nonce and tag of a record under AES-GCM (RFC 6347, section 4.1, and RFC 5288, section 3)."""
OVERHEAD_BYTES = PREFIX_BYTES + RECORD_OVERHEAD_BYTES
"""What a datagram has beside the inner packet."""
DTLS_MTU = 1400
"""Inner bytes that fit into one datagram on a path of 1500 bytes, over IPv6 (40 + 8 bytes outside) as over IPv4, with a few to
spare."""

_HEADER_BYTES = 13
MIN_DATAGRAM_BYTES = PREFIX_BYTES + _HEADER_BYTES
MAX_RECORD_BYTES = (1 << 14) + 64
"""A record with the longest plaintext, its header, nonce and tag. What is longer OpenSSL takes for two datagrams."""
APPLICATION_DATA = 23
_ALERT, _HANDSHAKE, _CLIENT_HELLO = 21, 22, 1
NO_RECORD = bytes([APPLICATION_DATA]) + b"\xfe\xfd" + b"\xff\xff" + bytes(8)
"""An empty record of an epoch that never is: nothing to whoever reads what follows it."""
_MESSAGE = Struct(">BQ")
MIN_PATH_PROBE_BYTES = OVERHEAD_BYTES + _MESSAGE.size
FIRST_OF_PACKETS = 0x10
"""The first byte of a message of the link is less."""


class LinkMessage(IntEnum):
    """What a message of the link is about; its number is that of the probe, or a receiver index. A probe of the path has a number of 48
    bits, and behind it the length of its datagram without the headers of UDP and IP.
    """

    PROBE = 1
    """Asks for an answer."""
    ANSWER = 2
    KEYS = 3
    """Data may come under keys of this association, at this index (`exported`)."""
    KEYS_AGREED = 4
    """The same from the other side, as the answer."""
    PATH_PROBE = 5
    """Asks whether a datagram of this length arrives; what is missing to it is zeros behind the message."""
    PATH_HEARD = 6
    """Its answer."""


_KINDS = frozenset(LinkMessage)


def prefixed(association: int, datagram: bytes) -> bytes:
    """A DTLS datagram as it travels."""
    return PREFIX.pack(MessageType.DTLS, association) + datagram


def association_of(datagram: bytes) -> int:
    """Whose it is. Takes any `MIN_DATAGRAM_BYTES` and more."""
    association: int = PREFIX.unpack_from(datagram)[1]
    return association


def is_handshake(record: bytes) -> bool:
    """Whether a DTLS datagram belongs to a handshake: what it begins with is not encrypted (epoch 0)."""
    return record[3:5] == b"\0\0"


def is_client_hello(record: bytes) -> bool:
    """Whether a DTLS datagram begins a handshake."""
    return is_handshake(record) and looks_like_hello(record)


def looks_like_hello(record: bytes) -> bool:
    """The same for whoever does not look whether it is encrypted: then it is any byte of a nonce that looks so."""
    return len(record) > _HEADER_BYTES and record[0] == _HANDSHAKE and record[_HEADER_BYTES] == _CLIENT_HELLO


def sequence_of(record: bytes) -> int:
    """Epoch and sequence number of the first record in a DTLS datagram, as one number that grows."""
    return int.from_bytes(record[3:11], "big")


def first_record_bytes(record: bytes) -> int:
    """How long the first record in a DTLS datagram says that it is, with its header. All of ours hold just that one."""
    return _HEADER_BYTES + int.from_bytes(record[11:13], "big")


def records_of(written: bytes) -> Iterator[bytes]:
    """The records in what OpenSSL has written."""
    at = 0
    while at < len(written):
        end = at + first_record_bytes(written[at : at + _HEADER_BYTES])
        yield written[at:end]
        at = end


def saying_of(record: bytes) -> tuple[bytes, bytes] | None:
    """What a record of a handshake of ours says, the same each time that it is said again; None for an alert.

    Of what is encrypted only its kind can be told: in the one handshake of an association that is the last message alone.
    """
    if record[0] == _ALERT:
        return None
    return record[:1] + record[3:5], record[_HEADER_BYTES:] if is_handshake(record) else b""


def message(kind: LinkMessage, number: int) -> bytes:
    """A message of the link."""
    return _MESSAGE.pack(kind, number)


def read_message(text: bytes) -> tuple[LinkMessage, int] | None:
    """What a message of the link says; None for anything else."""
    if len(text) < _MESSAGE.size or text[0] not in _KINDS:
        return None
    kind, number = LinkMessage(text[0]), int.from_bytes(text[1 : _MESSAGE.size], "big")
    padding = path_length(number)[1] - MIN_PATH_PROBE_BYTES if kind is LinkMessage.PATH_PROBE else 0
    if len(text) - _MESSAGE.size != padding or text.count(0, _MESSAGE.size) != padding:
        return None
    return kind, number


def path_probe(number: int, length: int) -> bytes:
    """A message that makes a datagram of `length` bytes, `MIN_PATH_PROBE_BYTES` and more. `number`: up to 48 bits."""
    return message(LinkMessage.PATH_PROBE, number << 16 | length) + bytes(length - MIN_PATH_PROBE_BYTES)


def path_length(number: int) -> tuple[int, int]:
    """The number of a probe of the path, and the length of its datagram."""
    return number >> 16, number & 0xFFFF
