"""A node that sends its peers what nobody agreed on, under keys that are good: records that unpack into far too much or into
nothing, and records in clear.

Its dice choose one kind after another. Not responsible for when it does so, nor for what the others make of it.
"""

from __future__ import annotations

import random
from enum import Enum
from struct import Struct

from holloway.protocols.clear_text import ClearText
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import CLEAR_MARK, HEADER, PACKED_MARK, SPREAD_BITS, RecordKind
from holloway.protocols.runs import flatten
from holloway.protocols.session import Session
from holloway.simulations.deflate import Deflate
from holloway.simulations.streams import below

_HEAD = Struct("<IH")
_LONG = 1 << 20
_KINDS = (RecordKind.PACKETS, RecordKind.UNFINISHED, RecordKind.SUPER_PACKETS)
_JUNK_BYTES = 200


class Bomb(Enum):
    """What it sends."""

    LONG = "a record that says truly that it would be a million bytes long"
    DENSE = "one that is no longer than others when it is unpacked, but came in next to nothing"
    FALSE = "one that unpacks into more than it says"
    JUNK = "one that is not compressed at all"
    CLEAR = "a record in clear"


_BOMBS = tuple(Bomb)


class Bomber:
    """One node while the fault lasts."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._codec = Deflate()
        self._blocks = {
            Bomb.LONG: (_LONG, self._codec.compress(bytes(_LONG))),
            Bomb.DENSE: (60_000, self._codec.compress(bytes(60_000))),
            Bomb.FALSE: (1000, self._codec.compress(bytes(60_000))),
        }

    def bomb(self, session: Session) -> list[bytes]:
        """The datagrams of one bomb, for the peer of `session`; none while there is no key."""
        keys = session._ring.current
        which = _BOMBS[below(self._dice.getrandbits(64), len(_BOMBS))]
        kind = _KINDS[below(self._dice.getrandbits(64), len(_KINDS))]
        junk = self._dice.randbytes(_JUNK_BYTES)
        if not isinstance(keys, RecordKeys) or not keys.can_seal((b"",)):
            return []
        if which is Bomb.CLEAR:
            return [self._in_clear(keys, kind, junk)]
        length, block = self._blocks.get(which, (_JUNK_BYTES * 4, junk))
        return flatten([keys._seal_alone(kind | PACKED_MARK, _HEAD.pack(length, 0) + block)])

    def _in_clear(self, keys: RecordKeys, kind: int, data: bytes) -> bytes:
        """With a counter that is the next one, and a key of its own choice: it could use the true one as well."""
        counter = keys._first_out + keys._sent
        header = HEADER.pack(keys.remote_index, 0, kind | CLEAR_MARK, counter << SPREAD_BITS)
        return header + ClearText(self._dice.randbytes(32)).encrypt(header[4:], data, None)
