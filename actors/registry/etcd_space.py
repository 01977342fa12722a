"""The part of etcd's keys that is ours, and the translation between etcd's words and the port's.

Responsible for the prefix that the URL puts before every key, and for single messages. Pure. NOT responsible for calls.
"""

from __future__ import annotations

from typing import Any, assert_never

from holloway.actors.registry.etcd_messages import Messages
from holloway.actors.registry.limits import REVISION_MAX, VALUE_BYTES_MAX
from holloway.actors.registry.port import (
    Absent,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseId,
    ModRevisionIs,
    Put,
    ValueIs,
)

FROM_KEY_ON = b"\0"  # etcd: as the end of a range, everything from its key on


class Space:
    """The keys that begin with `prefix`, which its user never sees."""

    def __init__(self, prefix: bytes, messages: Messages) -> None:
        self._prefix = prefix
        self._messages = messages

    def key(self, key: bytes) -> bytes:
        """What etcd calls a key of ours."""
        return self._prefix + key

    def range_of(self, prefix: bytes) -> tuple[bytes, bytes]:
        """The key and the end of etcd's range of all keys with a prefix."""
        full = self._prefix + prefix
        stem = full.rstrip(b"\xff")
        return full or b"\0", stem[:-1] + bytes([stem[-1] + 1]) if stem else FROM_KEY_ON

    def pair(self, kv: Any) -> tuple[bytes, Entry]:
        """A KeyValue as one of our keys and its entry. Of a value that is longer than any of ours may be, no more is kept than
        shows that: whoever fills the store with such does not fill those who read it.
        """
        lease = LeaseId(kv.lease) if kv.lease else None
        entry = Entry(kv.value[: VALUE_BYTES_MAX + 1], kv.create_revision, kv.mod_revision, kv.version, lease)
        return kv.key[len(self._prefix) :], entry

    def change(self, event: Any) -> Change:
        """An Event as a change."""
        if event.type == self._messages.Event.DELETE:
            return Delete(event.kv.key[len(self._prefix) :], event.kv.mod_revision)
        return Put(*self.pair(event.kv))

    def compare(self, compare: Compare) -> Any:
        """A compare as etcd's message."""
        make = self._messages.Compare
        key = self.key(compare.key)
        match compare:
            case Absent():
                return make(key=key, target=make.MOD, result=make.EQUAL, mod_revision=0)
            case ModRevisionIs(revision=revision):
                # A number that does not fit into the message is no revision: -1 is none either.
                fitting = revision if 0 <= revision <= REVISION_MAX else -1
                return make(key=key, target=make.MOD, result=make.EQUAL, mod_revision=fitting)
            case ValueIs(value=value):
                return make(key=key, target=make.VALUE, result=make.EQUAL, value=value)
            case _:
                assert_never(compare)

    def put(self, key: bytes, value: bytes, lease: LeaseId | None) -> Any:
        """One put of a transaction."""
        put = self._messages.PutRequest(key=self.key(key), value=value, lease=lease or 0)
        return self._messages.RequestOp(request_put=put)

    def delete(self, key: bytes) -> Any:
        """One delete of a transaction."""
        return self._messages.RequestOp(request_delete_range=self._messages.DeleteRangeRequest(key=self.key(key)))

    def get(self, key: bytes) -> Any:
        """One look at a key in a transaction, which makes etcd ask its cluster before it answers."""
        return self._messages.RequestOp(request_range=self._messages.RangeRequest(key=self.key(key) or b"\0"))
