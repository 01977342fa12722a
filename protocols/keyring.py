"""The key slots of one session: which key seals, and which keys still open.

* *current* seals what we send, and opens.
* *next* we derived by answering the peer's initiation. It opens, and becomes current with the first datagram that it
  opens: only then do we know that the peer has it (WireGuard paper, section 6.3).
* *retired* keys open what was in flight when they were replaced.

Every slot has a receiver index and perhaps a reset token in the tables of the node; forgetting a slot gives both back.
Not responsible for agreeing on keys (`handshakes`), nor for when (`session`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from holloway.protocols.compression import Codec
from holloway.protocols.journal import Journal
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.offers import Terms
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.suites import Suite
from holloway.protocols.transport import TransportKeys, WireGuardKeys

RETIRED_KEYS = 2
"""One more than WireGuard's single previous slot, so that simultaneous rekeys of both sides lose nothing in flight."""


class Links(Protocol):
    """What a session needs of the tables that find it (`demux` has them): receiver indices and reset tokens."""

    def allocate(self) -> int:
        """A fresh receiver index. Raises `LocalError` when none is free."""

    def release(self, index: int) -> None: ...

    def token(self, index: int) -> bytes:
        """The reset token of an index of ours."""

    def expect_reset(self, token: bytes) -> None:
        """A reset with this token is for this session from now on."""

    def forget_reset(self, token: bytes) -> None: ...


class Keyring:
    """At most one current, one next and `RETIRED_KEYS` retired keys."""

    __slots__ = (
        "_heard_total",
        "_journal",
        "_lifetime_s",
        "_links",
        "_make_keys",
        "_retired",
        "_suite",
        "by_index",
        "current",
        "made_total",
        "next",
    )

    def __init__(
        self,
        suite: Suite,
        lifetime_s: float,
        links: Links,
        journal: Journal,
        memory: MemoryBudget | None = None,
        codec: Codec | None = None,
    ) -> None:
        """`lifetime_s`: how long after it was made a key is forgotten, whatever its slot. `memory`: what datagrams that wait
        under a key take from; without it each key has a budget of its own. `codec`: for keys whose terms have it.
        """
        kind = framing(suite)
        self._make_keys: Callable[..., TransportKeys] = (
            partial(kind, memory=memory, codec=codec) if kind is RecordKeys else kind
        )
        self._suite, self._lifetime_s, self._links, self._journal = suite, lifetime_s, links, journal
        self.current: TransportKeys | None = None
        self.next: TransportKeys | None = None
        self._retired: deque[TransportKeys] = deque()
        self.by_index: Final[dict[int, TransportKeys]] = {}
        """Every slot by our receiver index. These three are for others to read: a call for each would be felt in every batch."""
        self._heard_total = 0
        self.made_total = 0
        """How many keys there have been; the epoch of the latest."""

    def __repr__(self) -> str:
        return f"<Keyring current={self.current} next={self.next} retired={len(self._retired)}>"

    def add_next(self, derived: DerivedKeys, now: float) -> None:
        """Keys of an initiation that we answered. A next key that the peer never used makes room."""
        if self.next is not None:
            self._forget(self.next)
        self.next = self._make(derived, now, is_initiator=False)

    def add_current(self, derived: DerivedKeys, now: float, *, keep_next: bool) -> None:
        """Keys of a handshake that we began, which the peer therefore has.

        `keep_next`: the next key may yet replace this one; otherwise it opens only, from now on.
        """
        self._retire(self.current)
        if not keep_next:
            self._retire(self.next)
            self.next = None
        self.current = self._make(derived, now, is_initiator=True)

    def confirm_next(self) -> None:
        """The peer has used the next key: it becomes the current one."""
        self._retire(self.current)
        self.current, self.next = self.next, None

    def retire_clear(self) -> None:
        """Seal under no key in clear any more; what the peer says under it is still opened."""
        if self.current is not None and Terms.CLEAR in self.current.terms:
            self._retire(self.current)
            self.current = None
        if self.next is not None and Terms.CLEAR in self.next.terms:
            self._retire(self.next)
            self.next = None

    def expire(self, now: float) -> None:
        """Forget every key whose life is over."""
        for keys in [keys for keys in self.by_index.values() if keys.expires_at <= now]:
            if keys is self.current:
                self.current = None
            elif keys is self.next:
                self.next = None
            else:
                self._retired.remove(keys)
            self._forget(keys)

    def clear(self) -> None:
        """Forget every key."""
        self.expire(float("inf"))

    def earliest_expiry(self) -> float | None:
        """When `expire` has something to do next."""
        return min((keys.expires_at for keys in self.by_index.values()), default=None)

    def is_outdated(self, keys: TransportKeys) -> bool:
        """Whether the peer has gone on to another key: what comes under this one was sealed before what has come under that.

        Nobody goes back to a key; and which of two a peer uses last is not always the one made last. So it is a retired key under which
        something came for the first time before it did under another.
        """
        if keys is self.current or keys is self.next:
            return False
        return any(other.heard_as > keys.heard_as for other in self.by_index.values())

    def hear(self, keys: TransportKeys) -> bool:
        """Something authentic has come under `keys`. True."""
        if not keys.heard_as:
            self._heard_total += 1
            keys.heard_as = self._heard_total
        return True

    def watch_pieces(self) -> float | None:
        """When `expire_pieces` has something to do next; None while nothing waits for the rest of its record.

        After this no key `is_waiting`: whoever asks will come in time.
        """
        earliest: float | None = None
        for keys in self.by_index.values():
            keys.is_waiting = False
            at = keys.next_expiry()
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest

    def expire_pieces(self, now: float) -> None:
        """Drop what has waited too long for the rest of its record."""
        for keys in self.by_index.values():
            keys.expire(now)

    def _make(self, derived: DerivedKeys, now: float, *, is_initiator: bool) -> TransportKeys:
        self.made_total += 1
        keys = self._make_keys(
            self._suite,
            derived,
            self._journal,
            is_initiator=is_initiator,
            created_at=now,
            expires_at=now + self._lifetime_s,
            epoch=self.made_total,
        )
        self.by_index[keys.local_index] = keys
        if keys.remote_token:
            self._links.expect_reset(keys.remote_token)
        return keys

    def _retire(self, keys: TransportKeys | None) -> None:
        if keys is not None:
            self._retired.append(keys)
            if len(self._retired) > RETIRED_KEYS:
                self._forget(self._retired.popleft())

    def _forget(self, keys: TransportKeys) -> None:
        keys.forget()
        del self.by_index[keys.local_index]
        self._links.release(keys.local_index)
        token = keys.remote_token
        if token and all(other.remote_token != token for other in self.by_index.values()):
            self._links.forget_reset(token)


def framing(suite: Suite) -> type[WireGuardKeys | RecordKeys]:
    """The kind of key slot that `suite` uses."""
    return RecordKeys if suite.transport is None else WireGuardKeys
